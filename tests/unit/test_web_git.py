"""git over HTTP: real git pushes to a real server; the run is started, or the push is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from penstock.domain import RunState
from penstock.errors import ConflictError
from penstock.records import journal, runs
from penstock.web import git
from penstock.web.app import create_app
from tests.unit.web_rig import Checkout, House, house, listening, passed

TOML = '[model]\nname = "credit-default"\nowner = "ines"\n'


@pytest.fixture
def home(tmp_path: Path) -> House:
    return house(tmp_path)


@pytest.fixture
def url(home: House) -> Generator[str]:
    with listening(home) as address:
        yield address


@pytest.fixture
def work(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "work")


def run_of(home: House, number: int = 1) -> runs.Run:
    with home.database.read() as connection:
        return runs.get(connection, number)


def no_runs(home: House) -> bool:
    with home.database.read() as connection:
        return runs.runs(connection) == [] and journal.entries(connection) == []


def end_soon(home: House, *, times: int = 1) -> threading.Thread:
    """Fail the next runs as soon as they are there, so that pushes end."""

    def act() -> None:
        left, ends = times, time.monotonic() + 30
        while left and time.monotonic() < ends:
            with home.database.read() as connection:
                live = runs.live(connection)
            for queued in live:
                run = home.move(queued, RunState.BUILDING, "The stage build runs.")
                home.step(run, ("build", "train"), "failed", log="epoch 1\n", reason="it broke")
                home.move(run, RunState.FAILED, "the command ended with 1", ended_by="check")
                left -= 1
            time.sleep(0.02)

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_push_makes_the_repository_starts_the_run_and_brings_its_lines_back(
    home: House, url: str, work: Checkout
) -> None:
    commit = work.commit("Shorter window\n\nmore", penstock__toml=TOML, CARD__md="# Card\n")
    ending = end_soon(home)

    pushed = work.git("push", f"{url}/git/credit-default", "main")
    ending.join()

    assert pushed.returncode == 0, pushed.stderr
    lines = [line.removeprefix("remote: ").rstrip() for line in pushed.stderr.splitlines()]
    assert "Penstock run 1 for credit-default@1 started" in lines
    assert "    | epoch 1" in lines
    assert any(line.startswith("FAIL credit-default@1 failed") for line in lines)
    assert not any(line.startswith("exit ") for line in lines)
    run = run_of(home)
    assert (run.commit, run.message, run.trigger) == (commit, "Shorter window", "push")
    with home.database.read() as connection:
        version = runs.version_of(connection, "credit-default", 1)
    assert version.card == "# Card\n"
    assert version.config["approval"]["people"] == 1


def test_faults_of_the_configuration_are_all_told_and_nothing_is_changed(
    home: House, url: str, work: Checkout
) -> None:
    work.commit("first", penstock__toml=TOML + 'risk = "extreme"\n[bulid]\n')

    pushed = work.git("push", f"{url}/git/credit-default", "main")

    assert pushed.returncode == 1
    assert "penstock.toml:4" in pushed.stderr
    assert 'Did you mean "build"?' in pushed.stderr
    assert "pre-receive hook declined" in pushed.stderr
    assert no_runs(home)


def test_a_commit_without_configuration_is_told_how_to_get_one(
    home: House, url: str, work: Checkout
) -> None:
    work.commit("first", train__py="print(1)\n")

    pushed = work.git("push", f"{url}/git/credit-default", "main")

    assert pushed.returncode == 1
    assert "penstock init" in pushed.stderr
    assert no_runs(home)


def test_a_push_to_another_models_repository_is_refused(
    home: House, url: str, work: Checkout
) -> None:
    work.commit("first", penstock__toml=TOML)

    pushed = work.git("push", f"{url}/git/fraud-card", "main")

    assert pushed.returncode == 1
    assert "PS825" in pushed.stderr
    assert no_runs(home)


@pytest.mark.parametrize("path", ["git/Bad_Name", "git/..%2f..%2fetc", "git/x/y", "git/-x"])
def test_what_is_no_models_name_is_no_repository(
    home: House, url: str, work: Checkout, path: str
) -> None:
    work.commit("first", penstock__toml=TOML)

    pushed = work.git("push", f"{url}/{path}", "main")

    assert pushed.returncode != 0
    assert "PS82" in pushed.stderr
    assert list(home.control.repositories.iterdir()) == []


def test_another_branch_builds_and_tests_only(home: House, url: str, work: Checkout) -> None:
    work.commit("first", penstock__toml=TOML)
    ending = end_soon(home)
    work.git("push", f"{url}/git/credit-default", "main")
    ending.join()
    work.commit("second", train__py="print(2)\n")
    ending = end_soon(home)

    work.git("push", f"{url}/git/credit-default", "main:try/trees")
    ending.join()

    assert run_of(home, 2).trigger == "branch-try/trees"
    assert not run_of(home, 2).releases


def test_tags_and_deleted_branches_start_nothing(home: House, url: str, work: Checkout) -> None:
    work.commit("first", penstock__toml=TOML)
    ending = end_soon(home, times=2)
    work.git("push", f"{url}/git/credit-default", "main:one", "main:main")
    ending.join()
    work.git("tag", "v1")
    with home.database.read() as connection:
        before = len(runs.runs(connection))

    tagged = work.git("push", f"{url}/git/credit-default", "v1")
    deleted = work.git("push", f"{url}/git/credit-default", ":one")

    assert "starts nothing: only branches do" in tagged.stderr
    assert (tagged.returncode, deleted.returncode) == (0, 0), deleted.stderr
    with home.database.read() as connection:
        assert len(runs.runs(connection)) == before


def test_what_a_clone_sees_has_no_refs_of_ours(
    home: House, url: str, work: Checkout, tmp_path: Path
) -> None:
    commit = work.commit("first", penstock__toml=TOML)
    ending = end_soon(home)
    work.git("push", f"{url}/git/credit-default.git", "main")
    ending.join()

    cloned = work.git("clone", "-q", f"{url}/git/credit-default", str(tmp_path / "clone"))
    seen = work.git("ls-remote", f"{url}/git/credit-default")

    assert cloned.returncode == 0, cloned.stderr
    assert (tmp_path / "clone" / "penstock.toml").read_text(encoding="utf-8") == TOML
    assert "refs/penstock" not in seen.stdout
    repository = home.control.repositories / "credit-default.git"
    held = subprocess.run(
        ["git", "--git-dir", str(repository), "rev-parse", "refs/penstock/1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert held.stdout.strip() == commit


def test_a_model_that_was_never_pushed_cannot_be_fetched(
    home: House, url: str, work: Checkout
) -> None:
    seen = work.git("ls-remote", f"{url}/git/credit-default")

    assert seen.returncode != 0
    assert "PS821" in seen.stderr


def test_a_hook_of_the_pushed_repository_does_not_run(
    home: House, url: str, work: Checkout, tmp_path: Path
) -> None:
    (work.path / "hooks").mkdir()
    hook = work.path / "hooks" / "post-receive"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n", encoding="utf-8")
    hook.chmod(0o755)
    work.commit("first", penstock__toml=TOML)
    ending = end_soon(home)

    work.git("push", f"{url}/git/credit-default", "main")
    ending.join()

    assert run_of(home).model == "credit-default"
    assert not (tmp_path / "ran").exists()


def test_with_accounts_a_push_needs_a_token_with_the_right(
    home: House, url: str, work: Checkout
) -> None:
    work.commit("first", penstock__toml=TOML)
    reader = home.token("otto", "read:*")
    pusher = home.token("ines", "push:credit-*")
    host = url.removeprefix("http://")

    without = work.git("push", f"{url}/git/credit-default", "main")
    wrong = work.git("push", f"http://x:{reader}@{host}/git/credit-default", "main")
    ending = end_soon(home)
    right = work.git("push", f"http://x:{pusher}@{host}/git/credit-default", "main")
    ending.join()

    assert without.returncode == 128
    assert wrong.returncode == 128
    assert "PS835" in wrong.stderr
    assert right.returncode == 0, right.stderr
    assert run_of(home).created_by == "ines"


def test_losing_the_pusher_changes_nothing(home: House, url: str, work: Checkout) -> None:
    work.commit("first", penstock__toml=TOML)
    pushing = subprocess.Popen(
        ["git", "push", f"{url}/git/credit-default", "main"],
        cwd=work.path,
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    ends = time.monotonic() + 20
    found: list[runs.Run] = []
    while not found and time.monotonic() < ends:
        with home.database.read() as connection:
            found = runs.runs(connection)
        time.sleep(0.02)

    os.killpg(pushing.pid, signal.SIGKILL)
    pushing.communicate()
    run = home.move(found[0], RunState.BUILDING, "The stage build runs.")
    home.move(run, RunState.FAILED, "the command ended with 1", ended_by="check")

    assert work.git("ls-remote", f"{url}/git/credit-default", "main").stdout != ""
    assert git.reconcile(home.control) == []


def test_the_same_commit_again_starts_nothing_new(home: House, url: str, work: Checkout) -> None:
    work.commit("first", penstock__toml=TOML)
    ending = end_soon(home)
    work.git("push", f"{url}/git/credit-default", "main")
    ending.join()

    again = work.git("push", f"{url}/git/credit-default", "main")

    assert "Everything up-to-date" in again.stderr
    assert git.reconcile(home.control) == []


def test_a_trigger_that_a_crash_lost_is_made_up_for_once(home: House, work: Checkout) -> None:
    commit = work.commit("first", penstock__toml=TOML)
    repository = home.control.repositories / "credit-default.git"
    git.make_repository(repository)
    work.git("push", "--no-verify", str(repository), "main")

    first, second = git.reconcile(home.control), git.reconcile(home.control)

    assert [(run.commit, run.created_by) for run in first] == [
        (commit, "Ines Duarte <ines@example.org>")
    ]
    assert second == []


def test_a_branch_that_was_only_tried_and_then_released_is_a_run_of_its_own(
    home: House, work: Checkout
) -> None:
    repository = home.control.repositories / "credit-default.git"
    git.make_repository(repository)
    work.commit("first", penstock__toml=TOML)
    work.git("push", str(repository), "main")
    git.reconcile(home.control)
    work.commit("second", train__py="print(2)\n")
    work.git("push", str(repository), "main:try")
    git.reconcile(home.control)

    work.git("push", str(repository), "main")
    healed = git.reconcile(home.control)

    assert [run.trigger for run in healed] == ["push"]


def test_a_branch_without_configuration_does_not_stop_the_others_from_being_healed(
    home: House, work: Checkout
) -> None:
    work.commit("first", train__py="print(1)\n")
    broken = home.control.repositories / "broken.git"
    git.make_repository(broken)
    work.git("push", str(broken), "main")
    work.commit("second", penstock__toml=TOML)
    repository = home.control.repositories / "credit-default.git"
    git.make_repository(repository)
    work.git("push", str(repository), "main")

    assert [run.model for run in git.reconcile(home.control)] == ["credit-default"]


def test_two_first_pushes_at_once_are_two_runs(home: House, url: str, tmp_path: Path) -> None:
    pushers = [Checkout(tmp_path / name) for name in ("one", "two")]
    for number, pusher in enumerate(pushers):
        pusher.commit(f"of {number}", penstock__toml=TOML, train__py=f"print({number})\n")
    ending = end_soon(home, times=2)
    results: list[subprocess.CompletedProcess[str]] = []

    def push(number: int) -> None:
        target = f"{url}/git/credit-default"
        results.append(pushers[number].git("push", target, f"main:b{number}"))

    threads = [threading.Thread(target=push, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in [*threads, ending]:
        thread.join()

    assert [result.returncode for result in results] == [0, 0], results
    assert {run_of(home, 1).seq, run_of(home, 2).seq} == {1, 2}


def test_a_run_that_waits_for_a_person_lets_the_pusher_go(
    home: House, url: str, work: Checkout
) -> None:
    work.commit("first", penstock__toml=TOML)

    def act() -> None:
        from tests.unit import web_seed

        ends = time.monotonic() + 20
        while time.monotonic() < ends:
            with home.database.read() as connection:
                live = runs.live(connection)
            if live:
                web_seed.ask(home, web_seed.check_in_test(home, web_seed.build(home, live[0])))
                return
            time.sleep(0.02)

    acting = threading.Thread(target=act)
    acting.start()
    pushed = work.git("push", f"{url}/git/credit-default", "main")
    acting.join()

    assert pushed.returncode == 0, pushed.stderr
    assert "read the dossier and decide: http://127.0.0.1:8420/approvals/1" in pushed.stderr


def test_a_server_that_has_gone_refuses_the_push_with_a_sentence(
    home: House, work: Checkout, tmp_path: Path
) -> None:
    git.write_hooks(home.control)
    repository = home.control.repositories / "credit-default.git"
    git.make_repository(repository)
    commit = work.commit("first", penstock__toml=TOML)
    subprocess.run(["git", "push", "-q", str(repository), "main:other"], cwd=work.path, check=True)
    environment = {
        "PATH": os.environ["PATH"],
        "PENSTOCK_MODEL": "credit-default",
        "PENSTOCK_HOOK_URL": "http://127.0.0.1:9",
        "PENSTOCK_HOOK_SECRET": "x",
    }

    asked = subprocess.run(
        [home.control.home / "hooks" / "pre-receive"],
        input=f"{'0' * 40} {commit} refs/heads/main\n",
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert asked.returncode == 1
    assert "does not answer" in asked.stdout
    assert asked.stderr == ""


def test_hooks_run_from_a_folder_with_a_blank_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "my home"
    folder.mkdir()
    home = house(folder)
    with listening(home) as url:
        work = Checkout(tmp_path / "work")
        work.commit("first", train__py="print(1)\n")

        assert "PS824" in work.git("push", f"{url}/git/credit-default", "main").stderr


def test_a_push_that_waits_for_a_rollout_says_so(home: House, url: str, work: Checkout) -> None:
    work.commit("first", penstock__toml=TOML)

    def act() -> None:
        ends = time.monotonic() + 20
        while time.monotonic() < ends:
            with home.database.read() as connection:
                live = runs.live(connection)
            if live:
                reason = "Waits until the rollout of credit-default@1 has ended."
                with home.database.write() as connection:
                    runs.note(connection, live[0], reason, now=home.now)
                time.sleep(0.5)
                home.control.acts.abort("ines", live[0].id, "enough")
                return
            time.sleep(0.02)

    acting = threading.Thread(target=act)
    acting.start()
    pushed = work.git("push", f"{url}/git/credit-default", "main")
    acting.join()

    assert "Waits until the rollout of credit-default@1 has ended." in pushed.stderr
    assert "Aborted by ines: enough" in pushed.stderr


def test_the_application_writes_the_hooks_when_it_starts(home: House) -> None:
    assert create_app(home.control) is not None
    with listening(home):
        names = sorted(path.name for path in (home.control.home / "hooks").iterdir())

    assert names == ["post-receive", "pre-receive"]


def test_a_run_cannot_be_started_from_a_commit_that_is_not_there(home: House) -> None:
    git.make_repository(home.control.repositories / "spam.git")
    answer = _internal(home, {"model": "spam", "ref": "refs/heads/main", "commit": "0" * 40})

    assert answer == (404, "PS202")


def _internal(home: House, body: dict[str, str]) -> tuple[int, str]:
    from tests.unit.web_rig import send

    headers = {"Penstock-Hook": home.control.hook_secret}
    answer = send(home, "POST", "/internal/git/received", json=body, headers=headers)
    return answer.status_code, answer.json()["error"]["code"]


def test_the_lines_of_a_run_end_with_what_a_client_exits_with(home: House) -> None:
    from tests.unit.web_rig import get

    run = home.move(home.push(), RunState.BUILDING, "The stage build runs.")
    home.step(run, ("build", "train"), log="a\n\x1b[31mred\x1b[0m\n", reason="joblib model")
    home.found(run, passed("smoke.loads", "loads in 0.2 s"))
    home.move(run, RunState.FAILED, "smoke.rows: 3 rows differ", ended_by="check")

    lines = get(home, f"/api/runs/{run.id}/stream").text.splitlines()

    assert lines[-1] == "exit 5"
    assert "    | red" in lines
    assert "  ok    build/train        passed 12 s  joblib model" in lines
    with pytest.raises(ConflictError):
        home.control.acts.abort("ines", run.id, "")
