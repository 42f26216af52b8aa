"""What a version brings along: the size of its files, and the packages of its environment."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.domain import CheckResult, Verdict

QUESTIONS = {
    "supply.size": "Is it of a reasonable size?",
    "supply.pins": "Is every package fixed to exact bytes?",
    "supply.licences": "Under which licences are its packages?",
}
MOST_MB = 1_000.0
"""Above this a person is asked: it is read from the store at each start of a worker."""
GREW, GREW_LEAST_MB = 10.0, 10.0
"""Times the champion's size, and MB, from which growth asks a person."""
_MB = 1_000_000
_COPYLEFT = re.compile(r"(?<![A-Z])(A?GPL|GNU (AFFERO )?GENERAL|EUPL|SSPL|OSL|CC-BY-SA)", re.ASCII)
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution of the environment."""

    name: str
    version: str
    licence: str | None = None


def size(byte_count: int, champion_bytes: int | None) -> CheckResult:
    """Compare the size of the packed version with a sensible one and with the champion's."""
    megabytes = byte_count / _MB
    before = None if champion_bytes is None else champion_bytes / _MB
    evidence: dict[str, Any] = {
        "value": round(megabytes, 3),
        "champion": None if before is None else round(before, 3),
        "limit": MOST_MB,
        "unit": "MB",
    }
    told = _bytes(byte_count)
    if megabytes > MOST_MB:
        summary = f"{told} > {MOST_MB:,.0f} MB: each start of a worker reads all of it"
        return _result("supply.size", Verdict.UNDECIDED, summary, evidence)
    if before is not None and megabytes > GREW_LEAST_MB and megabytes > GREW * before:
        times = megabytes / max(before, 1e-3)
        summary = f"{told}, {times:,.0f} times the champion's {_bytes(champion_bytes or 0)}"
        return _result("supply.size", Verdict.UNDECIDED, summary, evidence)
    beside = "" if champion_bytes is None else f", champion {_bytes(champion_bytes)}"
    return _result("supply.size", Verdict.PASSED, f"{told}{beside}", evidence)


def _bytes(count: int) -> str:
    return f"{count / _MB:,.1f} MB" if count >= _MB / 10 else f"{count / 1000:,.1f} kB"


def pins(lock: str) -> tuple[CheckResult, list[Package]]:
    r"""Read a lock (a requirements file): each package has one version and a hash.

    Examples
    --------
    >>> result, packages = pins("six==1.17.0 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    >>> result.summary, packages[0].name
    ('1 package, each with its hash', 'six')
    """
    packages: list[Package] = []
    loose: list[str] = []
    for line in lock.replace("\\\n", " ").splitlines():
        wanted = re.sub(r"(^|\s)#.*", "", line).strip()
        if not wanted or wanted.startswith("-"):
            continue
        pinned = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*==\s*([^\s;]+)", wanted)
        if pinned is None or "--hash=sha256:" not in wanted:
            loose.append(wanted.split()[0])
        if pinned is not None:
            packages.append(Package(pinned[1], pinned[2]))
    evidence: dict[str, Any] = {"value": len(packages), "loose": loose}
    if loose:
        summary = f"{len(loose)} packages are not fixed by a hash: {', '.join(loose[:3])}"
        return _result("supply.pins", Verdict.FAILED, summary, evidence), packages
    count = f"{len(packages)} package{'' if len(packages) == 1 else 's'}"
    summary = f"{count}, each with its hash" if packages else "no packages beside Python itself"
    return _result("supply.pins", Verdict.PASSED, summary, evidence), packages


def licences(packages: Sequence[Package], *, asks: bool) -> CheckResult:
    """Count licences; copyleft and unknown ones ask a person where the operator wants that.

    Parameters
    ----------
    asks
        Whether server.toml says ``[supply] licences = "ask"``; else it is a report.
    """
    found = Counter(one.licence or _UNKNOWN for one in packages)
    copyleft = [one for one in packages if is_copyleft(one.licence or "")]
    unknown = [one for one in packages if one.licence is None]
    evidence: dict[str, Any] = {
        "value": len(packages),
        "licences": dict(found.most_common(20)),
        "copyleft": [f"{one.name} {one.version}: {one.licence}" for one in copyleft[:50]],
        "unknown": [f"{one.name} {one.version}" for one in unknown[:50]],
        "reading": "asked" if asks else "reported",
    }
    if not packages:
        return _result("supply.licences", Verdict.PASSED, "no packages beside Python", evidence)
    if len(unknown) == len(packages):
        summary = f"{len(packages)} packages, their licences not recorded"
        verdict = Verdict.UNDECIDED if asks else Verdict.PASSED
        return _result("supply.licences", verdict, summary, evidence)
    told = ", ".join(f"{name} {count}" for name, count in found.most_common(3))
    summary = f"{len(packages)} packages: {told}"
    points = _points({"copyleft": copyleft, "of unknown licence": unknown})
    if points:
        summary += f"; {points}"
    verdict = Verdict.UNDECIDED if asks and points else Verdict.PASSED
    return _result("supply.licences", verdict, summary, evidence)


def is_copyleft(licence: str) -> bool:
    """Say whether a licence asks for the source of what is built with it.

    Examples
    --------
    >>> [is_copyleft(one) for one in ("GPL-3.0-only", "LGPL-2.1", "AGPL-3.0", "MIT")]
    [True, False, True, False]
    """
    return _COPYLEFT.search(licence.upper()) is not None


def _points(kinds: Mapping[str, Sequence[Package]]) -> str:
    parts: list[str] = []
    for what, of in kinds.items():
        if of:
            named = ", ".join(one.name for one in of[:3]) + (", …" if len(of) > 3 else "")
            parts.append(f"{len(of)} {what}: {named}")
    return "; ".join(parts)


def _result(name: str, verdict: Verdict, summary: str, evidence: dict[str, Any]) -> CheckResult:
    return CheckResult(name, verdict, summary, {"question": QUESTIONS[name], **evidence})
