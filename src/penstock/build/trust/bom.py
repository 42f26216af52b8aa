"""The bill of materials of a version: CycloneDX 1.6, with the model, its data, its packages.

Everything is read from files: the lock, the metadata that packages left in the environment, the
opcodes of pickles. Nothing is imported, nothing is loaded.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import yaml
from cyclonedx import model as cyclonedx_model
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm
from cyclonedx.model import bom as cyclonedx_bom
from cyclonedx.model import component as cyclonedx_component
from cyclonedx.model.component import ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from penstock.build.trust.pickle_listing import listed
from penstock.build.trust.provenance import Claim, Source
from penstock.config.card import read_card
from penstock.domain import JSON

# The library's decorators hide its own types from a type checker.
Bom: Any = cyclonedx_bom.Bom
Component: Any = cyclonedx_component.Component
HashType: Any = cyclonedx_model.HashType
Property: Any = cyclonedx_model.Property

MEDIA_TYPE = "application/vnd.cyclonedx+json"
SAFE = frozenset({"skops", "onnx", "xgboost", "lightgbm", "catboost"})
"""Formats that hold numbers, not code; loading one runs nothing that came with it."""

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_MOST_FILES = 500
_OWN_LOADERS = ("mlflow.",)


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned distribution of the environment."""

    name: str
    version: str
    hashes: Sequence[str]
    """Of every wheel that the lock allows; the installed one is among them."""
    licence: str | None
    source: str
    """Where the licence stands: ``License-Expression``, ``Classifier``, ``License``; or
    ``not installed``, ``not stated``."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of the model, with what it would import."""

    path: str
    sha256: str
    names: Sequence[str] | None
    """Of a pickle; None for other files."""
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Bill:
    """What a bill of materials is written from."""

    claim: Claim
    description: JSON
    """penstock.json."""
    python: str
    packages: Sequence[Package]
    files: Sequence[ModelFile]
    data: Sequence[Source]
    card: str
    """CARD.md."""
    own_metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """As the training reported them; nobody checked."""
    at: datetime | None = None


def packages(lock: str, python: Path) -> list[Package]:
    """Return the packages of a lock, each with the licence that its metadata states.

    Parameters
    ----------
    python
        Of the environment; its site-packages are read, it is not run.
    """
    found: dict[str, metadata.Distribution] = {}
    for site in (python.parent.parent / "lib").glob("python*/site-packages"):
        for one in metadata.distributions(path=[str(site)]):
            name = cast("str | None", one.metadata["Name"])
            if name is not None:
                found.setdefault(canonicalize_name(name), one)
    return [
        Package(name, version, hashes, *_licence(found.get(canonicalize_name(name))))
        for name, version, hashes in pins(lock)
    ]


def pins(lock: str) -> Iterator[tuple[str, str, list[str]]]:
    """Give name, version and hashes of each pin.

    Examples
    --------
    >>> list(pins("# python 3.11.7 is no pin; numpy"), ), list(pins("numpy==2.4.6"))
    ([], [('numpy', '2.4.6', [])])
    """
    joined = lock.replace("\\\n", " ")
    for line in joined.splitlines():
        if (match := _PIN.match(line)) is not None:
            yield match[1], match[2], _HASH.findall(line)


def licences(found: Sequence[Package]) -> JSON:
    """Return the licences as a report."""
    return {
        "packages": [
            {"name": p.name, "version": p.version, "licence": p.licence, "source": p.source}
            for p in found
        ]
    }


def model_files(folder: Path, digests: Mapping[str, str]) -> list[ModelFile]:
    """Return the files below ``model/``, pickles with what they would import."""
    found: list[ModelFile] = []
    for path in sorted(digests):
        if not path.startswith("model/") or len(found) >= _MOST_FILES:
            continue
        listing = listed(folder / path)
        if listing is None:
            found.append(ModelFile(path, digests[path], None))
        else:
            found.append(
                ModelFile(path, digests[path], sorted(listing.names), whole=listing.whole)
            )
    return found


def runs_code(folder: Path, description: JSON, files: Sequence[ModelFile]) -> bool:
    """Say whether loading the model can run code that came with it."""
    kind = str(description["format"])
    if any(file.names is not None for file in files):
        return True
    if kind == "mlflow":
        return not _plain_mlflow(folder / str(description["path"]) / "MLmodel")
    return kind not in SAFE


def write(bill: Bill, *, code: bool) -> bytes:
    """Write the bill as CycloneDX 1.6 in JSON. The same bill gives the same bytes."""
    bom = Bom()
    name = str(bill.claim)
    bom.serial_number = uuid.uuid5(
        uuid.NAMESPACE_URL, f"urn:penstock:{name}:{bill.claim.artifact_digest}"
    )
    if bill.at is not None:
        bom.metadata.timestamp = bill.at
    root = _model(bill, code=code)
    bom.metadata.component = root
    parts = [*map(_package, bill.packages), _python(bill.python), *map(_file, bill.files)]
    for part in [*parts, *map(_data, bill.data)]:
        bom.components.add(part)
    bom.register_dependency(root, [*parts])
    told = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    document = cast("dict[str, Any]", json.loads(told))
    document["metadata"].pop("tools", None)
    document["metadata"]["component"]["modelCard"] = _model_card(bill)
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _model(bill: Bill, *, code: bool) -> Any:
    claim, described = bill.claim, bill.description
    told = {
        "penstock:format": str(described["format"]),
        "penstock:format:loads": "code" if code else "safe",
        "penstock:environment": claim.lock_digest,
    }
    head = read_card(bill.card).fields or {}
    stated = head.get("license")
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=claim.model,
        version=str(claim.number),
        bom_ref=str(claim),
        hashes=_hashes([claim.artifact_digest]),
        licenses=_licenses(stated if isinstance(stated, str) else None),
        properties=[Property(name=key, value=value) for key, value in told.items()],
    )


def _package(one: Package) -> Any:
    purl = PackageURL("pypi", None, canonicalize_name(one.name), one.version)
    return Component(
        type=ComponentType.LIBRARY,
        name=one.name,
        version=one.version,
        purl=purl,
        bom_ref=purl.to_string(),
        hashes=_hashes(one.hashes),
        licenses=_licenses(one.licence),
        properties=[Property(name="penstock:licence:source", value=one.source)],
    )


def _python(version: str) -> Any:
    return Component(
        type=ComponentType.PLATFORM, name="python", version=version, bom_ref=f"python@{version}"
    )


def _file(one: ModelFile) -> Any:
    told = [Property(name="penstock:pickle:global", value=name) for name in one.names or ()]
    if one.names is not None:
        told.append(Property(name="penstock:pickle:whole", value=str(one.whole).lower()))
    return Component(
        type=ComponentType.FILE,
        name=one.path,
        bom_ref=f"file:{one.path}",
        hashes=_hashes([one.sha256]),
        properties=told,
    )


def _data(one: Source) -> Any:
    told = {
        f"penstock:data:{key}": str(value) for key, value in one.notes.items() if value is not None
    }
    if one.uri is not None:
        told["penstock:data:uri"] = one.uri
    return Component(
        type=ComponentType.DATA,
        name=one.name,
        bom_ref=f"data:{one.name}",
        hashes=_hashes([one.sha256]),
        properties=[Property(name=key, value=value) for key, value in told.items()],
    )


def _hashes(digests: Sequence[str]) -> list[Any]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in digests]


def _licenses(stated: str | None) -> list[Any]:
    return [] if stated is None else [LicenseFactory().make_from_string(stated)]


def _model_card(bill: Bill) -> JSON:
    described, head = bill.description, (read_card(bill.card).fields or {})
    parameters: dict[str, Any] = {
        "approach": {"type": "supervised"},
        "datasets": [{"ref": f"data:{one.name}"} for one in bill.data],
        "inputs": [{"format": _column(c)} for c in _columns(described.get("signature"))],
        "outputs": [{"format": str(described.get("task") or "prediction")}],
    }
    if described.get("task"):
        parameters["task"] = str(described["task"])
    card: dict[str, Any] = {"modelParameters": parameters}
    if bill.own_metrics:
        card["quantitativeAnalysis"] = {
            "performanceMetrics": [
                {"type": f"{name} (as the training reported it)", "value": f"{value:g}"}
                for name, value in sorted(bill.own_metrics.items())
            ]
        }
    considered = {
        "useCases": _texts(head, "intended_use", "intended-use", "use_cases"),
        "technicalLimitations": _texts(head, "limitations"),
        "ethicalConsiderations": [{"name": text} for text in _texts(head, "risks")],
    }
    considered = {key: texts for key, texts in considered.items() if texts}
    if considered:
        card["considerations"] = considered
    return card


def _texts(head: Mapping[str, Any], *names: str) -> list[str]:
    for name in names:
        told = head.get(name)
        if isinstance(told, str) and told.strip():
            return [told.strip()]
        if isinstance(told, list):
            return [str(one) for one in cast("list[object]", told)]
    return []


def _columns(signature: JSON | None) -> list[JSON]:
    return cast("list[JSON]", (signature or {}).get("columns", []))


def _column(column: JSON) -> str:
    shape = "".join(f"[{side}]" for side in column.get("shape", ()))
    return f"{column['name']}: {column['datatype']}{shape}"


def _licence(found: metadata.Distribution | None) -> tuple[str | None, str]:
    if found is None:
        return None, "not installed"
    told = cast("Message", found.metadata)
    if (stated := told.get("License-Expression")) and len(stated) < 500:
        return stated, "License-Expression"
    words = [
        line.rpartition("::")[2].strip()
        for line in told.get_all("Classifier") or ()
        if line.startswith("License ::") and line.count("::") > 1
    ]
    if words:
        return " AND ".join(words) if len(words) == 1 else "; ".join(words), "Classifier"
    stated = (told.get("License") or "").strip()
    # Some packages put the whole text there; its first line is its name.
    first = stated.splitlines()[0].strip() if stated else ""
    return (first[:120], "License") if first and first != "UNKNOWN" else (None, "not stated")


def _plain_mlflow(path: Path) -> bool:
    """Say whether an MLmodel is loaded by MLflow's own code alone."""
    try:
        told: Any = yaml.safe_load(path.read_text(encoding="utf-8")[:1_000_000])
        loader = str(told["flavors"]["python_function"]["loader_module"])
        has_code = bool(told["flavors"]["python_function"].get("code"))
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, RecursionError):
        return False
    return loader.startswith(_OWN_LOADERS) and not has_code
