"""How a version answers, as a second signed statement, and the proof of it at each load.

The first statement (provenance.py) is signed when the version is stored. Which call of its model
serves is known only after its checks; so it is stated apart, signed with the same keys: an
in-toto statement with a test result. It names the path, what was allowed, the digest of the
check's result as the records have it, and the first rows that every start must answer again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from penstock.build.trust import provenance
from penstock.build.trust.provenance import Claim
from penstock.build.trust.signing import Keys
from penstock.domain import JSON, CheckResult
from penstock.errors import IntegrityError
from penstock.ports import ArtifactStore

PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
FIRST_ROWS = "first-rows"


@dataclass(frozen=True, slots=True)
class Proof:
    """What was proved about how a version answers."""

    path: str
    """Which call of its model serves, ``own`` or another."""
    check: str
    """The check that found it."""
    evidence: str
    """SHA-256 of the check's result, see `digest_of`."""
    tolerance: float
    """How far its numbers may be from the own call's."""
    first_rows: str | None
    """SHA-256 of the document with the rows of every start; None where none were kept."""
    invocation: str
    """``run/1842/attempt/1``."""


def digest_of(result: CheckResult) -> str:
    """Return SHA-256 of a check's result as it is recorded."""
    told = [result.check, str(result.verdict), result.summary, dict(result.evidence)]
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def statement(claim: Claim, of: Proof, *, at: datetime) -> JSON:
    """Write the statement.

    References
    ----------
    .. [1] in-toto attestation framework, Statement v1 and test result v0.1.
    """
    configuration: list[JSON] = [
        {
            "name": of.check,
            "digest": {"sha256": of.evidence},
            "annotations": {
                "path": of.path,
                "tolerance": of.tolerance,
                "invocationId": of.invocation,
                "finishedOn": at.isoformat(),
            },
        }
    ]
    if of.first_rows is not None:
        configuration.append({"name": FIRST_ROWS, "digest": {"sha256": of.first_rows}})
    return {
        "_type": provenance.STATEMENT_TYPE,
        "subject": [{"name": str(claim), "digest": {"sha256": claim.artifact_digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "result": "PASSED",
            "configuration": configuration,
            "passedTests": [of.check],
        },
    }


def proved(claim: Claim, digest: str | None, store: ArtifactStore, keys: Keys) -> Proof:
    """Return what a signed statement proves of a version.

    Parameters
    ----------
    digest
        Of the envelope in the store; None where the version has none.

    Raises
    ------
    IntegrityError, NotFoundError
        PS148 there is none, or it is about something else; PS131, PS132 it is not signed; what
        the store raises.
    """
    if digest is None:
        raise _unproved(claim, "nothing that is signed says so")
    signed = keys.verify(provenance.stored(digest, store))
    try:
        found, wrong, metadata = _read(claim, signed.statement)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _unproved(claim, f"the statement lacks {error}") from error
    wrong += provenance.too_late(signed.key, metadata)
    if wrong:
        raise _unproved(claim, "; ".join(wrong))
    return found


def _read(claim: Claim, stated: JSON) -> tuple[Proof, list[str], JSON]:
    subject, predicate = stated["subject"][0], stated["predicate"]
    points = [
        ("type", stated["_type"], provenance.STATEMENT_TYPE),
        ("predicate", stated["predicateType"], PREDICATE_TYPE),
        ("version", subject["name"], str(claim)),
        ("artifact", subject["digest"]["sha256"], claim.artifact_digest),
        ("result", predicate["result"], "PASSED"),
    ]
    wrong = [
        f"its {what} is {str(states)[:80]}, not {str(expected)[:80]}"
        for what, states, expected in points
        if states != expected
    ]
    first, *more = cast("list[dict[str, Any]]", predicate["configuration"])
    rows = next((one for one in more if one["name"] == FIRST_ROWS), None)
    told = first["annotations"]
    return (
        Proof(
            str(told["path"]),
            str(first["name"]),
            str(first["digest"]["sha256"]),
            float(told["tolerance"]),
            None if rows is None else str(rows["digest"]["sha256"]),
            str(told["invocationId"]),
        ),
        wrong,
        told,
    )


def _unproved(claim: Claim, why: str) -> IntegrityError:
    return IntegrityError(
        "PS148",
        f"How {claim} answers is not proved: {why}.",
        hint="It serves by its model's own call. To prove it: git commit --allow-empty, "
        "penstock push.",
    )
