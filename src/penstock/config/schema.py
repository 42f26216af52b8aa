"""What may stand in penstock.toml. Each block has a class, each setting its one line here.

Only ``[model] name`` must be there. A setting that is None is decided later: by `resolve` from
the risk, by the build from what it finds, or by a check from the kind of model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from penstock.config.addresses import SCHEMES, Address, address
from penstock.config.approval import Approval
from penstock.config.canary import Canary
from penstock.config.fairness import Fairness
from penstock.config.quality import Quality
from penstock.config.rollback import Rollback
from penstock.config.rules import (
    Block,
    Broken,
    Columns,
    Filled,
    Positive,
    ProjectPath,
    PythonFile,
    PythonVersion,
    Requirement,
    Scalar,
    SecretName,
    Several,
    Sha256,
    TableFile,
    Variable,
    clash,
    did_you_mean,
    not_yet,
    refuse,
    wrong,
)
from penstock.config.serving import Serving
from penstock.config.speed import Speed

MODEL_NAME = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
"""The same pattern as in `domain`, which this module may not import; a test compares them."""

OWN_NAME = r"[a-z0-9](?:[a-z0-9._-]{0,58}[a-z0-9])?"

PEOPLE_BY_RISK = {"low": 0, "medium": 1, "high": 2}
HOLD_BY_RISK = {"low": "24 h", "medium": "24 h", "high": "72 h"}
CHECKS_NOT_YET = ("estimated_quality", "data")


def _one_or_several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _role(single: Mapping[str, str | None], column: str) -> str:
    return next(key for key, name in single.items() if name == column)


class Model(Block):
    """Which model this repository makes."""

    name: str
    """Stands in addresses: small letters, digits and hyphens, at most 63."""
    owner: str = ""
    """A person or an address; alerts name it."""
    team: str = ""
    task: Literal["classification", "regression"] | None = None
    """Detected from the label where it is not set."""
    risk: Literal["low", "medium", "high"] = "medium"
    """How much harm a wrong answer does; sets the defaults of the other blocks."""

    @field_validator("name")
    @classmethod
    def _spelling(cls, name: str) -> str:
        if re.fullmatch(MODEL_NAME, name) is None:
            near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-")
            fix = f'Write "{near or "my-model"}": small letters, digits, hyphens; at most 63.'
            refuse([wrong(f'"{name}" cannot name a model.', fix)])
        return name


class Build(Block):
    """How the model is made."""

    run: Filled | None = None
    """The command that trains, for a shell, or ``module:function``; detected."""
    model: ProjectPath | None = None
    """Path or glob of what the command writes; detected in model/, models/, artifacts/, root."""
    adopt: ProjectPath | None = None
    """A model that was trained elsewhere, a file or folder: nothing is trained, the gate
    checks it."""
    predict: PythonFile | None = None
    """A file with `load(folder)` and `predict(model, frame)`, for unusual models."""
    env: dict[Variable, str] = Field(default_factory=dict)
    """Environment variables of the command."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """What the command finds in PENSTOCK_SEED and PYTHONHASHSEED."""
    timeout_s: Positive = 3600
    memory_mb: Annotated[int, Field(ge=64)] | None = None
    """What the command may use with all its processes; as much as the operator allows."""
    network: bool = False
    """Whether training may use the network."""
    reuse: bool = False
    """Whether training is taken over from a version with the same code, data, environment and
    command, instead of done again."""

    @model_validator(mode="after")
    def _adopted_or_trained(self) -> Self:
        if self.reuse and self.network:
            reason = "with a network nobody knows what training read, so it is never the same."
            refuse([clash(reason, "Take reuse or network out.", "reuse")])
        refuse(
            clash(f"a model that is adopted is not trained, and {key} is set.",
                  f"Take {key} or adopt out.", "adopt")
            for key in ("run", "model")
            if self.adopt is not None and getattr(self, key) is not None
        )  # fmt: skip
        return self


class Environment(Block):
    """The Python environment, beyond the project's own dependency file."""

    python: PythonVersion | None = None
    """``3.11``; where it is not set, the server's own."""
    override: Several[Requirement] = ()
    """Requirements that beat the project's own bounds, such as ``numpy<2``."""
    extra: Several[Requirement] = ()
    """Requirements that the project's dependency file forgot."""
    as_of: date | None = None
    """The day as of which packages are resolved; where it is not set, the dependency file's."""


class DataSource(Block):
    """Where a file that git does not keep comes from."""

    source: str
    """An absolute path on the server, or an address under a prefix that the operator allows."""
    sha256: Sha256
    """Of the file's bytes, 64 hex digits."""
    secret: SecretName | None = None
    """The name under which the operator keeps what the address asks for."""

    @property
    def address(self) -> Address:
        """The source, read."""
        return address(self.source)

    @field_validator("source")
    @classmethod
    def _readable(cls, source: str) -> str:
        try:
            address(source)
        except ValueError as error:
            fix = f"Write an absolute path, or an address: {', '.join(SCHEMES[:-1])}."
            refuse([wrong(f'"{source}" {error}.', fix)])
        return source

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.secret is not None and self.address.scheme == "file":
            reason = "a file of the server needs no secret."
            refuse([clash(reason, "Take secret out.", "secret")])
        return self


class Evaluate(Block):
    """The rows on which versions are judged; training never sees them."""

    data: TableFile
    """A CSV (``.csv.gz`` too) or Parquet file."""
    label: Filled
    """The column with the right answers."""
    positive: Scalar | None = None
    """The label's value that a score speaks of, for two classes."""
    id: Filled | None = None
    """A column that names the row; the model does not get it."""
    time: Filled | None = None
    """A column with the row's time; the model does not get it."""
    group: Filled | None = None
    """A column whose equal values belong together (a customer's rows, a list to rank); the model
    does not get it."""
    rows_are: Filled = "rows"
    """What a row is, in the plural, for sentences: ``loans``."""
    positives_are: Filled = "positives"
    """What a positive row is, in the plural: ``defaults``."""
    sensitive: Columns = ()
    """Columns for the fairness report."""
    training: Annotated[
        tuple[TableFile, ...], Field(strict=False), BeforeValidator(_one_or_several)
    ] = ()
    """What training learns from, one file or a list; found by itself where it is not set."""
    made_by_build: bool = False
    """True: training writes the file itself, so it is not hidden from it."""

    @property
    def ending(self) -> str:
        """How the file's name ends: ``.csv``, ``.csv.gz`` or ``.parquet``."""
        name = self.data.lower()
        return ".csv.gz" if name.endswith(".csv.gz") else f".{name.rpartition('.')[2]}"

    @model_validator(mode="after")
    def _rules(self) -> Self:
        broken: list[Broken] = []
        single = {
            "label": self.label,
            "id": self.id,
            "time": self.time,
            "group": self.group,
        }
        seen = Counter(column for column in single.values() if column)
        for key, column in list(single.items())[1:]:
            if column and seen[column] > 1:
                reason = f'"{column}" has two roles.'
                broken.append(clash(reason, "Give each role a column of its own.", key))
        for number, column in enumerate(self.sensitive):
            if column in seen:
                reason = f'"{column}" is the {_role(single, column)} too.'
                fix = f'Take "{column}" out of sensitive.'
                broken.append(clash(reason, fix, "sensitive", number))
        refuse(broken)
        return self


class Explain(Block):
    """What it looks at. A report, never a gate."""

    off: bool = False
    """True: nothing is explained."""
    budget_s: Annotated[float, Field(gt=0, le=3600)] = 20
    """Wall-clock seconds at most; it ends earlier when everything is precise enough."""
    columns: Columns = ()
    """Only these columns are explained; else all, with curves of the ones that matter most."""
    examples: bool = True
    """False: no single row of the evaluation data is shown."""


class Monitor(Block):
    """What is checked again and again in production."""

    every: Literal["hour", "day", "week", "month"] = "day"
    checks: Several[str] = ("quality", "drift", "service")

    @field_validator("checks")
    @classmethod
    def _known(cls, checks: Sequence[str]) -> Sequence[str]:
        known = ("quality", "drift", "service")
        broken = [] if checks else [wrong("is empty.", 'Write checks = ["quality", "drift"].')]
        for number, check in enumerate(checks):
            if check in CHECKS_NOT_YET:
                broken.append(not_yet(f'"{check}" is not available yet.', "Take it out.", number))
            elif check not in known:
                near = did_you_mean(check, known)
                fix = f'Did you mean "{near}"?' if near else f"Choose from {', '.join(known)}."
                broken.append(wrong(f'"{check}" is no check of a monitor.', fix, number))
        refuse(broken)
        return checks


class OwnCheck(Block):
    """A check of the project's own, beside Penstock's."""

    name: str
    """Names the result, ``own.<name>``: small letters, digits, dots, hyphens, underscores."""
    run: Filled
    """A command, such as ``python -m pytest tests/model``, or ``module:function``."""
    stage: Literal["build"] = "build"
    gate: bool = True
    """False: a report; when it fails the run goes on."""
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300

    @field_validator("name")
    @classmethod
    def _spelling(cls, name: str) -> str:
        if re.fullmatch(OWN_NAME, name) is None:
            near = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:60]
            fix = f'Write "{near or "my.check"}": small letters, digits, ". _ -"; at most 60.'
            refuse([wrong(f'"{name}" cannot name a check.', fix)])
        return name


class ModelConfig(Block):
    """The settings of one model: the file penstock.toml in its repository."""

    model: Model
    build: Build = Build()
    environment: Environment = Environment()
    data: dict[ProjectPath, DataSource] = Field(default_factory=dict)
    evaluate: Evaluate | None = None
    quality: Quality = Quality()
    fairness: Fairness = Fairness()
    explain: Explain = Explain()
    speed: Speed = Speed()
    approval: Approval = Approval()
    serving: Serving = Serving()
    canary: Canary = Canary()
    rollback: Rollback = Rollback()
    monitor: Several[Monitor] = (Monitor(),)
    check: Several[OwnCheck] = ()

    @field_validator("check")
    @classmethod
    def _one_a_name(cls, checks: Sequence[OwnCheck]) -> Sequence[OwnCheck]:
        seen = Counter[str]()
        broken: list[Broken] = []
        for number, check in enumerate(checks):
            if seen[check.name]:
                reason = f'a second check "{check.name}".'
                broken.append(clash(reason, "Give each check its own name.", number, "name"))
            seen[check.name] += 1
        refuse(broken)
        return checks

    @field_validator("monitor")
    @classmethod
    def _one_a_period(cls, monitors: Sequence[Monitor]) -> Sequence[Monitor]:
        seen = Counter[str]()
        broken: list[Broken] = []
        for number, monitor in enumerate(monitors):
            if seen[monitor.every]:
                reason = f'a second monitor for every "{monitor.every}".'
                fix = "Join the checks of the two in one [[monitor]]."
                broken.append(clash(reason, fix, number, "every"))
            seen[monitor.every] += 1
        refuse(broken)
        return monitors
