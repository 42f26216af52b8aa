"""What a model keeps out of the prediction log is nowhere on the disk."""

from __future__ import annotations

import csv
import io
import json
import string
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.domain import JSON, Environment, Role
from penstock.errors import StoppedError
from penstock.inference.prediction_log import records
from penstock.inference.prediction_log.records import Entry, Outcome
from penstock.inference.prediction_log.redaction import redacted, require_known
from penstock.inference.prediction_log.segments import PredictionLog, read
from penstock.inference.prediction_log.table import Of, table_of
from penstock.inference.program import bodies, frames, replies, requests, tensors
from penstock.inference.program import rows as rows_
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
FORMS = {
    "v2": frames.V2,
    "matrix": frames.V2,
    "records": frames.INVOCATIONS,
    "split": frames.INVOCATIONS,
    "instances": frames.INVOCATIONS,
    "csv": frames.CSV,
    "binary": frames.V2_BINARY,
    "arrow": frames.ARROW,
    "parquet": frames.PARQUET,
}
DATATYPES = {"age": "FP64", "name": "BYTES", "number": "INT64"}
Columns = dict[str, list[Any]]
NUMBER = {"name": "number", "datatype": "INT64", "optional": False}
ROWS: Columns = {"age": [40.0, None], "name": [PLANTED, "Bo"]}


def body(form: str, columns: Columns) -> bytes:
    """Write rows in the form that a caller may send."""
    names, rows = list(columns), [list(row) for row in zip(*columns.values(), strict=True)]
    documents: dict[str, Any] = {
        "matrix": {
            "inputs": [
                {
                    "name": "whatever",
                    "shape": [len(rows), len(names)],
                    "datatype": "BYTES",
                    "data": [value for row in rows for value in row],
                }
            ]
        },
        "records": {"dataframe_records": [dict(zip(names, row, strict=True)) for row in rows]},
        "split": {"dataframe_split": {"columns": names[::-1], "data": [r[::-1] for r in rows]}},
        "instances": {"instances": [dict(zip(names, row, strict=True)) for row in rows]},
    }
    if form in documents:
        return json.dumps(documents[form]).encode()
    if form in ("v2", "binary"):
        return v2(columns, binary=form == "binary")
    table = pa.table(columns)
    out = io.BytesIO()
    if form == "csv":
        text = io.StringIO(newline="")
        csv.writer(text).writerows([names, *rows])
        out.write(text.getvalue().encode())
    elif form == "parquet":
        pq.write_table(table, out, compression="none")
    else:
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    return out.getvalue()


def v2(columns: Columns, *, binary: bool = False) -> bytes:
    """Write named inputs; as binary tensors those whose values all are there."""
    inputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for name, values in columns.items():
        datatype = DATATYPES[name]
        one: dict[str, Any] = {"name": name, "shape": [len(values), 1], "datatype": datatype}
        if binary and None not in values:
            raw.append(tensors.encode(datatype, values))
            one["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            one["data"] = [[value] for value in values]
        inputs.append(one)
    told = json.dumps({"inputs": inputs, "parameters": {"note": columns.get("name")}}).encode()
    return tensors.join(told, b"".join(raw)) if binary else told


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


@pytest.mark.parametrize("form", FORMS)
def test_a_column_that_is_kept_out_never_reaches_the_disk(form: str, tmp_path: Path) -> None:
    whole = entry(FORMS[form], body(form, ROWS))
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
    assert rows["x_age"].to_pylist() == [40.0, None]
    without = table_of([whole], Of(Environment.PRODUCTION, "m"), lambda _: SIGNATURE)
    assert PLANTED in without["x_name"].to_pylist()


_NAMES = st.text(string.ascii_letters, min_size=6, max_size=12).map("Zq".__add__)
_AGES = st.integers(-1000, 1000).map(lambda eighths: eighths / 8)  # spell no number below
# Fourteen digits, and bytes that are no zeros, as files are full of.
_NUMBERS = st.text("QVWXYZ", min_size=6, max_size=6).map(
    lambda letters: int.from_bytes(letters.encode(), "little")
)
_ROW = st.tuples(_AGES, _NAMES, _NUMBERS)


@given(
    rows=st.lists(_ROW, min_size=1, max_size=5),
    form=st.sampled_from(sorted(FORMS)),
    names=st.sets(st.sampled_from(["name", "number"]), min_size=1),
    echo=st.sampled_from(["", "name", "number", "words"]),
    media=st.sampled_from([frames.JSON_MEDIA, frames.BINARY_MEDIA, frames.ARROW_MEDIA]),
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_form_only_what_is_kept_out_is_missing(
    rows: list[tuple[float, str, int]], form: str, names: set[str], echo: str, media: int
) -> None:
    columns = {name: [row[at] for row in rows] for at, name in enumerate(DATATYPES)}
    answers: list[Any] = columns.get(echo, [1.5 + row[0] for row in rows])
    if echo == "words":
        answers = [f"Dear {row[1]}, yours is {row[2]}." for row in rows]
    version = {**SIGNATURE, "columns": [*SIGNATURE["columns"], NUMBER]}
    kind, sent = FORMS[form], body(form, columns)
    asked = requests.understand(kind, sent, bodies.signature_columns(version), wants=media)
    reply = replies.answered(asked, rows_.Answer(answers, None), replies.About("m", 1, None))
    whole = entry(kind, sent, rows=len(rows), reply=reply.body, media=reply.media)

    kept = redacted(whole, names, version)

    of = Of(Environment.PRODUCTION, "m")
    before = table_of([whole], of, lambda _: version)
    after = table_of([kept], of, lambda _: version)
    to = io.BytesIO()
    pq.write_table(after, to, compression="none")
    on_disk = records.encode([kept]) + to.getvalue()
    for name in names:
        for value in columns[name]:
            assert str(value).encode() not in on_disk
            assert not isinstance(value, int) or struct.pack("<q", value) not in on_disk
    gone = {f"x_{name}" for name in names}
    if echo in names or echo == "words":
        gone |= {"prediction", "score"}
    assert after["prediction"].null_count == (len(rows) if "prediction" in gone else 0)
    left = [name for name in before.column_names if name not in gone]
    assert after.select(left).to_pylist() == before.select(left).to_pylist()


def test_an_answer_that_is_a_class_is_no_repetition() -> None:
    signature = {**SIGNATURE, "task": "classification", "classes": [PLANTED, "no"]}
    told = {"predictions": [PLANTED, "no"], "probabilities": [[0.9, 0.1], [0.2, 0.8]]}
    made = entry(frames.CSV, body("csv", ROWS), reply=json.dumps(told).encode())

    kept = redacted(made, {"name"}, signature)

    assert json.loads(kept.reply) == told
    rows = table_of([kept], Of(Environment.PRODUCTION, "m"), lambda _: signature)
    assert rows["score"].to_pylist() == [0.1, 0.8]


def test_of_a_reply_only_the_answer_stays() -> None:
    told = {"predictions": [1.5, 2.5], "debug": {"rows": ROWS["name"]}}
    made = entry(frames.INVOCATIONS, body("split", ROWS), reply=json.dumps(told).encode())

    kept = redacted(made, {"name"}, SIGNATURE)
    broken = redacted(made._replace(reply=b"{"), {"name"}, SIGNATURE)

    assert json.loads(kept.reply) == {"predictions": [1.5, 2.5], "probabilities": None}
    assert (broken.request, broken.reply) == (b"", b"")


@pytest.mark.parametrize("signature", [SIGNATURE, None])
def test_a_body_that_cannot_be_read_is_not_logged(signature: JSON | None) -> None:
    bad = entry(frames.V2, f'{{"inputs": "{PLANTED}"'.encode())

    assert redacted(bad, {"name"}, signature).request == b""


def test_an_error_keeps_its_code_and_nothing_that_was_sent() -> None:
    sentence = f'{{"error": "Column name is \\"{PLANTED}\\"", "code": "PS552"}}'.encode()

    kept = redacted(entry(frames.V2, v2(ROWS), status=422, reply=sentence), {"name"}, SIGNATURE)
    forged = redacted(
        entry(frames.V2, v2(ROWS), status=500, reply=sentence.replace(b"PS552", PLANTED.encode())),
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
    body = json.loads(v2(ROWS))

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
