"""Who may call: tokens ``pst_<id>_<secret>``, kept as a hash, scoped, with an end.

The secret is 32 random bytes, so a plain SHA-256 is enough; a slow hash is for passwords.
Until the first token exists the server is in single-user mode and asks for none.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

import sqlalchemy as sa

from penstock.errors import NotFoundError, UsageError
from penstock.records.database import Change
from penstock.records.schema import model, token

ROLES: dict[str, tuple[str, ...]] = {
    "viewer": ("read:*",),
    "developer": ("read:*", "push:*", "label:*", "predict:*"),
    "approver": ("read:*", "approve:*", "operate:*"),
    "on-call": ("read:*", "rollback:*"),
    "operator": ("read:*", "push:*", "label:*", "predict:*", "operate:*"),
    "admin": ("read:*", "push:*", "label:*", "predict:*", "operate:*", "admin:*"),
}
"""What a role may do: ``action:model-pattern``. Admin approves nothing by default."""
IMPLIED = {"rollback": "operate"}
"""Who may do the second may do the first."""
LIFE = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, and what they may do."""

    person: str
    scopes: tuple[str, ...]

    def may(self, action: str, model_name: str) -> bool:
        """Say whether a scope covers the action on the model (``*`` for all models)."""
        actions = {action, IMPLIED.get(action, action)}
        return any(
            fnmatchcase(f"{one}:{model_name}", scope) or scope == f"{one}:*"
            for one in actions
            for scope in self.scopes
        )


def any_exist(connection: sa.Connection) -> bool:
    """Say whether a token was ever made: from then on every call needs one."""
    return connection.scalar(sa.select(token.c.id).limit(1)) is not None


def create(change: Change, person: str, scopes: Sequence[str], *, life: timedelta = LIFE) -> str:
    """Make a token and return its text, which is shown this once."""
    actions = {scope.partition(":")[0] for role in ROLES.values() for scope in role}
    wrong = [s for s in scopes if s.partition(":")[0] not in actions or ":" not in s]
    if wrong or not scopes or not person:
        raise UsageError(
            "PS122",
            f"No token for {person!r} with scopes {', '.join(wrong or scopes) or 'none'}.",
            hint="A scope is action:model-pattern, or action:@team; actions: "
            + ", ".join(sorted(actions))
            + ".",
        )
    token_id, secret = secrets.token_hex(4), secrets.token_hex(32)
    change.connection.execute(
        token.insert().values(
            id=token_id,
            sha256=_digest(secret),
            person=person,
            scopes=list(scopes),
            created_at=change.now,
            expires_at=change.now + life,
        )
    )
    change.journal("token.created", {"token": token_id, "person": person, "scopes": list(scopes)})
    return f"pst_{token_id}_{secret}"


def revoke(change: Change, token_id: str) -> None:
    """End a token at once."""
    result = change.connection.execute(
        token.update()
        .where(token.c.id == token_id, token.c.revoked_at.is_(None))
        .values(revoked_at=change.now)
    )
    if result.rowcount != 1:
        raise NotFoundError(
            "PS123",
            f"There is no live token {token_id!r}.",
            hint="List them: penstock token list.",
        )
    change.journal("token.revoked", {"token": token_id})


def caller(connection: sa.Connection, text: str, *, now: datetime) -> Caller | None:
    """Return who holds this token, or None: unknown, ended or revoked."""
    parts = text.split("_")
    if len(parts) != 3 or parts[0] != "pst":
        return None
    row = connection.execute(sa.select(token).where(token.c.id == parts[1])).first()
    kept = row.sha256 if row is not None else "0" * 64
    right = hmac.compare_digest(kept, _digest(parts[2]))
    if row is None or not right or row.revoked_at is not None or row.expires_at <= now:
        return None
    return Caller(row.person, _scopes(connection, row.scopes))


def may(
    connection: sa.Connection, person: str, action: str, model_name: str, *, now: datetime
) -> bool:
    """Say whether a live token of a person covers the action on the model."""
    rows = connection.execute(
        sa.select(token.c.scopes).where(
            token.c.person == person, token.c.revoked_at.is_(None), token.c.expires_at > now
        )
    )
    return any(
        Caller(person, _scopes(connection, row.scopes)).may(action, model_name) for row in rows
    )


def people(connection: sa.Connection, *, now: datetime) -> list[str]:
    """Return everybody who has a live token."""
    query = sa.select(token.c.person).where(token.c.revoked_at.is_(None), token.c.expires_at > now)
    return sorted(set(connection.scalars(query)))


def _scopes(connection: sa.Connection, scopes: Sequence[str]) -> tuple[str, ...]:
    """Write a team's scope, ``approve:@Credit Risk``, as one for each model that it has now."""
    found: list[str] = []
    for scope in scopes:
        action, _, pattern = scope.partition(":")
        if pattern.startswith("@"):
            of_team = sa.select(model.c.name).where(model.c.team == pattern[1:])
            found += [f"{action}:{name}" for name in connection.scalars(of_team)]
        else:
            found.append(scope)
    return tuple(found)


def used(connection: sa.Connection, text: str, *, now: datetime) -> None:
    """Note the use of a token."""
    connection.execute(
        token.update().where(token.c.id == text.split("_")[1]).values(last_used_at=now)
    )


def listed(connection: sa.Connection) -> list[dict[str, object]]:
    """Return every token without its secret."""
    query = sa.select(
        token.c.id,
        token.c.person,
        token.c.scopes,
        token.c.created_at,
        token.c.expires_at,
        token.c.last_used_at,
        token.c.revoked_at,
    ).order_by(token.c.created_at)
    return [dict(row) for row in connection.execute(query).mappings()]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
