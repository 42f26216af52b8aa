"""A commit of a model's repository as plain files, with nothing in it that acts.

No links, no submodules, no hooks, no filters, no `.git`: what stands in the commit is written
as bytes. Every file gets the same old time, so that what a build writes is told apart.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from penstock.errors import NotFoundError, StoppedError, UnreachableError, UsageError

FILE_TIME_S = 315_532_800
"""1980-01-01 00:00 UTC, as a Unix time: the modification time of every file checked out."""

MAX_READ_BYTES = 8 << 20

_FOR_PEOPLE = re.compile(rb"docs/|(CARD|README|LICEN[CS]E|CHANGELOG)[^/]*$", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TIMEOUT_S = 300
_MOST_COMMITS = 500
_SETTINGS = (
    *("core.symlinks=false", "core.hooksPath=/dev/null", "core.attributesFile=/dev/null"),
    *("core.autocrlf=false", "core.fsmonitor=false", "protocol.allow=never"),
    *("submodule.recurse=false", "core.protectNTFS=true", "core.protectHFS=true"),
)


@dataclass(frozen=True, slots=True)
class CommitFacts:
    """What a commit says of itself; the author wrote it, nobody proved it."""

    author: str
    """``Name <address>``."""
    at: datetime
    """When it was written, with the author's offset."""
    message: str
    """Its first line."""


def checkout(repository: Path, commit: str, target: Path, *, ending: str = "") -> None:
    """Write the files of a commit to `target`, which then holds them and nothing else.

    Parameters
    ----------
    repository
        A bare repository.
    ending
        Only files whose names end so, such as ``.py``; all by default.

    Raises
    ------
    UsageError, NotFoundError
        The commit is no hex id, or the repository does not have it.
    """
    _require(repository, commit)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    with _removed_on_failure(fresh):
        tree = fresh / "tree"
        tree.mkdir(parents=True)
        git = _Git(repository, index=fresh / "index", tree=tree)
        git.run("read-tree", commit)
        paths = git.run("ls-files", "-z").split(b"\0")
        wanted = b"".join(
            path + b"\0" for path in paths if path and path.endswith(ending.encode())
        )
        git.run("checkout-index", "-z", "--stdin", told=wanted)
        for path in tree.rglob("*"):
            os.utime(path, (FILE_TIME_S, FILE_TIME_S), follow_symlinks=False)
        if target.exists():
            target.rename(fresh / "before")
        tree.rename(target)
    shutil.rmtree(fresh)


def commit_facts(repository: Path, commit: str) -> CommitFacts:
    """Return who wrote a commit, when, and its first line."""
    _require(repository, commit)
    told = _Git(repository).run(
        "show", "--no-patch", "--format=%an <%ae>%x00%aI%x00%s", commit, "--"
    )
    author, at, message = told.decode(errors="replace").rstrip("\n").split("\0")
    return CommitFacts(author, datetime.fromisoformat(at), message)


def authors(repository: Path, commit: str, since: str | None = None) -> tuple[str, ...]:
    """Return the names and addresses of those who wrote the commits up to one, sorted.

    Those whom a commit names in ``Co-authored-by`` are among them. Nobody proved who they are.

    Parameters
    ----------
    since
        A commit whose own history does not count; one that is not there any more counts for none.
    """
    _require(repository, commit)
    git = _Git(repository)
    span = commit
    if since is not None and _COMMIT.fullmatch(since):
        with contextlib.suppress(UnreachableError):
            git.run("cat-file", "-e", f"{since}^{{commit}}")
            span = f"{since}..{commit}"
    form = "%an <%ae>%n%(trailers:key=Co-authored-by,valueonly)"
    told = git.run("log", f"--max-count={_MOST_COMMITS}", f"--format={form}", span, "--")
    found: set[str] = set()
    for line in told.decode(errors="replace").splitlines():
        name, _, address = line.strip().rstrip(">").rpartition("<")
        found |= {name.strip(), address.strip()}
    return tuple(sorted(found - {""}))


def last_change(repository: Path, commit: str, paths: Sequence[str]) -> datetime | None:
    """Return when one of some files was last changed, up to a commit; None if none ever was.

    The committer's date: an author's can be years before the push.
    """
    _require(repository, commit)
    told = _Git(repository).run("log", "-1", "--format=%cI", commit, "--", *paths)
    text = told.decode().strip()
    return datetime.fromisoformat(text) if text and paths else None


@dataclass(frozen=True, slots=True)
class Changes:
    """What lies between two commits."""

    commits: tuple[CommitFacts, ...]
    """Of the second and not of the first, newest first."""
    back: int
    """Commits of the first that the second does not have: it went back, or another way."""
    files: tuple[tuple[str, int | None, int | None], ...]
    """Path, lines added, lines removed; None for a file that is no text."""
    patch: str
    """The lines, as git writes them, of the text files."""
    cut: bool
    """Whether the patch is longer."""


def changes(
    repository: Path, before: str, after: str, *, most_commits: int = 50, most_bytes: int = 60_000
) -> Changes:
    """Return what a commit changed since another; neither need come before the other."""
    _require(repository, before)
    _require(repository, after)
    git = _Git(repository)
    form = "--format=%an <%ae>%x00%aI%x00%s"
    told = git.run("log", f"--max-count={most_commits}", form, f"{before}..{after}", "--")
    commits = [
        CommitFacts(author, datetime.fromisoformat(at), message)
        for author, at, message in (
            line.split("\0") for line in told.decode(errors="replace").splitlines()
        )
    ]
    back = int(git.run("rev-list", "--count", f"{after}..{before}", "--"))
    plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames")
    counted = git.run("diff", *plain, "--numstat", "-z", before, after, "--")
    files: list[tuple[str, int | None, int | None]] = []
    for line in filter(None, counted.split(b"\0")):
        added, removed, path = line.split(b"\t", 2)
        text = added != b"-"
        lines = (int(added), int(removed)) if text else (None, None)
        files.append((path.decode(errors="replace"), lines[0], lines[1]))
    whole = git.run("diff", *plain, before, after, "--")
    patch = whole[:most_bytes].decode(errors="replace")
    cut = len(whole) > most_bytes
    return Changes(tuple(commits), back, tuple(files), patch, cut)


def read_file(
    repository: Path, commit: str, path: str, *, limit: int = MAX_READ_BYTES
) -> bytes | None:
    """Return one file of a commit; None if the commit has no such file.

    Raises
    ------
    StoppedError
        It is larger than `limit` bytes.
    """
    _require(repository, commit)
    listed = _Git(repository).run("ls-tree", "-z", "--long", commit, "--", path)
    match = re.match(rb"[0-9]+ blob ([0-9a-f]+) +([0-9]+)\t", listed)
    if match is None:
        return None
    if int(match[2]) > limit:
        what = f"{path} has {int(match[2]):,} bytes; at most {limit:,} are read."
        raise StoppedError("PS204", what, hint="Keep large files under [data], not in this one.")
    return _Git(repository).run("cat-file", "blob", match[1].decode())


def tree_digest(repository: Path, commit: str) -> str:
    """Return SHA-256 over the names, modes and ids of a commit's files.

    Without those that only people read: CARD.md, README and licence at the top, and ``docs/``.
    """
    _require(repository, commit)
    listed = _Git(repository).run("ls-tree", "-r", "-z", "--full-tree", commit)
    entries = [one for one in listed.split(b"\0") if one]
    told = [one for one in entries if _FOR_PEOPLE.match(one.partition(b"\t")[2]) is None]
    return hashlib.sha256(b"\0".join(told)).hexdigest()


def _require(repository: Path, commit: str) -> None:
    if _COMMIT.fullmatch(commit) is None:
        what = f"{commit[:80]!r} is not the id of a commit."
        raise UsageError("PS201", what, hint="A commit's id has 40 small hex digits.")
    try:
        _Git(repository).run("cat-file", "-e", f"{commit}^{{commit}}")
    except UnreachableError as error:
        what = f"The repository {repository.name} has no commit {commit[:12]}."
        raise NotFoundError("PS202", what, hint="Push it again.") from error


@dataclass(frozen=True, slots=True)
class _Git:
    """git on a bare repository, deaf to every setting but ours."""

    repository: Path
    index: Path | None = None
    tree: Path | None = None

    def run(self, *arguments: str, told: bytes = b"") -> bytes:
        """Return what it prints; UnreachableError when it fails."""
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": "/nonexistent",
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",  # a filter lives in settings: there are none
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_LITERAL_PATHSPECS": "1",
        }
        if self.index is not None:
            environment["GIT_INDEX_FILE"] = str(self.index.absolute())
        line = ["git", "--git-dir", str(self.repository.absolute())]
        if self.tree is not None:
            line += ["--work-tree", str(self.tree.absolute())]
        line += [word for setting in _SETTINGS for word in ("-c", setting)]
        reason = ""
        try:
            return subprocess.run(
                [*line, *arguments],
                input=told,
                env=environment,
                cwd=self.tree,
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=True,
            ).stdout
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip()[:500]
        except subprocess.TimeoutExpired:
            reason = f"it did not end within {_TIMEOUT_S} s"
        raise UnreachableError(
            "PS203",
            f"git {arguments[0]} failed in {self.repository.name}: {reason}",
            hint="Look at the disk and the repository (git fsck), then: penstock retry.",
        )


@contextmanager
def _removed_on_failure(folder: Path) -> Generator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
