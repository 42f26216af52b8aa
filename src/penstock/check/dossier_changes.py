"""What changed between two dossiers of one version, or since one was written.

A yes holds for what was read. Where something else stands there now, the person is told what.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from penstock.check.dossier import evidence_of
from penstock.domain import JSON, CheckResult, Version

_WORDS: Mapping[str, str] = {
    "commit": "the code",
    "artifact_digest": "the model's files",
    "lock_digest": "the environment",
    "data_digest": "the evaluation data",
    "sandbox_level": "the isolation of its build",
    "risk": "the risk",
}
_NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it was."""

    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.what}: {self.before}, now {self.after}"


def differences(before: JSON, after: JSON) -> list[Difference]:
    """Say what a dossier says otherwise than one before it; what decides first.

    Examples
    --------
    >>> def told(verdict, answer):
    ...     one = {"check": "quality.auc", "verdict": verdict, "answer": answer}
    ...     return {"evidence": [one], "identity": {}, "meaning": []}
    >>> [str(one) for one in differences(told("passed", "0.84"), told("failed", "0.71"))]
    ['quality.auc: passed (0.84), now failed (0.71)']
    """
    return [
        *_identity(before.get("identity") or {}, after.get("identity") or {}),
        *_evidence(before.get("evidence") or (), after.get("evidence") or ()),
        *_meaning(before.get("meaning") or (), after.get("meaning") or ()),
    ]


def since(document: JSON, version: Version, results: Sequence[CheckResult]) -> list[Difference]:
    """Say what the records say otherwise than a dossier that was written from them."""
    identity = cast("JSON", document.get("identity") or {})
    told = {
        "commit": version.commit,
        "artifact_digest": version.artifact_digest or "",
        "lock_digest": version.lock_digest or "",
    }
    known = {key: identity[key] for key in told if key in identity}
    return [
        *_identity(known, {key: told[key] for key in known}),
        *_evidence(document.get("evidence") or (), evidence_of(results)),
    ]


def since_champion(before: Version, after: Version) -> list[str]:
    """Say in sentences what a version has otherwise than its champion."""
    told = [*_columns(before, after)]
    for what, old, new in (
        ("environment", before.lock_digest, after.lock_digest),
        ("evaluation data", before.data_digest, after.data_digest),
    ):
        same = "is the same" if old == new else "is another one"
        told.append(f"The {what} {same}.")
    if before.artifact_digest == after.artifact_digest:
        told.append("The model's files are the same, byte by byte.")
    changed = sorted(_settings(before.config, after.config))
    if changed:
        more = f" and {len(changed) - 6} more" if len(changed) > 6 else ""
        told.append(f"penstock.toml: {'; '.join(changed[:6])}{more}.")
    if before.card != after.card:
        told.append("CARD.md was rewritten, or a part of it.")
    return told


def _columns(before: Version, after: Version) -> Iterator[str]:
    old, new = (_named(version) for version in (before, after))
    for words, found in (
        ("It reads new columns", [name for name in new if name not in old]),
        ("It no longer reads", [name for name in old if name not in new]),
        ("It reads as another type", [n for n in new if n in old and new[n] != old[n]]),
    ):
        if found:
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            yield f"{words}: {', '.join(found[:8])}{more}."


def _named(version: Version) -> dict[str, str]:
    columns = cast("Sequence[JSON]", (version.signature or {}).get("columns") or ())
    return {str(one["name"]): str(one.get("datatype")) for one in columns}


def _settings(before: JSON, after: JSON, at: str = "") -> Iterator[str]:
    for key in {*before, *after}:
        old: Any = before.get(key)
        new: Any = after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            parts = cast("tuple[JSON, JSON]", (old, new))
            yield from _settings(*parts, f"{at}{key}.")
        elif old != new:
            was, now = (_short(_written(one.get(key))) for one in (before, after))
            yield f"{at}{key} {was} -> {now}"


def _written(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def evidence_digest(version: Version, results: Sequence[CheckResult]) -> str:
    """Return SHA-256 of all that a decision rests on: what the version is, what checks found."""
    told: dict[str, Any] = {
        "version": {
            "model": version.model,
            "number": version.number,
            "commit": version.commit,
            "artifact": version.artifact_digest,
            "environment": version.lock_digest,
            "data": version.data_digest,
            "attestation": version.attestation_digest,
            "card": version.card,
        },
        "checks": [
            [one.check, str(one.verdict), one.summary, dict(one.evidence)]
            for one in sorted(results, key=lambda one: one.check)
        ],
    }
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _identity(before: JSON, after: JSON) -> Iterator[Difference]:
    for key, words in _WORDS.items():
        old, new = before.get(key) or _NOTHING, after.get(key) or _NOTHING
        if old != new:
            yield Difference(words, _short(old), _short(new))


def _evidence(before: Sequence[JSON], after: Sequence[JSON]) -> Iterator[Difference]:
    old, new = ({str(one["check"]): one for one in which} for which in (before, after))
    for check in [*old, *(name for name in new if name not in old)]:
        was, now = _told(old.get(check)), _told(new.get(check))
        if was != now:
            yield Difference(check, was, now)


def _told(one: JSON | None) -> str:
    return "not checked" if one is None else f"{one['verdict']} ({one['answer']})"


def _meaning(before: Sequence[JSON], after: Sequence[JSON]) -> Iterator[Difference]:
    new = {str(part["title"]): part for part in after}
    for part in before:
        now = new.get(str(part["title"]), {})
        if part.get("text") != now.get("text"):
            was, told = part.get("text") or _NOTHING, now.get("text") or _NOTHING
            yield Difference(str(part["title"]), _short(was), _short(told))


def _short(text: object) -> str:
    whole = " ".join(str(text).split())
    return whole if len(whole) <= 60 else f"{whole[:57]}…"
