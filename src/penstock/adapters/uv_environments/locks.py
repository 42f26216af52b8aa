"""The text of a lock: one pin a line, with the digests of the files that may stand for it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from penstock.errors import StoppedError

NAME = "requirements.lock"


def pins(lock: str, *, hashes: bool = True) -> Iterator[str]:
    """Give the requirements of a lock's text, each as one line, its hashes sorted."""
    for line in _logical(lock):
        words = line.split()
        found = sorted(word for word in words if word.startswith("--hash="))
        rest = [word for word in words if not word.startswith("--hash=")]
        yield " ".join([*rest, *found] if hashes else rest)


def lock_digest(lock: Path) -> str:
    """Return the digest of a lock: SHA-256 over the Python version and the sorted pins."""
    text = lock.read_text(encoding="utf-8")
    facts = [f"python {locked_python(text)}", *sorted(pins(text))]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def locked_python(lock: str) -> str:
    """Return the version of Python that a lock was made for."""
    head = re.match(r"# python ([0-9.]+)\n", lock)
    assert head is not None, "a lock begins with its Python version"
    return head[1]


def narrowed(lock: str, allowed: Mapping[str, frozenset[str]], file: str) -> str:
    """Leave to each pin only the digests that the project's own file allows it.

    What the index has and the project never saw is not installed, even under the same version.

    Raises
    ------
    StoppedError
        PS262, none of the index's files of a package has one of these digests.
    """
    lines = list[str]()
    for line in pins(lock):
        words = line.split()
        wanted = Requirement(" ".join(word for word in words if not word.startswith("--hash=")))
        key = f"{canonicalize_name(wanted.name)}{wanted.specifier}"
        known = allowed.get(key)
        if known is not None:
            kept = [w for w in words if not w.startswith("--hash=") or w[7:] in known]
            if len(kept) == len([w for w in words if not w.startswith("--hash=")]):
                raise StoppedError(
                    "PS262",
                    f"None of the files that the index has of {wanted.name} {wanted.specifier} "
                    f"has a digest that {file} allows.",
                    hint="Lock it anew, and find out why the file changed.",
                )
            words = kept
        lines.append(" ".join(words).replace(" --hash=", " \\\n    --hash="))
    return "\n".join(lines) + "\n" if lines else ""


def _logical(text: str) -> Iterator[str]:
    """Give each line that says something, continued lines joined."""
    parts = list[str]()
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        parts.append(line.removesuffix("\\").strip())
        if not line.endswith("\\"):
            if joined := " ".join(filter(None, parts)):
                yield joined
            parts = []
    if joined := " ".join(filter(None, parts)):
        yield joined
