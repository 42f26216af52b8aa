"""The log as a table, from real segments with the answers of a real worker."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.domain import JSON, Environment
from penstock.inference.prediction_log import table as log_table
from penstock.inference.prediction_log.records import Entry, Outcome
from penstock.inference.program import bodies
from penstock.inference.program.frames import INVOCATIONS, V2
from tests.unit.packed_versions import SIGNATURE, Ask, pack, people, serving

START_US = 1_790_000_000_000_000
OF = log_table.Of(Environment.PRODUCTION, "credit")


def signature_of(number: int) -> JSON | None:
    return {3: SIGNATURE}.get(number)


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ask]:
    with serving(pack(tmp_path_factory.mktemp("credit") / "v")) as made:
        yield made


PLAIN = Entry(
    arrived_us=START_US,
    ended_us=START_US + 2500,
    number=3,
    role="champion",
    status=200,
    outcome=Outcome.ANSWERED,
    generation=1,
    rows=1,
    kind=V2,
    id="a",
    request=b"",
    reply=b"",
)


def entry(kind: int, request: bytes, **facts: Any) -> Entry:
    return PLAIN._replace(kind=kind, request=request, **facts)


def asked(ask: Ask, kind: int, body: bytes, name: str) -> Entry:
    (reply,) = ask([(kind, name.encode(), body)])
    return entry(kind, body, id=reply.id, status=reply.status, rows=reply.rows, reply=reply.body)


def table(*entries: Entry) -> pa.Table:
    return log_table.table_of(entries, OF, signature_of)


def test_each_predicted_row_is_one_row_of_the_table(ask: Ask) -> None:
    rows = [{"age": 80, "visits": 2.0, "member": True}, {"age": 25, "visits": 1, "member": False}]
    records = json.dumps({"dataframe_records": rows, "id": "own"}).encode()

    made = table(asked(ask, V2, people(40), "a"), asked(ask, INVOCATIONS, records, "b"))

    assert made["prediction_id"].to_pylist() == ["a", "own.0", "own.1"]
    assert made["request_id"].to_pylist() == ["a", "own", "own"]
    assert made["row"].to_pylist() == [0, 0, 1]
    assert made["prediction"].to_pylist() == ["no", "yes", "no"]
    assert made["score"].to_pylist() == pytest.approx([0.4, 0.8, 0.25])
    assert made["x_age"].to_pylist() == [40.0, 80.0, 25.0]
    assert made["x_city"].to_pylist() == ["Bern", None, None]
    assert made["x_visits"].to_pylist() == [1, 2, 1]
    assert made["x_member"].to_pylist() == [True, True, False]
    assert made["latency_ms"].to_pylist() == [2.5] * 3
    assert {
        str(made.schema.field(f"x_{n}").type) for n in ("age", "city", "visits", "member")
    } == {
        "double",
        "string",
        "int64",
        "bool",
    }


def test_a_request_without_an_answer_is_one_row_without_values(ask: Ask) -> None:
    refused = asked(ask, V2, people(1, 2, age=["x", 3]), "a")
    late = entry(V2, people(40), status=504, outcome=Outcome.FAILED, role="challenger", rows=0)
    shed = entry(V2, b"", status=503, outcome=Outcome.FAILED, rows=0)

    made = table(refused, late, shed)

    assert made["status"].to_pylist() == [422, 504, 503]
    assert made["outcome"].to_pylist() == ["answered", "failed", "failed"]
    assert made["role"].to_pylist() == ["champion", "challenger", "champion"]
    assert made["prediction"].null_count == made["score"].null_count == 3
    assert made["x_age"].null_count == made["x_city"].null_count == 3


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"[]",
        b"{}",
        b'{"outputs": 3, "id": "a"}',
        b'{"outputs": [{"name": "prediction", "data": ["yes", "no"]}], "id": "a"}',
        b'{"outputs": [{"name": "prediction", "data": ["y"]}, {"name": "probability"}], "id": ""}',
    ],
)
def test_what_a_worker_forges_is_a_row_without_values(reply: bytes) -> None:
    made = table(entry(V2, people(40), reply=reply))

    assert made.num_rows == 1
    assert made["prediction"].to_pylist() == [None]


def test_nan_never_reaches_the_file(tmp_path: Path) -> None:
    request = b'{"inputs": {"x": [1.5]}}'
    entries = [
        entry(INVOCATIONS, request, number=9, reply=b'{"predictions": [NaN]}'),
        entry(
            V2,
            b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.5]}]}',
            number=9,
            reply=b'{"outputs": [{"name": "prediction", "data": [NaN]}], "id": "a"}',
        ),
        entry(INVOCATIONS, request, number=9, reply=b'{"predictions": [2.5]}'),
    ]
    pq.write_table(table(*entries), tmp_path / "one.parquet")

    with duckdb.connect() as connection:
        counted = connection.execute(
            "select count(*), count(score), count(*) filter (not isfinite(score)) "
            f"from '{tmp_path}/one.parquet'"
        ).fetchall()
    assert counted == [(3, 1, 0)]


def test_regression_scores_by_its_prediction_and_many_classes_by_the_surest() -> None:
    columns = [{"name": "x", "datatype": "FP64", "optional": False}]
    signatures: dict[int, JSON] = {
        1: {"columns": columns, "task": "regression", "classes": None, "positive": None},
        2: {"columns": columns, "task": "classification", "classes": [0, 1, 2], "positive": None},
        4: {"columns": columns, "task": "classification", "classes": [0, 1], "positive": 0},
        5: {"columns": columns, "task": "classification", "classes": [0, 1], "positive": 1},
    }
    request = b'{"inputs": {"x": [1]}}'
    replies = {
        1: b'{"predictions": [7.5]}',
        2: b'{"predictions": [1], "probabilities": [[0.2, 0.7, 0.1]]}',
        4: b'{"predictions": [1], "probabilities": [[0.2, 0.8]]}',
        5: b'{"predictions": [1]}',
    }
    entries = [entry(INVOCATIONS, request, number=n, reply=reply) for n, reply in replies.items()]

    made = log_table.table_of(entries, log_table.Of(Environment.TEST, "credit"), signatures.get)

    assert made["score"].to_pylist() == [7.5, 0.7, 0.2, None]
    assert made["prediction"].to_pylist() == ["7.5", "1", "1", "1"]
    assert set(made["environment"].to_pylist()) == {"test"}


def test_two_versions_with_different_columns_share_a_table() -> None:
    def signed(*columns: tuple[str, str]) -> JSON:
        made = [{"name": n, "datatype": d, "optional": False} for n, d in columns]
        return {"columns": made, "task": "regression", "classes": None, "positive": None}

    signatures: dict[int, JSON] = {
        1: signed(("x", "INT64"), ("kind", "INT64")),
        2: signed(("x", "FP64"), ("kind", "BYTES"), ("fresh", "BOOL")),
    }
    entries = [
        entry(
            INVOCATIONS,
            b'{"inputs": {"x": [1], "kind": [7]}}',
            number=1,
            reply=b'{"predictions": [1]}',
        ),
        entry(
            INVOCATIONS,
            b'{"inputs": {"x": [1.5], "kind": ["b"], "fresh": [true]}}',
            number=2,
            reply=b'{"predictions": [2]}',
        ),
    ]

    made = log_table.table_of(entries, log_table.Of(Environment.TEST, "credit"), signatures.get)

    assert made["x_x"].to_pylist() == [1.0, 1.5]
    assert made["x_kind"].to_pylist() == ["7", "b"]
    assert made["x_fresh"].to_pylist() == [None, True]


def test_every_fact_of_an_answer_is_a_column(ask: Ask) -> None:
    one = asked(ask, V2, people(80), "a")._replace(bucket=42, generation=7)

    (row,) = table(one).to_pylist()

    assert row["probabilities"] == pytest.approx([0.2, 0.8])
    assert row["classes"] == ["no", "yes"]
    assert (row["model"], row["number"], row["role"]) == ("credit", 3, "champion")
    assert (row["environment"], row["protocol"], row["status"]) == ("production", "v2", 200)
    assert (row["bucket"], row["generation"], row["code"]) == (42, 7, None)
    assert set(row) - {f"x_{name}" for name in ("age", "city", "visits", "member")} == set(
        log_table.FIXED.names
    )


def test_an_error_keeps_its_code_whoever_said_it(ask: Ask) -> None:
    refused = asked(ask, V2, people(1, age=["x"]), "a")
    late = entry(V2, people(40), status=504, code="PS504", outcome=Outcome.FAILED)
    forged = entry(V2, people(40), status=500, reply=b'{"code": ', outcome=Outcome.FAILED)

    assert table(refused, late, forged)["code"].to_pylist() == ["PS552", "PS504", None]


@pytest.mark.parametrize(
    "answer",
    [
        b'{"predictions": [9999999999999999999999999]}',
        b'{"predictions": ["\\ud800"]}',
        b'{"predictions": [{"a": [1]}]}',
        b'{"predictions": [1], "probabilities": [[0.5, 0.5], [1, 0]]}',
        b'{"predictions": [1], "probabilities": [["a"]]}',
        b'{"predictions": [1], "probabilities": [[NaN, 1]]}',
        b'{"predictions": [1], "probabilities": [[]]}',
    ],
)
def test_no_answer_spoils_the_rows_of_others(answer: bytes, tmp_path: Path) -> None:
    request = b'{"inputs": {"x": [1], "big": [99999999999999999999999], "half": ["\\udc00"]}}'
    odd = entry(INVOCATIONS, request, number=9, reply=answer)
    plain = odd._replace(id="b", request=b'{"inputs": {"x": [2]}}', reply=b'{"predictions": [1]}')

    pq.write_table(table(odd, plain), tmp_path / "one.parquet")

    made = pq.read_table(tmp_path / "one.parquet")
    assert made["prediction_id"].to_pylist() == ["a", "b"]
    assert made["prediction"].to_pylist()[1] == "1"
    assert made["x_x"].to_pylist()[1] == 2


def test_what_is_no_number_is_null_in_tensors_too() -> None:
    columns = (
        bodies.Column("x", "FP64", optional=True),
        bodies.Column("t", "FP64", optional=False, shape=(2,)),
    )
    asked = bodies.Asked(columns, [[float("inf")], [[float("nan"), 1.0]]], 1)
    rows = log_table.Rows(OF)
    rows.add(entry(V2, b"{}"), log_table.Answered(asked, [1], None, None, [None]))

    assert rows.table().select(["x_x", "x_t"]).to_pylist() == [{"x_x": None, "x_t": [None, 1.0]}]
