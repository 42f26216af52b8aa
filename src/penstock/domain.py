"""What Penstock talks about. Frozen values, no input or output.

    push -> Run --builds--> Version --is judged by--> CheckResult --fills--> dossier
         -> Approval -> Rollout --moves--> Deployment (who serves which share) -> Monitor -> Alert

Each name is the one that the field uses; docs/glossary.md holds one sentence on each. The
closed lists of states and the moves between them stand here too; `records` enforces them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

JSON = Mapping[str, Any]
"""What came out of `json.loads` and goes into `json.dumps`."""

MODEL_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""The only spelling of a model's name; it stands in URLs, paths and lock names unescaped."""


class Verdict(StrEnum):
    """The outcome of one check, of a gate, of a canary: always one of three."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"
    """Too little evidence either way: a point for a person's judgement, never shown as passed."""


class Environment(StrEnum):
    """Where versions run."""

    TEST = "test"
    PRODUCTION = "production"


class Role(StrEnum):
    """What a running version is for its model, within one environment."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"
    CONTROL = "control"
    """The champion a second time, in a worker of its own: what a challenger is compared with that
    gets as many requests."""
    PREVIOUS = "previous"
    """The champion before; kept loaded, so that rolling back needs nothing."""
    WARM = "warm"
    """An older version inside the rollback window."""
    SHADOW = "shadow"
    """Gets copies of requests that another version answers; its own answers nobody gets."""


class RunState(StrEnum):
    """Where one pass of the pipeline is."""

    QUEUED = "queued"
    BUILDING = "building"
    TESTING = "testing"
    AWAITING_APPROVAL = "awaiting_approval"
    ROLLING_OUT = "rolling_out"
    ABORTING = "aborting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"


RUN_MOVES: Mapping[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.BUILDING, RunState.SUPERSEDED, RunState.ABORTING}),
    RunState.BUILDING: frozenset(
        {RunState.TESTING, RunState.AWAITING_APPROVAL, RunState.FAILED, RunState.ABORTING}
    ),
    RunState.TESTING: frozenset(
        {
            RunState.AWAITING_APPROVAL,
            RunState.ROLLING_OUT,
            RunState.SUCCEEDED,
            RunState.FAILED,
            RunState.ABORTING,
        }
    ),
    RunState.AWAITING_APPROVAL: frozenset(
        {
            RunState.TESTING,
            RunState.ROLLING_OUT,
            RunState.REJECTED,
            RunState.EXPIRED,
            RunState.SUPERSEDED,
            RunState.ABORTING,
        }
    ),
    RunState.ROLLING_OUT: frozenset({RunState.SUCCEEDED, RunState.ROLLED_BACK, RunState.ABORTING}),
    RunState.ABORTING: frozenset({RunState.ABORTED}),
    RunState.FAILED: frozenset({RunState.QUEUED}),
}
"""Which state may follow which. What is not a key has ended for good."""

RUN_ENDED = frozenset(RunState) - frozenset(RUN_MOVES) | {RunState.FAILED}
RUN_LIVE = frozenset(RunState) - RUN_ENDED
"""Asked for by name, so that an index serves: what has ended grows without end."""


class RolloutState(StrEnum):
    """How far a version has come in an environment."""

    QUEUED = "queued"
    STARTING = "starting"
    SHADOW = "shadow"
    """It gets copies of requests; nobody gets its answers."""
    CANARY = "canary"
    PAUSED = "paused"
    PROMOTING = "promoting"
    ROLLING_BACK = "rolling_back"
    FULL = "full"
    ROLLED_BACK = "rolled_back"


ROLLOUT_MOVES: Mapping[RolloutState, frozenset[RolloutState]] = {
    RolloutState.QUEUED: frozenset({RolloutState.STARTING, RolloutState.ROLLED_BACK}),
    RolloutState.STARTING: frozenset(
        {
            RolloutState.SHADOW,
            RolloutState.CANARY,
            RolloutState.PROMOTING,
            RolloutState.ROLLING_BACK,
        }
    ),
    RolloutState.SHADOW: frozenset(
        {
            RolloutState.SHADOW,
            RolloutState.CANARY,
            RolloutState.PAUSED,
            RolloutState.PROMOTING,
            RolloutState.ROLLING_BACK,
        }
    ),
    RolloutState.CANARY: frozenset(
        {
            RolloutState.CANARY,
            RolloutState.PAUSED,
            RolloutState.PROMOTING,
            RolloutState.ROLLING_BACK,
        }
    ),
    RolloutState.PAUSED: frozenset(
        {
            RolloutState.SHADOW,
            RolloutState.CANARY,
            RolloutState.PROMOTING,
            RolloutState.ROLLING_BACK,
        }
    ),
    RolloutState.PROMOTING: frozenset({RolloutState.FULL, RolloutState.ROLLING_BACK}),
    RolloutState.ROLLING_BACK: frozenset({RolloutState.ROLLED_BACK}),
}
ROLLOUT_ENDED = frozenset({RolloutState.FULL, RolloutState.ROLLED_BACK})


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found about one version."""

    check: str
    """``<family>.<measure>``, such as ``fairness.equal_odds``; stable, it names records."""
    verdict: Verdict
    summary: str
    """One sentence with the number, its limit and its unit: ``p95 41 ms > 30 ms``."""
    evidence: JSON = field(default_factory=dict[str, Any])
    """What the verdict rests on, as plain JSON. By custom ``value``, ``limit``, ``champion``,
    ``low``, ``high`` (an interval), ``rows``, ``reading`` (a word under the verdict) and
    ``question`` (the question that a lay person asks)."""

    @property
    def reported(self) -> bool:
        """Whether it passed for want of a limit: it says what was measured, and judges nothing."""
        reading = self.evidence.get("reading")
        return self.verdict is Verdict.PASSED and reading in {"reported", "measured", "no limit"}


@dataclass(frozen=True, slots=True)
class Model:
    """A named thing that predicts, with its repository."""

    name: str
    owner: str
    team: str
    risk: str
    """``low``, ``medium`` or ``high``: how much harm a wrong answer does."""
    release_branch: str | None
    """The branch first pushed; the others run build and test only."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Run:
    """One pass of the pipeline for one commit."""

    id: int
    model: str
    number: int
    """The version that this run builds: ``<model>@<number>``."""
    commit: str
    trigger: str
    """``push``, or ``branch-<name>`` for a branch that is not the release branch."""
    seq: int
    """Order of the model's runs; the newer run wins."""
    state: RunState
    state_version: int
    attempt: int
    reason: str
    """Why it stands where it stands, as a sentence."""
    ended_by: str | None
    """``check``, ``error`` or ``recovery_exhausted`` for a failed run."""
    stretch: str | None
    """The engine's id of the work that was last enqueued for it."""
    created_by: str
    message: str
    """First line of the commit's message."""
    created_at: datetime
    updated_at: datetime

    @property
    def version(self) -> str:
        """``credit-default@12``."""
        return f"{self.model}@{self.number}"

    @property
    def releases(self) -> bool:
        """Whether the run may go to production: only pushes to the release branch do."""
        return not self.trigger.startswith("branch-")


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable build of a model, written ``credit-default@12``."""

    model: str
    number: int
    run_id: int
    commit: str
    config: JSON
    """penstock.toml as read from the commit, defaults filled in."""
    artifact_digest: str | None
    """SHA-256 of the manifest of the packed folder. The identity; the number is for people.
    None until the build seals the version, frozen from then on, as are the next six."""
    lock_digest: str | None
    """SHA-256 of the resolved environment; versions with the same lock share an environment."""
    data_digest: str | None
    """SHA-256 of the evaluation data; None without ``[evaluate]``."""
    signature: JSON | None
    """``{"columns": [{"name", "datatype", "optional"}], "task", "classes"}``."""
    sandbox_level: str | None
    attestation_digest: str | None
    """SHA-256 of the signed statement of its origin."""
    sealed_at: datetime | None
    card: str
    """Text of CARD.md, or empty."""
    created_at: datetime
    path: str = "own"
    """Which call of the model answers; another than its own only where the check
    ``serving.fast_path`` proved it."""

    def __str__(self) -> str:
        return f"{self.model}@{self.number}"


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a stage that is done once and whose result is kept."""

    run_id: int
    stage: str
    name: str
    attempt: int
    state: str
    """``running``, ``passed``, ``failed``, ``undecided``, ``skipped``."""
    started_at: datetime
    ended_at: datetime | None
    reason: str
    log: str | None
    """Path below PENSTOCK_HOME; None for a step that writes none."""
    progress: float | None = None
    """From 0 to 1; None where nobody can say."""
    left_s: float | None = None
    """Seconds that it will still take, estimated."""
    doing: str = ""
    """What it does now, as words; empty where its name says it."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file that belongs to a version: its attestation, its bill of materials, a report."""

    model: str
    number: int
    name: str
    """``attestation``, ``bom``, ``lock``, ``tracking``, ``inputs``, ``card``, …"""
    media_type: str
    digest: str
    """In the artifact store."""
    bytes: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Verification:
    """A question to the server: does a version still hold, and can it be built again?"""

    id: int
    model: str
    number: int | None
    """None: all versions of the model."""
    settings: JSON
    """``rebuild`` and ``seed``."""
    state: str
    """``queued``, ``running``, ``passed``, ``failed``."""
    progress: float | None
    doing: str
    """What is done now, as words."""
    result: JSON | None
    asked_by: str
    asked_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Approval:
    """A question to people, bound to the digests of what they judge."""

    id: int
    run_id: int
    model: str
    number: int
    state: str
    """``asked``, ``granted``, ``refused``, ``void``, ``expired``."""
    state_version: int
    needed: int
    artifact_digest: str
    dossier_digest: str
    dossier: JSON
    asked_at: datetime
    expires_at: datetime
    evidence_digest: str | None = None
    """Of what the checks found and what the version is made of, as it was when people were
    asked."""
    authors: tuple[str, ...] = ()
    """Names and addresses of those who wrote it, besides whoever pushed it."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's yes or no."""

    actor: str
    vote: str
    """``approve`` or ``reject``."""
    reason: str
    ts: datetime
    in_place_of: str | None = None
    """Whose vote it is, where somebody handed theirs to the actor."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a challenger has replaced the champion."""

    id: int
    model: str
    environment: Environment
    run_id: int | None
    kind: str
    """``release``, or ``rollback`` for going back from a full release."""
    challenger: int
    champion: int | None
    shares: tuple[int, ...]
    """Percent of the requests, rising; full traffic follows the last."""
    step: int
    """Index of the last of `shares` that was reached; -1 before the first."""
    share: int
    """Percent now sent to the challenger."""
    look: int
    state: RolloutState
    state_version: int
    settings: JSON
    """As pushed and, from its start on, as found: see `deploy.ways`."""
    next_look_at: datetime | None
    hold_until: datetime | None
    reason: str
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Deployment:
    """A version that runs, or should: what the gateway makes true."""

    model: str
    environment: Environment
    number: int
    role: Role
    artifact_digest: str
    lock_digest: str
    signature: JSON
    share: int
    """Percent of the model's requests. The shares of one model and environment sum to 100, that
    of a shadow not counted: it is the percent of requests that it gets copies of."""
    generation: int
    """Rises with every change of the split of this model and environment."""
    lease_until: datetime | None
    """A challenger's: when it has passed unrenewed, the champion gets all requests back."""
    rollout_id: int | None
    attestation_digest: str | None = None
    """Of the version; without one, or with one that proves nothing, it is not loaded."""
    serving: JSON = field(default_factory=dict[str, Any])
    """The version's block [serving], defaults filled in, and ``path``: which call of its model
    answers; ``proof``: the digest of the signed statement that says so; ``p95_ms``, where the
    project states how fast it has to be."""
    key: str | None = None
    """Column that names the customer: requests with the same value go to the same version."""
    redraw: bool = False
    """Whether customers are drawn anew each hour."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """A check of production that returns each period."""

    id: int
    model: str
    name: str
    """``hour``, ``day``, ``week`` or ``month``: the period."""
    next_due: datetime
    enabled: bool
    settings: JSON


@dataclass(frozen=True, slots=True)
class Alert:
    """A message to people when a monitor's check failed; one per cause, not one per period."""

    id: int
    model: str
    kind: str
    """``quality``, ``drift``, ``service`` or ``overdue``."""
    state: str
    """``open``, ``acknowledged`` or ``closed``."""
    first_due: datetime
    last_due: datetime
    occurrences: int
    number: int
    summary: str
    checks: tuple[str, ...]
    """What it is about; it closes when all of these have passed again."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One line of the audit log; `hash` covers it and the line before."""

    seq: int
    ts: str
    """ISO 8601, UTC, as hashed."""
    actor: str
    action: str
    body: str
    """Canonical JSON, as hashed."""
    prev: str
    hash: str
