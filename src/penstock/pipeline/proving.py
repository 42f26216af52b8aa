"""Proving a version again: everything that was stored, signed and written down about it.

Each question is asked for itself, so that one fault hides no other.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.build import checkout, pack
from penstock.build.trust import path_proof, provenance
from penstock.build.trust.provenance import Claim
from penstock.build.trust.signing import Keys, Signed
from penstock.domain import JSON, Document, Version
from penstock.errors import ConflictError, PenstockError
from penstock.ports import ArtifactStore
from penstock.records import documents, journal, runs
from penstock.records.database import Database
from penstock.records.documents import FIRST_ROWS, PROOF

Told = Callable[[float, str], None]
"""Told how far the work is, from 0 to 1, and what is done now."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one part of a version."""

    subject: str
    sound: bool
    text: str
    """What was compared, or what is wrong."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything about versions is kept."""

    home: Path
    database: Database
    store: ArtifactStore


class _FaultError(Exception):
    """Something does not hold; the message says what."""


def sealed(places: Places, model: str, number: int | None) -> list[Version]:
    """Return the sealed versions of a model, newest first, or one of them.

    Raises
    ------
    NotFoundError, ConflictError
        There is no such model or version; PS139, it has not been built yet.
    """
    with places.database.read() as connection:
        runs.model_of(connection, model)
        if number is None:
            found = runs.versions(connection, model, most=100_000)
            return [one for one in found if one.sealed_at is not None]
        version = runs.version_of(connection, model, number)
    if version.sealed_at is None:
        raise ConflictError(
            "PS139",
            f"{version} was not stored: its build has not got so far.",
            hint=f"See where it stands: penstock status {model}.",
        )
    return [version]


def proof(places: Places, version: Version, told: Told) -> list[Finding]:
    """Verify everything about a sealed version.

    Parameters
    ----------
    told
        Called before each question.

    Returns
    -------
    list
        One finding a question, in their order; a version is proved when all are sound.
    """
    asked = _Asked(places, version, provenance.claim_of(version))
    questions: list[tuple[str, Callable[[], str]]] = [
        ("signature", asked.signature),
        ("attestation", asked.attestation),
        ("records", asked.records),
        ("journal", asked.journal),
        ("source", asked.source),
        ("stored files", asked.stored),
        ("unpacked files", asked.unpacked),
        ("documents", asked.documents),
        ("path", asked.path),
    ]
    found: list[Finding] = []
    for place, (subject, ask) in enumerate(questions):
        told(place / len(questions), f"{version}: {subject}")
        try:
            found.append(Finding(subject, sound=True, text=ask()))
        except PenstockError as error:
            found.append(Finding(subject, sound=False, text=f"{error.code} {error.what}"))
        except _FaultError as fault:
            found.append(Finding(subject, sound=False, text=str(fault)))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            # The statement is signed, but not in the form that this release writes.
            text = f"it cannot be read ({type(error).__name__}: {error})"
            found.append(Finding(subject, sound=False, text=text))
    return found


@dataclass(slots=True)
class _Asked:
    """The questions about one version."""

    places: Places
    version: Version
    claim: Claim
    _signed: Signed | None = None

    def signature(self) -> str:
        if self.claim.attestation_digest is None:
            raise _FaultError("there is no attestation")
        content = provenance.stored(self.claim.attestation_digest, self.places.store)
        self._signed = Keys(self.places.home).verify(content)
        key = self._signed.key
        until = f", retired {key.until[:10]}" if key.until else ""
        return f"by key {key.id[:16]}, in use since {key.since[:10]}{until}"

    def attestation(self) -> str:
        stated = self._stated()
        provenance.proved(self.claim, self.places.store, Keys(self.places.home))
        count = len(provenance.files_of(stated))
        return f"is about {self.claim}, artifact {self.claim.artifact_digest[:12]}, {count} files"

    def records(self) -> str:
        stated, version = self._stated(), self.version
        build = stated["predicate"]["buildDefinition"]
        data = next(
            (one for one in build["resolvedDependencies"] if _role(one) == "evaluation"), None
        )
        _same(
            {
                "commit": (build["externalParameters"]["commit"], version.commit),
                "sandbox level": (build["internalParameters"]["sandbox"], version.sandbox_level),
                "evaluation data": (data and data["digest"]["sha256"], version.data_digest),
                "run": (
                    stated["predicate"]["runDetails"]["metadata"]["invocationId"].split("/")[1],
                    str(version.run_id),
                ),
            }
        )
        return f"commit {version.commit[:12]}, run {version.run_id}, as stated"

    def journal(self) -> str:
        with self.places.database.read() as connection:
            count = journal.verify(connection)
            entries = journal.entries(
                connection, model=self.version.model, most=count, action="version.sealed"
            )
        bodies = [json.loads(entry.body) for entry in entries]
        mine = [
            (entry, body)
            for entry, body in zip(entries, bodies, strict=True)
            if body["number"] == self.version.number
        ]
        if len(mine) != 1:
            raise _FaultError(f"{len(mine)} entries say that it was sealed; one must")
        ((entry, body),) = mine
        _same(
            {
                "artifact": (body["artifact"], self.claim.artifact_digest),
                "lock": (body["lock"], self.claim.lock_digest),
                "evaluation data": (body["data"], self.version.data_digest),
                "attestation": (body.get("attestation"), self.claim.attestation_digest),
            },
            other="the journal says",
        )
        return f"entry {entry.seq} of {count} tells the same; the chain is whole"

    def source(self) -> str:
        stated = self._stated()
        parameters = stated["predicate"]["buildDefinition"]["externalParameters"]
        repository = self.places.home / "repositories" / f"{self.version.model}.git"
        content = checkout.read_file(repository, self.version.commit, "penstock.toml")
        told = parameters["configuration"]["penstock.toml"]
        _same({"penstock.toml": (told, None if content is None else _sha256(content))})
        return f"the repository has commit {self.version.commit[:12]} with the stated settings"

    def stored(self) -> str:
        store = self.places.store
        files = pack.contents(self.claim.artifact_digest, store)
        stated = provenance.files_of(self._stated())
        faults = [
            f"{path} is not as stated"
            for path in sorted({path for path, _ in files.items() ^ stated.items()})
        ]
        size = 0
        with tempfile.TemporaryDirectory(prefix="penstock-", dir=self.places.home) as name:
            copy = Path(name, "file")
            for path, digest in sorted(files.items()):
                try:
                    store.get(digest, copy)
                    size += copy.stat().st_size
                except PenstockError as error:
                    faults.append(f"{path}: {error.code} {error.what}")
                copy.unlink(missing_ok=True)
        _none(faults)
        return f"{len(files)} files, {size:,} bytes, each with its digest"

    def unpacked(self) -> str:
        folder = self.places.home / "models" / self.claim.artifact_digest
        if not folder.is_dir():
            return "not unpacked here"
        files = pack.contents(self.claim.artifact_digest, self.places.store)
        _none(pack.faults(folder, files))
        return f"{len(files)} files, none missing, changed or added"

    def documents(self) -> str:
        version = self.version
        with self.places.database.read() as connection:
            found = documents.documents(connection, version.model, version.number)
        stated = self._stated()
        lock = provenance.dependency_of(stated, "requirements.lock") or {}
        expected: Mapping[str, Any] = {
            "attestation": self.claim.attestation_digest,
            "bom": provenance.byproducts_of(stated).get("bom"),
            "lock": lock.get("digest", {}).get("sha256"),
        }
        there = {one.name: one for one in found}
        faults = [f"{name} is missing" for name in expected if name not in there]
        faults += [
            f"{name} is not the one that was signed"
            for name, digest in expected.items()
            if name in there and there[name].digest != digest
        ]
        faults += list(self._unreadable(found))
        _none(faults)
        return ", ".join(sorted(there))

    def path(self) -> str:
        """Prove how it answers: another call than its own needs a statement of its own."""
        version, places = self.version, self.places
        with places.database.read() as connection:
            kept = documents.found(connection, version.model, version.number, PROOF)
            rows = documents.found(connection, version.model, version.number, FIRST_ROWS)
        if kept is None and version.path == "own":
            return "its model's own call; nothing else is claimed"
        digest = None if kept is None else kept.digest
        stated = path_proof.proved(self.claim, digest, places.store, Keys(places.home))
        _, run, _, attempt = stated.invocation.split("/")
        with places.database.read() as connection:
            results = runs.results(connection, f"run:{run}:{attempt}")
            entries = journal.entries(
                connection, model=version.model, most=100_000, action="version.path"
            )
        bodies = [json.loads(entry.body) for entry in entries]
        journaled = {one["proof"] for one in bodies if one["number"] == version.number}
        found = [path_proof.digest_of(one) for one in results if one.check == stated.check]
        evidence = found[-1] if found else None
        _same(
            {
                "path": (stated.path, version.path),
                f"result of {stated.check}": (stated.evidence, evidence),
                "document of first rows": (stated.first_rows, rows and rows.digest),
            }
        )
        if digest not in journaled:
            raise _FaultError("the journal knows no such statement of how it answers")
        if rows is not None:
            _none(list(self._unreadable([rows])))
        within = f" within {stated.tolerance:g}" if stated.tolerance else ""
        how = "its model's own call" if stated.path == "own" else f"{stated.path}, proved{within}"
        golden = "with golden rows" if rows is not None else "no golden rows"
        return f"{how}; evidence {stated.evidence[:12]}, {golden}"

    def _unreadable(self, found: list[Document]) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="penstock-", dir=self.places.home) as name:
            copy = Path(name, "document")
            for one in found:
                try:
                    self.places.store.get(one.digest, copy)
                except PenstockError as error:
                    yield f"{one.name}: {error.code} {error.what}"

    def _stated(self) -> JSON:
        if self._signed is None:
            raise _FaultError("nothing that is signed says so")
        return self._signed.statement


def _role(one: JSON) -> str | None:
    return one.get("annotations", {}).get("role")


def _same(points: Mapping[str, tuple[object, object]], *, other: str = "it is stated as") -> None:
    _none(
        [
            f"{what} is {_short(recorded)} in the records, {other} {_short(told)}"
            for what, (told, recorded) in points.items()
            if told != recorded
        ]
    )


def _none(faults: list[str]) -> None:
    if faults:
        more = f"; and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise _FaultError("; ".join(faults[:20]) + more)


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) >= 40 else text


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
