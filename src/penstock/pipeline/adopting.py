"""Step train of a model that was trained elsewhere: the gate in place of the command."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from penstock.build.adoption import adopt
from penstock.build.results.outcome import Built
from penstock.build.train import Plan
from penstock.domain import JSON
from penstock.pipeline.tools import Work
from penstock.ports import Command


def let_in(work: Work, plan: Plan) -> tuple[Built, JSON]:
    """Send the model through the gate; return it with what the gate told.

    Raises
    ------
    StoppedError
        The gate refused it, or it is not there.
    """
    path = adopt.model_path(plan)
    named = path.relative_to(plan.checkout).as_posix()
    work.say("train", f"not trained here: {named} is adopted, and passes the gate or stays out")
    allow = work.tools.adopt_allow.get(work.run.model, ())
    told = adopt.verdict_of(*_run(work, adopt.gate_command(plan, path, allow)))
    opinion = _second_opinion(work, path)
    work.report("adopt").write_text(json.dumps(told), encoding="utf-8")
    found = adopt.result(named, told, allow, opinion)
    work.keep([found])
    work.say("train", f"gate: {found.summary}")
    if opinion:
        work.say("train", f"WARNING {opinion}; it warns only, the gate decides")
    if not told["ok"]:
        raise adopt.refusal(named, told)
    return adopt.built(plan, path, told), told


def _second_opinion(work: Work, path: Path) -> str:
    if importlib.util.find_spec("picklescan") is None:
        return ""
    output, code, _ = _run(work, adopt.scanner_command(Path(sys.executable), path))
    return adopt.opinion_of(output, code)


def _run(work: Work, command: Command) -> tuple[bytes, int, bytes]:
    process = work.tools.sandbox.start(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        output, complaints = process.communicate(timeout=command.limits.seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return b"", -9, b""
    return output, process.returncode, complaints
