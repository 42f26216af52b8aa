"""The worker with real frameworks: what it answers is what the model says in its own program."""

from pathlib import Path
from typing import Any, cast

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from penstock.domain import JSON
from penstock.errors import StoppedError
from penstock.inference.asking import columns_of
from tests.unit.packed_versions import asking, pack

RNG = np.random.default_rng(3)
TABLE = pa.table(
    {
        "age": pa.array(RNG.normal(40, 9, 60)),
        "visits": pa.array(RNG.integers(0, 9, 60)),
        "income": pa.array([None if n % 7 == 0 else float(n) for n in range(60)]),
        "city": pa.array([None if n % 5 == 0 else "Bern" if n % 2 else "Chur" for n in range(60)]),
    }
)
LABEL = np.where(np.asarray(TABLE["age"]) + 5 * np.asarray(TABLE["visits"]) > 60, "yes", "no")


def signature(table: pa.Table) -> JSON:
    return {"columns": columns_of(table), "task": None, "classes": None, "positive": None}


def packed(folder: Path, model: Any, table: pa.Table, kind: str = "joblib") -> Path:
    pack(folder, signature=signature(table), format=kind, path=f"model/m.{kind}", predict=None)
    dump = cast("Any", skops.io if kind == "skops" else joblib).dump
    dump(model, folder / "model" / f"m.{kind}")
    return folder


def test_a_pipeline_sees_the_frame_that_it_was_trained_on(tmp_path: Path) -> None:
    rows: pd.DataFrame = TABLE.to_pandas()
    encoder = ("city", OneHotEncoder(handle_unknown="ignore"), ["city"])
    prepared = ColumnTransformer([encoder], remainder="passthrough", sparse_threshold=0)
    trees = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5)
    model: Any = Pipeline([("prepared", prepared), ("trees", trees)])
    model.fit(rows, LABEL)
    expected = cast("list[list[float]]", model.predict_proba(rows).tolist())

    with asking(packed(tmp_path / "v", model, TABLE), packages=True) as worker:
        facts = worker.metadata()
        told = worker.predict(TABLE, signature(TABLE))
        one_by_one = [worker.predict(TABLE.slice(n, 1), signature(TABLE)) for n in range(20)]

    assert facts["feature_names"] == ["age", "visits", "income", "city"]
    assert (facts["n_features"], facts["task"]) == (4, "classification")
    assert told["classes"] == ["no", "yes"]
    assert told["probability"] == expected
    assert told["prediction"] == model.predict(rows).tolist()
    assert [one["probability"] for one in one_by_one] == [[row] for row in expected[:20]]


def test_a_model_trained_on_arrays_gets_arrays_from_skops_too(tmp_path: Path) -> None:
    numbers = TABLE.select(["age", "visits"])
    array = numbers.to_pandas().to_numpy()
    model: Any = cast("Any", LogisticRegression()).fit(array, np.asarray(TABLE["visits"]) > 4)

    folder = packed(tmp_path / "v", model, numbers, "skops")
    with asking(folder, packages=True) as worker:
        facts = worker.metadata()
        told = worker.predict(numbers, signature(numbers))

    assert (facts["feature_names"], facts["n_features"]) == (None, 2)
    assert told["classes"] == [False, True]
    assert told["probability"] == model.predict_proba(array).tolist()


def test_a_classifier_with_a_threshold_of_its_own_keeps_its_decisions(tmp_path: Path) -> None:
    numbers = TABLE.select(["age", "visits"])
    rows = numbers.to_pandas()
    inner: Any = cast("Any", LogisticRegression()).fit(rows, LABEL)
    model: Any = cast("Any", FixedThresholdClassifier)(inner, threshold=0.9, pos_label="yes").fit(
        rows, LABEL
    )
    decided = model.predict(rows).tolist()
    assert decided != inner.predict(rows).tolist()

    with asking(packed(tmp_path / "v", model, numbers), packages=True) as worker:
        told = worker.predict(numbers, signature(numbers))

    assert told["prediction"] == decided


def test_a_regressor_answers_numbers(tmp_path: Path) -> None:
    numbers = TABLE.select(["age", "visits"])
    rows = numbers.to_pandas()
    model: Any = LinearRegression().fit(rows, np.arange(60))

    with asking(packed(tmp_path / "v", model, numbers), packages=True) as worker:
        facts = worker.metadata()
        told = worker.predict(numbers, signature(numbers))

    assert facts["task"] == "regression"
    assert told["probability"] is None
    assert told["prediction"] == model.predict(rows).tolist()


def test_an_adapter_gets_the_same_types_for_one_row_as_for_many(tmp_path: Path) -> None:
    code = """
def load(folder): return None
def predict(model, frame): return [str(frame.dtypes.tolist()) + str(list(frame))] * len(frame)
"""
    folder = pack(tmp_path / "v", code, signature(TABLE))
    with asking(folder, packages=True) as worker:
        many = worker.predict(TABLE, signature(TABLE))
        # Row 0 has no income and no city, row 1 has both.
        one = [worker.predict(TABLE.slice(n, 1), signature(TABLE)) for n in (0, 1)]

    (types,) = set(many["prediction"])
    assert [each["prediction"] for each in one] == [[types]] * 2
    assert "float64" in types
    assert "['age', 'visits', 'income', 'city']" in types


def test_an_object_that_cannot_predict_is_not_served(tmp_path: Path) -> None:
    folder = packed(tmp_path / "v", {"model": 1}, TABLE)

    with (
        pytest.raises(StoppedError, match=r"m\.joblib holds a dict without predict") as stopped,
        asking(folder, packages=True),
    ):
        pass

    assert stopped.value.code == "PS556"
