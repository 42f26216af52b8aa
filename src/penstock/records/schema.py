"""Every table. Times are UTC text in ISO 8601: they sort, and both databases keep them alike."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa


class Time(sa.TypeDecorator[datetime]):
    """A moment in UTC, kept as ``2026-03-01T12:00:00.000000+00:00``."""

    impl = sa.String(32)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> str | None:  # noqa: ARG002 -- SQLAlchemy's signature
        """Refuse a time without a zone: it would be a guess later."""
        if value is None:
            return None
        assert value.tzinfo is not None, f"{value} has no time zone"
        return value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: Any) -> datetime | None:  # noqa: ARG002 -- the same
        """Read it back with its zone."""
        return None if value is None else datetime.fromisoformat(value)


metadata = sa.MetaData()

model = sa.Table(
    "model",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("owner", sa.String, nullable=False, default=""),
    sa.Column("team", sa.String, nullable=False, default=""),
    sa.Column("risk", sa.String, nullable=False, default="medium"),
    sa.Column("release_branch", sa.String),
    sa.Column("last_number", sa.Integer, nullable=False, default=0),
    sa.Column("last_seq", sa.Integer, nullable=False, default=0),
    sa.Column("created_at", Time, nullable=False),
)

run = sa.Table(
    "run",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.String(63), sa.ForeignKey("model.name"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("commit_sha", sa.String(40), nullable=False),
    sa.Column("trigger", sa.String, nullable=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("state_version", sa.Integer, nullable=False, default=0),
    sa.Column("attempt", sa.Integer, nullable=False, default=1),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("ended_by", sa.String),
    sa.Column("stretch", sa.String),
    sa.Column("created_by", sa.String, nullable=False),
    sa.Column("message", sa.Text, nullable=False, default=""),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("updated_at", Time, nullable=False),
    sa.UniqueConstraint("model", "commit_sha", "trigger"),
    sa.UniqueConstraint("model", "seq"),
    sa.Index("run_state", "state"),
)

version = sa.Table(
    "version",
    metadata,
    sa.Column("model", sa.String(63), sa.ForeignKey("model.name"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.Integer, sa.ForeignKey("run.id"), nullable=False, unique=True),
    sa.Column("commit_sha", sa.String(40), nullable=False),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("card", sa.Text, nullable=False, default=""),
    sa.Column("artifact_digest", sa.String(64)),
    sa.Column("lock_digest", sa.String(64)),
    sa.Column("data_digest", sa.String(64)),
    sa.Column("signature", sa.JSON),
    sa.Column("sandbox_level", sa.String),
    sa.Column("attestation_digest", sa.String(64)),
    sa.Column("sealed_at", Time),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("path", sa.String, nullable=False, server_default="own"),
)

step = sa.Table(
    "step",
    metadata,
    sa.Column("run_id", sa.Integer, sa.ForeignKey("run.id"), primary_key=True),
    sa.Column("stage", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("started_at", Time, nullable=False),
    sa.Column("ended_at", Time),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("log", sa.String),
    sa.Column("progress", sa.Float),
    sa.Column("left_s", sa.Float),
    sa.Column("doing", sa.Text, nullable=False, server_default=""),
)

document = sa.Table(
    "document",
    metadata,
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("media_type", sa.String, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.ForeignKeyConstraint(["model", "number"], ["version.model", "version.number"]),
    sa.Index("document_digest", "digest"),
)

kept_step = sa.Table(
    "kept_step",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(63), sa.ForeignKey("model.name"), nullable=False),
    sa.Column("step", sa.String, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("result", sa.JSON, nullable=False),
    sa.Column("created_at", Time, nullable=False),
)

verification = sa.Table(
    "verification",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.String(63), sa.ForeignKey("model.name"), nullable=False),
    sa.Column("number", sa.Integer),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("progress", sa.Float),
    sa.Column("doing", sa.Text, nullable=False, default=""),
    sa.Column("result", sa.JSON),
    sa.Column("asked_by", sa.String, nullable=False),
    sa.Column("asked_at", Time, nullable=False),
    sa.Column("ended_at", Time),
)

check_result = sa.Table(
    "check_result",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("occasion", sa.String, nullable=False),
    sa.Column("check_name", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("verdict", sa.String, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.UniqueConstraint("occasion", "check_name"),
    sa.Index("check_result_version", "model", "number"),
)

approval = sa.Table(
    "approval",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.Integer, sa.ForeignKey("run.id"), nullable=False),
    sa.Column("gate", sa.String, nullable=False, default="release"),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("artifact_digest", sa.String(64), nullable=False),
    sa.Column("dossier_digest", sa.String(64), nullable=False),
    sa.Column("dossier", sa.JSON, nullable=False),
    sa.Column("needed", sa.Integer, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("state_version", sa.Integer, nullable=False, default=0),
    sa.Column("asked_at", Time, nullable=False),
    sa.Column("expires_at", Time, nullable=False),
    sa.Column("evidence_digest", sa.String(64)),
    sa.Column("authors", sa.JSON),
)
sa.Index(
    "approval_one_asked",
    approval.c.run_id,
    approval.c.gate,
    unique=True,
    sqlite_where=approval.c.state == "asked",
    postgresql_where=approval.c.state == "asked",
)

approval_vote = sa.Table(
    "approval_vote",
    metadata,
    sa.Column("approval_id", sa.Integer, sa.ForeignKey("approval.id"), primary_key=True),
    sa.Column("actor", sa.String, primary_key=True),
    sa.Column("vote", sa.String, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("ts", Time, nullable=False),
    sa.Column("in_place_of", sa.String),
)

approval_comment = sa.Table(
    "approval_comment",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("approval_id", sa.Integer, sa.ForeignKey("approval.id"), nullable=False),
    sa.Column("actor", sa.String, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("ts", Time, nullable=False),
    sa.Index("approval_comment_of", "approval_id"),
)

condition = sa.Table(
    "condition",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("approval_id", sa.Integer, sa.ForeignKey("approval.id"), nullable=False),
    sa.Column("model", sa.String(63), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("due", Time),
    sa.Column("set_by", sa.String, nullable=False),
    sa.Column("set_at", Time, nullable=False),
    sa.Column("met_by", sa.String),
    sa.Column("met_at", Time),
    sa.Column("note", sa.Text, nullable=False, server_default=""),
    sa.Index("condition_of", "model", "number"),
)

delegation = sa.Table(
    "delegation",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("giver", sa.String, nullable=False),
    sa.Column("taker", sa.String, nullable=False),
    sa.Column("approval_id", sa.Integer, sa.ForeignKey("approval.id")),
    sa.Column("model", sa.String(63), sa.ForeignKey("model.name")),
    sa.Column("until", Time, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.Column("given_at", Time, nullable=False),
    sa.Column("ended_at", Time),
    sa.Index("delegation_taker", "taker"),
)

rollout = sa.Table(
    "rollout",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.String(63), sa.ForeignKey("model.name"), nullable=False),
    sa.Column("environment", sa.String, nullable=False),
    sa.Column("run_id", sa.Integer, sa.ForeignKey("run.id")),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("challenger", sa.Integer, nullable=False),
    sa.Column("champion", sa.Integer),
    sa.Column("approval_id", sa.Integer, sa.ForeignKey("approval.id")),
    sa.Column("shares", sa.JSON, nullable=False),
    sa.Column("step", sa.Integer, nullable=False, default=-1),
    sa.Column("share", sa.Integer, nullable=False, default=0),
    sa.Column("look", sa.Integer, nullable=False, default=0),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("state_version", sa.Integer, nullable=False, default=0),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("next_look_at", Time),
    sa.Column("hold_until", Time),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("started_at", Time, nullable=False),
    sa.Column("ended_at", Time),
)
_LIVE = rollout.c.state.not_in(["full", "rolled_back"])
sa.Index(
    "rollout_one_live",
    rollout.c.model,
    rollout.c.environment,
    unique=True,
    sqlite_where=_LIVE,
    postgresql_where=_LIVE,
)

batch = sa.Table(
    "batch",
    metadata,
    sa.Column("rollout_id", sa.Integer, sa.ForeignKey("rollout.id"), primary_key=True),
    sa.Column("look", sa.Integer, primary_key=True),
    sa.Column("share", sa.Integer, nullable=False),
    sa.Column("since_us", sa.BigInteger, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
    sa.Column("counts", sa.JSON, nullable=False),
)

customer_draw = sa.Table(
    "customer_draw",
    metadata,
    sa.Column("rollout_id", sa.Integer, sa.ForeignKey("rollout.id"), primary_key=True),
    sa.Column("hour", sa.Integer, primary_key=True),
    sa.Column("share", sa.Integer, primary_key=True),
    sa.Column("low", sa.Integer, nullable=False),
    sa.Column("high", sa.Integer, nullable=False),
    sa.Column("met", sa.LargeBinary),
    sa.Column("wagers", sa.JSON, nullable=False),
)
"""What the customers of a canary met, one row for each time that they were drawn; `met` is none
once the hour has ended."""

deployment = sa.Table(
    "deployment",
    metadata,
    sa.Column("model", sa.String(63), sa.ForeignKey("model.name"), primary_key=True),
    sa.Column("environment", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("role", sa.String, primary_key=True),
    sa.Column("artifact_digest", sa.String(64), nullable=False),
    sa.Column("share", sa.Integer, nullable=False, default=0),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("lease_until", Time),
    sa.Column("rollout_id", sa.Integer, sa.ForeignKey("rollout.id")),
    sa.ForeignKeyConstraint(["model", "number"], ["version.model", "version.number"]),
)
_SOLE = deployment.c.role != "warm"
sa.Index(
    "deployment_one_role",
    deployment.c.model,
    deployment.c.environment,
    deployment.c.role,
    unique=True,
    sqlite_where=_SOLE,
    postgresql_where=_SOLE,
)

route_change = sa.Table(
    "route_change",
    metadata,
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("environment", sa.String, primary_key=True),
    sa.Column("mark", sa.BigInteger, nullable=False),
    sa.Index("route_change_mark", "mark"),
)
"""When the deployments of a model in an environment changed last, by a number that rises."""
LATEST = (route_change.c.model == "") & (route_change.c.environment == "")
"""The row whose mark is the highest. Whoever changes it is alone until the end of its
transaction, so that marks become visible in their order."""

monitor = sa.Table(
    "monitor",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.String(63), sa.ForeignKey("model.name"), nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("next_due", Time, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False, default=True),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.UniqueConstraint("model", "name"),
)

alert = sa.Table(
    "alert",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.String(63), sa.ForeignKey("model.name"), nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("first_due", Time, nullable=False),
    sa.Column("last_due", Time, nullable=False),
    sa.Column("occurrences", sa.Integer, nullable=False, default=1),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("checks", sa.JSON, nullable=False),
)
_OPEN = alert.c.state != "closed"
sa.Index(
    "alert_one_open",
    alert.c.model,
    alert.c.kind,
    unique=True,
    sqlite_where=_OPEN,
    postgresql_where=_OPEN,
)

label = sa.Table(
    "label",
    metadata,
    sa.Column("model", sa.String(63), sa.ForeignKey("model.name"), primary_key=True),
    sa.Column("prediction_id", sa.String(200), primary_key=True),
    sa.Column("value", sa.String, nullable=False),
    sa.Column("at", Time, nullable=False),
)

label_before = sa.Table(
    "label_before",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.String(63), sa.ForeignKey("model.name"), nullable=False),
    sa.Column("prediction_id", sa.String(200), nullable=False),
    sa.Column("value", sa.String, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.Column("replaced_at", Time, nullable=False),
    sa.Index("label_before_of", "model", "prediction_id"),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("key", sa.String, nullable=False, unique=True),
    sa.Column("message", sa.JSON, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.Column("sent_at", Time),
    sa.Column("tries", sa.Integer, nullable=False, default=0),
)

token = sa.Table(
    "token",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("person", sa.String, nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("expires_at", Time, nullable=False),
    sa.Column("last_used_at", Time),
    sa.Column("revoked_at", Time),
)

journal = sa.Table(
    "journal",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("ts", sa.String(32), nullable=False),
    sa.Column("actor", sa.String, nullable=False),
    sa.Column("action", sa.String, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("prev", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
)
