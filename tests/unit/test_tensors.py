"""A tensor in a column: from a Parquet file to the model and into the log, whoever sends it."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.check.evaluation import plain_column, read_evaluation, tensor_shape
from penstock.check.profile import reference_profile
from penstock.check.signature import infer_signature
from penstock.check.smoke import with_null
from penstock.client.wire import input_of as client_input
from penstock.config.schema import Evaluate
from penstock.domain import JSON, Environment
from penstock.errors import StoppedError
from penstock.inference.asking import columns_of, to_v2
from penstock.inference.gateway.examples import example_request
from penstock.inference.prediction_log import table as log_table
from penstock.inference.prediction_log.segments import Entry, Outcome
from penstock.inference.program import bodies, rows
from penstock.inference.program.bodies import INVOCATIONS, V2, Column, RequestError
from tests.unit.packed_versions import asking, pack

IMAGE = Column("image", "FP64", optional=False, shape=(2, 3))
ROWS = [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], [[6.0, 7.0, 8.0], [9.0, 10.0, 11.0]]]
FLAT = [[float(n) for n in range(6)], [float(n) for n in range(6, 12)]]
SPEC = Evaluate(data="images.parquet", label="digit")
SIGNATURE: JSON = {
    "columns": [{"name": "image", "datatype": "FP64", "optional": False, "shape": [2, 3]}],
    "task": "regression",
    "classes": None,
    "positive": None,
}
SUMS = """
def load(folder):
    return None

def predict(model, frame):
    for image in frame["image"]:
        assert image.shape == (2, 3), image.shape
    return [float(image.sum()) for image in frame["image"]]
"""


def read(document: Any, kind: int = V2, *columns: Column) -> bodies.Asked:
    return bodies.read(kind, document, columns or (IMAGE,))


def v2(data: Any, shape: list[int], name: str = "image") -> dict[str, Any]:
    return {"inputs": [{"name": name, "shape": shape, "datatype": "FP32", "data": data}]}


def images(folder: Path, column: Any, **others: Any) -> Path:
    path = folder / "images.parquet"
    count = len(column)
    pq.write_table(pa.table({"image": column, "digit": [0, 1] * (count // 2), **others}), path)
    return path


@pytest.mark.parametrize(
    "document",
    [
        v2(ROWS, [2, 2, 3]),
        v2([value for row in FLAT for value in row], [2, 2, 3]),
        v2(FLAT, [2, 6]),
        v2(ROWS, [2, 2, 3], "whatever"),
    ],
)
def test_a_tensor_may_be_sent_flat_or_nested(document: dict[str, Any]) -> None:
    assert read(document).values == [FLAT]


@pytest.mark.parametrize(
    "document",
    [
        {"instances": ROWS},
        {"instances": [[row] for row in ROWS]},
        {"instances": FLAT},
        {"instances": [{"image": row} for row in ROWS]},
        {"inputs": {"image": ROWS}},
        {"inputs": ROWS},
        {"dataframe_split": {"columns": ["image"], "data": [[row] for row in ROWS]}},
        {"dataframe_records": [{"image": row} for row in FLAT]},
    ],
)
def test_every_form_of_invocations_carries_tensors(document: dict[str, Any]) -> None:
    assert read(document, INVOCATIONS).values == [FLAT]


@pytest.mark.parametrize(
    ("document", "code", "words"),
    [
        (v2(ROWS, [2, 3, 2]), "PS553", '["n", 2, 3]'),
        (v2([1.0], [1, 2, 3]), "PS553", "1 values"),
        (v2([[[1, 2, 3], [4, 5]]], [1, 2, 3]), "PS553", "5 values"),
        (v2([1, 2, 3, 4, 5, None], [1, 2, 3]), "PS552", "in row 0 value 5 has null"),
        (v2([1, 2, 3, 4, 5, "x"], [1, 2, 3]), "PS552", "in row 0 value 5"),
        (v2([1, 2, 3, 4, 5, True], [1, 2, 3]), "PS552", "value 5 has true"),
        (v2([1, 2, 3, 4, 5, 1e999], [1, 2, 3]), "PS552", "value 5"),
        (v2([1], [1], "picture"), "PS553", "shape [1]"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_what_is_wrong(
    document: dict[str, Any], code: str, words: str
) -> None:
    with pytest.raises(RequestError) as refused:
        read(document)

    assert refused.value.code == code
    assert words in str(refused.value)
    assert 400 <= refused.value.status < 500


@pytest.mark.parametrize("cell", [[[1, 2, 3], [4, 5]], [1, 2], 7, "x", [[[1]]], [[], []], {}])
def test_a_cell_of_another_form_is_refused(cell: Any) -> None:
    with pytest.raises(RequestError) as refused:
        read({"inputs": {"image": [cell]}}, INVOCATIONS)

    assert refused.value.code in ("PS553", "PS552")


def test_a_missing_value_in_an_optional_tensor_is_a_nan() -> None:
    column = IMAGE._replace(optional=True)
    asked = read({"inputs": {"image": [None, ROWS[1]]}}, INVOCATIONS, column)

    assert asked.values[0][0] == [None] * 6
    stacked = rows.stack(column, asked.values[0])
    assert np.isnan(stacked[0]).all()
    assert stacked.shape == (2, 2, 3)


def test_without_a_signature_a_shape_of_three_dimensions_is_a_tensor() -> None:
    asked = bodies.read(V2, v2(ROWS, [2, 2, 3]), None)

    assert asked.columns == (IMAGE,)
    assert asked.values == [FLAT]


_CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=12,
)


@given(data=st.lists(_CELLS, max_size=3), shape=st.lists(st.integers(-1, 4), max_size=4))
def test_what_is_sent_as_a_tensor_is_read_or_refused(data: list[Any], shape: list[int]) -> None:
    for kind, document in ((V2, v2(data, shape)), (INVOCATIONS, {"instances": data})):
        asked = None
        with contextlib.suppress(RequestError):  # and nothing else
            asked = bodies.read(kind, document, (IMAGE,))
        if asked is not None:
            assert all(len(row) == 6 for row in asked.values[0])
            assert all(type(value) is float for row in asked.values[0] for value in row)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float32())),
        pa.list_(pa.list_(pa.float64(), 3), 2),
        pa.large_list(pa.large_list(pa.int16())),
    ],
)
def test_lists_of_one_length_become_a_tensor(tmp_path: Path, kind: pa.DataType) -> None:
    path = images(tmp_path, pa.array(ROWS * 10, kind))
    found = read_evaluation(path, SPEC)

    signature = infer_signature(found.features, {}, found.label, SPEC)
    (column,) = signature["columns"]
    document = json.loads(to_v2(found.features.slice(1, 2), signature["columns"]))

    assert column["shape"] == [2, 3]
    assert column["optional"] is False
    assert document["inputs"][0]["shape"] == [2, 2, 3]
    assert document["inputs"][0]["data"] == FLAT[1] + FLAT[0]


def test_the_tensor_type_of_arrow_is_one_too() -> None:
    array = np.arange(12, dtype="float32").reshape(2, 2, 3)
    column = pa.chunked_array([pa.FixedShapeTensorArray.from_numpy_ndarray(array)])

    plain = plain_column(column, "image")

    assert tensor_shape(plain.type) == [2, 3]
    assert plain.to_pylist() == ROWS


def test_a_missing_list_is_one_of_nulls_and_makes_the_column_optional(tmp_path: Path) -> None:
    path = images(tmp_path, pa.array([ROWS[0], None] * 10))
    found = read_evaluation(path, SPEC)

    signature = infer_signature(found.features, {}, found.label, SPEC)
    document = json.loads(to_v2(found.features.slice(0, 2), signature["columns"]))

    assert signature["columns"][0]["optional"] is True
    assert document["inputs"][0]["data"] == [*FLAT[0], *[None] * 6]


def test_a_null_set_by_a_check_travels_as_nulls(tmp_path: Path) -> None:
    found = read_evaluation(images(tmp_path, pa.array(ROWS * 10)), SPEC)
    columns = columns_of(found.features)

    document = json.loads(to_v2(with_null(found.features.slice(0, 2), "image"), columns))

    assert document["inputs"][0]["data"] == [*[None] * 6, *FLAT[1]]


@pytest.mark.parametrize(
    ("own", "shape"),
    [
        ({"name": "pixels", "shape": [2, 3]}, [2, 3]),
        ({"name": "pixels", "shape": [-1, 3]}, [2, 3]),
        ({"name": None, "shape": [3, 2]}, [3, 2]),
        ({"name": "image", "shape": [6]}, [6]),
        ({"name": "image", "shape": [-1]}, [2, 3]),
    ],
)
def test_the_models_own_shape_counts_where_the_data_can_have_it(
    tmp_path: Path, own: JSON, shape: list[int]
) -> None:
    found = read_evaluation(images(tmp_path, pa.array(ROWS * 10)), SPEC)
    signature = infer_signature(found.features, {"inputs": [own]}, found.label, SPEC)

    assert [(c["name"], c["shape"]) for c in signature["columns"]] == [("image", shape)]


def test_a_tensor_of_another_size_is_refused(tmp_path: Path) -> None:
    found = read_evaluation(images(tmp_path, pa.array(ROWS * 10)), SPEC)
    own = [{"name": "pixels", "shape": [28, 28]}]

    with pytest.raises(StoppedError, match="28 x 28; the evaluation data have 2 x 3") as stopped:
        infer_signature(found.features, {"inputs": own}, found.label, SPEC)

    assert stopped.value.code == "PS320"


def test_a_model_of_a_flat_array_takes_the_only_tensor(tmp_path: Path) -> None:
    found = read_evaluation(images(tmp_path, pa.array(ROWS * 10), index=range(20)), SPEC)
    signature = infer_signature(found.features, {"n_features": 6}, found.label, SPEC)

    assert [column["name"] for column in signature["columns"]] == ["image"]


def test_a_row_larger_than_a_request_is_refused_at_once(tmp_path: Path) -> None:
    large = pa.array([[0.123456789] * 120_000] * 20)
    found = read_evaluation(images(tmp_path, large), SPEC)

    with pytest.raises(StoppedError, match="1 MiB") as stopped:
        infer_signature(found.features, {}, found.label, SPEC)

    assert stopped.value.code == "PS323"


def test_an_adapter_gets_an_array_a_row_and_the_log_a_list(tmp_path: Path) -> None:
    table = pa.table({"image": plain_column(pa.chunked_array([pa.array(ROWS)]), "image")})
    with asking(pack(tmp_path / "v", SUMS, SIGNATURE), packages=True) as worker:
        told = worker.predict(table, SIGNATURE)

    request = to_v2(table, SIGNATURE["columns"])
    reply = json.dumps({"outputs": [{"name": "prediction", "data": [15, 51]}], "id": "a"})
    entry = Entry(
        arrived_us=0, ended_us=1, number=1, role="champion", status=200,
        outcome=Outcome.ANSWERED, generation=1, rows=2, kind=V2, id="a", request=request,
        reply=reply.encode(),
    )  # fmt: skip
    logged = log_table.table_of([entry], log_table.Of(Environment.TEST, "m"), lambda _: SIGNATURE)

    assert told["prediction"] == [15.0, 51.0]
    assert logged["x_image"].to_pylist() == FLAT
    assert reference_profile(logged.select(["x_image"]))["left_out"] == ["x_image"]


def test_without_numpy_an_adapter_gets_nested_lists(tmp_path: Path) -> None:
    code = "def load(f): ...\ndef predict(m, frame): return [i[1][2] for i in frame['image']]\n"
    table = pa.table({"image": plain_column(pa.chunked_array([pa.array(ROWS)]), "image")})
    with asking(pack(tmp_path / "v", code, SIGNATURE)) as worker:
        told = worker.predict(table, SIGNATURE)

    assert told["prediction"] == [5.0, 11.0]


def test_the_client_sends_arrays_and_the_example_has_the_shape() -> None:
    sent = client_input("image", list(np.asarray(ROWS)))

    assert sent["shape"] == [2, 2, 3]
    assert read({"inputs": [sent]}).values == [FLAT]
    assert read(example_request(SIGNATURE)).values == [[[0.0] * 6]]
