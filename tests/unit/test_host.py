"""The host: forks workers, watches them, and takes them with it when it goes."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import StoppedError
from penstock.inference.asking import PROGRAM, Worker
from penstock.inference.program import frames, worker
from penstock.inference.programs import Connection, Host, Program
from tests.unit.packed_versions import connected, pack, people

assert worker.Version, "worker.py makes the package under whose name the program's files meet"
BODY = people(25, 80)
GREEDY = """
def load(folder): return []
def predict(model, frame):
    while True:
        model.append(bytearray(b"x" * (4 << 20)))
"""
CRASHING = """
import os, sys
def load(folder): ...
def predict(model, frame):
    print("goodbye", file=sys.stderr, flush=True)
    os.kill(os.getpid(), 11)
"""
FATHERLY = """
import subprocess, sys
def load(folder):
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
def predict(model, frame): return [float(model)] * len(frame["age"])
"""

CODE_OF_FRESH = """
import sys
def load(folder): ...
def predict(model, frame): return [float("threaded" in sys.modules)] * len(frame["age"])
"""


def started(path: Path, *, packages: bool = False) -> subprocess.Popen[bytes]:
    switches = ["-I"] if packages else ["-I", "-S"]
    return subprocess.Popen(
        [sys.executable, *switches, str(PROGRAM), "--host", str(path)],
        env={"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.fixture
def host(tmp_path: Path) -> Generator[Host]:
    path = tmp_path / "h"
    with Host(started(path), path) as host:
        yield host


@contextlib.contextmanager
def forked(host: Host, path: Path, **more: Any) -> Generator[Worker]:
    with Worker(host.fork(path, **more), path) as worker:
        yield worker


def order(kind: int, **body: Any) -> frames.RequestPart:
    return frames.RequestPart(kind, b"order", json.dumps(body).encode())


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    return [int(word) for word in text.split()]


def eventually(true: Callable[[], bool], seconds: float = 20) -> None:
    ends_s = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends_s, "it did not come true"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def predicted(ask: Any) -> list[Any]:
    (reply,) = ask([(frames.V2, b"a", BODY)])
    return json.loads(reply.body)["outputs"][0]["data"]


def test_a_host_that_nobody_connects_to_ends_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program: Any = importlib.import_module("penstock_worker.host")
    monkeypatch.setattr(program, "UNWANTED_S", 0.05)
    told: list[str] = []

    program.Host(str(tmp_path / "h"), told.append, PROGRAM).run()

    assert (tmp_path / "h").is_socket()
    assert told == []


def test_a_forked_worker_loads_answers_and_is_ended(host: Host, tmp_path: Path) -> None:
    folder = pack(tmp_path / "v")

    with forked(host, tmp_path / "w") as worker:
        told = worker.load(folder)
        worker.disconnect()
        with connected(tmp_path / "w") as ask:
            answers = predicted(ask)

    assert (told["ok"], told["slot"], answers) == (True, 0, ["no", "yes"])
    assert not (tmp_path / "w").exists()


def test_a_host_forks_many_and_imports_ahead_what_it_is_told(tmp_path: Path) -> None:
    code = CODE_OF_FRESH.replace("threaded", "wave")
    folder, path = pack(tmp_path / "v", code), tmp_path / "h"

    with Host(started(path), path) as host:
        host.warm(["wave", "not_there", "onnxruntime"])
        for number in range(5):
            with forked(host, tmp_path / f"w{number}") as worker:
                worker.load(folder)
                worker.disconnect()
                with connected(tmp_path / f"w{number}") as ask:
                    assert predicted(ask) == ["yes", "yes"]


def test_the_crash_of_one_child_is_told_and_ends_no_other(host: Host, tmp_path: Path) -> None:
    good, bad = pack(tmp_path / "good"), pack(tmp_path / "bad", CRASHING)
    with forked(host, tmp_path / "g") as worker, forked(host, tmp_path / "b") as crashing:
        worker.load(good)
        crashing.load(bad)
        crashing.disconnect()
        with connected(tmp_path / "b") as ask, pytest.raises(AssertionError, match="hung up"):
            ask([(frames.V2, b"a", BODY)])
        ended = host.end(tmp_path / "b")
        worker.disconnect()
        with connected(tmp_path / "g") as ask:
            assert predicted(ask) == ["no", "yes"]

    assert ended.how == "signal 11: goodbye"
    assert ended.lines == ["goodbye"]


def test_a_child_that_ends_while_it_loads_is_quoted(host: Host, tmp_path: Path) -> None:
    folder = pack(tmp_path / "v", "import os\nos._exit(3)\n")

    with (
        pytest.raises(StoppedError, match="exit code 3") as stopped,
        forked(host, tmp_path / "w") as worker,
    ):
        worker.load(folder)

    assert stopped.value.code == "PS556"


def test_a_child_above_its_memory_is_ended_and_the_figures_are_kept(
    host: Host, tmp_path: Path
) -> None:
    folder = pack(tmp_path / "v", GREEDY)

    with forked(host, tmp_path / "w", memory_bytes=300 << 20) as worker:
        worker.load(folder)
        worker.disconnect()
        with connected(tmp_path / "w") as ask, pytest.raises(AssertionError, match="hung up"):
            ask([(frames.V2, b"a", BODY)])
        ended = host.end(tmp_path / "w")

    used, of = ended.how.removeprefix("used ").split(" MB of ")
    assert int(used) > int(of) == 300


@pytest.mark.parametrize("how", ["hang up", "kill"])
def test_when_the_connection_or_the_host_goes_all_go(tmp_path: Path, how: str) -> None:
    process = started(tmp_path / "h")
    program = Program(process)
    owner = Connection(program, tmp_path / "h", start_timeout_s=20)
    (reply,) = owner.ask(order(frames.FORK, socket=str(tmp_path / "w")), timeout_s=20)
    assert reply.status == 200
    (child,) = children(process.pid)
    worker = Connection(program, tmp_path / "w", start_timeout_s=20)
    load = order(frames.LOAD, folder=str(pack(tmp_path / "v")))
    assert worker.ask(load, timeout_s=20)[0].status == 200

    owner.close() if how == "hang up" else process.kill()

    assert process.wait(20) == (0 if how == "hang up" else -signal.SIGKILL)
    eventually(lambda: not lives(child))
    owner.close()
    worker.close()
    program.end()


def test_what_a_model_started_ends_with_its_child(host: Host, tmp_path: Path) -> None:
    numbers = {"columns": [{"name": "age", "datatype": "FP64", "optional": False}],
               "task": "regression", "classes": None, "positive": None}  # fmt: skip
    folder = pack(tmp_path / "v", FATHERLY, numbers)

    with forked(host, tmp_path / "w") as worker:
        assert worker.load(folder)["ok"]
        worker.disconnect()
        with connected(tmp_path / "w") as ask:
            (reply,) = ask([(frames.INVOCATIONS, b"a", b'{"instances": [1]}')])
        grandchild = int(json.loads(reply.body)["predictions"][0])
        assert lives(grandchild)

    eventually(lambda: not lives(grandchild))


def test_a_child_holds_nothing_of_its_host_or_its_sisters(host: Host, tmp_path: Path) -> None:
    code = """
import os, signal
def load(folder): ...
def predict(model, frame):
    names = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if n > "2"
             and os.path.exists(f"/proc/self/fd/{n}")]
    kinds = sum(name.startswith(("socket", "pipe", "anon")) for name in names)
    plain = signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    return [float(kinds), float(plain)]
"""
    numbers = {"columns": [{"name": "age", "datatype": "FP64", "optional": False}],
               "task": "regression", "classes": None, "positive": None}  # fmt: skip
    folder = pack(tmp_path / "v", code, numbers)
    with forked(host, tmp_path / "a"), forked(host, tmp_path / "b") as worker:
        worker.load(folder)
        worker.disconnect()
        with connected(tmp_path / "b") as ask:
            (reply,) = ask([(frames.INVOCATIONS, b"a", b'{"instances": [1, 2]}')])

    # Its own listener and the connection, no more.
    assert json.loads(reply.body)["predictions"] == [2.0, 1.0]


def test_after_an_import_that_started_threads_children_are_started_afresh(tmp_path: Path) -> None:
    package = tmp_path / "site" / "threaded.py"
    package.parent.mkdir()
    package.write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    folder = pack(tmp_path / "v", CODE_OF_FRESH)
    process = subprocess.Popen(
        [sys.executable, "-S", "-P", str(PROGRAM), "--host", str(tmp_path / "h")],
        env={"PYTHONPATH": str(package.parent)},
        stderr=subprocess.PIPE,
    )

    with Host(process, tmp_path / "h") as host:
        host.warm(["threaded"])
        with forked(host, tmp_path / "w") as worker:
            worker.load(folder)
            worker.disconnect()
            with connected(tmp_path / "w") as ask:
                assert predicted(ask) == ["no", "no"]


def test_the_thread_of_arrows_allocator_hinders_no_fork(tmp_path: Path) -> None:
    path = tmp_path / "h"
    folder = pack(tmp_path / "v", CODE_OF_FRESH.replace("threaded", "pyarrow"))

    with Host(started(path, packages=True), path) as host:
        host.warm(["pyarrow"])
        with forked(host, tmp_path / "w") as worker:
            worker.load(folder)
            worker.disconnect()
            with connected(tmp_path / "w") as ask:
                assert predicted(ask) == ["yes", "yes"]


def test_a_socket_is_not_given_twice_while_its_child_lives(host: Host, tmp_path: Path) -> None:
    with forked(host, tmp_path / "w"), pytest.raises(StoppedError, match="already") as stopped:
        host.fork(tmp_path / "w")

    assert stopped.value.code == "PS524"
    with forked(host, tmp_path / "w") as worker:  # and is free again
        assert worker.load(pack(tmp_path / "v"))["ok"]


def test_a_child_that_cannot_listen_is_told(host: Host, tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="did not start: exit code 1") as stopped:
        host.fork(tmp_path / "no" / "folder" / "w")

    assert stopped.value.code == "PS524"


def test_a_killed_child_is_told_by_its_signal(tmp_path: Path) -> None:
    process = started(tmp_path / "h")
    with Host(process, tmp_path / "h") as host:
        child = host.fork(tmp_path / "w")
        (pid,) = children(process.pid)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not lives(pid))

        ended = child.ended(0)

    assert ended is not None
    assert ended.how == "signal 9"


KINDS = st.sampled_from([*range(8), frames.LOAD, frames.UNLOAD, frames.FORK, frames.END, 255])
JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
ORDERS = st.fixed_dictionaries(
    {}, optional={"socket": JSONISH, "imports": JSONISH, "memory_bytes": JSONISH, "slot": JSONISH}
)
BODIES = st.binary(max_size=20) | ORDERS.map(lambda order: json.dumps(order).encode())
PARTS = st.lists(
    st.builds(
        frames.RequestPart,
        KINDS,
        st.binary(max_size=5),
        BODIES,
        st.integers(0, 65535),
        st.integers(0, 255),
    ),
    max_size=4,
)


@pytest.mark.parametrize("what", ["host", "worker"])
def test_no_order_hangs_or_ends_a_host_or_a_worker(tmp_path: Path, what: str) -> None:
    process = started(tmp_path / "h")
    program = Program(process)
    owner = Connection(program, tmp_path / "h", start_timeout_s=20)
    owner.ask(order(frames.FORK, socket=str(tmp_path / "w")), timeout_s=20)
    worker = Connection(program, tmp_path / "w", start_timeout_s=20)
    asked = owner if what == "host" else worker
    try:

        @settings(
            max_examples=60,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(PARTS)
        def orders(parts: list[frames.RequestPart]) -> None:
            replies = asked.ask(*parts, timeout_s=20)
            assert len(replies) == len(parts)
            for reply in replies:
                assert reply.status == 200 or json.loads(reply.body)["error"]

        orders()
        assert process.poll() is None
    finally:
        owner.close()
        worker.close()
        program.end()
