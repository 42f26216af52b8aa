"""The same rows in every form that a caller may write them in, read by the worker's own code."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.inference.gateway.sticky import customer_in
from penstock.inference.program import bodies, frames, replies, requests, tables, tensors
from penstock.inference.program.bodies import RequestError
from penstock.inference.program.rows import Answer
from tests.unit.packed_versions import SIGNATURE

COLUMNS = bodies.signature_columns(SIGNATURE)
ROWS: dict[str, list[Any]] = {
    "age": [40.5, 1.0],
    "city": ["Bern", None],
    "visits": [3, 0],
    "member": [True, False],
}
VALUES = [ROWS["age"], ROWS["city"], ROWS["visits"], ROWS["member"]]
ABOUT = replies.About("credit", 3, ["no", "yes"])
ANSWER = Answer(["yes", "no"], [[0.25, 0.75], [0.5, 0.5]])


def csv() -> bytes:
    return b"\xef\xbb\xbfcity,age,member,visits\r\nBern,40.5,True,3\r\n,1,0,0\r\n"


def parquet(table: pa.Table | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(ROWS) if table is None else table, sink)
    return sink.getvalue()


def stream(table: pa.Table | None = None) -> bytes:
    table = pa.table(ROWS) if table is None else table
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return sink.getvalue()


def binary(**changes: Any) -> bytes:
    """Numbers as they are named by numpy, the city as JSON: what may be mixed is."""
    sent: dict[str, tuple[str, list[Any]]] = {
        "age": ("FP16", ROWS["age"]),
        "visits": ("UINT8", ROWS["visits"]),
        "member": ("BOOL", ROWS["member"]),
    }
    inputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for name, (datatype, values) in {**sent, **changes.pop("columns", {})}.items():
        raw.append(tensors.encode(datatype, values))
        inputs.append(
            {
                "name": name,
                "shape": [len(values)],
                "datatype": datatype,
                "parameters": {"binary_data_size": len(raw[-1])},
            }
        )
    inputs.append({"name": "city", "shape": [2], "datatype": "BYTES", "data": ROWS["city"]})
    document = {"inputs": inputs, **changes}
    return tensors.join(json.dumps(document).encode(), b"".join(raw))


FORMS: dict[int, Callable[[], bytes]] = {
    frames.CSV: csv,
    frames.PARQUET: parquet,
    frames.ARROW: stream,
    frames.V2_BINARY: binary,
}


@pytest.mark.parametrize("kind", FORMS)
def test_every_form_says_the_same_rows_in_the_models_order(kind: int) -> None:
    request = requests.understand(kind, FORMS[kind](), COLUMNS, id="made")

    assert request.asked.values == VALUES
    assert request.id == "made"


@pytest.mark.parametrize("kind", [frames.PARQUET, frames.ARROW])
def test_a_frame_of_pandas_is_read_as_it_was_trained_on(kind: int) -> None:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "size": np.array([1.5, np.nan], np.float32),
            "half": np.array([1.5, 2.5], np.float16),
            "when": pd.to_datetime(["2026-01-31T08:00:00", None]),
            "kind": pd.Categorical(["a", None]),
            "pixels": [[1.0, 2.0], [3.0, 4.0]],
        },
        index=[7, 9],
    )
    columns = (
        bodies.Column("size", "FP64", optional=True),
        bodies.Column("half", "FP64", optional=False),
        bodies.Column("when", "BYTES", optional=True, kind="datetime"),
        bodies.Column("kind", "BYTES", optional=True, kind="category"),
        bodies.Column("pixels", "FP64", optional=False, shape=(2,)),
    )
    write = parquet if kind == frames.PARQUET else stream

    asked = requests.understand(kind, write(pa.Table.from_pandas(frame)), columns).asked

    assert asked.values == [
        [1.5, None],
        [1.5, 2.5],
        ["2026-01-31T08:00:00", None],
        ["a", None],
        [[1.0, 2.0], [3.0, 4.0]],
    ]


NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "body", "status", "code", "names"),
    [
        (frames.CSV, b"age,visits,member\nx,1,true\n", 422, "PS552", "'age'"),
        (frames.CSV, b"age,visits,member\n1_0,1,true\n", 422, "PS552", "'age'"),
        (frames.CSV, b"age,visits,member\n1,1.5,true\n", 422, "PS552", "'visits'"),
        (frames.CSV, b"age,visits,member\n1,1,perhaps\n", 422, "PS552", "'member'"),
        (frames.CSV, b"age,visits,member\nNaN,1,true\n", 422, "PS552", "'age'"),
        (frames.CSV, b"age,visits,member\ninf,1,true\n", 422, "PS552", "'age'"),
        (frames.CSV, b"age,visits,member\n,1,true\n", 422, "PS552", "'age'"),
        (frames.CSV, b"age,member\n1,true\n", 422, "PS551", "'visits'"),
        (frames.CSV, b"age,visits,member,Age\n1,1,true,2\n", 422, "PS551", "'Age'"),
        (frames.CSV, b"age,age\n1,2\n", 400, "PS534", "'age'"),
        (frames.CSV, b"age,visits\n1\n", 400, "PS534", "Row 0"),
        (frames.CSV, b"", 400, "PS534", "no line"),
        (frames.CSV, b"age,visits,member\n", 400, "PS553", "no rows"),
        (frames.CSV, b"\xff", 400, "PS534", "UTF-8"),
        (frames.CSV, b'age\n"1', 400, "PS534", "comma separated"),
        (frames.PARQUET, b"PAR1", 400, "PS534", "not Parquet"),
        (frames.ARROW, b"", 400, "PS534", "not an Arrow stream"),
        (frames.ARROW, stream()[:-30], 400, "PS534", "not an Arrow stream"),
        (frames.ARROW, stream(pa.table({**ROWS, "age": [NAN, 1.0]})), 422, "PS552", "'age'"),
        (frames.PARQUET, parquet(pa.table({**ROWS, "age": ["a", "b"]})), 422, "PS552", "'age'"),
        (frames.V2_BINARY, binary(columns={"age": ("FP32", [NAN, 1])}), 422, "PS552", "'age'"),
        (frames.V2_BINARY, binary(columns={"age": ("FP64", [1])}), 400, "PS553", "'city'|'age'"),
        (frames.V2_BINARY, binary() + b"x", 400, "PS535", "behind the JSON"),
        (frames.V2_BINARY, binary()[:-1], 400, "PS535", "'member'"),
        (frames.V2_BINARY, b"\x09\x00\x00\x00{}", 400, "PS535", "9 bytes of JSON"),
        (frames.V2_BINARY, b"", 400, "PS535", "no length"),
        (frames.V2, b'{"inputs": [], "outputs": [{"name": "x"}]}', 400, "PS536", "'x'"),
        (frames.V2, b'{"inputs": [], "outputs": [{}]}', 400, "PS550", "outputs"),
        (frames.V2, b'{"inputs": [], "parameters": 1}', 400, "PS550", "parameters"),
    ],
)
def test_a_fault_names_the_column_or_the_place(
    kind: int, body: bytes, status: int, code: str, names: str
) -> None:
    with pytest.raises(RequestError, match=names) as raised:
        requests.understand(kind, body, COLUMNS)

    assert (raised.value.status, raised.value.code) == (status, code)


def test_too_many_rows_are_refused_before_they_are_unpacked() -> None:
    table = pa.table({"age": pa.array(np.zeros(2_000_000))})
    body = parquet(table)
    assert len(body) < 2**20

    with pytest.raises(RequestError, match="2000000 rows"):
        requests.understand(frames.PARQUET, body, COLUMNS)


def test_a_table_of_few_rows_that_unpacks_to_much_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, "MAX_BYTES", 1_000_000)
    huge = pa.table({"city": ["x" * 2_000_000]})

    for kind, body in ((frames.PARQUET, parquet(huge)), (frames.ARROW, stream(huge))):
        with pytest.raises(RequestError, match="unpacked"):
            requests.understand(kind, body, COLUMNS)


def test_without_a_signature_the_cells_say_their_types() -> None:
    body = b"n,x,yes,text,empty\n1,1.5,true,a,\n2,,False,b,\n"

    asked = requests.understand(frames.CSV, body, None).asked

    kinds = {column.name: column.datatype for column in asked.columns}
    assert kinds == {"n": "INT64", "x": "FP64", "yes": "BOOL", "text": "BYTES", "empty": "FP64"}
    assert asked.values == [[1, 2], [1.5, None], [True, False], ["a", "b"], [None, None]]


def test_without_pyarrow_a_table_is_refused_with_what_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone() -> Any:
        raise tables.LibraryMissingError

    monkeypatch.setattr(tables, "pyarrow", gone)
    with pytest.raises(RequestError, match="needs pyarrow") as raised:
        requests.understand(frames.PARQUET, parquet(), COLUMNS)
    wants = requests.understand(frames.CSV, csv(), COLUMNS, wants=frames.ARROW_MEDIA)
    reply = replies.answered(wants, ANSWER, ABOUT)

    assert (raised.value.status, raised.value.code) == (415, "PS533")
    assert (reply.status, json.loads(reply.body)["code"]) == (406, "PS533")


DATATYPES = sorted(set(bodies.DATATYPES) - {"BF16"})


@pytest.mark.parametrize("datatype", DATATYPES)
def test_binary_tensors_are_those_of_numpy(datatype: str) -> None:
    if datatype == "BYTES":
        values: list[Any] = ["", "Zürich"]
        raw = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in values)
    else:
        name = {"BOOL": "?"}.get(datatype, datatype.lower().replace("fp", "float"))
        array = np.array([0, 1, 1], np.dtype(name).newbyteorder("<"))
        values, raw = cast("list[Any]", array.tolist()), array.tobytes()

    assert tensors.decode(datatype, raw) == values
    assert tensors.encode(datatype, values) == raw


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), max_size=9))
def test_the_upper_half_of_a_float_is_a_bfloat(values: list[float]) -> None:
    raw = tensors.encode("BF16", values)

    wide = np.frombuffer(raw, "<u2").astype("<u4") << 16
    assert tensors.decode("BF16", raw) == wide.view("<f4").tolist()


@given(
    kind=st.sampled_from([*FORMS, frames.V2, frames.INVOCATIONS]),
    body=st.one_of(st.binary(max_size=60), st.sampled_from([form() for form in FORMS.values()])),
    at=st.integers(0, 2000),
    byte=st.integers(0, 255),
)
def test_whatever_is_sent_is_read_or_refused(kind: int, body: bytes, at: int, byte: int) -> None:
    if body:
        at %= len(body)
        body = body[:at] + bytes([byte]) + body[at + 1 :]
    for columns in (COLUMNS, None):
        with contextlib.suppress(RequestError):
            asked = requests.understand(kind, body, columns).asked
            assert all(len(values) == asked.rows for values in asked.values)


def test_a_customer_is_found_in_a_binary_tensor() -> None:
    two, one = ("UINT8", [7, 8]), ("UINT8", [7, 7])

    assert customer_in(frames.V2_BINARY, binary(columns={"visits": one}), "visits") == "7"
    assert customer_in(frames.V2_BINARY, binary(columns={"visits": two}), "visits") is None
    assert customer_in(frames.V2_BINARY, binary()[:-1], "visits") is None


WANTED: list[tuple[int, int, dict[str, Any]]] = [
    (frames.V2, frames.JSON_MEDIA, {}),
    (frames.V2, frames.JSON_MEDIA, {"parameters": {"binary_data_output": True}}),
    (frames.V2, frames.BINARY_MEDIA, {}),
    (frames.V2, frames.ARROW_MEDIA, {}),
    (
        frames.V2,
        frames.JSON_MEDIA,
        {
            "outputs": [
                {"name": "probability", "parameters": {"binary_data": True}},
                {"name": "prediction"},
            ]
        },
    ),
]


@pytest.mark.parametrize(("kind", "wants", "changes"), WANTED)
def test_an_answer_reads_the_same_in_every_form(
    kind: int, wants: int, changes: dict[str, Any]
) -> None:
    inputs = [
        {"name": column.name, "shape": [2], "datatype": column.datatype, "data": values}
        for column, values in zip(COLUMNS or (), VALUES, strict=True)
    ]
    body = json.dumps({"inputs": inputs, "id": "mine", **changes}).encode()
    request = requests.understand(kind, body, COLUMNS, wants=wants)

    reply = replies.answered(request, ANSWER, ABOUT)

    assert (reply.status, reply.id, reply.rows) == (200, "mine", 2)
    told = replies.told(kind, reply.media, reply.body)
    assert told == replies.Told(["yes", "no"], ANSWER.probability, ["no", "yes"])


def test_a_stream_that_a_worker_made_up_is_refused_not_believed() -> None:
    about = {"classes": "[0]"}
    sound = tables.write({"prediction": ["one", "two"]}, about)
    # The offsets of the two texts, 0, 3 and 6: the last points behind what is there.
    lie = sound.replace(struct.pack("<3i", 0, 3, 6), struct.pack("<3i", 0, 3, 2**30))
    assert lie != sound

    assert replies.told(frames.V2, frames.ARROW_MEDIA, sound).prediction == ["one", "two"]
    with pytest.raises(pa.ArrowInvalid, match="offset"):
        replies.told(frames.V2, frames.ARROW_MEDIA, lie)


def test_only_what_is_asked_for_is_answered_in_the_callers_order() -> None:
    outputs = [{"name": "probability"}]
    request = requests.understand(frames.V2_BINARY, binary(outputs=outputs), COLUMNS)

    reply = replies.answered(request, ANSWER, ABOUT)

    assert [output["name"] for output in json.loads(reply.body)["outputs"]] == ["probability"]
    told = replies.told(request.kind, reply.media, reply.body)
    assert (told.prediction, told.probability) == (None, ANSWER.probability)


def test_an_output_that_the_model_has_not_is_the_callers_fault() -> None:
    outputs = [{"name": "probability"}]
    request = requests.understand(frames.V2_BINARY, binary(outputs=outputs), COLUMNS)

    reply = replies.answered(request, Answer([1.0, 2.0], None), ABOUT)

    assert (reply.status, json.loads(reply.body)["code"]) == (400, "PS536")


@pytest.mark.parametrize("wants", [frames.JSON_MEDIA, frames.BINARY_MEDIA, frames.ARROW_MEDIA])
def test_nan_is_no_answer_in_any_form(wants: int) -> None:
    request = requests.understand(frames.V2_BINARY, binary(), COLUMNS, wants=wants)

    reply = replies.answered(request, Answer([NAN, 1.0], None), ABOUT)

    assert (reply.status, json.loads(reply.body)["code"]) == (500, "PS555")
