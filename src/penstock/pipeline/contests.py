"""Who is compared in stage test, and on which rows: the challenger's, for both."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from penstock.check.evaluation import Evaluation
from penstock.check.rows import Cost, Terms
from penstock.config import ModelConfig
from penstock.deploy import rollout
from penstock.domain import Version
from penstock.pipeline.tools import Work, evaluation_of
from penstock.records import rollouts, runs


@dataclass(frozen=True, slots=True)
class Contest:
    """The version and its champion, on the rows on which both are judged."""

    version: Version
    champion: Version | None
    config: ModelConfig
    evaluation: Evaluation


def contest(work: Work) -> Contest | None:
    """Return who is compared on what; None without evaluation data."""
    version = work.version()
    config = rollout.settings(version)
    evaluation = evaluation_of(work, config)
    if evaluation is None or version.signature is None:
        return None
    with work.tools.database.read() as connection:
        serving = rollouts.champion(connection, work.run.model)
        champion = None
        if serving is not None and serving.number != work.run.number:
            champion = runs.version_of(connection, work.run.model, serving.number)
    return Contest(version, champion, config, evaluation)


def terms_of(config: ModelConfig, evaluation: Evaluation) -> Terms:
    """Return what a project says about its evaluation rows besides the label."""
    spec, cost = config.evaluate, config.quality.cost
    assert spec is not None, "rows without [evaluate]"
    return Terms(
        group=evaluation.group,
        cost=None if cost is None else Cost(cost.fp, cost.fn),
        rows_are=spec.rows_are,
        positives_are=spec.positives_are,
    )


def can_ask(version: Version, evaluation: Evaluation) -> bool:
    """Say whether the evaluation rows have every column that a version wants."""
    needed = [str(column["name"]) for column in (version.signature or {"columns": []})["columns"]]
    return all(name in evaluation.features.column_names for name in needed)


def wanted(version: Version, evaluation: Evaluation) -> pa.Table:
    """Return the evaluation rows with the columns that a version wants."""
    assert version.signature is not None, f"{version} has no signature"
    return evaluation.for_columns([str(column["name"]) for column in version.signature["columns"]])
