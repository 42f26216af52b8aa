"""The keys of this server: what it signs with, and whose signatures it believes.

    secrets/signing.pem   the private key (Ed25519), readable by the server's user alone
    trust.json            public keys, each with the time from which and until which it signed

A key that was retired still proves what it signed: builds that finished before its end. A
signature is a DSSE envelope, so that other tools can verify it with the public key alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import (
    CryptoSigner,  # pyright: ignore[reportPrivateImportUsage]
    SSlibKey,  # pyright: ignore[reportPrivateImportUsage]
)

from penstock.domain import JSON
from penstock.errors import IntegrityError, NotFoundError, UnreachableError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MEDIA_TYPE = "application/vnd.dsse.envelope.v1+json"
MAX_BYTES = 16 << 20
"""Of an envelope; a version of ten thousand files has about two million."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key whose signatures are believed."""

    id: str
    """SHA-256 over the key and its scheme, 64 hex digits, as in the envelope's ``keyid``."""
    pem: str
    since: str
    """ISO 8601, UTC."""
    until: str | None
    """When it was retired; None for the key that signs now."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement whose signature holds."""

    statement: JSON
    key: PublicKey


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys below one home."""

    home: Path

    @property
    def private(self) -> Path:
        """The file of the private key."""
        return self.home / "secrets" / "signing.pem"

    @property
    def trust(self) -> Path:
        """The file of the public keys."""
        return self.home / "trust.json"

    def made(self) -> bool:
        """Say whether there is a key to sign with."""
        return self.private.is_file()

    def make(self, *, now: datetime) -> PublicKey:
        """Make a new key to sign with and retire the one before.

        Killed between any two lines, what was signed stays proved: the new public key is
        believed before it signs, and the old one ends after it signed last.
        """
        made = Ed25519PrivateKey.generate()
        public = made.public_key().public_bytes(
            form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
        )
        private = made.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
        )
        pem = public.decode("ascii")
        key = PublicKey(_loaded(pem).keyid, pem, _iso(now), None)
        before = [*self.trusted()] if self.trust.exists() else []
        self._believe([*before, key])
        write_private(self.private, private)
        self._believe([*(replace(old, until=old.until or _iso(now)) for old in before), key])
        return key

    def trusted(self) -> Sequence[PublicKey]:
        """Return every key that is believed, oldest first.

        Raises
        ------
        NotFoundError, IntegrityError
            PS134, PS135: there is no trust file, or it is none.
        """
        try:
            told: Any = json.loads(self.trust.read_text("utf-8"))
            if not isinstance(told, list):
                raise TypeError("no list")  # noqa: TRY301  one sentence for every broken file
            # The id is computed from the key: one that is only claimed would hide a swap.
            return [
                PublicKey(_loaded(one["pem"]).keyid, one["pem"], one["since"], one["until"])
                for one in cast("list[dict[str, Any]]", told)
            ]
        except FileNotFoundError as error:
            raise NotFoundError(
                "PS134",
                f"{self.trust} is not there, so no signature can be believed.",
                hint="Restore it from a backup; penstock serve makes one for a new home.",
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                "PS135",
                f"{self.trust} holds no public keys that can be read ({error}).",
                hint="Restore it from a backup.",
            ) from error

    def current(self) -> PublicKey:
        """Return the public half of the key that signs now."""
        signer = self._signer()
        for key in self.trusted():
            if key.id == signer.public_key.keyid:
                return key
        raise IntegrityError(
            "PS136",
            f"{self.private} is not the key of any entry in {self.trust}.",
            hint="Restore both from one backup, or make a new key: penstock key rotate.",
        )

    def sign(self, statement: JSON) -> bytes:
        """Return a statement as a signed envelope. The same statement gives the same bytes."""
        payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
        envelope = Envelope(payload, PAYLOAD_TYPE, {})
        self.current()
        envelope.sign(self._signer())
        return (json.dumps(envelope.to_dict(), indent=1, sort_keys=True) + "\n").encode()

    def verify(self, content: bytes) -> Signed:
        """Return what an envelope states, if a believed key signed it.

        Raises
        ------
        IntegrityError
            PS131 no believed key signed these bytes, or PS132 it is no envelope at all.
        """
        trusted = self.trusted()
        try:
            envelope = Envelope.from_dict(json.loads(content))
            kind = envelope.payload_type
        except Exception as error:
            # Whatever the library raises on odd bytes means one thing: this proves nothing.
            raise IntegrityError(
                "PS132",
                f"The attestation is no signed envelope ({type(error).__name__}: {error}).",
                hint="Restore the artifact store from a backup, or push a new commit.",
            ) from error
        named = ", ".join(f"{name[:12]}…" for name in envelope.signatures) or "nobody"
        try:
            (used,) = envelope.verify([_loaded(key.pem) for key in trusted], 1)
            key = next(key for key in trusted if key.id == used)
            assert kind == PAYLOAD_TYPE, f"its type is {kind}"
            statement = cast("JSON", json.loads(envelope.payload))
            assert isinstance(statement, dict), "it is no object"
        except Exception as error:
            raise IntegrityError(
                "PS131",
                f"The attestation, signed by {named}, is not proved by any of the {len(trusted)} "
                f"keys that this server believes ({_reason(error)}).",
                hint="Somebody changed it, or another server signed it. "
                "Restore the store and trust.json from a backup, or push a new commit.",
            ) from error
        return Signed(statement, key)

    def _signer(self) -> CryptoSigner:
        try:
            mode = stat.S_IMODE(self.private.stat().st_mode)
            if mode & 0o077:
                why = f"other users may read it (mode {mode:04o})"
                fix = f"chmod 600 {self.private}, then: penstock key rotate."
                raise _unusable(self.private, why, fix)
            return CryptoSigner(form.load_pem_private_key(self.private.read_bytes(), None))
        except FileNotFoundError as error:
            fix = "Start the server once: penstock serve makes it."
            raise _unusable(self.private, "it is not there", fix) from error
        except (OSError, ValueError, TypeError) as error:
            fix = "Restore it from a backup, or make a new one: penstock key rotate."
            raise _unusable(self.private, str(error), fix) from error

    def _believe(self, keys: Sequence[PublicKey]) -> None:
        text = json.dumps([asdict(key) for key in keys], indent=1) + "\n"
        replaced(self.trust, text.encode(), mode=0o644)


def write_private(path: Path, content: bytes) -> None:
    """Write a private key so that nobody else can read it, at no moment."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replaced(path, content, mode=0o600)


def replaced(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file durably: it is whole, or it is the one before."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()
    except OSError as error:
        raise UnreachableError(
            "PS137",
            f"{path} could not be written: {error.strerror}.",
            hint="Make room on the disk or mend its rights, then try again.",
        ) from error


def _loaded(pem: str) -> SSlibKey:
    return SSlibKey.from_crypto(form.load_pem_public_key(pem.encode()))  # pyright: ignore[reportArgumentType]  what is no signing key, it refuses


def _unusable(path: Path, why: str, fix: str) -> UnreachableError:
    return UnreachableError("PS138", f"The key {path} cannot sign: {why}.", hint=fix)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
