"""The ways in which poetry and conda write bounds, in the words of PEP 440."""

from __future__ import annotations

import re
from collections.abc import Sequence

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from penstock.build.project.dependency_files.draft import Draft, refuse
from penstock.build.project.distributions import CONDA, is_python

_SIGN = re.compile(r"\s*(===|==|!=|>=|<=|~=|>|<|\^|~|=)?\s*([0-9A-Za-z*][0-9A-Za-z.*+!_-]*)\s*")
_CONDA = re.compile(
    r"(?:[A-Za-z0-9._/:-]+::)?(?P<name>[A-Za-z0-9_][A-Za-z0-9._-]*)(?:\[[^\]]*\])?"
    r"\s*(?P<bounds>[ =<>!~].*)?"
)


def bounds(text: str, where: str) -> str:
    """Give poetry's bounds as a specifier set; alternatives as the range that holds them all.

    Examples
    --------
    >>> bounds("^1.2.3", ""), bounds("^0.2", ""), bounds("~1.4", ""), bounds("*", "")
    ('<2,>=1.2.3', '<0.3,>=0.2', '<1.5,>=1.4', '')
    >>> bounds(">=1.0 <2.0", ""), bounds("1.5", ""), bounds("^1.0 || ^2.0", "")
    ('<2.0,>=1.0', '==1.5', '<3,>=1.0')
    """
    alternatives = [part for part in re.split(r"\|\|?", text) if part.strip()]
    if not alternatives:
        return ""
    try:
        sets = [_together(part) for part in alternatives]
    except (InvalidSpecifier, InvalidVersion, ValueError):
        refuse(f"{where}: {text[:80]!r} is no bound of versions.", "Mend it and push again.")
    return str(sets[0] if len(sets) == 1 else _hull(sets))


def _together(text: str) -> SpecifierSet:
    found, rest = list[str](), text.replace(",", " ").strip()
    while rest:
        match = _SIGN.match(rest)
        if match is None:
            raise ValueError(text)
        found += _one(match[1] or "", match[2])
        rest = rest[match.end() :]
    return SpecifierSet(",".join(found))


def _one(sign: str, version: str) -> Sequence[str]:
    if version == "*":
        return []
    if sign in ("^", "~"):
        return _caret(version) if sign == "^" else _tilde(version)
    if version.endswith(".*") and sign not in ("", "=", "==", "!="):
        version = version.removesuffix(".*")
    return [f"{'==' if sign in ('', '=') else sign}{version}"]


def _caret(text: str) -> list[str]:
    version = Version(text.removesuffix(".*"))
    release = list(version.release)
    kept = next((n for n, part in enumerate(release) if part), len(release) - 1)
    return [f">={version}", f"<{_next(release, kept)}"]


def _tilde(text: str) -> list[str]:
    version = Version(text.removesuffix(".*"))
    release = list(version.release)
    return [f">={version}", f"<{_next(release, min(1, len(release) - 1))}"]


def _next(release: Sequence[int], kept: int) -> str:
    return ".".join(map(str, [*release[:kept], release[kept] + 1]))


def _hull(sets: Sequence[SpecifierSet]) -> SpecifierSet:
    """Return the smallest range that holds every one of some ranges."""
    lower = [[s for s in one if s.operator in (">=", ">", "==", "===", "~=")] for one in sets]
    upper = [[s for s in one if s.operator in ("<=", "<", "==", "===")] for one in sets]
    found = list[str]()
    if all(lower):
        least = min((max(s.version.removesuffix(".*") for s in one) for one in lower), key=Version)
        found.append(f">={least}")
    if all(upper) and not any("*" in s.version for one in upper for s in one):
        most = max((one[-1] for one in upper), key=lambda s: Version(s.version))
        found.append(f"{'<' if most.operator == '<' else '<='}{most.version}")
    return SpecifierSet(",".join(found))


def python_wish(text: str) -> str | None:
    """Give a Python version or bound, as somebody wrote it, as a specifier; None if it is none.

    Examples
    --------
    >>> python_wish("3.8"), python_wish("3.8.15"), python_wish(">=3.8,<3.11"), python_wish("x")
    ('==3.8.*', '==3.8.*', '<3.11,>=3.8', None)
    """
    text = text.strip().removeprefix("python-").removeprefix("cpython-")
    if exact := re.fullmatch(r"(?:==?)?\s*(\d+)(?:\.(\d+))?(?:\.[0-9a-z*]+)*", text):
        minor = "" if exact[2] is None else f".{exact[2]}"
        return f"=={exact[1]}{minor}.*"
    try:
        return str(_together(text)) or None
    except (InvalidSpecifier, InvalidVersion, ValueError):
        return None


def add_conda(text: str, where: str, draft: Draft) -> None:
    """Add a package as conda names it: ``name=1.2=build``, ``name>=1``, ``channel::name``."""
    match = _CONDA.fullmatch(text.strip())
    if match is None:
        refuse(f"{where} is no package of conda: {text[:200]!r}.", "Mend it and push again.")
    name, said = match["name"], (match["bounds"] or "").strip()
    if name.lower() == "python":
        draft.python = python_wish(_conda_bounds(said, fuzzy=False)) if said else draft.python
        return
    if not is_python(name):
        if name.lower() not in ("pip", "setuptools", "wheel"):  # every file of conda has them
            draft.left_out.append(name)
        return
    real = CONDA.get(name.lower(), name)
    if real != name:
        draft.note(f"{where}: {name} is called {real} on the index.")
    draft.add(f"{real}{bounds(_conda_bounds(said, fuzzy=True), where)}", where)


def _conda_bounds(said: str, *, fuzzy: bool) -> str:
    """Give conda's bounds in the words of `bounds`; ``=1.2`` means any 1.2 there."""
    if loose := re.fullmatch(r"=\s*([0-9][^=<>!~,| ]*)(=\S*)?", said):
        version = loose[1].rstrip(".*") if loose[1].endswith("*") else loose[1]
        exact = loose[2] is not None or not fuzzy
        return f"=={version}" if exact else f"=={version}.*"
    if plain := re.fullmatch(r"==\s*([0-9][^=<>!~,| ]*)(=\S*)?", said):
        return f"=={plain[1]}"
    if bare := re.fullmatch(r"([0-9][^=<>!~,| ]*)( \S+)?", said):
        return f"=={bare[1]}"
    return said
