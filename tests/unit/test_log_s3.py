"""Hours of the prediction log in S3: a real server on a loopback socket, and its bad days."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from moto.backends import get_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from s3fs import S3FileSystem
from typer.testing import CliRunner
from werkzeug.serving import make_server

from penstock.cli.commands import app as terminal
from penstock.domain import Environment
from penstock.errors import UnreachableError
from penstock.inference.prediction_log.hour_store import HourStore
from penstock.inference.prediction_log.lookup import present
from penstock.inference.prediction_log.segments import PredictionLog
from penstock.inference.prediction_log.table import Of
from penstock.monitor.tables import PredictionTable, Wanted
from penstock.pipeline.prediction_logs import PredictionLogs
from tests.unit.log_rig import ALWAYS, KEEP, House, entry, signature_of, two_hours
from tests.unit.web_rig import house as a_server
from tests.unit.web_rig import listening

BUCKET = "lake"
URL = f"s3://{BUCKET}/predictions"
_KEYS = {"AWS_ACCESS_KEY_ID": "penstock", "AWS_SECRET_ACCESS_KEY": "of the test"}


@dataclass
class Store:
    """An S3 server that can be away, and slow."""

    address: str = ""
    away: bool = False
    slow_s: float = 0.0
    refused: int = 0

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        time.sleep(self.slow_s)
        if not self.away:
            return self._s3(environ, start)
        self.refused += 1
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start("503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"away"]

    def __post_init__(self) -> None:
        self._s3: Any = DomainDispatcherApplication(create_backend_app)

    @property
    def backend(self) -> Any:
        return get_backend("s3")["123456789012"]["aws"]

    @contextmanager
    def serving(self) -> Generator[None]:
        server: Any = make_server("127.0.0.1", 0, self, threaded=True)
        server.daemon_threads = True
        self.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.fixture(scope="module")
def running() -> Generator[Store]:
    store = Store()
    with store.serving():
        yield store


@pytest.fixture
def store(running: Store, monkeypatch: pytest.MonkeyPatch) -> Generator[Store]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**_KEYS, "AWS_ENDPOINT_URL": running.address}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    S3FileSystem.clear_instance_cache()
    running.backend.reset()
    running.backend.create_bucket(BUCKET, "us-east-1")
    running.away, running.slow_s = False, 0.0
    yield running
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def house(store: Store, tmp_path: Path) -> Generator[House]:
    made = House(tmp_path, URL)
    yield made
    store.away, store.slow_s = False, 0.0
    made.log.close()


def test_hours_lie_in_s3_and_everything_reads_them_there(house: House) -> None:
    two_hours(house)
    house.later(hours=2)
    house.keep()

    assert [file.partition("date=")[2][:18] for file in house.files()] == [
        "2026-11-30/hour=22",
        "2026-11-30/hour=23",
    ]
    assert not list((house.root / "parquet").glob("*/*/date=*"))
    assert house.all_once()
    with house.hours.found(*ALWAYS, signature_of) as found:
        assert all(file.startswith(f"{URL}/") for file in found.files[:2])
        rows = PredictionTable(found.files, found.filesystem).rows(Wanted(*ALWAYS, limit=1000))
    assert sorted(rows["request_id"].to_pylist()) == sorted(f"r{k}" for k in range(house.count))
    assert rows["x_x"].to_pylist() == [1.5] * house.count
    assert present(["r0", "r10", "nobody"], house.hours, signature_of) == {"r0", "r10"}


def test_the_bound_holds_in_s3_too(house: House) -> None:
    for _ in range(3):
        house.answer(20)
        house.later(hours=1)
    house.later(hours=1)
    house.keep()
    assert len(house.files()) == 3

    excess = house.hours.excess(sum(HourStore(URL).sizes("production/m").values()) - 1)
    assert excess is not None
    house.hours.drop(excess.files)

    assert (excess.hours, excess.rows) == (1, 20)
    assert set(house.rows()) == {f"r{k}" for k in range(20, 60)}


def test_who_is_killed_after_the_file_is_there_doubles_nothing(house: House) -> None:
    two_hours(house)
    house.later(hours=2)
    argv = [sys.executable, "-c", KEEP, str(house.root), "log/hour:counts", URL]

    assert subprocess.run(argv, check=False).returncode == -9
    assert len(house.files()) == 1
    assert house.all_once()
    house.keep()
    assert len(house.files()) == 2
    assert house.all_once()


def test_a_store_that_answers_503_loses_nothing_and_is_used_when_it_is_back(
    house: House, store: Store
) -> None:
    two_hours(house)
    house.later(hours=2)
    house.hours.convert(signature_of)
    store.away = True

    with pytest.raises(UnreachableError, match=f"PS681 .*{URL}.*cannot be used"):
        house.hours.compact(house.now)
    assert store.refused > 0
    store.away = False
    assert house.files() == []
    assert house.all_once()
    house.keep()
    assert len(house.files()) == 2
    assert house.all_once()


def test_each_row_is_seen_once_while_a_slow_store_takes_it(house: House, store: Store) -> None:
    house.answer(5)
    house.later(hours=2)
    house.hours.convert(signature_of)
    store.slow_s = 0.05
    keeper = threading.Thread(target=house.keep)
    keeper.start()
    while keeper.is_alive():
        assert house.all_once()
    keeper.join()

    assert len(house.files()) == 1
    assert house.all_once()


@pytest.mark.parametrize("missing", ["bucket", "credentials"])
def test_what_is_wrong_with_the_store_is_said(
    house: House, store: Store, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.answer(2)
    house.later(hours=2)
    if missing == "bucket":
        store.backend.delete_bucket(BUCKET)
    else:
        for name in _KEYS:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")

    with pytest.raises(UnreachableError, match="PS681") as told:
        house.keep()
    assert {"bucket": "bucket", "credentials": "redentials"}[missing] in told.value.what


def test_more_files_than_one_listing_holds_are_all_seen(store: Store) -> None:
    for at in range(1100):
        name = f"predictions/production/m/date=2026-11-30/hour=22/{at:04d}.parquet"
        store.backend.put_object(BUCKET, name, b"x")

    assert len(HourStore(URL).sizes("production/m")) == 1100


def test_the_terminal_shows_rows_from_s3(store: Store, tmp_path: Path) -> None:
    of = a_server(tmp_path, serving={"log_url": URL})
    of.seal(of.push("churn"))
    log = PredictionLog(tmp_path / "log", clock_us=lambda: int(of.now.timestamp() * 1e6))
    log.append("production", "churn", [entry(f"r{k}", of.now) for k in range(3)])
    log.close()
    of.later(hours=2)
    logs = PredictionLogs(tmp_path, of.database, URL)
    assert logs.tabulate(Of(Environment.PRODUCTION, "churn"), of.now) == 1
    assert list(HourStore(URL).names("production/churn")) != []

    with listening(of) as address:
        asked = ["--server", address, "logs", "churn", "--predictions"]
        done = CliRunner().invoke(terminal, asked)

    assert done.exit_code == 0, done.output
    assert done.output.count("v1 champion") == 3
