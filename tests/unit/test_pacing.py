"""How far a step is: told by itself, or estimated from earlier runs, never shown as done."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest

from penstock.cli.pacing import Pacing
from penstock.cli.session import Session
from penstock.domain import Run, RunState
from penstock.records import runs
from penstock.records.pace import TAKEN_OVER
from penstock.web import events
from penstock.web.pacing import Pace
from tests.unit.web_rig import House, get, house

TRAIN = ("build", "train")


@pytest.fixture
def home(tmp_path: Path) -> House:
    return house(tmp_path)


def trained(home: House, *seconds: float, reason: str = "") -> None:
    for took in seconds:
        run = home.move(home.push(), RunState.BUILDING, "The stage build runs.")
        home.step(run, TRAIN, seconds=took, reason=reason)
        home.move(run, RunState.FAILED, "enough", ended_by="check")


def training(home: House) -> Run:
    run = home.move(home.push(), RunState.BUILDING, "The stage build runs.")
    home.step(run, TRAIN, None)
    return run


def pace(home: House, run: Run) -> Pace:
    found = events.standing(home.control, run.id).pace
    assert found is not None
    return found


def test_a_first_training_has_no_estimate(home: House) -> None:
    told = pace(home, training(home))

    assert (told.share, told.left_s, told.estimated) == (None, None, False)


def test_training_is_estimated_by_the_median_of_the_last_five(home: House) -> None:
    trained(home, 1000, 90, 100, 110, 120, 80)
    run = training(home)
    home.later(seconds=25)

    told = pace(home, run)

    assert (told.share, told.left_s, told.estimated) == (0.25, 75, True)
    assert told.text == "about 1 min 15 s left, by earlier runs"


def test_an_estimate_is_never_done_and_says_when_it_was_too_short(home: House) -> None:
    trained(home, 10)
    run = training(home)
    home.later(seconds=60)

    told = pace(home, run)

    assert (told.share, told.left_s) == (0.99, None)
    assert told.text == "longer than the 10 s of earlier runs"


def test_what_was_taken_over_or_failed_says_nothing_about_how_long_it_takes(home: House) -> None:
    trained(home, 0.1, reason=f"{TAKEN_OVER} credit-default@1")
    run = home.move(home.push(), RunState.BUILDING, "The stage build runs.")
    home.step(run, TRAIN, "failed", seconds=3)
    home.move(run, RunState.FAILED, "x", ended_by="check")

    assert pace(home, training(home)).share is None


def test_what_a_step_tells_itself_counts_before_an_estimate(home: House) -> None:
    trained(home, 10)
    run = training(home)
    with home.database.write() as connection:
        runs.progress(connection, run, TRAIN, share=1.0, left_s=4, doing="counts rows")

    told = pace(home, run)

    assert (told.share, told.estimated) == (0.99, False)
    assert told.text == "counts rows · 99 % · at most 4.0 s left"


def test_the_page_and_the_api_show_it(home: House) -> None:
    trained(home, 100)
    run = training(home)
    home.later(seconds=25)

    page = get(home, f"/runs/{run.id}").text
    told = get(home, f"/api/runs/{run.id}").json()["data"]["pace"]

    assert '<progress max="100" value="25" aria-label="Train">' in page
    assert "by earlier runs" in page
    assert told["share"] == 0.25


def test_a_terminal_that_asks_is_told_of_the_pace_and_another_is_not(home: House) -> None:
    trained(home, 100)
    run = training(home)

    async def lines(paced: bool) -> list[str]:
        found: list[str] = []
        async for line in events.text(home.control, run.id, paced=paced):
            found.append(line)
            if len(found) > 2:
                home.move(run, RunState.FAILED, "x", ended_by="check") if not ended else None
                ended.append(1)
        return found

    ended: list[int] = []
    paced = asyncio.run(lines(True))

    told = [json.loads(line[5:]) for line in paced if line.startswith("pace ")]
    assert told[0]["step"] == "build/train"
    assert paced[-1] == "exit 5\n"


def session(err: io.StringIO, **more: bool) -> Session:
    return Session(
        server=None,
        json=False,
        quiet=False,
        verbose=False,
        color=False,
        no_input=True,
        environ={"TERM": "xterm"},
        out=io.StringIO(),
        err=err,
        **more,
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


TOLD = 'pace {"step": "build/train", "share": 0.42, "text": "about 38 s left"}'


def test_a_terminal_gets_a_bar_that_steps_aside() -> None:
    terminal = Terminal()

    with Pacing(session(terminal)) as pacing:
        pacing.show(TOLD)
        pacing.show(TOLD)
        pacing.aside()
        pacing.show(TOLD)

    assert "about 38 s left" in terminal.getvalue()
    assert "━" in terminal.getvalue()


def test_a_file_gets_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.StringIO()
    with Pacing(session(plain)) as pacing:
        pacing.show(TOLD)
        assert plain.getvalue() == ""
        monkeypatch.setattr("penstock.cli.pacing.TELL_S", 0)
        pacing.show(TOLD)

    assert plain.getvalue() == "  ..    build/train        about 38 s left\n"
