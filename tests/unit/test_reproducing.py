"""Two builds of one commit: what is the same, what is explained, what differs."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.build.trust.reproducing import Compared, compared
from penstock.check.answers import Answers
from penstock.pipeline.verifying import differences, judged

MLMODEL = """
flavors:
  sklearn: {{pickled_model: model.skops}}
model_uuid: {uuid}
run_id: {uuid}
utc_time_created: '{time}'
mlflow_version: {version}
"""


def zipped(path: Path, members: dict[str, str], *, year: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), content)


def skops(path: Path, first: int, second: int, value: str = "1") -> None:
    schema = {"a": {"__id__": first, "file": f"{first}.npy"}, "b": {"__id__": second}}
    members = {f"{first}.npy": value, "schema.json": json.dumps(schema)}
    zipped(path, dict(sorted(members.items())), year=2026)


def write(path: Path, of: str, **facts: Any) -> None:
    if of == "text":
        path.write_text(facts["text"])
    elif of == "mlmodel":
        path.write_text(MLMODEL.format(**facts))
    elif of == "zip":
        zipped(path, {"weights": facts["weights"]}, year=facts["year"])
    elif of == "skops":
        skops(path, **facts)
    elif of == "gzip":
        with gzip.GzipFile(path, "wb", mtime=facts["at"]) as file:
            file.write(facts["content"])
    else:
        path.write_bytes(facts["content"])


ONCE = {"uuid": "a1", "time": "2026-11-30", "version": "3.17"}
TWICE = {"uuid": "b2", "time": "2026-12-01", "version": "3.17"}


@pytest.mark.parametrize(
    ("name", "of", "first", "second", "outcome", "text"),
    [
        ("a.txt", "text", {"text": "x"}, {"text": "x"}, "same", ""),
        ("a.txt", "text", {"text": "x"}, {"text": "y"}, "differs", "other bytes"),
        ("a.txt", "text", {"text": "x"}, {"text": "yy"}, "differs", "1 and 2 bytes"),
        ("MLmodel", "mlmodel", ONCE, TWICE, "explained", "model_uuid, run_id, utc_time_created"),
        ("MLmodel", "mlmodel", ONCE, {**TWICE, "version": "2.1"}, "differs", ""),
        ("MLmodel", "text", {"text": "[a"}, {"text": "b"}, "differs", ""),
        ("MLmodel", "text", {"text": "a"}, {"text": "b"}, "differs", ""),
        (
            "m.zip", "zip", {"weights": "1", "year": 2025}, {"weights": "1", "year": 2026},
            "explained", "times in the archive",
        ),
        (
            "m.zip", "zip", {"weights": "1", "year": 2025}, {"weights": "2", "year": 2025},
            "differs", "",
        ),
        (
            "m.skops", "skops", {"first": 11, "second": 22}, {"first": 99, "second": 11},
            "explained", "addresses",
        ),
        (
            "m.skops", "skops", {"first": 11, "second": 22}, {"first": 99, "second": 99},
            "differs", "",
        ),
        (
            "m.skops", "skops", {"first": 11, "second": 22},
            {"first": 99, "second": 11, "value": "2"}, "differs", "",
        ),
        (
            "m.gz", "gzip", {"at": 1, "content": b"x"}, {"at": 2, "content": b"x"},
            "explained", "gzip header",
        ),
        ("m.gz", "gzip", {"at": 1, "content": b"x"}, {"at": 2, "content": b"y"}, "differs", ""),
        ("m.gz", "bytes", {"content": b"\x1f\x8b1"}, {"content": b"\x1f\x8b2"}, "differs", ""),
    ],
)  # fmt: skip
def test_a_file_of_two_builds_is_the_same_explained_or_different(
    name: str,
    of: str,
    first: dict[str, Any],
    second: dict[str, Any],
    outcome: str,
    text: str,
    tmp_path: Path,
) -> None:
    for folder, facts in (("one", first), ("two", second)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / name, of, **facts)

    (found,) = compared(tmp_path / "one", tmp_path / "two")

    assert (found.path, found.outcome) == (name, outcome)
    assert text in found.text


def test_a_file_that_only_one_build_has_is_a_difference(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "a").write_text("")
    (tmp_path / "two" / "b").write_text("")

    found = compared(tmp_path / "one", tmp_path / "two")

    assert [(one.path, one.text) for one in found] == [
        ("a", "only in the recorded build"),
        ("b", "only in the new"),
    ]


def answers(*values: float, probability: list[float] | None = None) -> Answers:
    if probability is None:
        return Answers(np.array(values), None, None, None)
    pairs = np.array([[1 - p, p] for p in probability])
    return Answers(np.array(values), pairs, (0, 1), 1)


def test_answers_are_compared_by_decision_and_by_greatest_difference() -> None:
    first = answers(0, 1, 1, probability=[0.1, 0.9, 0.6])
    second = answers(0, 1, 0, probability=[0.1, 0.8, 0.4])

    found = differences(first, second)

    assert (found["rows"], found["changed"]) == (3, 1)
    assert found["greatest"] == pytest.approx(0.2)


def test_numbers_that_differ_by_a_rounding_are_the_same_answers() -> None:
    assert differences(answers(1.0, 2.0), answers(1.0, 2.0 + 1e-12))["changed"] == 0


SAME_FILE = Compared("model/m", "same")
TIMES = Compared("model/MLmodel", "explained", "times")
OTHER = Compared("model/m", "differs", "other bytes")
EQUAL = {"rows": 9, "greatest": 0.0, "changed": 0}
UNEQUAL = {"rows": 9, "greatest": 0.25, "changed": 2}
SPREAD = {"accuracy": {"difference": -0.004}, "brier": {"difference": 0.001}}


@pytest.mark.parametrize(
    ("files", "found", "reading", "says"),
    [
        ([SAME_FILE], EQUAL, "bit for bit", "reproducible: all 1 files"),
        ([TIMES, SAME_FILE], EQUAL, "same but for times and ids", "writes anew"),
        ([TIMES, OTHER], EQUAL, "same answers", "reproducible in its answers: 1 of 2 files"),
        (
            [OTHER], UNEQUAL, "differs",
            "not reproducible: accuracy differs by 0.004, 2 of 9 predictions change",
        ),
        ([SAME_FILE], UNEQUAL, "bit for bit", "reproducible"),
        ([TIMES], UNEQUAL, "differs", "not reproducible"),
        ([OTHER], None, "differs", "no rows to compare on"),
        ([TIMES], None, "same but for times and ids", "reproducible"),
    ],
)  # fmt: skip
def test_the_judgement_says_how_far_a_training_is_reproducible(
    files: list[Compared], found: dict[str, Any] | None, reading: str, says: str
) -> None:
    told = judged("m@1", files, {"answers": found, "quality": SPREAD, "seed": None})

    assert told["reading"] == reading
    assert told["passed"] is (reading != "differs")
    assert says in told["sentence"]


def test_a_rebuild_with_another_seed_says_so() -> None:
    told = judged("m@1", [OTHER], {"answers": UNEQUAL, "quality": SPREAD, "seed": 7})

    assert told["sentence"].endswith("(with seed 7).")
