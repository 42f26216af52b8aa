"""What every Sandbox must do, and what the full one must hold. Real processes throughout."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.sandbox.local import LocalSandbox, kill
from penstock.errors import NotFoundError, StoppedError
from penstock.ports import Command, Limits, Sandbox
from tests.fakes import OpenSandbox

SANDBOXES: dict[str, Callable[[Path], Sandbox]] = {
    "full": LocalSandbox,
    "partial": lambda home: LocalSandbox(home, program="no-such-program"),
    "none": lambda home: LocalSandbox(home, program="no-such-program", landlock=False),
    "external": lambda home: LocalSandbox(home, "external"),
    "fake": lambda _: OpenSandbox(),
}


def reachable_python() -> Path:
    """Find a Python that users of no account can start, where root runs the tests."""
    own = Path(sys.executable).resolve()
    open_to_all = all(folder.stat().st_mode & 0o001 for folder in own.parents)
    return own if open_to_all or os.geteuid() else Path("/usr/bin/python3")


PYTHON = reachable_python()
FOLDERS = [] if PYTHON.is_relative_to("/usr") else [PYTHON.parent.parent]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Give a folder whose parents are no secret: pytest's own are its user's alone."""
    with tempfile.TemporaryDirectory(prefix="pst-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(params=sorted(SANDBOXES))
def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> Sandbox:
    return SANDBOXES[request.param](tmp_path)


@pytest.fixture
def full(tmp_path: Path) -> LocalSandbox:
    return LocalSandbox(tmp_path)


def output(sandbox: Sandbox, command: Command) -> str:
    process = sandbox.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, _ = process.communicate(timeout=60)
    return said.decode()


def shell(script: str, cwd: Path, **more: Any) -> Command:
    return Command(argv=["/bin/sh", "-c", script], cwd=cwd, read=more.pop("read", [cwd]), **more)


def gone(pid: int, seconds: float = 10) -> bool:
    """Wait until a process is dead, be it a zombie that nobody has waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_a_command_runs_in_its_folder_and_its_output_and_exit_code_come_back(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    process = sandbox.start(shell("pwd; exit 7", tmp_path), stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=60)

    assert said.decode().strip() == str(tmp_path)
    assert process.returncode == 7


def test_its_environment_is_the_one_named_and_nothing_of_ours(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_SERVER", "hush")

    said = output(sandbox, shell("env", tmp_path, env={"SEED": "two words", "PATH": "/usr/bin"}))

    lines = said.splitlines()
    assert "SEED=two words" in lines
    assert "PATH=/usr/bin" in lines
    assert any(line.startswith("HOME=/") for line in lines)
    assert "hush" not in said


def test_what_is_writable_is_written_outside_too(sandbox: Sandbox, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    output(sandbox, shell("echo done > out/file", tmp_path, write=[out]))

    assert (out / "file").read_text() == "done\n"


def test_a_path_that_is_not_there_is_a_fault_that_names_it(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="absent"):
        sandbox.start(shell("true", tmp_path, read=[tmp_path, tmp_path / "absent"]))


def test_another_starter_gets_the_same_command(sandbox: Sandbox, tmp_path: Path) -> None:
    line, environment = sandbox.argv(shell("pwd; echo $WORD", tmp_path, env={"WORD": "told"}))

    done = subprocess.run(line, env=environment, check=True, capture_output=True, text=True)

    assert done.stdout.split() == [str(tmp_path), "told"]


def test_the_answer_about_the_level_stays_the_same(sandbox: Sandbox) -> None:
    assert sandbox.level() == sandbox.level()


def test_kill_ends_the_command_and_its_children(sandbox: Sandbox, tmp_path: Path) -> None:
    child = "import time; open('pid', 'w').write('x'); time.sleep(600)"
    script = f'"{PYTHON}" -c "{child}" & wait'
    command = shell(script, tmp_path, write=[tmp_path], read=FOLDERS)
    process = sandbox.start(command)
    while not (tmp_path / "pid").exists():
        assert process.poll() is None
        time.sleep(0.02)
    members = _group(process.pid)

    kill(process)

    assert members
    assert all(gone(pid) for pid in members)
    assert process.returncode == -signal.SIGKILL


def _group(leader: int) -> list[int]:
    """Find the descendants of a process that this test has started."""
    parents = dict[int, int]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found, fresh = set[int](), {leader}
    while fresh:
        found |= fresh
        fresh = {pid for pid, parent in parents.items() if parent in fresh} - found
    return sorted(found - {leader})


@pytest.mark.parametrize("program", ["bwrap", "no-such-program"])
def test_a_command_dies_with_the_process_that_started_it(tmp_path: Path, program: str) -> None:
    starter = (
        "import sys, time; from pathlib import Path\n"
        "from penstock.adapters.sandbox.local import LocalSandbox\n"
        "from penstock.ports import Command\n"
        "home = Path(sys.argv[1])\n"
        f"sandbox = LocalSandbox(home, program={program!r})\n"
        "command = Command(['/bin/sh', '-c', 'sleep 600'], cwd=home, read=[home])\n"
        "print(sandbox.start(command).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    line = [sys.executable, "-c", starter, str(tmp_path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        alive = not gone(pid, seconds=0.1)
        process.kill()

    assert alive
    assert gone(pid)


def test_a_command_outlives_the_thread_that_asked_for_it(
    full: LocalSandbox, tmp_path: Path
) -> None:
    started = list[subprocess.Popen[bytes]]()
    thread = threading.Thread(
        target=lambda: started.append(full.start(shell("sleep 600", tmp_path)))
    )
    thread.start()
    thread.join()

    with pytest.raises(subprocess.TimeoutExpired):
        started[0].wait(timeout=0.5)
    kill(started[0])


# ---- what the full level holds ----


def test_bubblewrap_holds_on_this_machine(full: LocalSandbox) -> None:
    assert full.level().level == "full", full.level().reason


def test_nothing_of_the_machine_is_there_but_what_was_named(
    full: LocalSandbox, tmp_path: Path
) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "file").write_text("given")
    (tmp_path / "other").write_text("another model")

    said = output(
        full,
        shell(
            f"cat file; cat {tmp_path}/other; cat /etc/shadow; ls /root /home /var",
            tmp_path / "shown",
        ),
    )

    assert said.startswith("given")
    assert "another model" not in said
    assert said.count("No such file or directory") == 5


def test_what_is_read_only_cannot_be_written(full: LocalSandbox, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("weights")

    said = output(full, shell("echo worse > model; rm -f model; touch /usr/x", tmp_path))

    assert (tmp_path / "model").read_text() == "weights"
    assert said.count("Read-only file system") == 3


@pytest.mark.parametrize("masked", ["data/holdout.csv", "data"])
def test_masked_data_is_not_readable_though_its_folder_is(
    full: LocalSandbox, tmp_path: Path, masked: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "holdout.csv").write_text("the answers")
    command = shell(
        "cat data/holdout.csv; rm -rf data; mv data away; cat away/*; true",
        tmp_path,
        read=[],
        write=[tmp_path],
        mask=[tmp_path / masked],
    )

    said = output(full, command)

    assert "the answers" not in said
    assert said


def test_a_mask_over_a_file_that_is_not_there_is_no_fault(
    full: LocalSandbox, tmp_path: Path
) -> None:
    assert output(full, shell("echo ran", tmp_path, mask=[tmp_path / "later"])) == "ran\n"


def test_without_network_neither_the_machine_nor_the_world_can_be_reached(
    full: LocalSandbox, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dial = (
            f"import socket\nport = {listener.getsockname()[1]}\n"
            "for place in [('127.0.0.1', port), ('192.0.2.1', 80)]:\n"
            "    try: socket.create_connection(place, 2); print('reached')\n"
            "    except OSError as error: print('refused')\n"
        )
        folders = [tmp_path, Path(sys.base_prefix)]
        python = str(Path(sys.executable).resolve())
        closed = Command([python, "-I", "-c", dial], cwd=tmp_path, read=folders)
        open_ = Command([python, "-I", "-c", dial], cwd=tmp_path, read=folders, network=True)

        assert output(full, closed).split() == ["refused", "refused"]
        assert output(full, open_).split()[0] == "reached"


def test_a_server_inside_is_reached_through_a_socket_in_a_shared_folder(
    full: LocalSandbox, tmp_path: Path
) -> None:
    serve = (
        "import socket\n"
        "listener = socket.socket(socket.AF_UNIX); listener.bind('w'); listener.listen()\n"
        "print('ready', flush=True)\n"
        "peer, _ = listener.accept(); peer.sendall(b'hello from inside')\n"
    )
    command = Command(
        [str(Path(sys.executable).resolve()), "-I", "-c", serve],
        cwd=tmp_path,
        read=[Path(sys.base_prefix)],
        write=[tmp_path],
    )
    process = full.start(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"

    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "w"))
        said = caller.recv(100)

    process.communicate(timeout=60)
    assert said == b"hello from inside"


def test_a_process_that_hides_in_a_session_of_its_own_dies_too(
    full: LocalSandbox, tmp_path: Path
) -> None:
    script = "setsid sh -c 'setsid sleep 600 & sleep 600' & sleep 0.3; echo ready; sleep 600"
    process = full.start(shell(script, tmp_path), stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    members = _group(process.pid)

    kill(process)
    process.stdout.close()

    assert len(members) >= 4
    assert all(gone(pid) for pid in members)


def test_no_capability_no_new_privilege_no_namespace_of_its_own(
    full: LocalSandbox, tmp_path: Path
) -> None:
    said = output(full, shell("cat /proc/self/status; unshare -U true; id -u", tmp_path))

    facts = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert facts["CapEff"].strip("0") == facts["CapBnd"].strip("0") == ""
    assert facts["NoNewPrivs"] == "1"
    assert "unshare failed" in said
    assert said.splitlines()[-1] == "65534"


def test_limits_are_set_and_a_file_that_grows_too_large_is_cut(
    full: LocalSandbox, tmp_path: Path
) -> None:
    limits = Limits(memory_bytes=64 << 20, processes=100, file_bytes=1 << 20)
    show = (
        "import json, resource as r\n"
        "names = ['RLIMIT_AS', 'RLIMIT_NPROC', 'RLIMIT_FSIZE', 'RLIMIT_CORE']\n"
        "print(json.dumps([r.getrlimit(getattr(r, name))[1] for name in names]))\n"
        "try: open('big', 'wb').write(bytes(2 << 20))\n"
        "except OSError as error: print(error.strerror)\n"
    )
    command = Command(
        [str(Path(sys.executable).resolve()), "-I", "-c", show],
        cwd=tmp_path,
        read=[Path(sys.base_prefix)],
        write=[tmp_path],
        limits=limits,
    )

    numbers, reason = output(full, command).splitlines()

    assert json.loads(numbers) == [512 << 20, 100, 1 << 20, 0]
    assert reason == "File too large"
    assert (tmp_path / "big").stat().st_size <= 1 << 20


def test_a_preloaded_library_never_acts_on_the_sandbox_itself(
    full: LocalSandbox, tmp_path: Path
) -> None:
    line, environment = full.argv(shell("true", tmp_path, env={"LD_PRELOAD": "/evil.so"}))

    assert set(environment) == {"PATH", "LANG"}
    assert line[line.index("LD_PRELOAD") - 1] == "--setenv"
    assert "--clearenv" in line


# ---- what is said when it does not hold ----


def test_without_bubblewrap_the_level_is_partial_and_says_what_that_means(
    tmp_path: Path,
) -> None:
    level = LocalSandbox(tmp_path, program="no-such-program").level()

    assert level.level == "partial"
    assert level.reason.startswith("Bubblewrap is not installed. Model code sees which processes")
    assert level.warning.startswith("Sandbox PARTIAL: Bubblewrap is not installed.")
    assert level.warning.endswith('To refuse: [sandbox] mode = "required" in server.toml.')


def test_with_neither_the_level_is_none_and_says_what_that_means(tmp_path: Path) -> None:
    level = LocalSandbox(tmp_path, program="no-such-program", landlock=False).level()

    assert level.level == "none"
    assert "use the net" in level.reason
    assert "Fix: install bubblewrap" in level.warning


def test_what_the_operator_declares_external_is_neither_probed_nor_warned_of(
    tmp_path: Path,
) -> None:
    level = LocalSandbox(tmp_path, "external", program="no-such-program").level()

    assert (level.level, level.warning) == ("external", "")


def test_a_bubblewrap_that_fails_is_found_by_running_it(tmp_path: Path) -> None:
    broken = _program(tmp_path, "echo 'setting up uid map: Permission denied' >&2; exit 1")

    level = LocalSandbox(tmp_path, program=broken, landlock=False).level()

    assert level.level == "none"
    assert "setting up uid map: Permission denied" in level.reason


def test_a_bubblewrap_that_isolates_nothing_is_found_by_trying_to_break_out(
    tmp_path: Path,
) -> None:
    open_door = _program(tmp_path, 'until [ "${1##*/}" = prlimit ]; do shift; done; exec "$@"')

    level = LocalSandbox(tmp_path, program=open_door, landlock=False).level()

    assert level.level == "none"
    assert "the sandbox reads" in level.reason


def test_a_home_that_the_sandbox_cannot_see_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    refusing = _program(
        tmp_path,
        f'case "$*" in *"{home}"*) echo "no such file" >&2; exit 1;; esac; exec bwrap "$@"',
    )

    level = LocalSandbox(home, program=refusing).level()

    assert level.level == "partial"
    assert f"The sandbox cannot see PENSTOCK_HOME {home}" in level.reason


def test_a_server_that_demands_the_full_sandbox_runs_nothing_without_it(tmp_path: Path) -> None:
    sandbox = LocalSandbox(tmp_path, "required", program="no-such-program")

    with pytest.raises(StoppedError) as caught:
        sandbox.start(shell("touch ran", tmp_path, write=[tmp_path]))

    assert caught.value.code == "PS206"
    assert "Install bubblewrap" in caught.value.hint
    assert not (tmp_path / "ran").exists()


def test_a_server_that_demands_the_full_sandbox_is_content_where_it_holds(tmp_path: Path) -> None:
    assert output(LocalSandbox(tmp_path, "required"), shell("echo ran", tmp_path)) == "ran\n"


def _program(folder: Path, script: str) -> str:
    path = folder / "fake-bwrap"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    assert os.access(path, os.X_OK)
    return str(path)
