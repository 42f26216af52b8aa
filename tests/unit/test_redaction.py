"""What a model keeps out of the prediction log is nowhere on the disk."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.domain import JSON, Environment, Role
from penstock.errors import StoppedError
from penstock.inference.prediction_log.records import Entry, Outcome
from penstock.inference.prediction_log.redaction import redacted, require_known
from penstock.inference.prediction_log.segments import PredictionLog, read
from penstock.inference.prediction_log.table import Of, table_of
from penstock.inference.program import frames
from tests.unit.gateway_rig import Rig, a_rig, running, version

PLANTED = "Zyxwv-4711"
SIGNATURE: JSON = {
    "columns": [
        {"name": "age", "datatype": "FP64", "optional": True},
        {"name": "name", "datatype": "BYTES", "optional": True},
    ],
    "task": "regression",
    "classes": None,
    "positive": None,
}
ROWS = pa.table({"age": [40.0, None], "name": [PLANTED, "Bo"]})


def v2() -> bytes:
    inputs = [
        {"name": "age", "shape": [2], "datatype": "FP64", "data": [40.0, None]},
        {"name": "name", "shape": [2, 1], "datatype": "BYTES", "data": [[PLANTED], ["Bo"]]},
    ]
    return json.dumps({"inputs": inputs, "parameters": {"note": PLANTED}}).encode()


def matrix() -> bytes:
    data = [40.0, PLANTED, None, "Bo"]
    one = {"name": "whatever", "shape": [2, 2], "datatype": "BYTES", "data": data}
    return json.dumps({"inputs": [one]}).encode()


def records() -> bytes:
    rows = [{"age": 40, "name": PLANTED}, {"name": "Bo"}]
    return json.dumps({"dataframe_records": rows}).encode()


def split() -> bytes:
    rows = [[PLANTED, 40], ["Bo", None]]
    return json.dumps({"dataframe_split": {"columns": ["name", "age"], "data": rows}}).encode()


def binary() -> bytes:
    texts = b"".join(struct.pack("<I", len(t)) + t.encode() for t in (PLANTED, "Bo"))
    inputs: list[dict[str, Any]] = [
        {"name": "age", "shape": [2], "datatype": "FP64", "data": [40.0, None]},
        {
            "name": "name",
            "shape": [2],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(texts)},
        },
    ]
    head = json.dumps({"inputs": inputs}).encode()
    return struct.pack("<I", len(head)) + head + texts


def arrow() -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, ROWS.schema) as writer:
        writer.write_table(ROWS)
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(ROWS, out, compression="none")
    return out.getvalue()


CSV = f"age,name\n40,{PLANTED}\n,Bo\n".encode()
BODIES = {
    "v2": (frames.V2, v2()),
    "matrix": (frames.V2, matrix()),
    "records": (frames.INVOCATIONS, records()),
    "split": (frames.INVOCATIONS, split()),
    "csv": (frames.CSV, CSV),
    "binary": (frames.V2_BINARY, binary()),
    "arrow": (frames.ARROW, arrow()),
    "parquet": (frames.PARQUET, parquet()),
}
OPAQUE = ("arrow", "parquet")


def entry(kind: int, request: bytes, **facts: Any) -> Entry:
    reply = b'{"predictions": [1.5, 2.5]}'
    if kind in (frames.V2, frames.V2_BINARY):
        reply = b'{"outputs": [{"name": "prediction", "data": [1.5, 2.5]}], "id": "a"}'
    made = Entry(
        arrived_us=1_790_000_000_000_000,
        ended_us=1_790_000_000_001_000,
        number=1,
        role="champion",
        status=200,
        outcome=Outcome.ANSWERED,
        generation=1,
        rows=2,
        kind=kind,
        id="a",
        request=request,
        reply=reply,
    )
    return made._replace(**facts)


def everything_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("form", BODIES)
def test_a_column_that_is_kept_out_never_reaches_the_disk(form: str, tmp_path: Path) -> None:
    kind, body = BODIES[form]
    whole = entry(kind, body)
    assert PLANTED.encode() in whole.request
    log = PredictionLog(tmp_path / "log", clock_us=lambda: 1)

    log.append("production", "m", [redacted(whole, {"name"}, SIGNATURE)])
    log.close()
    found = list(read(tmp_path / "log" / "production" / "m"))
    rows = table_of(found, Of(Environment.PRODUCTION, "m"), lambda _: SIGNATURE)
    pq.write_table(rows, tmp_path / "rows.parquet", compression="none")

    assert PLANTED.encode() not in everything_below(tmp_path)
    assert rows["prediction"].to_pylist() == ["1.5", "2.5"]
    assert rows["x_name"].to_pylist() == [None, None]
    assert rows["x_age"].to_pylist() == ([None, None] if form in OPAQUE else [40.0, None])
    without = table_of([whole], Of(Environment.PRODUCTION, "m"), lambda _: SIGNATURE)
    assert PLANTED in without["x_name"].to_pylist()


@pytest.mark.parametrize("signature", [SIGNATURE, None])
def test_a_body_that_cannot_be_read_is_not_logged(signature: JSON | None) -> None:
    bad = entry(frames.V2, f'{{"inputs": "{PLANTED}"'.encode())

    assert redacted(bad, {"name"}, signature).request == b""


def test_an_error_keeps_its_code_and_nothing_that_was_sent() -> None:
    sentence = f'{{"error": "Column name is \\"{PLANTED}\\"", "code": "PS552"}}'.encode()

    kept = redacted(entry(frames.V2, v2(), status=422, reply=sentence), {"name"}, SIGNATURE)
    forged = redacted(
        entry(frames.V2, v2(), status=500, reply=sentence.replace(b"PS552", PLANTED.encode())),
        {"name"},
        SIGNATURE,
    )

    assert (kept.code, kept.request, kept.reply) == ("PS552", b"", b"")
    assert forged.code == ""


def test_a_column_to_be_left_out_must_be_one_of_the_models() -> None:
    require_known(["name", "age"], SIGNATURE)

    with pytest.raises(StoppedError, match=r"PS686 .*'nane'.* did you mean 'name'\?"):
        require_known(["nane"], SIGNATURE)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with a_rig(tmp_path) as made, running(made):
        yield made


def test_the_gateway_keeps_to_what_any_version_of_the_model_asks_for(
    rig: Rig, tmp_path: Path
) -> None:
    rig.serve_these(
        [
            version(1, signature=SIGNATURE),
            version(2, share=0, role=Role.PREVIOUS, serving={"log_without": ["name"]}),
        ]
    )
    body = json.loads(v2())

    asked = [rig.ask(**body), rig.ask(**body, do="answer", status=500)]

    assert [answer.status_code for answer in asked] == [200, 500]
    assert all("penstock-prediction-id" in answer.headers for answer in asked)
    assert len(rig.log()) == 2
    assert PLANTED.encode() not in everything_below(tmp_path / "log")
    rig.serve_these([version(1, signature=SIGNATURE)])
    rig.ask(**body)
    assert PLANTED.encode() in everything_below(tmp_path / "log")


def test_while_the_disk_takes_nothing_answers_carry_no_prediction_id(
    rig: Rig, tmp_path: Path
) -> None:
    rig.serve_these([version(1)])
    in_the_way = tmp_path / "log" / "production" / "m"
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("in the way")

    answers = [rig.ask(n=n) for n in range(3)]
    told = rig.workers()[1]
    in_the_way.unlink()
    later = rig.ask(n=9)

    assert [answer.status_code for answer in answers] == [200] * 3
    assert {answer.headers.get("penstock-logged") for answer in answers} == {"no"}
    assert not any("penstock-prediction-id" in answer.headers for answer in answers)
    assert (told["log_drops"], told["log_dropped_us"] > 0) == (3, True)
    assert "penstock-logged" not in later.headers
    assert [one.id for one in rig.log()] == [later.headers["penstock-prediction-id"]]
