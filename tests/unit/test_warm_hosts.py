"""The workers of a build, in the real sandbox of this machine."""

import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

from penstock.adapters.sandbox.local import LocalSandbox
from penstock.domain import JSON
from penstock.errors import StoppedError
from penstock.inference.asking import Worker
from penstock.inference.imports import COMMON, worth_importing
from penstock.pipeline import warm_hosts
from penstock.pipeline.warm_hosts import WarmHosts
from penstock.pipeline.workers import Workers
from penstock.ports import Environments
from tests.unit.packed_versions import SIGNATURE, pack

LOCK = "5" * 64
PEOPLE = pa.table(
    {"age": [25.0, 80.0], "city": ["a", "b"], "visits": [1, 2], "member": [True, True]}
)


class OnePython:
    """Environments that are all our own."""

    def python(self, lock_digest: str) -> Path:
        assert lock_digest == LOCK
        return Path(sys.executable)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def workers(home: Path) -> Workers:
    return Workers(LocalSandbox(home), cast("Environments", OnePython()), memory_mb=2048)


@pytest.fixture
def hosts(home: Path, workers: Workers) -> Generator[WarmHosts]:
    made = WarmHosts(workers, home)
    yield made
    made.end(1)


def answers(worker: Worker) -> list[Any]:
    return worker.predict(PEOPLE, SIGNATURE)["prediction"]


def descendants() -> set[int]:
    mine = {os.getpid()}
    while True:
        more = {
            int(word)
            for pid in mine
            for task in Path(f"/proc/{pid}/task").glob("*/children")
            for word in task.read_text().split()
        }
        if more <= mine:
            return mine
        mine |= more


def test_a_version_is_asked_by_a_fork_and_by_a_worker_of_its_own(
    tmp_path: Path, home: Path, hosts: WarmHosts
) -> None:
    code, version = tmp_path / "code", pack(tmp_path / "v")
    code.mkdir()
    before = descendants()

    hosts.begin(1, LOCK, code)
    shown = hosts.place(1, version, "staged")
    hosts.begin_another(1, LOCK, shown)
    with hosts.worker(1, LOCK, shown) as (worker, told):
        assert told["ok"]
        first = answers(worker)
    sealed = hosts.place(1, version, "sealed")
    with hosts.worker(1, LOCK, sealed) as (worker, _), hosts.another(1, LOCK, sealed) as another:
        assert first == answers(worker) == answers(another) == ["no", "yes"]
    hosts.end(1)

    assert descendants() <= before
    assert not list((home / "run").glob("[aw]*"))
    assert not (home / "runs" / "1" / "pool").exists()


def test_a_host_that_was_killed_is_started_anew(tmp_path: Path, hosts: WarmHosts) -> None:
    shown = hosts.place(1, pack(tmp_path / "v"), "staged")
    before = descendants()
    with hosts.worker(1, LOCK, shown) as (worker, _):
        assert answers(worker) == ["no", "yes"]
    for pid in sorted(descendants() - before, reverse=True):
        with suppress(ProcessLookupError):  # it ended with the one before
            os.kill(pid, signal.SIGKILL)

    with hosts.worker(1, LOCK, shown) as (worker, _):
        assert answers(worker) == ["no", "yes"]


def test_nothing_begun_ahead_is_needed(tmp_path: Path, hosts: WarmHosts) -> None:
    shown = hosts.place(1, pack(tmp_path / "v"), "sealed")

    with hosts.another(1, LOCK, shown) as another, hosts.worker(1, LOCK, shown) as (worker, _):
        assert answers(worker) == answers(another)


def test_a_host_does_not_wait_for_a_long_training(
    tmp_path: Path, hosts: WarmHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_hosts, "IDLE_S", 0.2)
    before = descendants()

    hosts.begin(1, LOCK, tmp_path)
    ends_s = time.monotonic() + 20
    time.sleep(0.3)  # the host may not have been there yet
    while descendants() - before and time.monotonic() < ends_s:
        time.sleep(0.05)

    assert descendants() <= before
    with hosts.worker(1, LOCK, hosts.place(1, pack(tmp_path / "v"), "v")) as (worker, _):
        assert answers(worker) == ["no", "yes"]


def test_a_version_that_does_not_load_or_ends_its_worker_is_told(
    tmp_path: Path, hosts: WarmHosts
) -> None:
    bad = hosts.place(1, pack(tmp_path / "bad", "import not_there\n"), "bad")
    fatal = hosts.place(1, pack(tmp_path / "fatal", "import os\nos._exit(3)\n"), "fatal")

    with hosts.worker(1, LOCK, bad) as (_, told):
        assert (told["ok"], told["code"]) == (False, "PS571")
    with pytest.raises(StoppedError, match="not_there"), hosts.another(1, LOCK, bad):
        pass
    with (
        pytest.raises(StoppedError, match="exit code 3") as stopped,
        hosts.worker(1, LOCK, fatal),
    ):
        pass
    assert stopped.value.code == "PS556"


def test_a_worker_sees_its_pool_and_not_what_lies_beside_it(
    tmp_path: Path, home: Path, hosts: WarmHosts, workers: Workers
) -> None:
    if workers.sandbox.level().level not in ("full", "partial"):
        pytest.skip("the sandbox of this machine hides nothing")
    secret = home / "runs" / "1" / "holdout.csv"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text("label\n")
    code = f"""
def load(folder): ...
def predict(model, frame):
    try:
        open({str(secret)!r}).read()
    except OSError:
        return [0.0] * len(frame["age"])
    return [1.0] * len(frame["age"])
"""
    shown = hosts.place(1, pack(tmp_path / "v", code), "v")

    with hosts.worker(1, LOCK, shown) as (worker, _):
        assert answers(worker) == ["no", "no"]


def named(folder: Path, name: str, content: bytes) -> list[str]:
    (folder / name).write_bytes(content)
    return worth_importing(folder)


def test_modules_are_found_in_pickles_and_guessed_for_compressed_ones(tmp_path: Path) -> None:
    import pickle

    from sklearn.ensemble import HistGradientBoostingClassifier

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    model: JSON = {"m": HistGradientBoostingClassifier()}
    found = named(tmp_path / "a", "m.pkl", pickle.dumps(model))

    assert "sklearn.ensemble._hist_gradient_boosting.gradient_boosting" in found
    assert "pandas" in found
    assert set(COMMON) < set(named(tmp_path / "b", "m.joblib", b"\x78\x9c\x00"))
    assert named(tmp_path / "b", "m.joblib", b"torch onnxruntime os.system") != []
