"""The acts of the demo: each says what it expects, and whether that held."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from penstock.demo.repository import Repository, pictures
from penstock.demo.stage import BEFORE_PRODUCTION, DIABETES, DIGITS, MOVING, RUN_S, Stage
from penstock.demo.traffic import Traffic
from penstock.demo.voice import Voice
from penstock.domain import Alert, Run, RunState
from penstock.errors import PenstockError

CANARY_S = 90.0
"""Nine of ten canaries of a healthy version end within 30 s at this traffic; a longer one is
played once more."""
NEGATIVES_MIN, NEGATIVES_SHARE = 1500, 8
"""So many requests are sent after the scanner changed, or an eighth of what came before."""
INTERRUPTED = 130


@dataclass
class Play:
    """What the acts share."""

    stage: Stage
    digits: Repository
    diabetes: Repository
    traffic: Traffic
    number: int = 0
    """Of the last version of digits that was pushed."""
    canaries: dict[int, str] = field(default_factory=dict[int, str])
    """By rollout: what there is to see."""
    pushes: list[threading.Thread] = field(default_factory=list[threading.Thread])
    broken: list[str] = field(default_factory=list[str])
    """Expectations that did not hold."""

    def push(self, message: str) -> int:
        """Push digits and return the version's number."""
        self.number += 1
        self.pushes.append(self.digits.push(message, self.stage.voice))
        return self.number

    def expect(self, holds: bool, what: str, told: str = "") -> None:
        """Say whether an expectation held."""
        mark = "passed" if holds else "failed"
        self.stage.voice.say(what + (f"   ({told})" if told else ""), mark)
        if not holds:
            self.broken.append(what)

    def again(self, why: str) -> None:
        """Say that chance may have had its share in this, so that it is played once more."""
        self.stage.voice.say(f"{why} Played once more.", "undecided")

    def serves(self) -> int | None:
        """Return which version of digits is the champion."""
        champion = self.stage.champion(DIGITS)
        return champion.number if champion is not None else None

    def expect_no_failure(self) -> None:
        """Look at what callers were answered so far."""
        sent, failed = self.traffic.sent, self.traffic.failed
        self.expect(failed == 0, f"{failed:,} of {sent:,} requests failed")


@dataclass(frozen=True, slots=True)
class Act:
    """One act."""

    title: str
    expected: str
    play: Callable[[Play], None]


def play(*, once: bool, keep: bool, port: int) -> int:
    """Play all acts; 0 when every expectation held.

    Parameters
    ----------
    once
        End by itself; else the dashboard stays up until Ctrl-C.
    keep
        Leave the home on disk.
    port
        The dashboard's; 0 for any free one.
    """
    voice = Voice(sys.stdout)
    with _ended_by_signals():
        stage = Stage(voice, port=port, keep=keep)
        try:
            return perform(stage, ACTS, once=once)
        except PenstockError as error:
            voice.rest()
            voice.say(f"{error.code} {error.what}", "failed")
            voice.say(f"-> {error.hint}")
            return 1
        except KeyboardInterrupt:
            voice.rest()
            voice.say("Stopped before the end.", "warning")
            return INTERRUPTED
        finally:
            voice.say("The server ends." if keep else "The server ends; its home is removed.")
            stage.close()


@contextmanager
def _ended_by_signals() -> Generator[None]:
    """Let SIGTERM and SIGHUP end the demo as Ctrl-C does, so that its server ends with it."""

    def told(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {each: signal.signal(each, told) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)


def perform(stage: Stage, acts: Sequence[Act], *, once: bool) -> int:
    """Set the stage up, play acts on it, and say what held; 0 when everything did."""
    voice = stage.voice
    voice.say(f"Set-up: a server in {stage.home}, and one environment for both models.")
    stage.set_up()
    predictions = f"http://127.0.0.1:{stage.settings.predict_port}"
    voice.say(f"Dashboard {stage.url}   Predictions {predictions}", "passed")
    digits, diabetes = stage.repositories()
    began_s = voice.passed_s
    with Traffic(stage.settings.predict_port, pictures()[0]) as traffic:
        told = Play(stage, digits, diabetes, traffic)
        for number, act in enumerate(acts, start=1):
            voice.say()
            voice.say(f"ACT {number}  {act.title}")
            voice.say(f"Expected: {act.expected}")
            act.play(told)
    for push in told.pushes:
        push.join(30)
    voice.say()
    _summary(told, voice.passed_s - began_s)
    if not once:
        _stay(voice)
    return 1 if told.broken else 0


def _summary(told: Play, played_s: float) -> None:
    voice, url = told.stage.voice, told.stage.url
    if told.broken:
        voice.say(f"{len(told.broken)} expectations did not hold:", "failed")
        for what in told.broken:
            voice.say(f"  {what}")
    else:
        voice.say("Every expectation held.", "passed")
    voice.say(f"Played in {played_s:.0f} s after set-up. Look at")
    for path, what in _sights(told):
        voice.say(f"  {url}{path:<28} {what}")


def _sights(told: Play) -> list[tuple[str, str]]:
    return [
        ("/", "all models, what needs a person first"),
        (f"/models/{DIGITS}", "versions, who serves, what the monitor found"),
        *((f"/rollouts/{rollout}", what) for rollout, what in told.canaries.items()),
        *((f"/approvals/{one}", "a dossier that waits for you") for one in told.stage.asked()),
        ("/audit", "the journal"),
    ]


def _stay(voice: Voice) -> None:
    voice.say("The server stays up; stop it with Ctrl-C. Your own model: penstock init")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return


def _first(told: Play) -> None:
    number = told.push("Ten pixels")
    run = told.stage.ended(DIGITS, number)
    told.expect(
        run.state is RunState.SUCCEEDED and told.serves() == number,
        f"{DIGITS}@{number} serves",
        run.reason,
    )


def _better(told: Play) -> None:
    told.traffic.begin()
    told.stage.until(lambda: told.traffic.sent > 300, "callers begin to call", 60)
    told.digits.change("train.py", "SEEN = PIXELS[18:46:3]", "SEEN = PIXELS")
    run = canary(told, "All pixels", wanted=RunState.SUCCEEDED)
    told.expect(
        run.state is RunState.SUCCEEDED and told.serves() == run.number,
        f"{run.version} passed its canary and took over",
        run.reason,
    )
    told.expect_no_failure()


def _worse(told: Play) -> None:
    before = told.serves()
    told.digits.change("train.py", "ROWS = 1100", "ROWS = 60")
    number = told.push("Sixty pictures do")
    run = told.stage.ended(DIGITS, number)
    failed = [one.check for one in told.stage.failed_checks(run)]
    told.expect(
        run.state is RunState.FAILED and "quality.not_worse" in failed and told.serves() == before,
        f"{run.version} was stopped at the quality gate",
        run.reason,
    )
    told.digits.change("train.py", "ROWS = 60", "ROWS = 1100")


def _harmful(told: Play) -> None:
    before = told.serves()
    told.digits.change("train.py", "make_pipeline(\n", "make_pipeline(\n    Guard(),\n")
    told.digits.change("train.py", "import joblib\n", "import joblib\nfrom guard import Guard\n")
    run = canary(told, "Refuse what is no digit", wanted=RunState.ROLLED_BACK)
    rollout = told.stage.rollout(run)
    harm = told.stage.harm(rollout) if rollout is not None else []
    told.expect(
        run.state is RunState.ROLLED_BACK and "canary.errors" in harm and told.serves() == before,
        f"{run.version} was rolled back by its canary",
        run.reason,
    )
    told.expect_no_failure()


def canary(told: Play, message: str, *, wanted: RunState) -> Run:
    """Push, and wait for the canary's end; once more where its test was wrong or undecided.

    Healthy versions are stopped in up to 5 of 100 canaries: that is the test's own rate.
    """
    run = _pushed(told, message)
    why = _by_chance(told, run, wanted)
    if why:
        told.again(why)
        run = _pushed(told, f"{message}, once more")
    rollout = told.stage.rollout(run)
    if rollout is not None:
        told.canaries[rollout.id] = f"the canary of {run.version}"
    return run


def _pushed(told: Play, message: str) -> Run:
    number = told.push(message)
    told.stage.past(BEFORE_PRODUCTION, DIGITS, number, RUN_S)
    told.stage.past(MOVING, DIGITS, number, CANARY_S)
    run = told.stage.run(DIGITS, number)
    if run is None or run.state in BEFORE_PRODUCTION:
        return told.stage.ended(DIGITS, number, 0)
    return run


def _by_chance(told: Play, run: Run, wanted: RunState) -> str:
    """Say why another canary may end otherwise, and clear the way; empty where it may not."""
    rollout = told.stage.rollout(run)
    if rollout is None or rollout.look < 1 or run.state is wanted:
        return ""
    if run.state is RunState.ROLLING_OUT:
        told.stage.client.abort(run.id, "undecided for too long")
        told.stage.ended(DIGITS, run.number, 30)
        return f"Undecided after {CANARY_S:g} s: {rollout.reason}"
    if run.state is RunState.SUCCEEDED:
        told.stage.client.rollback(DIGITS, reason="its harm was not seen")
        return "Its canary saw no harm."
    return f"A healthy version was stopped: {run.reason}"


def _drifting(told: Play) -> None:
    alerts = _monitor(told)
    if alerts:
        told.again(f"A false alarm: {alerts[0].summary}.")
        alerts = _more(told, 1000, "more requests come in")
    told.expect(not alerts, "before, the monitor finds nothing to tell")
    told.pushes.append(told.diabetes.push("Ridge regression", told.stage.voice))
    told.traffic.invert()
    wanted = max(NEGATIVES_MIN, told.traffic.sent // NEGATIVES_SHARE)
    alerts = _more(told, wanted, "negatives come in")
    if not _drift(alerts):
        told.again("The monitor does not see it yet.")
        alerts = _more(told, wanted, "more negatives come in")
    state = str(told.stage.client.status(DIGITS)["state"])
    told.expect(
        bool(_drift(alerts)) and state == "Drifting",
        f"{DIGITS} is said to drift",
        _drift(alerts)[:120],
    )


def _drift(alerts: list[Alert]) -> str:
    return next((one.summary for one in alerts if one.kind == "drift"), "")


def _more(told: Play, count: int, what: str) -> list[Alert]:
    """Let so many more requests come in, look at the day, and return the open alerts."""
    wanted = told.traffic.sent + count
    told.stage.until(lambda: told.traffic.sent >= wanted, f"{what}, {count:,}", RUN_S)
    return _monitor(told)


def _monitor(told: Play) -> list[Alert]:
    occasion = str(told.stage.client.monitor(DIGITS, run="day")["occasion"])
    told.stage.until(
        lambda: told.stage.checked(DIGITS, occasion), "the monitor checks the day", RUN_S
    )
    return told.stage.alerts(DIGITS)


def _waiting(told: Play) -> None:
    run = told.stage.ended(DIABETES, 1)
    asked = told.stage.asked()
    dossier = told.stage.client.approval(asked[0])["dossier"] if asked else None
    told.expect(
        run.state is RunState.AWAITING_APPROVAL and len(asked) == 1 and bool(dossier),
        f"{run.version} waits for approval, with its dossier",
        run.reason,
    )


ACTS = (
    Act(
        "A first version of a model that reads digits, from ten of 64 pixels.",
        "nobody is asked at risk low; it goes live at once.",
        _first,
    ),
    Act(
        "A better one, from all pixels, while callers send 300 requests a second.",
        "it passes every check and its canary, and takes over; no request fails.",
        _better,
    ),
    Act(
        "A worse one, trained on sixty pictures.",
        "the comparison with the champion stops it; the champion serves on.",
        _worse,
    ),
    Act(
        "One that is good on the evaluation data and fails on some of the mail.",
        "its canary rolls it back; no request of a caller fails.",
        _harmful,
    ),
    Act(
        "Somebody inverts the scanner; the monitor looks at the day, before and after.",
        "it finds nothing before, and says afterwards that inputs drift.",
        _drifting,
    ),
    Act(
        "Another model, of medium risk: how diabetes will progress, for patients by sex and age.",
        "it waits for a person, with its dossier.",
        _waiting,
    ),
)
