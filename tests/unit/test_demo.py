"""The demo, without a server: its data, its callers, its voice, and when an act is repeated."""

from __future__ import annotations

import csv
import http.server
import importlib.util
import io
import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from penstock.client import Client
from penstock.config import ServerSettings, parse
from penstock.demo.acts import Act, Play, canary, perform
from penstock.demo.repository import PROJECTS, Repository, diabetes_files, digits_files, odd
from penstock.demo.repository import pictures as all_pictures
from penstock.demo.stage import DIABETES, DIGITS, Stage, free_port
from penstock.demo.traffic import Traffic
from penstock.demo.voice import Voice
from penstock.domain import Environment, Rollout, RolloutState, Run, RunState
from penstock.errors import UnreachableError

NOW = datetime(2026, 11, 2, 9, tzinfo=UTC)


# ---- the data


def test_only_callers_have_pictures_that_the_guard_refuses_six_in_a_hundred() -> None:
    guard = module(PROJECTS / "digits" / "guard.py").Guard()
    known = {name: pd.read_csv(io.StringIO(text)) for name, text in digits_files().items()}

    pixels, _ = all_pictures()
    sent = pd.DataFrame(pixels, columns=[f"p{number:02}" for number in range(64)])

    assert len(known["holdout.csv"]) == 600
    for rows in known.values():
        assert guard.transform(rows) is rows
    assert 0.05 < odd(pixels).mean() < 0.07
    with pytest.raises(ValueError, match="no digit"):
        guard.transform(sent[odd(pixels)].head(1))


def test_training_and_holdout_share_no_row() -> None:
    for files in (digits_files(), diabetes_files()):
        train, holdout = (list(csv.reader(io.StringIO(files[f"{n}.csv"])))[1:] for n in PARTS)

        assert train
        assert holdout
        assert not {tuple(row) for row in train} & {tuple(row) for row in holdout}


def test_both_sexes_are_many_enough_to_be_judged() -> None:
    rows = csv.DictReader(io.StringIO(diabetes_files()["holdout.csv"]))
    counts = Counter(row["sex"] for row in rows)

    assert set(counts) == {"1", "2"}
    assert min(counts.values()) >= 100


@pytest.mark.parametrize("name", ["digits", "diabetes"])
def test_the_projects_settings_are_without_fault(name: str) -> None:
    config = parse((PROJECTS / name / "penstock.toml").read_text())

    assert config.model.name in {DIGITS, DIABETES}


def test_a_push_that_git_refuses_is_told_with_gits_own_words(tmp_path: Path) -> None:
    voice, heard = spoken()
    repository = Repository(tmp_path / "digits", "digits", {}, str(tmp_path / "nothing"))

    repository.push("first", voice).join(20)

    assert 'git commit -m "first"' in heard.text
    assert "does not appear to be a git repository" in heard.text


def test_a_repository_that_cannot_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"PS883 git remote failed in .*digits"):
        Repository(tmp_path / "digits", "digits", {}, "--no-such")


def test_a_change_reaches_the_server(tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "init", "--quiet", "--bare", bare], check=True)
    repository = Repository(tmp_path / "digits", "digits", {"train.csv": "p00\n1\n"}, str(bare))
    repository.change("train.py", "ROWS = 1100", "ROWS = 60")

    repository.push("fewer", spoken()[0]).join(20)

    shown = subprocess.run(
        ["git", "-C", bare, "show", "main:train.py"], check=True, capture_output=True, text=True
    )
    assert "ROWS = 60" in shown.stdout


# ---- callers


def test_every_answer_counts_and_what_is_no_200_counts_as_failed() -> None:
    statuses = iter([200, 503])

    with answering(lambda: next(statuses, 200)) as (port, bodies):
        with Traffic(port, np.ones((3, 64))) as traffic:
            traffic.begin()
            wait_for(lambda: traffic.sent >= 20)

    assert traffic.failed == 1
    assert set(bodies) == {1.0}


def test_a_broken_connection_counts_as_failed() -> None:
    with Traffic(free_port(), np.ones((1, 64))) as traffic:
        traffic.begin()
        wait_for(lambda: traffic.sent >= 3)

    assert traffic.failed == traffic.sent


def test_after_the_scanner_changed_negatives_are_sent() -> None:
    with answering(lambda: 200) as (port, bodies):
        with Traffic(port, np.ones((3, 64))) as traffic:
            traffic.invert()
            traffic.begin()
            wait_for(lambda: traffic.sent >= 5)

    assert set(bodies) == {15.0}


# ---- the voice


def test_without_a_terminal_what_moves_is_not_repeated_at_each_look() -> None:
    voice, heard = spoken()

    for _ in range(50):
        voice.moving("digits@1 building")
    voice.say("digits@1 serves", "passed")
    voice.quote("remote: [red]as it is[/red]")

    assert "building" not in heard.text
    assert "✓ digits@1 serves" in heard.text
    assert "remote: [red]as it is[/red]" in heard.text


def test_a_stream_that_knows_only_ascii_gets_words_for_marks() -> None:
    heard = Heard("ascii")

    Voice(heard).say("digits@1 · serves", "passed")

    assert "ok digits@1 ? serves" in heard.text


# ---- when an act is repeated


def test_a_healthy_version_that_its_canary_stopped_is_pushed_once_more() -> None:
    told = played(ended(RunState.ROLLED_BACK), ended(RunState.SUCCEEDED))

    run = canary(told, "All pixels", wanted=RunState.SUCCEEDED)

    assert (run.number, run.state) == (2, RunState.SUCCEEDED)
    assert stage_of(told).messages == ["All pixels", "All pixels, once more"]
    assert "Played once more." in stage_of(told).heard.text


def test_a_version_that_is_stopped_twice_is_not_pushed_a_third_time() -> None:
    told = played(ended(RunState.ROLLED_BACK), ended(RunState.ROLLED_BACK))

    run = canary(told, "All pixels", wanted=RunState.SUCCEEDED)

    assert (run.number, run.state) == (2, RunState.ROLLED_BACK)


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.AWAITING_APPROVAL])
def test_what_no_canary_has_judged_is_not_repeated(state: RunState) -> None:
    told = played(ended(state, look=None))

    assert canary(told, "All pixels", wanted=RunState.SUCCEEDED).state is state
    assert stage_of(told).messages == ["All pixels"]


def test_a_version_that_did_not_start_is_not_repeated() -> None:
    told = played(ended(RunState.ROLLED_BACK, look=0))

    canary(told, "All pixels", wanted=RunState.SUCCEEDED)

    assert stage_of(told).messages == ["All pixels"]


def test_a_canary_that_stays_undecided_is_aborted_and_played_once_more() -> None:
    told = played(ended(RunState.ROLLING_OUT), ended(RunState.SUCCEEDED))

    run = canary(told, "All pixels", wanted=RunState.SUCCEEDED)

    assert run.state is RunState.SUCCEEDED
    assert stage_of(told).acts == ["abort 1"]


def test_harm_that_was_not_seen_is_taken_back_before_it_is_played_once_more() -> None:
    told = played(ended(RunState.SUCCEEDED), ended(RunState.ROLLED_BACK))

    run = canary(told, "Refuse", wanted=RunState.ROLLED_BACK)

    assert run.state is RunState.ROLLED_BACK
    assert stage_of(told).acts == ["rollback digits"]


# ---- the end


def test_an_expectation_that_does_not_hold_is_named_at_the_end_and_in_the_exit_code() -> None:
    stage = FakeStage([])
    acts = [
        Act("One", "it holds", lambda told: told.expect(True, "the first holds")),
        Act("Two", "it holds", lambda told: told.expect(False, "the second holds", "it is 7")),
    ]

    code = perform(stage, acts, once=True)

    assert code == 1
    assert "✗ the second holds   (it is 7)" in stage.heard.text
    assert "1 expectations did not hold" in stage.heard.text
    assert "Every expectation held." not in stage.heard.text


def test_when_every_expectation_held_the_exit_code_is_0() -> None:
    stage = FakeStage([])
    acts = [Act("One", "it holds", lambda told: told.expect(True, "the first holds"))]

    assert perform(stage, acts, once=True) == 0
    assert "Every expectation held." in stage.heard.text


def test_what_does_not_come_is_told_with_what_was_waited_for() -> None:
    with pytest.raises(UnreachableError, match="PS880 Waited 0 s in vain: the server starts"):
        FakeStage([]).until(lambda: False, "the server starts", 0)


# ---- what these tests are made of

PARTS = ("train", "holdout")


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class Heard(io.TextIOWrapper):
    """A stream that remembers."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self._raw = io.BytesIO()
        super().__init__(self._raw, encoding=encoding)

    @property
    def text(self) -> str:
        self.flush()
        return self._raw.getvalue().decode(self.encoding)


def spoken() -> tuple[Voice, Heard]:
    heard = Heard()
    return Voice(heard), heard


@contextmanager
def answering(status: Callable[[], int]) -> Generator[tuple[int, list[float]]]:
    """An HTTP server; gives its port, and the first pixel of each body that it was sent."""
    pixels: list[float] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            pixels.append(body["inputs"][0]["data"][0])
            self.send_response(status())
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- its name there
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = False  # server_close then waits for every connection to end

    server = Server(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield int(server.server_address[1]), pixels
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wait_for(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.005)


RUN = Run(
    id=1,
    model=DIGITS,
    number=1,
    commit="c" * 40,
    trigger="push",
    seq=1,
    state=RunState.SUCCEEDED,
    state_version=1,
    attempt=1,
    reason="as it was told",
    ended_by=None,
    stretch=None,
    created_by="mia",
    message="",
    created_at=NOW,
    updated_at=NOW,
)
ROLLOUT = Rollout(
    id=1,
    model=DIGITS,
    environment=Environment.PRODUCTION,
    run_id=1,
    kind="release",
    challenger=2,
    champion=1,
    shares=(25, 50),
    step=0,
    share=25,
    look=1,
    state=RolloutState.CANARY,
    state_version=1,
    settings={},
    next_look_at=None,
    hold_until=None,
    reason="as it was told",
    started_at=NOW,
    ended_at=None,
)
Ending = tuple[RunState, int | None]


def ended(state: RunState, look: int | None = 3) -> Ending:
    """How a run ends; `look` is its rollout's last one, None without a rollout."""
    return state, look


class FakeStage(Stage):
    """A stage on which each push ends as it was told beforehand."""

    def __init__(self, endings: Sequence[Ending]) -> None:
        self.voice, self.heard = spoken()
        self.settings = ServerSettings()
        self.url, self.home = "http://127.0.0.1:8420", Path("/nowhere")
        self.endings = dict(enumerate(endings, start=1))
        self.messages: list[str] = []
        self.acts: list[str] = []
        self.client = FakeClient(self)

    def set_up(self) -> None:
        pass

    def repositories(self) -> tuple[Repository, Repository]:
        return FakeRepository(self.messages), FakeRepository(self.messages)

    def past(self, states: frozenset[RunState], model: str, number: int, seconds: float) -> bool:
        return self.endings[number][0] not in states

    def run(self, model: str, number: int) -> Run:
        return replace(RUN, id=number, number=number, state=self.endings[number][0])

    def rollout(self, run: Run) -> Rollout | None:
        look = self.endings[run.number][1]
        return None if look is None else replace(ROLLOUT, id=run.id, look=look)

    def asked(self) -> list[int]:
        return []


class FakeClient(Client):
    def __init__(self, stage: FakeStage) -> None:
        super().__init__()
        self._stage = stage

    def abort(self, run: int, reason: str = "") -> Any:
        self._stage.acts.append(f"abort {run}")
        self._stage.endings[run] = (RunState.ABORTED, 3)

    def rollback(self, model: str, *, to: int | None = None, reason: str = "") -> Any:
        self._stage.acts.append(f"rollback {model}")


class FakeRepository(Repository):
    def __init__(self, messages: list[str]) -> None:
        self._messages = messages

    def push(self, message: str, voice: Voice) -> threading.Thread:
        self._messages.append(message)
        pushed = threading.Thread()
        pushed.start()
        return pushed


def played(*endings: Ending) -> Play:
    stage = FakeStage(endings)
    return Play(stage, *stage.repositories(), Traffic(0, np.ones((1, 64))))


def stage_of(told: Play) -> FakeStage:
    assert isinstance(told.stage, FakeStage)
    return told.stage
