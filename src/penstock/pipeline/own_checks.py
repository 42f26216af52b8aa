"""The project's own checks as steps: each a command of the engine, so that it can be killed.

They run after the built-in checks, on a fresh checkout that training never touched, and belong
to step check: it ends when the last of them has answered.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from penstock.build.checkout import checkout
from penstock.build.train import interpreter_folders
from penstock.build.trust import provenance
from penstock.check import own
from penstock.check.own import Ended
from penstock.config import OwnCheck
from penstock.domain import JSON
from penstock.pipeline.answering import answers_of
from penstock.pipeline.tools import (
    Work,
    evaluation_file,
    evaluation_of,
    read_told,
    reasons,
    worst,
)
from penstock.ports import Command, Finished, Limits, Use

MEMORY_BYTES = 4 << 30


async def own_checks(work: Work) -> None:
    """Run each, judge each, and end step check; nothing where there is none to run."""
    # Asked in a step: a replay must take the same way again, whatever became of the report.
    known = await work.durable("own: prepare", partial(prepare, work))
    if not known["checks"]:
        return
    for number, check in enumerate(work.config().check):
        start = partial(_start, work, number, check)
        work.tools.reached("build/own:command")
        finished = await work.tools.engine.command(
            f"build/own: {check.name}",
            start,
            log=_place(work, number) / "output.log",
            timeout_s=check.timeout_s,
        )
        await work.durable(f"own: {check.name} judged", partial(_judge, work, number, finished))
    await work.durable("own: end", partial(_end, work))


def prepare(work: Work) -> JSON:
    """Write the answers and a fresh checkout; ``checks`` is 0 where nothing can be asked."""
    config = work.config()
    if not config.check or config.evaluate is None or not work.report("answers").is_file():
        return {"checks": 0}
    version, evaluation = work.version(), evaluation_of(work, config)
    assert evaluation is not None, "[evaluate] is there"
    folder = work.folder / "own"
    shutil.rmtree(folder, ignore_errors=True)
    answers = answers_of(read_told(work.report("answers")), version.signature)
    own.write_answers(folder, evaluation, answers, config.evaluate)
    repository = work.tools.home / "repositories" / f"{work.run.model}.git"
    checkout(repository, work.run.commit, folder / "checkout")
    return {"checks": len(config.check)}


def _place(work: Work, number: int) -> Path:
    """Return the folder of one check: its scratch files, its result, what it printed."""
    return work.folder / "own" / f"check-{number}"


def _start(work: Work, number: int, check: OwnCheck) -> tuple[list[str], dict[str, str]]:
    place, version = _place(work, number), work.version()
    shutil.rmtree(place, ignore_errors=True)
    scratch = place / "scratch"
    scratch.mkdir(parents=True)
    return work.tools.sandbox.argv(_command(work, check, scratch, str(version.lock_digest)))


def _command(work: Work, check: OwnCheck, scratch: Path, lock: str) -> Command:
    version, config, folder = work.version(), work.config(), work.folder / "own"
    assert config.evaluate is not None, "own checks need [evaluate]"
    python = work.tools.environments.python(lock)
    claim = provenance.claim_of(version)
    model = provenance.unpacked(claim, work.tools.store, work.tools.home)
    evaluation = evaluation_file(work, config.evaluate.ending)
    project, answers = folder / "checkout", folder / "answers.parquet"
    return Command(
        argv=own.command(check, python),
        cwd=project,
        read=[
            *(model, evaluation, answers, answers.with_suffix(".json"), own.RUNNER),
            *interpreter_folders(python),
        ],
        write=[project, scratch],
        env={
            "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
            "TMPDIR": str(scratch),
            "PYTHONPATH": f"{project}:{project / 'src'}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "PENSTOCK_MODEL": str(model),
            "PENSTOCK_EVALUATION": str(evaluation),
            "PENSTOCK_ANSWERS": str(answers),
            "PENSTOCK_ANSWERS_JSON": str(answers.with_suffix(".json")),
            "PENSTOCK_RESULT": str(scratch / "result.json"),
        },
        use=Use.CHECK,
        limits=Limits(seconds=check.timeout_s, memory_bytes=MEMORY_BYTES),
    )


def _judge(work: Work, number: int, finished: Finished) -> JSON:
    place, check = _place(work, number), work.config().check[number]
    ended = Ended(
        finished.returncode,
        finished.timed_out,
        log=place / "output.log",
        result=place / "scratch" / "result.json",
    )
    results = own.judged(check, ended)
    work.keep(results)
    for one in results:
        work.say("check", f"{one.check} {one.verdict}: {one.summary}")
    return {"results": len(results)}


def _end(work: Work) -> JSON:
    asked = ("smoke.", "sanity.", "supply.", "own.")
    results = [one for one in work.results() if one.check.startswith(asked)]
    work.end("check", worst(results), reasons(results))
    return {}
