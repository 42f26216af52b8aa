"""The log as a table, from real segments with the answers of a real worker."""

import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.domain import JSON, Environment
from penstock.inference.prediction_log import table as log_table
from penstock.inference.prediction_log.segments import Entry, Outcome, PredictionLog
from penstock.inference.program.frames import INVOCATIONS, V2
from tests.unit.packed_versions import SIGNATURE, Ask, pack, people, serving

START_US = 1_790_000_000_000_000


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
    return log_table.table_of(
        iter(entries), environment=Environment.PRODUCTION, signature_of=signature_of
    )


def segments(root: Path, *batches: Sequence[Entry]) -> Path:
    """Write each batch into a closed segment of its own."""
    for batch in batches:
        log = PredictionLog(root, clock_us=lambda: START_US)
        log.append("production", "credit", batch)
        log.close()
    return root / "production" / "credit"


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
    folder = segments(tmp_path / "log", entries)

    log_table.convert_closed(
        folder,
        tmp_path / "parquet",
        environment=Environment.PRODUCTION,
        signature_of=signature_of,
    )

    with duckdb.connect() as connection:
        counted = connection.execute(
            "select count(*), count(score), count(*) filter (not isfinite(score)) "
            f"from '{tmp_path}/parquet/*.parquet'"
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

    made = log_table.table_of(
        iter(entries), environment=Environment.TEST, signature_of=signatures.get
    )

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

    made = log_table.table_of(
        iter(entries), environment=Environment.TEST, signature_of=signatures.get
    )

    assert made["x_x"].to_pylist() == [1.0, 1.5]
    assert made["x_kind"].to_pylist() == ["7", "b"]
    assert made["x_fresh"].to_pylist() == [None, True]


def test_a_segment_is_converted_once(tmp_path: Path, ask: Ask) -> None:
    folder = segments(tmp_path / "log", [asked(ask, V2, people(40), "a")])
    parquet = tmp_path / "parquet"

    def convert() -> list[Path]:
        return log_table.convert_closed(
            folder, parquet, environment=Environment.PRODUCTION, signature_of=signature_of
        )

    first = convert()
    (made,) = parquet.iterdir()
    stamp = made.stat().st_mtime_ns
    again = convert()

    assert first == again == list(folder.iterdir())
    assert made.name == f"{first[0].stem}.parquet"
    assert made.stat().st_mtime_ns == stamp


def test_a_conversion_that_breaks_off_leaves_no_table(tmp_path: Path, ask: Ask) -> None:
    folder = segments(tmp_path / "log", [asked(ask, V2, people(40), "a")])
    parquet = tmp_path / "parquet"

    def broken(number: int) -> JSON | None:
        raise ConnectionError(f"no database to ask for version {number}")

    with pytest.raises(ConnectionError):
        log_table.convert_closed(
            folder, parquet, environment=Environment.PRODUCTION, signature_of=broken
        )
    assert not list(parquet.glob("*.parquet"))
    log_table.convert_closed(
        folder, parquet, environment=Environment.PRODUCTION, signature_of=signature_of
    )

    (made,) = parquet.glob("*.parquet")
    assert pq.read_table(made)["prediction"].to_pylist() == ["no"]


def test_a_segment_still_written_to_is_left_alone(tmp_path: Path, ask: Ask) -> None:
    log = PredictionLog(tmp_path / "log", clock_us=lambda: START_US)
    log.append("production", "credit", [asked(ask, V2, people(40), "a")])

    done = log_table.convert_closed(
        tmp_path / "log" / "production" / "credit",
        tmp_path / "parquet",
        environment=Environment.PRODUCTION,
        signature_of=signature_of,
    )
    log.close()

    assert done == []
