"""The command line against a real HTTP server and real git: words, JSON, exit codes."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.build.project.starter import init
from penstock.cli.running import run
from penstock.cli.session import git_setting
from tests.unit.penstock_server import FakeServer, serving

MODELS = {
    "models": [
        {"name": "churn", "state": "Degraded", "champion": 12, "quality": "AUC 0.78 < 0.80"},
        {"name": "credit", "state": "Canary", "champion": 41, "challenger": 42, "share": 5},
        {"name": "spam", "state": "Healthy", "champion": 3},
    ],
    "next": None,
}
RUN = {"id": 7, "model": "m", "number": 2, "state": "succeeded", "reason": ""}
WAITING = {**RUN, "state": "awaiting_approval", "approval": 4}
APPROVAL = {"id": 4, "model": "m", "number": 2, "markdown": "# Put m@2 into production?"}


@dataclass
class Result:
    """What one call of the program left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Penstock = Callable[..., Result]


@pytest.fixture
def penstock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Penstock:
    """The program, run in an empty folder with an environment of its own."""
    for name in ("PENSTOCK_SERVER", "PENSTOCK_TOKEN", "FORCE_COLOR", "NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    folder = tmp_path / "late-payers"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> Result:
        code = run(list(arguments))
        seen = capsys.readouterr()
        return Result(code, seen.out, seen.err)

    return call


@pytest.fixture
def server(penstock: Penstock, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeServer]:
    with serving() as fake:
        monkeypatch.setenv("PENSTOCK_SERVER", fake.url)
        yield fake


def git(*arguments: str) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    done = subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository() -> None:
    """Make the current folder a committed model repository."""
    init(Path.cwd(), "late-payers")
    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-qm", "first")


# A project: init, check, plan


def test_init_says_what_it_made_and_what_it_kept(penstock: Penstock) -> None:
    Path("CARD.md").write_text("mine")

    result = penstock("init")

    assert result.code == 0
    assert "Made  penstock.toml" in result.out
    assert "Kept  CARD.md           (was there)" in result.out
    assert result.err == "Next:  penstock check\n"
    assert 'name = "late-payers"' in Path("penstock.toml").read_text()


def test_init_refuses_a_bad_name_with_all_that_is_needed_to_mend_it(penstock: Penstock) -> None:
    result = penstock("init", "Late Payers")

    assert result.code == 5
    assert "PS015" in result.err
    assert '"late-payers"' in result.err


def test_check_ends_with_5_when_there_is_an_error(penstock: Penstock) -> None:
    repository()
    Path("train.py").unlink()

    result = penstock("check")

    assert result.code == 5
    assert "✗ run                   PS030" in result.out
    assert "1 error, 2 warnings. Nothing was sent." in result.out


def test_check_forgives_warnings_unless_it_is_strict(penstock: Penstock) -> None:
    repository()

    assert penstock("check").code == 0
    assert penstock("check", "--strict").code == 5


def test_check_as_json_is_one_object_with_every_finding(penstock: Penstock) -> None:
    result = penstock("--json", "check")

    assert result.json["schema"] == "penstock.check/1"
    assert result.json["data"]["findings"][0]["code"] == "PS018"
    assert result.json["data"]["facts"] == []


def test_check_shows_each_fact_with_its_file_and_how_to_overrule_it(penstock: Penstock) -> None:
    repository()

    facts = {fact["name"]: fact for fact in penstock("--json", "check").json["data"]["facts"]}

    assert facts["run"] == {
        "name": "run",
        "value": "python train.py",
        "source": "train.py",
        "overrule": "Set [build] run in penstock.toml.",
    }
    assert facts["task"]["value"] == "classification"
    assert set(facts) == {"run", "model", "dependencies", "evaluate", "task"}
    shown = penstock("check").out
    assert "python train.py" in shown
    assert "Set [build] run in penstock.toml." in shown


def test_plan_works_without_a_server_and_says_so(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository()
    monkeypatch.setenv("PENSTOCK_SERVER", "http://127.0.0.1:1")

    result = penstock("plan")

    assert result.code == 0
    assert "python train.py, no network, at most 60 min" in result.out
    assert "does not answer, so this plan knows no champion" in result.out
    assert "beside the champion, if there is one" in result.out


def test_plan_names_the_champion_that_the_server_tells(
    penstock: Penstock, server: FakeServer
) -> None:
    repository()
    server.tell("GET /api/models/late-payers", {"name": "late-payers", "champion": 3})

    assert "beside late-payers@3 (@champion)" in penstock("plan").out


def test_plan_of_a_model_that_the_server_does_not_know_is_a_first_version(
    penstock: Penstock, server: FakeServer
) -> None:
    repository()

    assert "alone: a first version" in penstock("plan").out


# To the server: connect, push


def test_connect_sets_the_remote_and_keeps_the_token_from_other_eyes(
    penstock: Penstock, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository()
    server.tell("GET /api/health", {})

    result = penstock("connect", server.url, "--token", "pst_1_secret")

    assert result.code == 0
    assert git("remote", "get-url", "penstock") == f"{server.url}/git/late-payers"
    kept = Path(".git/penstock.config")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert git_setting("penstock.token") == "pst_1_secret"
    assert git("config", f"http.{server.url}/.extraHeader").startswith("Authorization: Basic ")
    assert "pst_1_secret" not in result.out + result.err


def test_connect_twice_leaves_one_remote_and_the_newer_token(
    penstock: Penstock, server: FakeServer
) -> None:
    repository()
    server.tell("GET /api/health", {})
    penstock("connect", server.url, "--token", "pst_1_old")

    penstock("connect", server.url, "--token", "pst_1_new")

    assert git_setting("penstock.token") == "pst_1_new"
    assert git("config", "--get-all", "include.path") == "penstock.config"


def test_the_repositorys_token_goes_to_its_own_server_only(
    penstock: Penstock, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository()
    server.tell("GET /api/health", {})
    server.tell("GET /api/models", MODELS)
    penstock("connect", server.url, "--token", "pst_1_secret")
    with serving() as other:
        other.tell("GET /api/models", MODELS)

        penstock("status")
        penstock("--server", other.url, "status")

        assert "authorization" not in other.asked[-1].headers
    assert server.asked[-1].headers["authorization"] == "Bearer pst_1_secret"


def test_connect_works_while_the_server_is_down(penstock: Penstock) -> None:
    repository()

    result = penstock("connect", "http://127.0.0.1:1")

    assert result.code == 0
    assert "The remote is set all the same." in result.err


def test_connect_outside_a_repository_says_what_to_do(penstock: Penstock) -> None:
    result = penstock("connect", "http://127.0.0.1:1")

    assert (result.code, "git init" in result.err) == (2, True)


def bare_remote(tmp_path: Path, hook: str) -> None:
    """Make a remote whose hook speaks as the server's does."""
    remote = tmp_path / "remote.git"
    git("init", "-q", "--bare", str(remote))
    path = remote / "hooks/post-receive"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{hook}\n")
    path.chmod(0o755)
    git("remote", "add", "penstock", str(remote))


def test_push_checks_pushes_and_returns_the_outcome_of_its_run(
    penstock: Penstock, server: FakeServer, tmp_path: Path
) -> None:
    repository()
    bare_remote(tmp_path, 'echo "Penstock run 7 for late-payers@2 started"')
    server.lines("GET /api/runs/7/stream?paced=true", "train\nexit 5\n")
    server.tell("GET /api/runs/7", {**RUN, "state": "failed", "reason": "quality"})

    result = penstock("push")

    assert result.code == 5
    assert "remote: Penstock run 7 for late-payers@2 started" in result.err
    assert "m@2 · run 7 · failed  quality" in result.out
    assert "penstock logs 7" in result.err


def test_push_without_watching_leaves_once_the_run_is_recorded(
    penstock: Penstock, server: FakeServer, tmp_path: Path
) -> None:
    repository()
    bare_remote(tmp_path, 'echo "Penstock run 7 for late-payers@2 started"; exec sleep 20')

    result = penstock("--json", "push", "--no-watch")

    assert result.code == 0
    assert result.json["data"]["run"] == 7
    assert server.asked == []


def test_push_of_a_project_with_errors_sends_nothing(
    penstock: Penstock, server: FakeServer, tmp_path: Path
) -> None:
    repository()
    bare_remote(tmp_path, "exit 0")
    Path("train.py").unlink()

    result = penstock("push")

    assert result.code == 5
    assert not (tmp_path / "remote.git/refs/heads/main").exists()


def test_push_of_a_commit_that_is_there_finds_its_run(
    penstock: Penstock, server: FakeServer, tmp_path: Path
) -> None:
    repository()
    bare_remote(tmp_path, "exit 0")
    commit = git("rev-parse", "HEAD")
    git("push", "-q", "penstock", "main")
    server.tell("GET /api/runs?model=late-payers", {"runs": [{"id": 7, "commit": commit}]})
    server.lines("GET /api/runs/7/stream?paced=true", "exit 0\n")
    server.tell("GET /api/runs/7", RUN)

    assert penstock("push").code == 0


def test_a_refused_push_ends_with_an_error_of_its_own(penstock: Penstock, tmp_path: Path) -> None:
    repository()
    git("remote", "add", "penstock", str(tmp_path / "nowhere.git"))

    result = penstock("push")

    assert result.code == 8
    assert "PS065" in result.err


def test_push_without_a_remote_names_the_command_that_sets_it(penstock: Penstock) -> None:
    repository()

    result = penstock("push")

    assert (result.code, "penstock connect URL" in result.err) == (2, True)


# Looking


def test_status_shows_what_is_not_quiet(penstock: Penstock, server: FakeServer) -> None:
    server.tell("GET /api/models", MODELS)

    result = penstock("status")

    assert result.out.splitlines() == [
        "STATE       IN PRODUCTION  NEXT           QUALITY          WAITS FOR",
        "✗ Degraded  churn@12                      AUC 0.78 < 0.80",
        "● Canary    credit@41      credit@42 5 %",
        "1 more healthy or quiet. All: penstock list",
    ]


def test_status_with_attention_ends_with_9_when_somebody_is_needed(
    penstock: Penstock, server: FakeServer
) -> None:
    server.tell("GET /api/models", MODELS)
    assert penstock("status", "--attention").code == 9

    server.tell("GET /api/models", {"models": MODELS["models"][2:]})  # type: ignore[index]
    assert penstock("status", "--attention").code == 0


def test_status_as_json_hands_the_servers_facts_on(penstock: Penstock, server: FakeServer) -> None:
    server.tell("GET /api/models", MODELS)

    result = penstock("--json", "status")

    assert result.json == {"schema": "penstock.status/1", "data": MODELS}
    assert result.err == ""


def test_list_follows_the_pages(penstock: Penstock, server: FakeServer) -> None:
    server.tell("GET /api/models?q=c", {"models": MODELS["models"], "next": "spam"})
    server.tell("GET /api/models?q=c&after=spam", {"models": [{"name": "z", "state": "Retired"}]})

    result = penstock("--json", "list", "c")

    assert [one["name"] for one in result.json["data"]] == ["churn", "credit", "spam", "z"]


def test_an_empty_list_is_an_empty_list(penstock: Penstock, server: FakeServer) -> None:
    server.tell("GET /api/models", {"models": [], "next": None})

    assert penstock("--json", "list").json["data"] == []


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--exit-status"], 6)])
def test_watch_follows_until_the_run_waits(
    penstock: Penstock, server: FakeServer, flags: list[str], code: int
) -> None:
    server.lines("GET /api/runs/7/stream?paced=true", "✓ build\n✓ test\nexit 6\n")
    server.tell("GET /api/runs/7", WAITING)

    result = penstock("watch", "7", *flags)

    assert result.code == code
    assert result.out == "✓ build\n✓ test\n‖ m@2 · run 7 · awaiting approval\n"
    assert result.err == "Next:  penstock approve 4\n"


def test_watch_without_a_number_means_this_projects_newest_run(
    penstock: Penstock, server: FakeServer
) -> None:
    repository()
    server.tell("GET /api/runs?model=late-payers", {"runs": [{"id": 7}, {"id": 6}]})
    server.lines("GET /api/runs/7/stream?paced=true", "exit 0\n")
    server.tell("GET /api/runs/7", RUN)

    assert penstock("watch").code == 0


def test_watch_elsewhere_without_a_number_is_wrong_usage(
    penstock: Penstock, server: FakeServer
) -> None:
    assert penstock("watch").code == 2


def test_watch_as_json_is_one_object_a_line(penstock: Penstock, server: FakeServer) -> None:
    server.lines("GET /api/runs/7/stream?paced=true", "one\nexit 0\n")
    server.tell("GET /api/runs/7", RUN)

    lines = [json.loads(line) for line in penstock("--json", "watch", "7").out.splitlines()]

    assert lines[0] == {"schema": "penstock.line/1", "data": {"line": "one"}}
    assert lines[1] == {"schema": "penstock.run/1", "data": RUN}


def test_logs_are_put_together_from_pieces(penstock: Penstock, server: FakeServer) -> None:
    server.tell("GET /api/runs/7/log?after=0", {"text": "a\nb\n", "next": 4, "more": True})
    server.tell("GET /api/runs/7/log?after=4", {"text": "c\n", "next": 6, "more": False})

    assert penstock("logs", "7").out == "a\nb\nc\n"


def test_the_last_lines_are_asked_of_the_server(penstock: Penstock, server: FakeServer) -> None:
    piece = {"text": "c\n", "next": 6, "more": False}
    server.tell("GET /api/runs/7/log?after=0&tail=1", piece)
    server.tell("GET /api/models/m/versions/3", {"run": 7})

    assert penstock("logs", "7", "--tail", "1").out == "c\n"
    assert penstock("logs", "m@3", "--tail", "1").out == "c\n"


def test_lines_with_a_text_are_found_in_a_run_and_across_a_model(
    penstock: Penstock, server: FakeServer
) -> None:
    line = {"run": 7, "step": "build/train", "attempt": 1, "line": 3, "text": "loss 0.3"}
    found = {"lines": [line], "ended": "end", "sentence": "1 line holds “loss”."}
    server.tell("GET /api/runs/7/log/search?q=loss", found)
    server.tell("GET /api/models/m/log/search?q=loss", found)
    none: dict[str, Any] = {"lines": [], "ended": "end", "sentence": "No line holds “x”."}
    server.tell("GET /api/runs/7/log/search?q=x", none)

    assert penstock("logs", "7", "--grep", "loss").out == "build/train:3  loss 0.3\n"
    assert penstock("logs", "m", "--grep", "loss").out == "run 7  build/train:3  loss 0.3\n"
    nothing = penstock("logs", "7", "--grep", "x")
    assert (nothing.code, nothing.out, nothing.err) == (1, "", "No line holds “x”.\n")


def test_history_is_a_table(penstock: Penstock, server: FakeServer) -> None:
    entry = {"at": "2026-11-23T14:31:05+00:00", "actor": "maya", "text": "approved m@2"}
    server.tell("GET /api/models/m/history", {"entries": [entry]})

    assert penstock("history", "m@2").out == "2026-11-23 14:31  maya  approved m@2\n"


# Deciding


@pytest.mark.parametrize(
    ("arguments", "what", "body"),
    [
        (["promote", "m", "--to", "25%", "--yes"], "promote", {"to": 25, "reason": ""}),
        (["promote", "m@2", "--yes"], "promote", {"reason": ""}),
        (["pause", "m", "-m", "lunch"], "pause", {"reason": "lunch"}),
        (["resume", "m"], "resume", {"reason": ""}),
        (["rollback", "m", "--to", "@3", "--yes"], "rollback", {"to": 3, "reason": ""}),
    ],
)
def test_a_decision_is_one_request_and_its_answer(
    penstock: Penstock, server: FakeServer, arguments: list[str], what: str, body: Any
) -> None:
    server.tell(f"POST /api/models/m/{what}", {"text": "It is so.", "next": "penstock status"})

    result = penstock(*arguments)

    assert (result.code, result.out) == (0, "✓ It is so.\n")
    assert result.err == "Next:  penstock status\n"
    assert server.asked[0].json == body


@pytest.mark.parametrize(
    "arguments", [["rollback", "m"], ["promote", "m"], ["abort", "7"], ["approve", "4"]]
)
def test_what_changes_production_is_not_done_unasked(
    penstock: Penstock, server: FakeServer, arguments: list[str]
) -> None:
    server.tell("GET /api/approvals/4", APPROVAL)

    result = penstock(*arguments)

    assert (result.code, "Add --yes." in result.err) == (2, True)
    assert not [asked for asked in server.asked if asked.method == "POST"]


def test_approve_shows_the_summary_first(penstock: Penstock, server: FakeServer) -> None:
    server.tell("GET /api/approvals/4", APPROVAL)
    server.tell("POST /api/approvals/4/approve", {})

    result = penstock("approve", "4", "--yes", "-m", "good")

    assert result.out == "# Put m@2 into production?\n✓ m@2 is approved.\n"
    assert server.asked[1].json == {"reason": "good"}


def test_reject_needs_a_reason(penstock: Penstock, server: FakeServer) -> None:
    result = penstock("reject", "318")

    assert result.code == 2
    assert result.err == (
        '✗ PS054 A reason is needed to say no.\n  Try: penstock reject 318 -m "…"\n'
    )
    assert server.asked == []


def test_retry_and_abort_name_the_run(penstock: Penstock, server: FakeServer) -> None:
    server.tell("POST /api/runs/7/retry", {})
    server.tell("POST /api/runs/7/abort", {})

    assert penstock("retry", "7").err == "Next:  penstock watch 7\n"
    assert penstock("abort", "7", "--yes").out == "✓ Run 7 ends.\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["promote", "m", "--to", "0%"], "PS057"),
        (["promote", "m", "--to", "a lot"], "PS057"),
        (["rollback", "m", "--to", "old"], "PS058"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(
    penstock: Penstock, arguments: list[str], code: str
) -> None:
    result = penstock(*arguments, "--yes")

    assert (result.code, code in result.err) == (2, True)


# Production


def test_labels_are_sent_typed_and_the_answer_is_told(
    penstock: Penstock, server: FakeServer
) -> None:
    Path("labels.csv").write_text("pay,late\np1,1\np2,0.5\np3,yes\np4,True\n", "utf-8-sig")
    bad = {"row": 2, "id": "p2", "why": "its label is empty"}
    told = {"kept": 3, "new": 2, "corrected": 1, "bad": 1, "matched": 2, "unmatched": 1}
    examples = {"bad": [bad], "corrected": [], "unmatched": ["p9"]}
    server.tell("POST /api/models/m/labels", {**told, "examples": examples})

    result = penstock("label", "m", "labels.csv", "--id", "pay", "--label", "late")

    assert [one["label"] for one in server.asked[0].json["labels"]] == [1, 0.5, "yes", True]
    assert "3 labels are kept: 2 new, 1 corrected" in result.out
    assert "1 belong to none yet: p9" in result.out
    assert "row 2: its label is empty" in result.out


def test_labels_are_read_from_parquet_with_their_times(
    penstock: Penstock, server: FakeServer
) -> None:
    at = datetime(2026, 3, 1, 8, tzinfo=UTC)
    rows = pa.table({"id": ["p1"], "value": [1.5], "known": [at]})
    pq.write_table(rows, "labels.parquet")
    server.tell("POST /api/models/m/labels", {"kept": 1, "new": 1})

    result = penstock("label", "m", "labels.parquet", "--at", "known")

    (sent,) = server.asked[0].json["labels"]
    assert sent == {"prediction_id": "p1", "label": 1.5, "at": "2026-03-01T08:00:00+00:00"}
    assert result.code == 0


@pytest.mark.parametrize(
    ("content", "code"), [(b"id,y\n", "PS055"), (b"id,value\n\xff,1\n", "PS056"), (None, "PS056")]
)
def test_a_file_of_labels_that_cannot_be_used_is_said_to_be(
    penstock: Penstock, server: FakeServer, content: bytes | None, code: str
) -> None:
    if content is not None:
        Path("labels.csv").write_bytes(content)

    result = penstock("label", "m", "labels.csv")

    assert (result.code, code in result.err, server.asked) == (2, True, [])


def test_monitor_shows_each_check_with_its_verdict(penstock: Penstock, server: FakeServer) -> None:
    checks = [{"check": "drift.age", "verdict": "undecided", "summary": "84 rows, 100 needed"}]
    server.tell(
        "GET /api/models/m/monitor",
        {"periods": [{"name": "day", "due": "2026-11-23", "results": checks}]},
    )

    result = penstock("monitor", "m")

    assert result.out == (
        "day  2026-11-23\n▲ undecided  drift.age               84 rows, 100 needed\n"
    )


def test_monitor_runs_a_period_on_demand(penstock: Penstock, server: FakeServer) -> None:
    server.tell("POST /api/models/m/monitor", {"text": "Started."})

    assert penstock("monitor", "m", "--run", "day").out == "Started.\n"


# The machine


def test_tokens_are_made_listed_and_revoked_without_a_server(penstock: Penstock) -> None:
    made = penstock("--json", "token", "create", "ada@example.org", "--role", "approver")
    token = made.json["data"]["token"]
    token_id = token.split("_")[1]

    listed = penstock("token", "list")
    revoked = penstock("token", "revoke", token_id)

    assert token.startswith("pst_")
    assert token_id in listed.out
    assert token not in listed.out
    assert revoked.code == 0
    assert "revoked" in penstock("token", "list").out


def test_a_token_needs_a_known_role(penstock: Penstock) -> None:
    result = penstock("token", "create", "ada", "--role", "king")

    assert (result.code, "PS071" in result.err) == (2, True)


def test_the_journal_is_verified_and_shown_without_a_server(penstock: Penstock) -> None:
    penstock("token", "create", "ada")

    assert penstock("audit", "verify").out == "✓ 1 entries, chain whole\n"
    assert "token.created" in penstock("audit", "show").out


def test_a_broken_journal_ends_with_7(penstock: Penstock, tmp_path: Path) -> None:
    import sqlite3

    penstock("token", "create", "ada")
    database = sqlite3.connect(tmp_path / "home/penstock.db")
    try:
        # The database itself forbids it, so whoever edits the file removes that guard first.
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in triggers.fetchall():
            database.execute(f"DROP TRIGGER {name}")
        database.execute("UPDATE journal SET body = '{}'")
        database.commit()
    finally:
        database.close()

    assert penstock("audit", "verify").code == 7


def test_the_journal_of_an_empty_home_is_not_called_whole(penstock: Penstock) -> None:
    result = penstock("audit", "verify")

    assert (result.code, "PS070" in result.err) == (8, True)


def test_settings_are_shown_with_their_defaults(penstock: Penstock) -> None:
    init(Path.cwd(), "late-payers")

    result = penstock("config", "show")

    assert "approval.people = 1\n" in result.out
    assert 'canary.hold = "24 h"\n' in result.out


def test_the_schema_is_printed_for_editors(penstock: Penstock) -> None:
    assert "canary" in penstock("config", "schema").json["properties"]


def test_a_word_is_explained_and_a_misspelt_one_is_guessed(penstock: Penstock) -> None:
    assert penstock("explain", "Canary").out.startswith("canary: ")

    result = penstock("explain", "canry")

    assert (result.code, "canary" in result.err) == (3, True)


def test_a_part_that_is_not_one_is_refused_before_anything_starts(penstock: Penstock) -> None:
    result = penstock("serve", "--only", "kitchen")

    assert (result.code, "PS059" in result.err) == (2, True)


def test_two_parts_on_one_port_are_refused_before_anything_starts(penstock: Penstock) -> None:
    result = penstock("serve", "--port", "8421")

    assert (result.code, "PS016" in result.err) == (5, True)


# Rules for all commands


def test_an_unreachable_server_is_what_why_and_what_to_do(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_SERVER", "http://127.0.0.1:1")

    result = penstock("status")

    assert (result.code, result.out) == (8, "")
    assert result.err.startswith(
        "✗ PS801 Cannot reach http://127.0.0.1:1 (connection refused).\n  Try: "
    )


def test_errors_are_json_on_stdout_when_json_is_wanted(
    penstock: Penstock, server: FakeServer
) -> None:
    result = penstock("--json", "status", "nothing")

    assert (result.code, result.err) == (3, "")
    assert result.json["error"]["code"] == "PS104"
    assert result.json["error"]["docs"] == "docs/errors#ps104"


def test_faults_of_a_file_are_json_each_with_its_line(penstock: Penstock) -> None:
    Path("penstock.toml").write_text('[model]\nname = "m"\nrisk = "hihg"\n')

    faults = penstock("--json", "plan").json["error"]["faults"]

    assert [(one["code"], one["line"]) for one in faults] == [("PS015", 3)]


@pytest.mark.parametrize("wants_json", [True, False])
def test_wrong_usage_ends_with_2(penstock: Penstock, *, wants_json: bool) -> None:
    result = penstock(*(["--json"] if wants_json else []), "statsu")

    assert result.code == 2
    assert "PS051" in (result.out if wants_json else result.err)


def test_without_a_command_there_is_help(penstock: Penstock) -> None:
    result = penstock()

    assert result.code == 2
    assert "approve" in result.out + result.err


def test_a_fault_of_our_own_leaves_its_traceback_in_a_file(
    penstock: Penstock, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server.tell("GET /api/runs?model=late-payers", {"runs": [{"no": "id"}]})
    repository()

    result = penstock("watch")

    assert result.code == 1
    assert "PS090 Penstock has a fault of its own: KeyError" in result.err
    assert "Traceback" not in result.err
    (left,) = tmp_path.glob("penstock-*")
    assert "KeyError" in left.read_text()


def test_colours_are_for_terminals_and_can_be_forced(
    penstock: Penstock, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.tell("GET /api/models", MODELS)
    assert "\x1b[" not in penstock("status").out

    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[31m✗\x1b[0m Degraded" in penstock("status").out
    assert "\x1b[" not in penstock("--no-color", "status").out


def program(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a process of its own."""
    code = "from penstock.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, **environ},
    )


def test_marks_have_ascii_twins_where_the_encoding_needs_them(server: FakeServer) -> None:
    server.tell("GET /api/models", MODELS)

    done = program("status", PYTHONIOENCODING="ascii", PENSTOCK_SERVER=server.url)

    assert "FAIL Degraded" in done.stdout
    assert "* Canary" in done.stdout


def test_the_version_is_told_without_importing_anything_heavy() -> None:
    done = program("--version", PYTHONPROFILEIMPORTTIME="1")

    assert done.stdout.startswith("penstock ")
    assert "typer" not in done.stderr


def test_a_thin_command_imports_no_library_of_the_server(server: FakeServer) -> None:
    server.tell("GET /api/models", MODELS)

    done = program("status", PYTHONPROFILEIMPORTTIME="1", PENSTOCK_SERVER=server.url)

    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()
    }
    assert done.returncode == 0
    assert "typer" in imported
    # Not pydantic: typer itself converts each argument with it.
    assert not imported & {"pyarrow", "numpy", "sqlalchemy", "rich", "dbos", "pandas"}


def test_a_global_flag_may_stand_behind_the_command(server: FakeServer) -> None:
    server.tell("GET /api/models", MODELS)

    done = program("status", "--json", PENSTOCK_SERVER=server.url)

    assert json.loads(done.stdout)["data"] == MODELS


def test_a_reader_that_leaves_early_is_no_error(server: FakeServer) -> None:
    many = [{"name": f"model-{n}", "state": "Failed", "champion": n} for n in range(5000)]
    server.tell("GET /api/models", {"models": many})
    code = f'"{sys.executable}" -c "from penstock.cli import main; main()" status | head -1'

    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PENSTOCK_SERVER": server.url},
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("STATE")


def at_a_terminal(server: FakeServer, answer: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Run the program with a terminal in front of it, and type an answer."""
    import pty

    ours, theirs = pty.openpty()
    environ = {key: value for key, value in os.environ.items() if key != "CI"}
    code = "from penstock.cli import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**environ, "PENSTOCK_SERVER": server.url},
    )
    try:
        os.write(ours, f"{answer}\n".encode())
        running.wait(timeout=60)
    finally:
        os.close(theirs)
        os.close(ours)
    return running


@pytest.mark.parametrize(("answer", "code", "acts"), [("y", 0, 1), ("n", 2, 0), ("", 2, 0)])
def test_a_rollback_is_done_when_a_person_says_yes(
    server: FakeServer, answer: str, code: int, acts: int
) -> None:
    server.tell("POST /api/models/m/rollback", {})

    done = at_a_terminal(server, answer, "rollback", "m")

    assert (done.returncode, len(server.asked)) == (code, acts)


@pytest.mark.parametrize(("answer", "code", "acts"), [("m@2", 0, 1), ("yes", 2, 0)])
def test_an_approval_wants_the_version_typed(
    server: FakeServer, answer: str, code: int, acts: int
) -> None:
    server.tell("GET /api/approvals/4", APPROVAL)
    server.tell("POST /api/approvals/4/approve", {})

    done = at_a_terminal(server, answer, "approve", "4")

    posts = [asked for asked in server.asked if asked.method == "POST"]
    assert (done.returncode, len(posts)) == (code, acts)


# Experiments

TRACKED: dict[str, Any] = {
    "model": "churn",
    "number": 4,
    "run": 9,
    "runs": [
        {"id": "b", "name": "trial 1", "parent": "a", "experiment": "churn"}
        | {"status": "FINISHED", "params": {"C": "1.0"}, "metrics": {"auc": 0.81234567}},
        {"id": "a", "name": "search", "parent": None, "experiment": "churn"}
        | {"status": "FINISHED", "params": {}, "metrics": {}},
        {"id": "c", "name": "lost", "parent": None, "experiment": "other"}
        | {"status": "FAILED", "params": {"note": "x" * 90}, "metrics": {}},
    ],
    "models": [],
    "chosen": {"name": "best", "run": "b", "format": "mlflow", "why": "the only model logged"},
    "metrics": {"auc": 0.81234567},
    "notes": ["1 artifact of 9 bytes not stored."],
}


def test_experiments_shows_runs_nested_with_what_they_logged(
    penstock: Penstock, server: FakeServer
) -> None:
    server.tell("GET /api/models/churn/experiments?number=4", TRACKED)
    server.tell("GET /api/models/churn/experiments", TRACKED)

    result = penstock("experiments", "churn@4")

    assert result.code == 0
    assert result.out.splitlines() == [
        "churn@4 · run 9",
        "RUN          EXPERIMENT  STATUS    PARAMETERS                     METRICS",
        "search       churn       finished",
        "  trial 1 *  churn       finished  C=1.0                          auc=0.8123",
        "lost         other       failed    note=xxxxxxxxxxxxxxxxxxxxxxx…",
        "model: best (mlflow), the only model logged",
        "the project's own figures: auc=0.8123",
    ]
    assert "1 artifact of 9 bytes not stored." in result.err
    assert penstock("--json", "experiments", "churn").json["data"] == TRACKED


def test_experiments_of_a_build_without_mlflow_says_so(
    penstock: Penstock, server: FakeServer
) -> None:
    server.tell("GET /api/models/churn/experiments", {**TRACKED, "runs": [], "notes": []})

    assert "Nothing was tracked with MLflow." in penstock("experiments", "churn").out


def test_experiments_of_something_that_is_no_version_is_refused(penstock: Penstock) -> None:
    result = penstock("experiments", "churn@best")

    assert result.code == 2
    assert "PS058" in result.err


# A secret: set, list, remove


def test_a_secret_is_read_from_stdin_and_shown_by_its_name_only(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hush-hush\nfalse\n"))
    options = ["--models", "credit-*", "--allow", "s3://lake/"]

    made = penstock("secret", "set", "lake", "key=-", "anon=-", *options)

    assert made.code == 0, made.err
    file = tmp_path / "home/secrets/named/lake.toml"
    assert file.read_text().splitlines()[2:] == ['key = "hush-hush"', "anon = false"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert penstock("secret", "list").out == "lake\n"
    assert "hush" not in penstock("audit", "show").out + made.out + made.err
    assert penstock("secret", "remove", "lake").code == 0
    assert penstock("--json", "secret", "list").json["data"] == []


@pytest.mark.parametrize("key", ["key=hush-hush", "key"])
def test_a_secret_on_the_command_line_is_refused(penstock: Penstock, key: str) -> None:
    result = penstock("secret", "set", "lake", key, "--models", "m", "--allow", "s3://lake/")

    assert (result.code, "PS049" in result.err) == (2, True)
    assert "hush" not in result.err


def test_a_card_is_shown_and_its_gaps_are_said(penstock: Penstock, server: FakeServer) -> None:
    told = {"markdown": "# m@3\n", "gaps": ["risks"], "risk": "high"}
    server.tell("GET /api/models/m/versions/3/card", told)

    found = penstock("card", "m@3")

    assert found.out == "# m@3\n"
    assert "nothing of risks: at risk high nobody can approve this." in found.err
    assert penstock("card", "m").code == 2
