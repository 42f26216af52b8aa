"""What a version wants: the model's own word, as far as the evaluation data bear it out."""

import datetime as dt
import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.build.results import mlmodel
from penstock.check.evaluation import read_evaluation
from penstock.check.signature import infer_signature
from penstock.config.schema import Evaluate
from penstock.domain import JSON
from penstock.errors import StoppedError
from penstock.inference.asking import to_v2
from penstock.inference.program import bodies
from tests.unit.packed_versions import asking, pack

SPEC = Evaluate(data="e.parquet", label="y")
SAYS = """
def load(folder): return None
def predict(model, frame):
    return [str(list(zip(frame.dtypes.astype(str), frame.iloc[n]))) for n in range(len(frame))]
"""


def signed(folder: Path, table: pa.Table | dict[str, Any], describe: JSON | None = None) -> JSON:
    table = table if isinstance(table, pa.Table) else pa.table(table)
    if "y" not in table.column_names:
        labels = ([0, 1] * table.num_rows)[: table.num_rows]
        table = table.append_column("y", pa.array(labels))
    pq.write_table(table, folder / "e.parquet")
    found = read_evaluation(folder / "e.parquet", SPEC)
    return infer_signature(found.features, describe or {}, found.label, SPEC)


def types(signature: JSON) -> dict[str, tuple[str, bool]]:
    return {c["name"]: (c["datatype"], c["optional"]) for c in signature["columns"]}


def test_every_kind_of_column_has_a_type_that_requests_carry(tmp_path: Path) -> None:
    made = signed(
        tmp_path,
        {
            "decimal": pa.array([Decimal("1.50")] * 20),
            "large": pa.array([2**63] * 20, pa.uint64()),
            "flag": pa.array([True, None] * 10),
            "count": pa.array([1, None] * 10),
            "when": np.array(["2026-01-02"] * 20, "datetime64[us]"),
            "day": pa.array([dt.date(2026, 1, 2)] * 20),
            "city": pa.array(["Bern"] * 20).dictionary_encode(),
            'a "b"\n€ {x}': pa.array([1.5] * 20),
            "nothing": pa.nulls(20),
        },
    )

    assert types(made) == {
        "decimal": ("FP64", False),
        "large": ("FP64", False),
        "flag": ("BOOL", True),
        "count": ("INT64", True),
        "when": ("BYTES", False),
        "day": ("BYTES", False),
        "city": ("BYTES", False),
        'a "b"\n€ {x}': ("FP64", False),
        "nothing": ("FP64", True),
    }
    assert {c["name"]: c["kind"] for c in made["columns"] if "kind" in c} == {
        "when": "datetime",
        "city": "category",
    }


def test_dates_and_categories_come_back_as_pandas_reads_them(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "when": pd.to_datetime(["2026-01-02 03:04:05", None] * 10),
            "city": pd.Categorical(["Bern", "Chur"] * 10),
        }
    )
    made = signed(tmp_path, pa.Table.from_pandas(frame))
    features = read_evaluation(tmp_path / "e.parquet", SPEC).features

    with asking(pack(tmp_path / "v", SAYS, made), packages=True) as worker:
        told = worker.predict(features.slice(0, 2), made)

    assert "datetime64" in told["prediction"][0]
    assert "Timestamp('2026-01-02 03:04:05')" in told["prediction"][0]
    assert "NaT" in told["prediction"][1]
    assert "('category', 'Bern')" in told["prediction"][0]


@pytest.mark.parametrize("bad", ["yesterday", "2026-13-01", "2026-01-01T99:00", 7, ""])
def test_what_is_no_date_is_refused(bad: object) -> None:
    column = bodies.Column("when", "BYTES", optional=False, kind="datetime")

    with pytest.raises(bodies.RequestError, match="a date such as"):
        bodies.read(bodies.INVOCATIONS, {"inputs": {"when": [bad]}}, (column,))


@pytest.mark.parametrize(
    ("own", "values", "expected"),
    [
        ("FP64", [1] * 20, "FP64"),
        ("INT64", [1.0] * 20, "INT64"),
        ("BYTES", [1] * 20, "BYTES"),
        ("FP64", [True] * 20, "FP64"),
        (None, [True] * 20, "BOOL"),
    ],
)
def test_the_models_own_type_counts_where_the_data_can_have_it(
    tmp_path: Path, own: str | None, values: list[Any], expected: str
) -> None:
    made = signed(tmp_path, {"x": values}, {"inputs": [{"name": "x", "datatype": own}]})
    table = read_evaluation(tmp_path / "e.parquet", SPEC).features
    document = bodies.decode(to_v2(table, made["columns"]))

    asked = bodies.read(bodies.V2, document, bodies.signature_columns(made))

    assert made["columns"][0]["datatype"] == expected
    assert asked.rows == 20


@pytest.mark.parametrize(
    ("own", "values", "words"),
    [
        ("FP64", ["a"] * 20, "wants numbers in .x.; the evaluation data have text"),
        ("INT64", [0.5] * 20, "wants whole numbers .* numbers with fractions"),
        ("BOOL", [1] * 20, "wants true or false"),
    ],
)
def test_another_type_than_the_models_own_is_refused(
    tmp_path: Path, own: str, values: list[Any], words: str
) -> None:
    with pytest.raises(StoppedError, match=words) as stopped:
        signed(tmp_path, {"x": values}, {"inputs": [{"name": "x", "datatype": own}]})

    assert stopped.value.code == "PS321"


def test_the_order_is_that_of_the_fitted_object(tmp_path: Path) -> None:
    own = [{"name": "b", "datatype": None}, {"name": "a", "datatype": None}]
    describe = {"inputs": own, "feature_names": ["a", "b"]}

    made = signed(tmp_path, {"b": [1] * 20, "a": [2] * 20, "c": [3] * 20}, describe)

    assert list(types(made)) == ["a", "b"]


def test_a_name_with_an_underscore_for_a_blank_is_found(tmp_path: Path) -> None:
    made = signed(tmp_path, {"my age": [1] * 20, "b": [2] * 20}, {"feature_names": ["my_age"]})

    assert list(types(made)) == ["my age"]


@pytest.mark.parametrize(
    ("labels", "count", "classes"),
    [
        ([0, 2] * 10, 3, [0, 1, 2]),
        (["no", "yes"] * 10, 2, ["no", "yes"]),
        (["a", "b"] * 10, 3, None),
        ([5, 6] * 10, 3, None),
    ],
)
def test_classes_that_only_have_numbers_are_matched_with_the_labels(
    tmp_path: Path, labels: list[Any], count: int, classes: list[Any] | None
) -> None:
    describe = {"n_classes": count, "task": "classification"}
    table = {"x": [1.0] * 20, "y": labels}
    if classes is not None:
        assert signed(tmp_path, table, describe)["classes"] == classes
        return

    with pytest.raises(StoppedError, match="3 classes apart") as stopped:
        signed(tmp_path, table, describe)

    assert stopped.value.code == "PS322"


def test_an_example_is_typical_and_no_row_of_anybody(tmp_path: Path) -> None:
    made = signed(
        tmp_path,
        {
            "income": [float(1000 + n) for n in range(21)],
            "city": ["Bern"] * 15 + ["Chur"] * 6,
            "letter": [f"Dear {n}" for n in range(21)],
            "born": np.array(["1980-05-06"] * 21, "datetime64[us]"),
            "image": [[1.0, 2.0]] * 21,
        },
    )

    assert {c["name"]: c.get("example") for c in made["columns"]} == {
        "income": 1010.0,
        "city": "Bern",
        "letter": "…",
        "born": "1980-01-01",
        "image": None,
    }


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("x,x,y\n" + "1,2,0\n" * 20)

    with pytest.raises(StoppedError, match='2 columns "x"') as stopped:
        read_evaluation(tmp_path / "e.csv", Evaluate(data="e.csv", label="y"))

    assert stopped.value.code == "PS312"


def test_two_thousand_columns_are_answered(tmp_path: Path) -> None:
    values = np.arange(20.0)
    table = pa.table({f"c{n}": values + n for n in range(2000)})
    made = signed(tmp_path, table)
    code = "def load(f): ...\ndef predict(m, f): return f.sum(axis=1)\n"
    with asking(pack(tmp_path / "v", code, {**made, "task": "regression"}), packages=True) as w:
        w.predict(table.slice(0, 1), made)
        began = time.process_time()
        told = w.predict(table, made)
        took_s = time.process_time() - began

    assert told["prediction"][0] == sum(range(2000))
    assert took_s < 2  # of our own; it was quadratic in the number of columns


# ---- MLmodel ---------------------------------------------------------------------------------

SKLEARN = """
flavors:
  python_function: {loader_module: mlflow.sklearn, model_path: model.pkl, code: code}
  sklearn:
    code: code
    pickled_model: model.pkl
    serialization_format: cloudpickle
    sklearn_version: 1.4.2
"""


def read(folder: Path, text: str, **signature: Any) -> JSON:
    if signature:
        text += f"signature: {{inputs: '{json.dumps(signature['inputs'])}'}}\n"
    (folder / "MLmodel").write_text(text)
    return mlmodel.read(folder)


def test_an_mlmodel_tells_the_native_object_and_its_columns(tmp_path: Path) -> None:
    inputs = [
        {"type": "double", "name": "age", "required": True},
        {"type": "integer", "name": "visits", "required": True},
        {"type": "string", "name": "city", "required": False},
        {"type": "datetime", "name": "when", "required": True},
    ]

    assert read(tmp_path, SKLEARN, inputs=inputs) == {
        "flavor": "sklearn",
        "file": "model.pkl",
        "kind": "joblib",
        "code": ["code"],
        "trained_with": {"sklearn": "1.4.2"},
        "inputs": [
            {"name": "age", "datatype": "FP64", "dtype": "float64"},
            {"name": "visits", "datatype": "INT64", "dtype": "int32", "optional": False},
            {"name": "city", "datatype": "BYTES", "dtype": None, "optional": True},
            {"name": "when", "datatype": "BYTES", "dtype": "datetime64[ns]"},
        ],
    }


def test_a_loader_of_the_projects_own_is_left_to_mlflow(tmp_path: Path) -> None:
    spec = {"dtype": "float32", "shape": [-1, 28, 28]}
    own = SKLEARN.replace("loader_module: mlflow.sklearn", "loader_module: our_loader")

    found = read(tmp_path, own, inputs=[{"type": "tensor", "tensor-spec": spec}])

    assert (found["flavor"], found["code"]) == ("pyfunc", ["code"])
    assert found["inputs"] == [
        {"name": None, "datatype": "FP64", "dtype": "float32", "shape": [28, 28]}
    ]


def test_without_a_signature_the_input_example_tells_the_names(tmp_path: Path) -> None:
    example = "saved_input_example_info: {artifact_path: e.json, type: dataframe}\n"
    (tmp_path / "e.json").write_text('{"columns": ["a", "b"], "data": [[1, 2]]}')

    found = read(tmp_path, SKLEARN + example)

    assert [one["name"] for one in found["inputs"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flavors: [", "while parsing"),
        ("- 1\n", "no flavour"),
        ("flavors: {spark: {}}\n", r"no flavour that can be served \(spark\)"),
        (SKLEARN.replace("model.pkl", "../../etc/passwd"), "outside of its folder"),
        (SKLEARN.replace("model.pkl", "/etc/passwd"), "outside of its folder"),
        (SKLEARN.replace("code: code", "code: ../code"), "outside of its folder"),
        (SKLEARN + "signature: {inputs: '[1'}\n", "signature is not readable"),
        (SKLEARN + 'signature: {inputs: \'[{"type": "map", "name": "m"}]\'}\n', "type map"),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
    ],
)
def test_an_mlmodel_that_is_not_understood_says_why(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(StoppedError, match=words) as stopped:
        read(tmp_path, text)

    assert stopped.value.code == "PS577"
