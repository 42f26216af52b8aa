"""Limits that hold at every level: memory, output, processes, files; and all ends together."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.sandbox import holder
from penstock.adapters.sandbox.local import LocalSandbox, kill
from penstock.adapters.sandbox.users import Users, open_for_reading
from penstock.errors import StoppedError
from penstock.ports import Command, Limits, Use
from tests.contract.sandbox_attacks import LEVELS

PYTHON = "/usr/bin/python3"
MB = 1 << 20
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives users of their own")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pst-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="module")
def sandboxes(home: Path) -> dict[str, LocalSandbox]:
    return {level: LocalSandbox(home, **options) for level, options in LEVELS.items()}


@pytest.fixture(params=sorted(LEVELS))
def sandbox(request: pytest.FixtureRequest, sandboxes: dict[str, LocalSandbox]) -> LocalSandbox:
    return sandboxes[request.param]


@pytest.fixture
def work(home: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=home) as name:
        yield Path(name)


def program(script: str, work: Path, **more: Any) -> Command:
    return Command([PYTHON, "-I", "-c", script], work, write=[work], **more)


def run(sandbox: LocalSandbox, command: Command) -> tuple[int, str]:
    process = sandbox.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said.decode()


def logged(sandbox: LocalSandbox, command: Command) -> tuple[int, bytes]:
    """Run it as the engine does: by its line, into a file."""
    line, environment = sandbox.argv(command)
    with (command.cwd / "log").open("w+b") as log:
        code = subprocess.Popen(line, env=environment, stdout=log, stderr=log).wait(60)
        return code, (command.cwd / "log").read_bytes()


def gone(word: str, seconds: float = 10) -> bool:
    """Wait until no process has this word in its command line."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lines: list[bytes] = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(path.read_bytes())
            except OSError:
                continue
        if not any(word.encode() in line for line in lines):
            return True
        time.sleep(0.05)
    return False


HOG = "import time\nheld = b'x' * (300 << 20)\ntime.sleep(60)\n"
TOO_MUCH = "sandbox: ended, for it used "


def test_a_worker_that_uses_too_much_memory_is_ended_and_told_why(
    sandbox: LocalSandbox, work: Path
) -> None:
    code, said = run(sandbox, program(HOG, work, limits=Limits(memory_bytes=100 * MB)))

    assert code in (137, -9)
    assert TOO_MUCH in said
    assert "100 MB are allowed" in said


def test_a_step_that_uses_too_much_memory_is_ended_and_its_log_says_so(
    sandbox: LocalSandbox, work: Path
) -> None:
    limits = Limits(memory_bytes=100 * MB, output_bytes=MB)
    code, said = logged(
        sandbox, program("print('begun', flush=True)\n" + HOG, work, limits=limits)
    )

    assert code == 137
    assert said.startswith(b"begun\n")
    assert TOO_MUCH.encode() in said


def test_pages_that_processes_share_count_once() -> None:
    script = (
        "import os, time\nheld = b'x' * (80 << 20)\nprint('ready', flush=True)\n"
        "for _ in range(3):\n    if os.fork() == 0: break\ntime.sleep(60)\n"
    )
    with subprocess.Popen(
        [PYTHON, "-I", "-c", script], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids: list[int] = []
        while len(pids) < 4:
            pids = holder.tree(process.pid, holder.parents())
        simple, shared = holder.resident(pids, 1 << 40), holder.resident(pids, 1)
        kill(process)

    assert simple > 320 * MB
    assert 80 * MB < shared < 160 * MB


def test_of_a_flood_of_output_the_head_and_the_end_are_kept(
    sandbox: LocalSandbox, work: Path
) -> None:
    script = "seq 1 3000000; echo last words"
    limits = Limits(output_bytes=MB)
    code, said = logged(sandbox, Command(["sh", "-c", script], work, write=[work], limits=limits))

    assert code == 0
    assert len(said) < MB + 200
    assert said.startswith(b"1\n2\n3\n")
    assert said.endswith(b"\n3000000\nlast words\n")
    assert b"bytes of output are left out here; the log keeps 1,048,576." in said


def test_a_short_output_is_kept_as_it_is_with_its_exit_code(
    sandbox: LocalSandbox, work: Path
) -> None:
    command = ["sh", "-c", "echo out; echo err >&2; exit 7"]
    limits = Limits(output_bytes=MB)

    assert logged(sandbox, Command(command, work, write=[work], limits=limits)) == (
        7,
        b"out\nerr\n",
    )


BOMB = (
    "import os, time\ncount = 0\n"
    "while True:\n"
    "    try: child = os.fork()\n"
    "    except OSError: break\n"
    "    if child == 0: time.sleep(60)\n"
    "    count += 1\n"
    "print(count)\n"
)


def test_a_fork_bomb_hits_its_own_limit_and_leaves_nothing(
    sandboxes: dict[str, LocalSandbox], work: Path
) -> None:
    levels = sandboxes if os.geteuid() == 0 else {"full": sandboxes["full"]}
    for level, sandbox in levels.items():
        command = program(BOMB + f"# {work.name}", work, limits=Limits(processes=40))
        code, said = run(sandbox, command)

        assert (level, code) == (level, 0)
        assert 10 < int(said) < 40
        assert gone(work.name)


def test_open_files_run_out_for_it_alone(sandbox: LocalSandbox, work: Path) -> None:
    script = (
        "held = []\ntry:\n    while True: held.append(open('/dev/null'))\n"
        "except OSError as error: print(error.strerror, len(held))\n"
    )
    _, said = run(sandbox, program(script, work, limits=Limits(open_files=64)))

    assert said.startswith("Too many open files")


HIDING = (
    "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(90)\n"
)


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_a_daemon_that_hides_behind_a_double_fork_ends_with_the_command(
    sandbox: LocalSandbox, work: Path, how: str
) -> None:
    rest = "    os._exit(0)\nprint('ready', flush=True)\n" + ("time.sleep(90)" * (how == "killed"))
    process = sandbox.start(
        program(HIDING + rest + f"# {work.name}", work), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    if how == "killed":
        kill(process)

    assert gone(work.name)
    process.stdout.close()
    process.wait(10)


def test_production_goes_before_builds(sandbox: LocalSandbox, work: Path) -> None:
    script = "import os; print(os.nice(0), len(os.sched_getaffinity(0)))"
    one = Limits(cpus=1)

    said = {
        use: run(sandbox, program(script, work, use=use, limits=one))[1].split() for use in Use
    }

    assert said[Use.WORKER] == ["0", "1"]
    assert said[Use.TRAIN] == said[Use.CHECK] == said[Use.FETCH] == ["10", "1"]


def test_masked_data_cannot_be_read_at_any_level_with_a_sandbox_and_is_there_again_afterwards(
    sandboxes: dict[str, LocalSandbox], work: Path
) -> None:
    (work / "data").mkdir()
    (work / "data" / "holdout.csv").write_text("the answers")
    for level in ("full", "partial"):
        command = program(
            "import os\nfor folder, _, files in os.walk('.'):\n"
            "    for file in files: print(open(f'{folder}/{file}').read())\n",
            work,
            mask=[work / "data" / "holdout.csv"],
        )
        code, said = run(sandboxes[level], command)

        assert "the answers" not in said, level
        assert code == 0 or level == "full"
        assert (work / "data" / "holdout.csv").read_text() == "the answers"


@as_root
def test_two_commands_are_two_users_and_the_cache_has_one_of_its_own(home: Path) -> None:
    users = Users(home / "users")
    first, second = users.take(), users.take()

    assert len({first, second, users.fetching(), 0}) == 4
    assert users.fetching() == users.fetching()


@as_root
def test_a_second_name_of_somebody_elses_file_is_not_given_away(work: Path) -> None:
    (work / "secret").write_text("of the server")
    (work / "given").mkdir()
    os.link(work / "secret", work / "given" / "link")
    (work / "given" / "symlink").symlink_to(work / "secret")
    (work / "given" / "own").write_text("")
    users = Users(work / "users")
    user = users.take()

    users.hand_over(work / "given", user)

    assert (work / "secret").stat().st_uid == 0
    assert (work / "given" / "own").stat().st_uid == (work / "given").stat().st_uid == user


@as_root
def test_what_is_private_is_opened_in_our_own_home_and_refused_elsewhere(work: Path) -> None:
    ours, theirs = work / "home" / "models", work / "srv"
    for folder in (ours, theirs):
        folder.mkdir(parents=True, mode=0o700)

    open_for_reading(ours, work / "home", 61_002)
    with pytest.raises(StoppedError, match="is private") as caught:
        open_for_reading(theirs, work / "home", 61_002)

    assert ours.stat().st_mode & 0o777 == 0o705
    assert caught.value.code == "PS207"
    assert theirs.stat().st_mode & 0o777 == 0o700


@as_root
def test_below_a_private_folder_the_weaker_levels_say_which(home: Path) -> None:
    private = home / "private"
    (private / "work").mkdir(parents=True)
    private.chmod(0o700)
    sandbox = LocalSandbox(home, **LEVELS["none"])

    with pytest.raises(StoppedError, match=f"{private} is private") as caught:
        sandbox.start(program("pass", private / "work"))

    assert caught.value.code == "PS207"
    shutil.rmtree(private)


def test_what_a_command_wrote_can_be_read_and_removed_by_the_server(
    sandbox: LocalSandbox, work: Path
) -> None:
    run(sandbox, program("import os; os.mkdir('sub'); open('sub/file', 'w').write('x')", work))

    assert (work / "sub" / "file").read_text() == "x"
    shutil.rmtree(work / "sub")


def test_nothing_of_a_command_is_left_in_the_home(sandbox: LocalSandbox, home: Path) -> None:
    standing = {"next-user", "sandbox"}  # a counter, and the folder of what runs now
    with tempfile.TemporaryDirectory(dir=home) as name:
        run(sandbox, program("open('/tmp/file', 'w')", Path(name)))

    assert {path.name for path in (home / "run").rglob("*")} <= standing
