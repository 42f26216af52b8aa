"""What step train ends with: what was tracked is read and kept, and the model that counts found.

Everything of it can be done twice: the report and the document are replaced.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from penstock.build.results import figures, outcome, tracking
from penstock.build.results.outcome import Built
from penstock.build.train import Plan
from penstock.errors import PenstockError, StoppedError
from penstock.pipeline.tools import Work
from penstock.ports import Finished

READING_S = 120.0


def capture(work: Work, plan: Plan, finished: Finished) -> Built:
    """Return the model that training wrote; keep its runs, also those of a build that failed."""
    log = work.log("train")
    tracked = _tracked(work, plan)
    try:
        built = outcome.collect(plan, finished, log=log, tracked=tracked)
    except StoppedError:
        _end(work, plan, tracked, None)
        raise
    _end(work, plan, tracked, built)
    return built


def _end(work: Work, plan: Plan, tracked: tracking.Tracked, built: Built | None) -> None:
    told = _told(work, plan, tracked, built)
    _keep(work, told)
    _say(work, tracked, told, built)


def _tracked(work: Work, plan: Plan) -> tracking.Tracked:
    copies = work.folder / "tracking"
    shutil.rmtree(copies, ignore_errors=True)
    command = tracking.reading(plan, copies)
    answer = work.folder / "tracking.json"
    try:
        with answer.open("wb") as output:
            process = work.tools.sandbox.start(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL
            )
            with process:
                try:
                    code = process.wait(READING_S)
                except subprocess.TimeoutExpired:
                    process.kill()  # what runs in a sandbox dies with it
                    raise
    except subprocess.TimeoutExpired:
        return tracking.Tracked(notes=(f"What was tracked was not read within {READING_S:g} s.",))
    except (PenstockError, OSError) as error:
        return tracking.Tracked(notes=(f"What was tracked was not read: {error}",))
    finally:
        shutil.rmtree(copies, ignore_errors=True)
    if code:
        return tracking.Tracked(notes=(f"What was tracked was not read: it ended with {code}.",))
    return tracking.understood(answer, plan)


def _told(
    work: Work, plan: Plan, tracked: tracking.Tracked, built: Built | None
) -> dict[str, Any]:
    told = tracking.report(
        tracked, hold=work.tools.store.put, but=built.path if built is not None else None
    )
    logged = built.logged if built is not None else None
    metrics, sources = figures.figures(
        tracking.metrics_of(tracked, logged), plan.checkout, work.log("train")
    )
    chosen = None
    if built is not None:
        chosen = {
            "name": logged.name if logged is not None else built.path.name,
            "id": logged.id if logged is not None else None,
            "run": logged.run if logged is not None else None,
            "path": built.path.relative_to(plan.checkout).as_posix(),
            "format": built.format,
            "why": built.why,
        }
    return {**told, "chosen": chosen, "metrics": metrics, "metric_sources": sources}


def _keep(work: Work, told: Mapping[str, Any]) -> None:
    report = work.report("tracking")
    draft = report.with_name(f".{report.name}")
    draft.write_text(json.dumps(told, allow_nan=False, sort_keys=True), encoding="utf-8")
    draft.replace(report)
    work.document("tracking", report, "application/json")


def _say(
    work: Work, tracked: tracking.Tracked, told: Mapping[str, Any], built: Built | None
) -> None:
    """End the step's log with what was captured."""
    if tracked.runs or tracked.models:
        work.say("train", tracked.summary)
    for note in told["notes"]:
        work.say("train", f"note: {note}")
    if told["metrics"]:
        shown = list(told["metrics"].items())[:8]
        values = ", ".join(f"{name} {value:.4g}" for name, value in shown)
        more = len(told["metrics"]) - len(shown)
        values += f", and {more} more" if more > 0 else ""
        work.say("train", f"the project's own figures (no gate reads them): {values}")
    if built is not None:
        chosen = told["chosen"]
        name = chosen["name"] if built.logged is not None else chosen["path"]
        work.say("train", f"model: {name}, {built.why}")
