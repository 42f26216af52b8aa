import datetime as dt
import json
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from penstock.domain import JSON
from penstock.errors import StoppedError
from penstock.inference import asking as module
from penstock.inference.asking import (
    PROGRAM_FILES,
    Worker,
    WorkerAnswerError,
    chunks,
    columns_of,
    merged,
    to_v2,
)
from penstock.inference.programs import Program
from tests.unit.packed_versions import SIGNATURE, asking, described, empty, pack, start

PEOPLE = pa.table(
    {
        "age": [float(age % 100) for age in range(2500)],
        "city": [None] * 2500,
        "visits": [1] * 2500,
        "member": [True] * 2500,
    }
)


def values(table: pa.Table, *columns: JSON) -> list[Any]:
    inputs = json.loads(to_v2(table, columns))["inputs"]
    return [tensor["data"] for tensor in inputs]


def test_a_table_of_any_length_is_answered_in_the_order_of_its_rows(tmp_path: Path) -> None:
    with asking(pack(tmp_path / "v")) as worker:
        told = worker.predict(PEOPLE, SIGNATURE)

    assert told["classes"] == ["no", "yes"]
    assert told["probability"] is not None
    expected = [age % 100 / 100 for age in range(2500)]
    assert [yes for _, yes in told["probability"]] == pytest.approx(expected)
    assert told["prediction"][49:52] == ["no", "no", "yes"]
    assert len(set(told["ids"])) == 2500


def test_an_empty_table_has_no_answers(tmp_path: Path) -> None:
    with asking(pack(tmp_path / "v")) as worker:
        told = worker.predict(PEOPLE.slice(0, 0), SIGNATURE)

    assert told == {"prediction": [], "probability": None, "classes": None, "ids": []}


def test_rows_that_are_refused_are_an_error_with_its_status(tmp_path: Path) -> None:
    with asking(pack(tmp_path / "v")) as worker:
        with pytest.raises(WorkerAnswerError, match="'age' is missing") as refused:
            worker.predict(PEOPLE.drop_columns(["age"]), SIGNATURE)
        told = worker.predict(PEOPLE.slice(0, 1), SIGNATURE)

    assert refused.value.status == 422
    assert told["prediction"] == ["no"]


def test_metadata_is_told_by_a_running_worker(tmp_path: Path) -> None:
    with asking(pack(tmp_path / "v")) as worker:
        assert worker.metadata()["format"] == "adapter"


def test_leaving_ends_the_process(tmp_path: Path) -> None:
    path = tmp_path / "v" / "w.sock"
    process = start(pack(tmp_path / "v"), "--socket", str(path))
    with Worker(Program(process), path):
        assert process.poll() is None

    assert process.returncode == -signal.SIGKILL


def test_a_worker_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    folder = pack(tmp_path / "v", "raise ValueError('no such luck')\n")

    with pytest.raises(StoppedError, match="ValueError: no such luck") as stopped, asking(folder):
        pass

    assert stopped.value.code == "PS556"
    assert "exit code 1" in stopped.value.what


def test_a_worker_that_loads_too_long_is_ended(tmp_path: Path) -> None:
    folder = pack(tmp_path / "v", "import time\ntime.sleep(60)\n")
    path = folder / "w.sock"
    process = start(folder, "--socket", str(path))

    with (
        pytest.raises(StoppedError) as stopped,
        Worker(Program(process), path, start_timeout_s=0.2),
    ):
        pass

    assert stopped.value.code == "PS557"
    assert process.returncode == -signal.SIGKILL


def test_a_worker_that_dies_while_it_answers_is_told_apart_from_an_answer(tmp_path: Path) -> None:
    code = """
import os, signal, sys
def load(folder): ...
def predict(model, frame):
    print("out of luck", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with (
        asking(pack(tmp_path / "v", code)) as worker,
        pytest.raises(StoppedError, match="out of luck") as stopped,
    ):
        worker.predict(PEOPLE, SIGNATURE)

    assert stopped.value.code == "PS556"
    assert "signal 9" in stopped.value.what


def test_an_answer_that_takes_too_long_is_not_waited_for(tmp_path: Path) -> None:
    code = "import time\ndef load(f): ...\ndef predict(model, frame): time.sleep(60)\n"
    folder = pack(tmp_path / "v", code)
    path = folder / "w.sock"
    process = start(folder, "--socket", str(path))

    with (
        Worker(Program(process), path, answer_timeout_s=0.2) as worker,
        pytest.raises(StoppedError) as stopped,
    ):
        worker.predict(PEOPLE, SIGNATURE)

    assert stopped.value.code == "PS557"


def test_a_worker_that_talks_a_lot_is_not_blocked_by_its_own_words(tmp_path: Path) -> None:
    code = """
import sys
def load(folder): ...
def predict(model, frame):
    sys.stderr.write("x" * 1_000_000 + chr(10))
    return [0.0] * len(frame["age"])
"""
    with asking(pack(tmp_path / "v", code)) as worker:
        told = worker.predict(PEOPLE.slice(0, 3), SIGNATURE)

    assert told["prediction"] == ["no"] * 3


def test_loading_tells_what_the_model_is_or_why_it_does_not_load(tmp_path: Path) -> None:
    good, bad = pack(tmp_path / "good"), pack(tmp_path / "bad", "import not_there\n")

    with empty(tmp_path) as worker:
        told, failed = worker.load(good), worker.load(bad)

    assert (told["ok"], told["format"]) == (True, "adapter")
    assert (failed["ok"], failed["error"]) == (
        False,
        (
            "adapter.py needs the module not_there, "
            "which neither the environment nor the project has."
        ),
    )


def test_loading_says_how_a_model_killed_its_worker(tmp_path: Path) -> None:
    folder = pack(tmp_path / "v", "import os\nos._exit(3)\n")

    with pytest.raises(StoppedError, match=r"exit code 3\)\. It said nothing") as stopped:
        described(folder)

    assert stopped.value.code == "PS556"


def test_loading_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    folder = pack(tmp_path / "v", "import time\ntime.sleep(60)\n")

    with pytest.raises(StoppedError, match="not loaded after") as stopped:
        described(folder, timeout_s=2)

    assert stopped.value.code == "PS557"


def test_missing_values_of_every_kind_are_null() -> None:
    table = pa.table({"x": [1.5, float("nan"), float("inf"), float("-inf"), None]})

    assert values(table, {"name": "x", "datatype": "FP64"}) == [[1.5, None, None, None, None]]


def test_every_type_of_a_column_becomes_what_the_signature_wants() -> None:
    day = dt.date(2026, 11, 24)
    table = pa.table(
        {
            "kind": pa.array(["a", None, "b"]).dictionary_encode(),
            "price": pa.array([Decimal("1.50"), None, Decimal("2.25")]),
            "day": [day, None, day],
            "code": pa.array([b"x", None, b"y"]),
            "zip": [8001, None, 3000],
        }
    )
    wanted = [
        {"name": "kind", "datatype": "BYTES"},
        {"name": "price", "datatype": "FP64"},
        {"name": "day", "datatype": "BYTES"},
        {"name": "code", "datatype": "BYTES"},
        {"name": "zip", "datatype": "BYTES"},
    ]

    assert values(table, *wanted) == [
        ["a", None, "b"],
        [1.5, None, 2.25],
        ["2026-11-24", None, "2026-11-24"],
        ["x", None, "y"],
        ["8001", None, "3000"],
    ]


def test_the_columns_of_a_table_are_those_that_the_worker_accepts_it_with() -> None:
    table = pa.table(
        {
            "kind": pa.array(["a", None]).dictionary_encode(),
            "price": pa.array([Decimal("1.50"), Decimal("2.25")]),
            "count": [1, 2],
            "share": [0.5, float("nan")],
            "yes": [True, False],
            "day": [dt.date(2026, 11, 24)] * 2,
            "nothing": pa.nulls(2),
        }
    )

    told = [(c["name"], c["datatype"], c["optional"]) for c in columns_of(table)]

    assert told == [
        ("kind", "BYTES", True),
        ("price", "FP64", False),
        ("count", "INT64", False),
        ("share", "FP64", True),
        ("yes", "BOOL", False),
        ("day", "BYTES", False),
        ("nothing", "FP64", True),
    ]


def test_wide_rows_are_cut_into_bodies_below_the_gateways_limit() -> None:
    table = pa.table({"text": ["x" * 5000] * 700})

    parts = list(chunks(table, None, max_rows=1000))

    assert sum(rows for rows, _ in parts) == 700
    assert max(len(body) for _, body in parts) <= module.MAX_BODY_BYTES
    assert len(parts) < 10


def test_answers_are_joined_in_order() -> None:
    first = module.Told(prediction=[1], probability=[[0.1, 0.9]], classes=[0, 1], ids=["a"])
    second = module.Told(prediction=[0], probability=[[0.8, 0.2]], classes=[0, 1], ids=["b"])

    assert merged([first, second]) == {
        "prediction": [1, 0],
        "probability": [[0.1, 0.9], [0.8, 0.2]],
        "classes": [0, 1],
        "ids": ["a", "b"],
    }
    assert first["probability"] == [[0.1, 0.9]]


def test_the_program_is_made_of_files_that_are_there() -> None:
    assert all(path.is_file() for path in PROGRAM_FILES)
