"""The Pythons of this machine, and which of them a project gets.

What `[environment] python` demands and what ``requires-python`` rules must hold. What conda,
Pipenv or MLflow wrote down is a wish: such pins are often of a Python that is long gone.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from penstock.errors import StoppedError
from penstock.ports import Requirements

_LOOK = "import json, sys; print(json.dumps([sys.version_info[:3], sys.base_prefix]))"
_MINORS = range(9, 20)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that is installed."""

    path: Path
    version: str
    """``3.11.7``."""
    folder: Path
    """Its prefix; must be visible in the sandbox."""

    @property
    def minor(self) -> str:
        """``3.11``."""
        return ".".join(self.version.split(".")[:2])


@dataclass(slots=True)
class Interpreters:
    """Finds Pythons: the server's own first, then the system's, then those below ``home``.

    Parameters
    ----------
    home
        PENSTOCK_HOME; uv installs Pythons below ``python`` there, where sandboxes see them.
    """

    own: Path
    home: Path
    _known: dict[Path, Interpreter | None] = field(
        default_factory=dict[Path, "Interpreter | None"]
    )

    def installed(self) -> list[Interpreter]:
        """Return every Python that starts, one of each minor version."""
        found = dict[str, Interpreter]()
        for path in self._places():
            if path.exists() and (one := self._look(path)) is not None:
                found.setdefault(one.minor, one)
        return list(found.values())

    def _places(self) -> Iterator[Path]:
        yield self.own
        for folder in ("/usr/bin", "/usr/local/bin"):
            yield from (Path(folder, f"python3.{minor}") for minor in _MINORS)
        for minor in _MINORS:
            yield from sorted(self.home.glob(f"python/*/bin/python3.{minor}"))

    def _look(self, path: Path) -> Interpreter | None:
        if path not in self._known:
            try:
                done = subprocess.run(
                    [path, "-I", "-c", _LOOK], check=True, capture_output=True, timeout=60
                )
                version, prefix = json.loads(done.stdout)
            except (OSError, ValueError, subprocess.SubprocessError):
                self._known[path] = None  # broken, or not for this machine
            else:
                text = ".".join(str(part) for part in version)
                self._known[path] = Interpreter(path, text, Path(prefix))
        return self._known[path]


def chosen(
    installed: Sequence[Interpreter], wanted: Requirements, demanded: str | None
) -> tuple[Interpreter, str]:
    """Return the Python of a project, and a sentence where it is not the one that it wished.

    Parameters
    ----------
    installed
        The preferred one first.
    demanded
        ``[environment] python``, such as ``3.11``; beats what the project's files say.

    Raises
    ------
    StoppedError
        PS213, none is what is demanded or ruled.
    """
    there = ", ".join(one.version for one in installed) or "none"
    if demanded is not None:
        fits = [one for one in installed if f"{one.version}.".startswith(f"{demanded}.")]
        if not fits:
            raise StoppedError(
                "PS213",
                f"The project asks for Python {demanded}; installed here: {there}.",
                hint=f"Ask the operator to install Python {demanded}, or change [environment] "
                "python.",
            )
        installed = fits
    rule = wanted.requires_python
    fits = [one for one in installed if admits(rule, one.version)]
    if not fits:
        least = re.search(r"3\.[0-9]+", rule or "")
        raise StoppedError(
            "PS213",
            f"{wanted.file} requires Python {rule}; installed here: {there}.",
            hint="Ask the operator to add it below PENSTOCK_HOME/python: uv python install "
            f"{least[0] if least else '3.12'}; or loosen requires-python.",
        )
    if wanted.python is None or demanded is not None:
        return fits[0], ""
    wished = [one for one in fits if admits(wanted.python, one.version)]
    if wished:
        return wished[0], ""
    nearest = min(fits, key=lambda one: _distance(one, wanted.python or ""))
    text = re.sub(r"^==(.*)\.\*$", r"\1", wanted.python)
    return nearest, (
        f"{wanted.python_from} wishes Python {text}; installed here: {there}. "
        f"{nearest.version} is used."
    )


def admits(requires_python: str | None, version: str) -> bool:
    """Whether a project that says ``requires-python`` runs on a version of Python.

    Examples
    --------
    >>> admits(">=3.9,<3.12", "3.11.2"), admits(">=3.12", "3.11.2"), admits("~=3.11", "3.12.0")
    (True, False, True)
    >>> admits("==3.11.*", "3.11.2"), admits("!=3.11.*", "3.11.2"), admits("<=3.11", "3.11.2")
    (True, False, False)
    """
    return SpecifierSet(requires_python or "").contains(Version(version), prereleases=True)


def _distance(one: Interpreter, wish: str) -> int:
    named = re.search(r"3\.([0-9]+)", wish)
    return abs(int(one.minor.split(".")[1]) - int(named[1])) if named else 0


def outside(folder: Path) -> list[Path]:
    """Return a folder that a sandbox does not show by itself; nothing for one below /usr."""
    return [] if folder.is_relative_to("/usr") else [folder]


def default_python() -> Path:
    """Return this program's Python; the system's where a sandboxed user could not see that."""
    own = Path(sys.base_prefix)
    if any(not folder.stat().st_mode & 0o001 for folder in (own, *own.parents)):
        for name in ("python3", "python3.13", "python3.12", "python3.11"):
            if (system := Path("/usr/bin", name)).exists():
                return system
    return own / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
