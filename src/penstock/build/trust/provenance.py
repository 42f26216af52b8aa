"""Where a version comes from, as a signed statement, and the proof of it before each use.

    pack -> digest of the manifest -> statement (in-toto v1, SLSA provenance v1) -> DSSE envelope

The statement names the version and every file in it by digest, and what they were made from.
Nothing serves without it: `unpacked` is the only way from the store to a worker.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from penstock.build import pack
from penstock.build.trust.signing import MAX_BYTES, Keys, PublicKey, Signed
from penstock.domain import JSON, Version
from penstock.errors import IntegrityError
from penstock.ports import ArtifactStore

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:penstock:build:v1"
"""What the parameters of a build mean; docs/provenance.md describes them."""

_WAY_OUT = (
    "Restore the store from a backup, or build it anew: git commit --allow-empty, penstock push."
)


@dataclass(frozen=True, slots=True)
class Claim:
    """What the records say of a version, and an attestation must prove."""

    model: str
    number: int
    artifact_digest: str
    lock_digest: str
    attestation_digest: str | None

    def __str__(self) -> str:
        return f"{self.model}@{self.number}"


def claim_of(version: Version) -> Claim:
    """Return what the records say of a sealed version."""
    assert version.artifact_digest is not None, f"{version} is not sealed"
    assert version.lock_digest is not None, f"{version} is not sealed"
    return Claim(
        version.model,
        version.number,
        version.artifact_digest,
        version.lock_digest,
        version.attestation_digest,
    )


@dataclass(frozen=True, slots=True)
class Source:
    """One thing that a build was made from, or left beside the model."""

    name: str
    sha256: str
    uri: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Origin:
    """How a version was made: what the build saw, not what the project says of itself."""

    repository: str
    branch: str
    commit: str
    config_digest: str | None
    """Of penstock.toml as committed."""
    command: str
    python: str
    """``3.11.7``, as the lock says it."""
    lock: Source
    data: Sequence[Source]
    """What training could read; with ``read`` in its notes where that is known."""
    evaluation: Source | None
    sandbox: str
    network: bool
    variables: Sequence[str]
    """Names of the environment variables of the command; values can be secrets."""
    builder: str
    release: str
    """Of Penstock."""
    invocation: str
    """``run/1842/attempt/1``."""
    began_at: datetime
    ended_at: datetime
    byproducts: Sequence[Source]
    adopted: bool = False
    """The model came in a commit; nothing was trained here."""
    reused: Source | None = None
    """The version whose training was taken over, by its artifact."""


def statement(claim: Claim, files: Mapping[str, str], origin: Origin) -> JSON:
    """Write the statement of a version.

    Parameters
    ----------
    files
        Digest by path of every packed file.

    References
    ----------
    .. [1] in-toto attestation framework, Statement v1.
    .. [2] SLSA 1.0, provenance v1.
    """
    dependencies = [
        {
            "name": "source",
            "uri": f"git+{origin.repository}",
            "digest": {"gitCommit": origin.commit},
        },
        _described(origin.lock),
        *(_described(one) for one in origin.data),
        *([_described(origin.evaluation)] if origin.evaluation is not None else []),
        *([_described(origin.reused)] if origin.reused is not None else []),
    ]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": str(claim), "digest": {"sha256": claim.artifact_digest}},
            *({"name": path, "digest": {"sha256": files[path]}} for path in sorted(files)),
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "repository": origin.repository,
                    "branch": origin.branch,
                    "commit": origin.commit,
                    "command": origin.command,
                    "adopted": origin.adopted,
                    "configuration": {"penstock.toml": origin.config_digest},
                },
                "internalParameters": {
                    "python": origin.python,
                    "environment": claim.lock_digest,
                    "sandbox": origin.sandbox,
                    "network": origin.network,
                    "reused": origin.reused.name if origin.reused is not None else None,
                    "variables": sorted(origin.variables),
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": origin.builder, "version": {"penstock": origin.release}},
                "metadata": {
                    "invocationId": origin.invocation,
                    "startedOn": _stamp(origin.began_at),
                    "finishedOn": _stamp(origin.ended_at),
                },
                "byproducts": [_described(one) for one in origin.byproducts],
            },
        },
    }


def unpacked(claim: Claim, store: ArtifactStore, home: Path) -> Path:
    """Return a version's folder, proved: who signed it, that it is this one, and every file.

    Raises
    ------
    IntegrityError, NotFoundError
        PS130 it has no attestation, PS131 to PS133 the attestation proves nothing or something
        else, PS111 to PS114 the files are not what was packed.
    """
    proved(claim, store, Keys(home))
    return pack.unpack(claim.artifact_digest, store, home / "models")


def proved(claim: Claim, store: ArtifactStore, keys: Keys) -> Signed:
    """Return the statement that proves a claim."""
    if claim.attestation_digest is None:
        raise IntegrityError(
            "PS130",
            f"{claim} has no signed attestation, so nothing proves where it comes from.",
            hint="Build it anew: git commit --allow-empty, then penstock push.",
        )
    signed = keys.verify(stored(claim.attestation_digest, store))
    wrong = [
        *differences(claim, signed.statement),
        *too_late(signed.key, _metadata(signed.statement)),
    ]
    if wrong:
        what = f"The attestation of {claim} is not its own: {'; '.join(wrong)}."
        raise IntegrityError("PS133", what, hint=_WAY_OUT)
    return signed


def stored(digest: str, store: ArtifactStore) -> bytes:
    """Return a small artifact's bytes, verified."""
    with tempfile.TemporaryDirectory(prefix="penstock-") as name:
        path = Path(name, "artifact")
        store.get(digest, path)
        if path.stat().st_size > MAX_BYTES:
            what = f"Artifact {digest[:12]} has {path.stat().st_size:,} bytes: no attestation."
            raise IntegrityError("PS132", what, hint=_WAY_OUT)
        return path.read_bytes()


def differences(claim: Claim, stated: JSON) -> list[str]:
    """Say in which points a statement is about something else than the claim."""
    try:
        first = stated["subject"][0]
        predicate = stated["predicate"]
        internal = predicate["buildDefinition"]["internalParameters"]
        points = [
            ("type", stated["_type"], STATEMENT_TYPE),
            ("predicate", stated["predicateType"], PREDICATE_TYPE),
            ("version", first["name"], str(claim)),
            ("artifact", first["digest"]["sha256"], claim.artifact_digest),
            ("environment", internal["environment"], claim.lock_digest),
        ]
    except (KeyError, IndexError, TypeError) as error:
        return [f"it lacks {error}"]
    return [
        f"its {what} is {_short(states)}, the records say {_short(recorded)}"
        for what, states, recorded in points
        if states != recorded
    ]


def files_of(stated: JSON) -> dict[str, str]:
    """Return the digest by path of every file that a statement names."""
    return {one["name"]: one["digest"]["sha256"] for one in stated["subject"][1:]}


def byproducts_of(stated: JSON) -> dict[str, str]:
    """Return the digest by name of what the build left beside the model."""
    found = cast("list[dict[str, Any]]", stated["predicate"]["runDetails"]["byproducts"])
    return {one["name"]: one["digest"]["sha256"] for one in found}


def dependency_of(stated: JSON, name: str) -> JSON | None:
    """Return one thing that the build was made from."""
    found = cast("list[JSON]", stated["predicate"]["buildDefinition"]["resolvedDependencies"])
    return next((one for one in found if one.get("name") == name), None)


def too_late(key: PublicKey, metadata: JSON) -> Iterator[str]:
    """Refuse what a retired key signed for work that ended after it was retired."""
    if key.until is None:
        return
    try:
        finished = datetime.fromisoformat(metadata["finishedOn"])
        late = finished > datetime.fromisoformat(key.until)
    except (KeyError, TypeError, ValueError):
        yield "it does not say when the build ended"
        return
    if late:
        yield f"the build ended after key {key.id[:12]}… was retired"


def _metadata(stated: JSON) -> JSON:
    try:
        return cast("JSON", stated["predicate"]["runDetails"]["metadata"])
    except (KeyError, TypeError):
        return {}


def _described(one: Source) -> JSON:
    told: dict[str, Any] = {"name": one.name, "digest": {"sha256": one.sha256}}
    if one.uri is not None:
        told["uri"] = one.uri
    if one.notes:
        told["annotations"] = dict(one.notes)
    return told


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text[:100]
