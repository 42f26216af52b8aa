"""What a project left beside its model is read, and nothing outside its own checkout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from penstock.build.checkout import FILE_TIME_S
from penstock.config import parse
from penstock.domain import CheckResult, Verdict
from penstock.pipeline import surroundings
from penstock.pipeline.tools import Work

ROWS = "x,y\n" + "".join(f"{place},{place % 2}\n" for place in range(40))


class Beside:
    """As much of a run's work as these functions touch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.documents: dict[str, str] = {}
        self.said: list[str] = []
        (folder / "checkout" / "model").mkdir(parents=True)

    def report(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def document(self, name: str, path: Path, media_type: str) -> str:
        self.documents[name] = media_type
        return path.read_text()

    def say(self, step: str, line: str) -> None:
        self.said.append(line)

    @property
    def work(self) -> Work:
        return cast("Work", self)


@pytest.fixture
def beside(tmp_path: Path) -> Beside:
    return Beside(tmp_path / "run")


def keep(beside: Beside) -> str | None:
    checkout = beside.folder / "checkout"
    surroundings.keep_golden(beside.work, checkout, checkout / "model" / "m.joblib")
    for name in surroundings.GOLDEN:
        if (beside.folder / name).exists():
            return (beside.folder / name).read_text()
    return None


@pytest.mark.parametrize("place", ["golden.csv", "model/golden.csv"])
def test_golden_rows_at_the_top_or_beside_the_model_become_a_document(
    place: str, beside: Beside
) -> None:
    (beside.folder / "checkout" / place).write_text("x,prediction\n1,2\n")

    assert keep(beside) == "x,prediction\n1,2\n"
    assert beside.documents == {"golden": "text/csv"}
    rows = surroundings.golden_rows(beside.work)
    assert not isinstance(rows, str)
    assert rows is not None
    assert rows.column_names == ["x", "prediction"]


def committed(path: Path, secret: Path) -> None:
    path.write_text("x,prediction\n1,2\n")
    os.utime(path, (FILE_TIME_S, FILE_TIME_S))


def a_link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def in_a_linked_folder(path: Path, secret: Path) -> None:
    folder = path.parent / "model"
    folder.rmdir()
    folder.symlink_to(secret.parent)


@pytest.mark.parametrize("plant", [committed, a_link, in_a_linked_folder])
def test_golden_rows_of_an_earlier_commit_or_from_elsewhere_are_not_kept(
    plant: Callable[[Path, Path], None], beside: Beside, tmp_path: Path
) -> None:
    secret = tmp_path / "golden.csv"
    secret.write_text("x,prediction\n1,2\n")
    (beside.folder / "golden.csv").write_text("of an earlier attempt")

    plant(beside.folder / "checkout" / "golden.csv", secret)

    assert keep(beside) is None
    assert beside.documents == {}


def test_golden_rows_that_cannot_be_read_are_said(beside: Beside) -> None:
    (beside.folder / "golden.parquet").write_text("no parquet")

    told = surroundings.golden_rows(beside.work)

    assert isinstance(told, str)
    assert "golden.parquet" in told


def training(beside: Beside, extra: str = "") -> Any:
    config = parse(f'[model]\nname = "m"\n[evaluate]\ndata = "holdout.csv"\nlabel = "y"\n{extra}')
    from penstock.check.evaluation import read_evaluation

    path = beside.folder / "checkout" / "holdout.csv"
    path.write_text(ROWS)
    assert config.evaluate is not None
    evaluation = read_evaluation(path, config.evaluate)
    return surroundings.training_of(beside.work, config, evaluation, ["x"])


def names(found: Any) -> list[str]:
    return [one.name for one in found.files]


def test_training_data_are_found_in_the_checkout_without_the_evaluation_data(
    beside: Beside, tmp_path: Path
) -> None:
    checkout = beside.folder / "checkout"
    (checkout / "data").mkdir()
    (checkout / "data" / "train.csv").write_text(ROWS + "7,1\n")
    (checkout / "data" / "train_copy.csv").write_text(ROWS)  # of the evaluation data
    (tmp_path / "outside.csv").write_text(ROWS + "8,1\n")
    (checkout / "train_link.csv").symlink_to(tmp_path / "outside.csv")

    assert names(training(beside)) == ["data/train.csv"]


def test_what_the_build_recorded_beats_looking(beside: Beside) -> None:
    checkout = beside.folder / "checkout"
    for name in ("train.csv", "train_old.csv"):
        (checkout / name).write_text(ROWS + "7,1\n")
    files = [
        {"path": "train.csv", "sha256": "a" * 64, "read": True},
        {"path": "train_old.csv", "sha256": "b" * 64, "read": False},
        {"path": "../../etc/train.csv", "sha256": "c" * 64, "read": True},
        {"path": "train.npy", "sha256": "d" * 64, "read": True},
    ]
    beside.report("inputs").write_text(json.dumps({"files": files}))

    assert names(training(beside)) == ["train.csv"]


def test_what_penstock_toml_names_beats_all_and_must_be_there(beside: Beside) -> None:
    (beside.folder / "checkout" / "used.csv").write_text(ROWS)

    found = training(beside, 'training = "used.csv"\n')

    assert (names(found), found.certain) == (["used.csv"], True)
    assert training(beside, 'training = ["used.csv", "gone.csv"]\n') == (
        "[evaluate] training names gone.csv, which is not there after training"
    )


def test_python_files_that_training_changed_or_added_are_named(
    beside: Beside, tmp_path: Path
) -> None:
    packed, checkout = tmp_path / "packed", beside.folder / "checkout"
    (packed / "code" / "src").mkdir(parents=True)
    for name in ("train.py", "src/features.py"):
        (packed / "code" / name).write_text("1\n")
    (checkout / "src").mkdir()
    (checkout / "train.py").write_text("1\n")
    (checkout / "src" / "features.py").write_text("2\n")
    (checkout / "generated.py").write_text("3\n")

    changed = surroundings.code_changes(beside.work, packed)
    left = surroundings.as_training_left(beside.work, packed, changed)

    assert changed == {"generated.py": "added", "src/features.py": "changed"}
    assert (left / "code" / "src" / "features.py").read_text() == "2\n"
    assert (packed / "code" / "src" / "features.py").read_text() == "1\n"


def test_the_champions_value_stands_beside_the_same_check(beside: Beside) -> None:
    results = [
        CheckResult("sanity.overlap", Verdict.PASSED, "", {"value": 0.2}),
        CheckResult("supply.size", Verdict.PASSED, "", {"value": 3.0, "champion": 2.5}),
        CheckResult("smoke.loads", Verdict.PASSED, "", {}),
    ]
    before = {"sanity.overlap": 0.1, "supply.size": 9.0, "smoke.loads": 1.0}
    champion = surroundings.Champion(cast("Any", None), None, before)

    found = {
        one.check: one.evidence.get("champion") for one in surroundings.beside(results, champion)
    }

    assert found == {"sanity.overlap": 0.1, "supply.size": 2.5, "smoke.loads": None}


def test_licences_come_from_the_report_where_there_is_one(beside: Beside) -> None:
    from penstock.check.supply import Package

    pinned = [Package("six", "1.17.0")]

    assert surroundings.packages_of(beside.work, pinned) == pinned
    told = [{"name": "six", "version": "1.17.0", "licence": "MIT", "source": "metadata"}]
    beside.report("licences").write_text(json.dumps({"packages": told}))
    assert surroundings.packages_of(beside.work, pinned) == [Package("six", "1.17.0", "MIT")]


Described = dict[str, Any]


@pytest.mark.parametrize(
    ("described", "names"),
    [
        ({}, ["x"]),
        ({"feature_names": ["x", "z"]}, ["x", "z"]),
        ({"n_features": 2}, None),
        ({"inputs": [{"name": "z"}]}, None),
    ],
    ids=["says nothing", "names them", "counts them", "describes them"],
)
def test_golden_rows_name_the_columns_of_a_model_that_says_nothing_of_them(
    described: Described, names: list[str] | None, beside: Beside
) -> None:
    from penstock.check.evaluation import read_evaluation

    config = parse('[model]\nname = "m"\n[evaluate]\ndata = "holdout.csv"\nlabel = "y"\n')
    assert config.evaluate is not None
    path = beside.folder / "holdout.csv"
    path.write_text("x,z,y\n" + "1,2,0\n3,4,1\n" * 30)
    evaluation = read_evaluation(path, config.evaluate)
    (beside.folder / "golden.csv").write_text("row,x,prediction\n7,1,0\n")

    told = surroundings.with_golden_columns(beside.work, described, evaluation)

    assert told.get("feature_names") == names
    (beside.folder / "golden.csv").unlink()
    assert surroundings.with_golden_columns(beside.work, described, evaluation) == described
