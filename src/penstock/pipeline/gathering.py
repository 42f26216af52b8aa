"""What training may read: gathered before it runs, hidden from it, noted, and looked at after.

All of it happens around the command, never in it: no secret and no credential enters a build.
"""

from __future__ import annotations

import json
from pathlib import Path

from penstock.build.data import bindings as data
from penstock.build.data import dvc, lineage
from penstock.build.data.bindings import Origin
from penstock.build.project.declared import require_apart
from penstock.build.project.entry import run_command
from penstock.config import ModelConfig
from penstock.pipeline.tools import Work

BEFORE = "inputs-before.json"
"""Beside the checkout: the data files as they were before training."""


def gathered(work: Work, config: ModelConfig, checkout: Path) -> dict[str, Origin]:
    """Put into the checkout what git does not keep; return each file with its origin."""

    def say(line: str) -> None:
        work.say("train", line)

    # First of all, so that nothing is fetched for a project that cannot run.
    stages_run = run_command(checkout, config).source == "dvc.yaml"
    if stages_run:
        require_apart(checkout, config)
    model, sources = work.run.model, work.tools.sources
    bound = data.bind_data(config.data, checkout, sources, model=model, say=say)
    bound |= dvc.pull(checkout, config, sources, stages_run=stages_run, model=model, say=say)
    return bound


def copies(work: Work, config: ModelConfig, checkout: Path) -> list[str]:
    """Return the files with the bytes of the evaluation data; training must not see them."""
    spec = config.evaluate
    if spec is None or spec.made_by_build:
        return []
    found = lineage.copies(checkout, checkout / spec.data)
    for name in found:
        work.say("train", f"{name} holds the same bytes as {spec.data}: hidden from training, too")
    return found


def note_inputs(work: Work, checkout: Path, bound: dict[str, Origin], masked: list[str]) -> None:
    """Note every data file that training can read; the last act before it runs."""
    spec = work.config().evaluate
    hidden = [] if spec is None or spec.made_by_build else [spec.data, *masked]
    found = lineage.inputs(checkout, bound, hidden=hidden)
    # The step may be done again: what an earlier training read is no answer about the next.
    work.report("inputs").unlink(missing_ok=True)
    told = {"observed": lineage.keeps_access_times(checkout), "inputs": lineage.written(found)}
    (work.folder / BEFORE).write_text(json.dumps(told), encoding="utf-8")
    lineage.mark_unread(checkout, found)
    total = sum(one.bytes for one in found)
    work.say("train", f"{len(found)} data files to read, {total / 1e6:,.1f} MB")


def observe_reads(work: Work, checkout: Path) -> None:
    """Say which of them training read: the first act after it, once, before others read them."""
    report, before = work.report("inputs"), work.folder / BEFORE
    if report.exists() or not before.exists():
        return
    told = json.loads(before.read_text(encoding="utf-8"))
    found = lineage.read_back(told["inputs"])
    seen = lineage.with_reads(checkout, found, observed=told["observed"])
    fresh = report.with_suffix(".new")
    fresh.write_text(lineage.written(seen), encoding="utf-8")
    fresh.replace(report)


def store_inputs(work: Work) -> None:
    """Keep the report as a document of the version."""
    if work.report("inputs").exists():
        work.document("inputs", work.report("inputs"), "application/json")
