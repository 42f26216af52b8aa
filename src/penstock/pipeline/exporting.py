"""A version as an archive: its files, its lock, its documents, the keys that prove them.

    README.md   requirements.lock   version/…   documents/…   keys/…   SHA256SUMS

It is written as it is read, so that a large model needs no second copy. What is exported was
proved before the first byte.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec

from penstock.build import pack
from penstock.build.trust import provenance, signing
from penstock.domain import JSON, Document, Version
from penstock.errors import ConflictError
from penstock.pipeline.proving import Places
from penstock.ports import ArtifactStore
from penstock.records import documents

_CHUNK = 1 << 20
_NAMES = {
    "lock": "requirements.lock",
    "attestation": "documents/attestation.dsse.json",
    "bom": "documents/bom.cdx.json",
}
_ENDINGS = {
    "application/json": ".json",
    "text/markdown": ".md",
    "text/plain": ".txt",
    "text/csv": ".csv",
    "text/html": ".html",
    "application/vnd.apache.parquet": ".parquet",
}
_LOAD = {
    "joblib": "import joblib\nmodel = joblib.load('version/{path}')  # runs code: trust it first",
    "skops": "import skops.io\nmodel = skops.io.load('version/{path}', trusted=[…])",
    "mlflow": "import mlflow\nmodel = mlflow.pyfunc.load_model('version/{path}')",
    "onnx": "import onnxruntime\nmodel = onnxruntime.InferenceSession('version/{path}')",
    "xgboost": "import xgboost\nmodel = xgboost.Booster(model_file='version/{path}')",
    "lightgbm": "import lightgbm\nmodel = lightgbm.Booster(model_file='version/{path}')",
    "catboost": "import catboost\nmodel = catboost.CatBoost().load_model('version/{path}')",
    "adapter": "# version/{predict} has load(folder) and predict(model, frame)\n"
    "model = load('version/{path}')",
}


@dataclass(slots=True)
class Export:
    """One archive on its way out."""

    places: Places
    version: Version
    folder: Path
    """Unpacked and proved."""
    key: str
    """The public key that the attestation holds by, PEM."""
    described: JSON
    kept: list[Document]
    signed: bool
    _sums: list[str] = field(default_factory=list[str])

    def stream(self) -> Iterator[bytes]:
        """Give the archive (tar) piece by piece."""
        yield from self._text("README.md", self._readme())
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                yield from self._file(f"version/{path.relative_to(self.folder).as_posix()}", path)
        with tempfile.TemporaryDirectory(prefix="penstock-", dir=self.places.home) as name:
            copy = Path(name, "document")
            for one in self.kept:
                self.places.store.get(one.digest, copy)
                yield from self._file(_name(one), copy)
                copy.unlink()
        yield from self._text("keys/attestation.pub", self.key)
        if self.signed:
            yield from self._signature()
        yield from self._text("SHA256SUMS", "".join(self._sums))
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _signature(self) -> Iterator[bytes]:
        from model_signing import signing as model_signing  # noqa: PLC0415  an extra, two seconds

        private = model_key(self.places.home)
        with tempfile.TemporaryDirectory(prefix="penstock-", dir=self.places.home) as name:
            target = Path(name, "version.sig")
            signer = model_signing.Config().use_elliptic_key_signer(private_key=private)
            signer.sign(self.folder, target)
            yield from self._file("version.sig", target)
        yield from self._text("keys/model-signing.pub", public_pem(private))

    def _text(self, name: str, text: str) -> Iterator[bytes]:
        content = text.encode()
        yield _header(name, len(content))
        self._sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        yield content + bytes(-len(content) % tarfile.BLOCKSIZE)

    def _file(self, name: str, path: Path) -> Iterator[bytes]:
        size, digest = path.stat().st_size, hashlib.sha256()
        yield _header(name, size)
        left = size
        with path.open("rb") as file:
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise OSError(f"{path.name} became shorter while it was read")
                digest.update(chunk)
                left -= len(chunk)
                yield chunk
        self._sums.append(f"{digest.hexdigest()}  {name}\n")
        yield bytes(-size % tarfile.BLOCKSIZE)

    def _readme(self) -> str:
        version, described = self.version, self.described
        facts = {"path": described["path"], "predict": described.get("predict") or ""}
        how = _LOAD.get(str(described["format"]), "# see version/penstock.json").format(**facts)
        signature = (
            "model_signing verify key version --public_key keys/model-signing.pub "
            "--signature version.sig\n"
            if self.signed
            else ""
        )
        return (
            f"# {version}\n\n"
            f"Format: {described['format']}. Task: {described.get('task') or 'not stated'}. "
            f"Commit: {version.commit}.\n\n"
            "## Load it\n\n"
            f"Python and packages: `requirements.lock` (its first line names the Python).\n\n"
            "```sh\npip install --require-hashes -r requirements.lock\n```\n\n"
            f"```python\n{how}\n```\n\n"
            "Code of the project that the model may import is in `version/code`; put it on "
            "PYTHONPATH.\n\n"
            "## Verify it\n\n"
            f"```sh\nsha256sum -c SHA256SUMS\n{signature}```\n\n"
            "`documents/attestation.dsse.json` is a DSSE envelope with an in-toto statement; "
            "verify it with the server's public key, obtained by another way than this "
            "archive. `documents/bom.cdx.json` is a CycloneDX bill of materials.\n"
        )


def prepared(places: Places, version: Version, *, signed: bool) -> Export:
    """Prove a version and get its export ready.

    Raises
    ------
    ConflictError
        PS143, a model signature is wanted and the extra is not installed.
    """
    if signed:
        _require_extra()
    claim = provenance.claim_of(version)
    keys = signing.Keys(places.home)
    proof = provenance.proved(claim, places.store, keys)
    folder = provenance.unpacked(claim, places.store, places.home)
    with places.database.read() as connection:
        kept = documents.documents(connection, version.model, version.number)
    described = pack.description(folder)
    return Export(places, version, folder, proof.key.pem, described, kept, signed)


def stored(store: ArtifactStore, digest: str) -> Iterator[bytes]:
    """Return the bytes of an artifact, piece by piece; it is verified before the first."""
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        path = Path(folder) / "artifact"
        store.get(digest, path)
        opened = path.open("rb")  # what is open outlives its name

    def pieces() -> Iterator[bytes]:
        with opened:
            while piece := opened.read(1 << 18):
                yield piece

    return pieces()


def model_key(home: Path) -> Path:
    """Return the private key for OpenSSF model signatures, made at the first call.

    An elliptic curve key: the format knows no Ed25519.
    """
    path = home / "secrets" / "model-signing.pem"
    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        content = made.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
        )
        signing.write_private(path, content)
    return path


def public_pem(private: Path) -> str:
    """Return the public half of a private key in a file, as PEM."""
    key = form.load_pem_private_key(private.read_bytes(), None).public_key()
    pem = key.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode("ascii")


def _require_extra() -> None:
    lacking = [name for name in ("model_signing", "OpenSSL") if find_spec(name) is None]
    if lacking:
        raise ConflictError(
            "PS143",
            f"The server cannot write model signatures: {lacking[0]} is not installed there.",
            hint="On the server: pip install 'penstock[signing]'. Or export without --signed; "
            "the attestation is in every export.",
        )


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def _name(one: Document) -> str:
    if one.name in _NAMES:
        return _NAMES[one.name]
    return f"documents/{one.name}{_ENDINGS.get(one.media_type, '')}"
