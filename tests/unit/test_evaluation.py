from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.check.answers import Answers, equal_answers
from penstock.check.evaluation import Evaluation, read_evaluation
from penstock.check.signature import infer_signature
from penstock.config.schema import Evaluate
from penstock.errors import StoppedError

SPEC = Evaluate(data="data/holdout.csv", label="default")
WITH_ID = Evaluate(data="data/holdout.csv", label="default", id="nr")


def csv(folder: Path, text: str) -> Path:
    path = folder / "holdout.csv"
    path.write_text(text, encoding="utf-8")
    return path


def rows(count: int = 40) -> str:
    lines = [f"{i},{20 + i},{i * 0.5},c{i % 3},{i % 2}" for i in range(count)]
    return "\n".join(["loan,age,income,region,default", *lines]) + "\n"


def read(folder: Path, columns: dict[str, Any], spec: Evaluate = SPEC) -> Evaluation:
    path = folder / "holdout.parquet"
    pq.write_table(pa.table(columns), path)
    return read_evaluation(path, spec)


def refusal(action: Callable[[], object]) -> StoppedError:
    with pytest.raises(StoppedError) as caught:
        action()
    return caught.value


def test_columns_are_split_by_their_role(tmp_path: Path) -> None:
    path = csv(tmp_path, rows())
    spec = Evaluate(data="h.csv", label="default", id="loan", sensitive=("region",))

    found = read_evaluation(path, spec)

    assert found.features.column_names == ["age", "income", "region"]
    assert found.sensitive.column_names == ["region"]
    assert found.label.tolist() == [i % 2 for i in range(40)]
    assert found.id is not None
    assert found.id.tolist() == list(range(40))
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(found) == 40


def test_csv_and_parquet_of_the_same_rows_read_alike(tmp_path: Path) -> None:
    of_csv = read_evaluation(csv(tmp_path, rows()), SPEC)
    columns = {**of_csv.features.to_pydict(), "default": of_csv.label.tolist()}
    of_parquet = read(tmp_path, columns)

    assert of_parquet.features.to_pydict() == of_csv.features.to_pydict()
    assert of_parquet.features.schema == of_csv.features.schema


def test_a_csv_means_missing_where_pandas_does_and_keeps_dates_as_text(tmp_path: Path) -> None:
    lines = [
        f"2024-01-{i + 1:02d},{'NA' if i == 3 else 'x'},{'' if i else '1.5'},0" for i in range(28)
    ]
    path = csv(tmp_path, "\n".join(["day,word,number,default", *lines]))

    features = read_evaluation(path, SPEC).features

    assert features.column("day").to_pylist()[0] == "2024-01-01"
    assert features.column("word").to_pylist()[2:5] == ["x", None, "x"]
    assert features.column("number").to_pylist()[:2] == [1.5, None]


def test_every_column_ends_as_one_of_four_types_and_nan_as_null(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "small": pa.array([1] * 20, pa.int8()),
            "huge": pa.array([2**63] * 20, pa.uint64()),
            "short": pa.array([float("nan")] + [0.5] * 19, pa.float32()),
            "kind": pa.array(["a", "b"] * 10).dictionary_encode(),
            "flag": [True, False] * 10,
            "day": [date(2024, 1, 1)] * 20,
            "empty": pa.nulls(20),
            "default": [0, 1] * 10,
        },
    )

    signature = infer_signature(found.features, {}, found.label, SPEC)

    assert {one["name"]: (one["datatype"], one["optional"]) for one in signature["columns"]} == {
        "small": ("INT64", False),
        "huge": ("FP64", False),
        "short": ("FP64", True),
        "kind": ("BYTES", False),
        "flag": ("BOOL", False),
        "day": ("BYTES", False),
        "empty": ("FP64", True),
    }
    assert found.features.column("day").to_pylist()[0] == "2024-01-01"


@pytest.mark.parametrize(
    ("columns", "spec", "code", "words"),
    [
        ({"Default": [0] * 20}, SPEC, "PS312", 'Did you mean "Default"?'),
        ({"age": [0] * 20}, SPEC, "PS312", "It has age."),
        ({"default": [0] * 20}, WITH_ID, "PS312", "[evaluate] id"),
        ({"default": [0] * 19}, SPEC, "PS313", "19 rows"),
        ({"default": [None] + [0] * 19}, SPEC, "PS314", "1 of 20 rows"),
        ({"default": [float("nan")] + [0.0] * 19}, SPEC, "PS314", "1 of 20 rows"),
        ({"default": [0] * 20, "tags": [{"a": 1}] * 20}, SPEC, "PS318", '"tags"'),
        ({"default": [0] * 20, "tags": [[{"a": 1}]] * 20}, SPEC, "PS318", '"tags"'),
        ({"default": [0] * 20, "image": [[1], [1, 2]] * 10}, SPEC, "PS319", "1 and 2 values"),
        ({"default": [0] * 20, "image": [[[1], [1, 2]]] * 20}, SPEC, "PS319", "1 and 2 values"),
        ({"default": [0] * 20, "image": [[[1], None]] * 20}, SPEC, "PS319", "1 and nothing"),
        ({"default": [0] * 20, "image": [list[int]()] * 20}, SPEC, "PS319", "lists of 0 values"),
    ],
)  # fmt: skip
def test_a_fault_in_the_data_is_told_with_its_cause(
    tmp_path: Path, columns: dict[str, Any], spec: Evaluate, code: str, words: str
) -> None:
    error = refusal(lambda: read(tmp_path, columns, spec))

    assert error.code == code
    assert words in str(error)


def test_a_missing_file_is_told_by_the_name_in_the_configuration(tmp_path: Path) -> None:
    error = refusal(lambda: read_evaluation(tmp_path / "x.csv", SPEC))

    assert error.code == "PS310"
    assert "data/holdout.csv" in error.what


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("h.parquet", b"not parquet", "cannot be read"),
        ("h.csv", b"a,b\n1,2,3\n", "cannot be read"),
        ("h.xlsx", b"PK", "neither CSV nor Parquet"),
    ],
)
def test_an_unreadable_file_is_told(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    error = refusal(lambda: read_evaluation(path, SPEC))

    assert error.code == "PS311"
    assert words in error.what


def test_a_column_twice_is_a_fault(tmp_path: Path) -> None:
    text = "a,default,default\n" + "1,0,1\n" * 30

    error = refusal(lambda: read_evaluation(csv(tmp_path, text), SPEC))

    assert error.code == "PS312"
    assert "2 columns" in error.what


def test_the_model_decides_which_columns_in_which_order(tmp_path: Path) -> None:
    found = read_evaluation(csv(tmp_path, rows()), SPEC)
    describe = {
        "feature_names": ["income", "age"],
        "classes": ["0", "1"],
        "task": "classification",
    }

    signature = infer_signature(found.features, describe, found.label, SPEC)

    assert [column["name"] for column in signature["columns"]] == ["income", "age"]
    assert signature["classes"] == ["0", "1"]
    assert signature["positive"] == "1"


def test_a_model_that_wants_an_absent_column_is_refused(tmp_path: Path) -> None:
    found = read_evaluation(csv(tmp_path, rows()), SPEC)

    error = refusal(
        lambda: infer_signature(found.features, {"feature_names": ["Age"]}, found.label, SPEC)
    )

    assert error.code == "PS315"
    assert 'Did you mean "age"?' in error.hint
    assert refusal(lambda: found.for_columns(["nope"])).code == "PS315"


def test_a_model_that_knows_only_a_number_may_have_left_out_the_sensitive_columns(
    tmp_path: Path,
) -> None:
    spec = Evaluate(data="h.csv", label="default", sensitive=("region",))
    found = read_evaluation(csv(tmp_path, rows()), spec)

    signature = infer_signature(found.features, {"n_features": 3}, found.label, spec)
    error = refusal(lambda: infer_signature(found.features, {"n_features": 2}, found.label, spec))

    assert [column["name"] for column in signature["columns"]] == ["loan", "age", "income"]
    assert error.code == "PS315"
    assert "wants 2 columns" in error.what


@pytest.mark.parametrize(
    ("labels", "task", "classes"),
    [
        (["no", "yes"], "classification", ["no", "yes"]),
        ([False, True], "classification", [False, True]),
        ([0.0, 1.0], "classification", [0.0, 1.0]),
        ([0.5, 1.5], "regression", None),
        (list(range(21)), "regression", None),
        (list(range(20)), "classification", list(range(20))),
    ],
)
def test_the_task_follows_from_the_labels_where_the_model_is_silent(
    labels: list[Any], task: str, classes: list[Any] | None
) -> None:
    signature = infer_signature(pa.table({"a": [1]}), {}, np.array(labels), SPEC)

    assert signature["task"] == task
    assert signature["classes"] == classes


def test_the_users_task_beats_the_models() -> None:
    describe = {"task": "classification"}

    signature = infer_signature(
        pa.table({"a": [1]}), describe, np.array([1, 2, 3]), SPEC, task="regression"
    )

    assert signature["task"] == "regression"


@pytest.mark.parametrize(
    ("labels", "positive", "code"),
    [
        ([1, 1], None, "PS316"),
        (["a", "b"], "c", "PS317"),
        (["a", "b", "c"], "a", "PS317"),
    ],
)
def test_classes_that_make_no_sense_are_refused(
    labels: list[Any], positive: str | None, code: str
) -> None:
    spec = Evaluate(data="h.csv", label="default", positive=positive)

    error = refusal(lambda: infer_signature(pa.table({"a": [1]}), {}, np.array(labels), spec))

    assert error.code == code


def test_the_positive_class_is_spelled_as_the_model_spells_it() -> None:
    spec = Evaluate(data="h.csv", label="default", positive="0")

    signature = infer_signature(pa.table({"a": [1]}), {}, np.array([0, 1]), spec)

    assert signature["positive"] == 0


def test_some_rows_are_taken_from_every_part(tmp_path: Path) -> None:
    spec = Evaluate(data="h.csv", label="default", id="loan", time="age", sensitive=("region",))
    found = read_evaluation(csv(tmp_path, rows()), spec)

    some = found.take(np.array([5, 2]))

    assert some.features.column("income").to_pylist() == [2.5, 1.0]
    assert some.label.tolist() == [1, 0]
    assert some.id is not None
    assert some.id.tolist() == [5, 2]
    assert some.time is not None
    assert some.time.tolist() == [25, 22]
    assert some.sensitive.column("region").to_pylist() == ["c2", "c2"]


def test_the_score_speaks_of_the_positive_class() -> None:
    shares = np.array([[0.9, 0.1], [0.2, 0.8]])
    said = np.array(["no", "yes"])

    assert Answers(said, shares, ("no", "yes"), "no").score.tolist() == [0.9, 0.2]  # pyright: ignore[reportOptionalMemberAccess]  a None would fail here too
    assert Answers(said).score is None
    assert Answers(said, np.zeros((2, 3)), ("a", "b", "c")).score is None


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ([1.0, 2.0], [1.0 + 1e-9, 2.1], [True, False]),
        (["a", "b"], ["a", "c"], [True, False]),
        ([float("nan")], [float("nan")], [True]),
        ([1.0], [1.0, 2.0], [False, False]),
    ],
)
def test_answers_are_compared_row_by_row(
    left: list[Any], right: list[Any], same: list[bool]
) -> None:
    found = equal_answers(Answers(np.array(left)), Answers(np.array(right)))

    assert found.tolist() == same


def test_probabilities_decide_whether_answers_are_the_same() -> None:
    one = Answers(np.array(["a"]), np.array([[0.5, 0.5]]), ("a", "b"))
    near = Answers(np.array(["b"]), np.array([[0.5 - 1e-9, 0.5 + 1e-9]]), ("a", "b"))
    wide = Answers(np.array(["a"]), np.array([[0.5, 0.3, 0.2]]), ("a", "b", "c"))

    assert equal_answers(one, near).tolist() == [True]
    assert equal_answers(one, wide).tolist() == [False]
