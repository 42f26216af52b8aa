"""Finding the training data, and the rows that they share with the evaluation data."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.check import training_rows
from penstock.check.evaluation import Evaluation, read_evaluation
from penstock.check.training_rows import DataFile, Training
from penstock.config import Evaluate
from penstock.domain import Verdict

ROWS = 400


def people(rows: int, seed: int) -> pa.Table:
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            "age": draw.integers(18, 80, rows),
            "income": np.round(draw.lognormal(10, 1, rows), 2),
            "town": np.array(["Ulm", "Kiel", "Bonn"])[draw.integers(0, 3, rows)],
            "member": draw.random(rows) < 0.5,
            "at": np.datetime64("2026-01-01") + draw.integers(0, 90, rows),
            "left": draw.integers(0, 2, rows),
        }
    )


def written(table: pa.Table, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".gz":
        pacsv.write_csv(table, path.with_suffix(""))
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
        path.with_suffix("").unlink()
    else:
        pacsv.write_csv(table, path)
    return path


HOLDOUT, TRAIN = people(ROWS, 1), people(900, 2)
NAMES = ["age", "income", "town", "member"]
ROLES: dict[str, str | None] = {"label": "left", "time": None}


def held(folder: Path, suffix: str = ".csv", **more: Any) -> Evaluation:
    path = written(HOLDOUT, folder / f"holdout{suffix}")
    return read_evaluation(path, Evaluate(data=path.name, label="left", **more))


def found(folder: Path, evaluation: Evaluation, *names: str, **more: Any) -> Training | str:
    files = [DataFile(folder / name, name) for name in names]
    return training_rows.find(files, evaluation, NAMES, ROLES, declared=False, **more)


@pytest.mark.parametrize("of_holdout", [".csv", ".parquet"])
@pytest.mark.parametrize("of_training", [".csv", ".csv.gz", ".parquet"])
def test_equal_rows_are_found_whatever_the_two_files_are(
    of_holdout: str, of_training: str, tmp_path: Path
) -> None:
    """A date is text in a CSV and a time in Parquet, so it is left out here."""
    evaluation = held(tmp_path, of_holdout)
    both = pa.concat_tables([TRAIN, HOLDOUT.slice(0, 100)])
    written(both.drop_columns(["at"]), tmp_path / f"train{of_training}")

    training = found(tmp_path, evaluation, f"train{of_training}")

    assert isinstance(training, Training), training
    assert training.columns == ("age", "income", "town", "member")
    result = training_rows.shared_rows(
        training, training_rows.saw(training, evaluation), evaluation
    )
    assert result.evidence["value"] == 0.25
    assert result.verdict is Verdict.FAILED
    assert result.evidence["examples"] == [1, 2, 3, 4, 5]


def test_the_evaluation_data_itself_and_unread_files_are_no_training_data(tmp_path: Path) -> None:
    evaluation = held(tmp_path)
    copy = DataFile(tmp_path / "holdout.csv", "train.csv", sha256=evaluation.digest)
    unread = DataFile(written(TRAIN, tmp_path / "old.csv"), "old.csv", read=False)
    other = DataFile(
        written(TRAIN.drop_columns(["age", "town"]), tmp_path / "train.csv"), "train.csv"
    )
    text = tmp_path / "notes.csv"
    text.write_bytes(b"\xff\xfe nothing")

    told = training_rows.find(
        [
            copy,
            unread,
            other,
            DataFile(text, "notes.csv"),
            DataFile(tmp_path / "gone.csv", "gone"),
        ],
        evaluation,
        NAMES,
        ROLES,
        declared=False,
    )

    assert isinstance(told, str)
    assert told.startswith(
        'no table with "left" and the model\'s columns was found among train.csv'
    )


def test_a_file_called_training_is_certain_unless_the_build_splits_it(tmp_path: Path) -> None:
    evaluation = held(tmp_path)
    for name in ("data/train.csv", "data/all.csv"):
        written(TRAIN, tmp_path / name)

    both = found(tmp_path, evaluation, "data/all.csv", "data/train.csv")
    raw = found(tmp_path, evaluation, "data/all.csv")
    split = found(tmp_path, evaluation, "data/train.csv", split_by_build=True)

    assert isinstance(both, Training)
    assert isinstance(raw, Training)
    assert isinstance(split, Training)
    assert (both.shown, both.certain) == ("data/train.csv", True)
    assert (raw.certain, split.certain) == (False, False)


def test_several_files_are_one_training_set(tmp_path: Path) -> None:
    evaluation = held(tmp_path)
    written(TRAIN.slice(0, 500), tmp_path / "train_1.csv")
    written(TRAIN.slice(500), tmp_path / "train_2.parquet")

    training = found(tmp_path, evaluation, "train_1.csv", "train_2.parquet")

    assert isinstance(training, Training)
    assert training_rows.saw(training, evaluation).rows == 900


def test_no_more_rows_are_read_than_the_limit_and_the_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = held(tmp_path)
    written(pa.concat_tables([TRAIN, HOLDOUT]), tmp_path / "train.csv")
    monkeypatch.setattr(training_rows, "MOST_ROWS", 700)
    training = found(tmp_path, evaluation, "train.csv")
    assert isinstance(training, Training)

    seen = training_rows.saw(training, evaluation)
    result = training_rows.shared_rows(training, seen, evaluation)

    assert (seen.rows, seen.cut) == (700, True)
    assert "the first 700 rows were read" in result.summary


def test_a_file_that_breaks_off_in_the_middle_is_said(tmp_path: Path) -> None:
    evaluation = held(tmp_path)
    path = written(TRAIN, tmp_path / "train.csv")
    path.write_text(path.read_text().replace("left\n", "left\n", 1) + "young,many,Ulm,true,x,1\n")
    training = found(tmp_path, evaluation, "train.csv")
    assert isinstance(training, Training)

    with pytest.raises(ValueError, match=r"train\.csv cannot be read: "):
        training_rows.saw(training, evaluation)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.none() | st.floats(allow_nan=False) | st.integers(-(2**53), 2**53),
        min_size=2,
        max_size=9,
    )
)
def test_equal_numbers_hash_alike_and_different_ones_do_not(values: list[float | None]) -> None:
    column = pa.chunked_array([pa.array([None if v is None else float(v) for v in values])])
    label = pa.chunked_array([pa.array([0] * len(values))])

    hashes = training_rows.row_hashes([column], label).tolist()

    for at, left in enumerate(values):
        for other, right in enumerate(values):
            assert (hashes[at] == hashes[other]) is (left == right)


def test_null_differs_from_every_word_and_the_order_of_columns_counts() -> None:
    label = pa.chunked_array([pa.array([0, 0, 0])])
    words = pa.chunked_array([pa.array(["a", None, ""])])
    others = pa.chunked_array([pa.array(["b", "b", "b"])])

    hashes = training_rows.row_hashes([words, others], label)

    assert len(set(hashes.tolist())) == 3
    turned = training_rows.row_hashes([others, words], label)
    assert not set(hashes.tolist()) & set(turned.tolist())


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["1970-01-02", "1970-01-01T00:00:10", "soon"], [86400.0, 10.0, None]),
        (["1970-01-01 01:00:00+01:00", None, "7"], [0.0, None, 7.0]),
        ([2011, 2012.5, True], [2011.0, 2012.5, 1.0]),
    ],
)
def test_times_are_read_as_they_come(values: list[Any], wanted: list[float | None]) -> None:
    column: Any = pa.chunked_array(
        [pa.array(values if isinstance(values[0], str) else list(map(float, values)))]
    )

    seconds = training_rows.moments(column)

    assert [None if np.isnan(one) else one for one in seconds] == wanted


def test_the_order_in_time_is_read_from_any_two_files(tmp_path: Path) -> None:
    evaluation = held(tmp_path, ".parquet", time="at")
    before = np.datetime64("2025-01-01") + np.arange(900) % 300
    for name, days in (("train_old.csv", before), ("train_new.csv", before + 500)):
        written(TRAIN.set_column(4, "at", pa.array(days)), tmp_path / name)

    verdicts: list[str] = []
    for name in ("train_old.csv", "train_new.csv"):
        training = training_rows.find(
            [DataFile(tmp_path / name, name)],
            evaluation,
            NAMES,
            {"label": "left", "time": "at"},
            declared=True,
        )
        assert isinstance(training, Training)
        seen = training_rows.saw(training, evaluation)
        verdicts.append(training_rows.later_rows(training, seen, evaluation).verdict.value)

    assert verdicts == ["passed", "failed"]


@pytest.mark.parametrize("seed", range(5))
def test_a_random_split_of_coarse_rows_is_as_expected(seed: int, tmp_path: Path) -> None:
    """What is equal by chance is foreseen, on data where most rows have an equal one."""
    draw = np.random.default_rng(seed)
    rows = 3000
    coarse = pa.table(
        {
            "age": draw.integers(0, 4, rows),
            "income": draw.integers(0, 5, rows).astype(float),
            "town": np.array(["Ulm", "Kiel", "Bonn"])[draw.integers(0, 3, rows)],
            "member": draw.random(rows) < 0.5,
            "left": draw.integers(0, 2, rows),
        }
    )
    written(coarse.slice(0, 2500), tmp_path / "train.parquet")
    path = written(coarse.slice(2500), tmp_path / "holdout.parquet")
    evaluation = read_evaluation(path, Evaluate(data="holdout.parquet", label="left"))
    training = found(tmp_path, evaluation, "train.parquet")
    assert isinstance(training, Training)

    result = training_rows.shared_rows(
        training, training_rows.saw(training, evaluation), evaluation
    )

    assert result.evidence["value"] > 0.9
    assert result.verdict is Verdict.PASSED, result.summary


def test_pictures_are_compared_by_their_values(tmp_path: Path) -> None:
    """A list a row, nested or of a fixed size, in whatever number."""
    pixels = np.random.default_rng(3).integers(0, 255, (60, 4)).astype(np.float64)
    nested = [[row[:2].tolist(), row[2:].tolist()] for row in pixels]
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), 4)
    label = pa.chunked_array([pa.array([0] * 60)])
    as_bytes = pa.array(pixels.astype(np.uint8).tolist())

    hashes = [
        training_rows.row_hashes([pa.chunked_array([of])], label).tolist()
        for of in (pa.array(nested), fixed, as_bytes)
    ]

    assert hashes[0] == hashes[1] == hashes[2]
    assert len(set(hashes[0])) == 60
    ragged = pa.chunked_array([pa.array([[1.0], [1.0, 2.0], None])])
    assert len(set(training_rows.row_hashes([ragged], label.slice(0, 3)).tolist())) == 3
