"""Every error that Penstock raises on purpose.

An error says what happened, why, and what to do next. `code` is stable and has a heading in
docs/errors.md (a test holds the two together). A class exists only where a caller treats it
differently: by exit code, by HTTP status, or by trying again.

    PS0xx configuration, command line   PS1xx records, artifact store   PS2xx build
    PS3xx checks   PS4xx approval, rollout   PS5xx predictions   PS6xx monitors
    PS7xx integrity   PS8xx server, network, machine
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class PenstockError(Exception):
    """Base of the errors that a user can cause or an operator can repair.

    Parameters
    ----------
    code
        Stable, ``PS`` and three digits; it has a heading in docs/errors.md.
    what
        What happened and why, as one sentence with the values that matter.
    hint
        What to do next, as an imperative sentence. A command where one exists.
    """

    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, code: str, what: str, *, hint: str) -> None:
        super().__init__(f"{code} {what}\n  -> {hint}")
        self.code = code
        self.what = what
        self.hint = hint


class UsageError(PenstockError):
    """The caller asked for something that makes no sense."""

    exit_code = 2
    status = 400


class NotFoundError(PenstockError):
    """No such model, version, run, rollout or approval."""

    exit_code = 3
    status = 404


class NotAllowedError(PenstockError):
    """Not signed in, or without the right to do it."""

    exit_code = 4
    status = 403


class StoppedError(PenstockError):
    """The pipeline said no: a build, a check or a gate failed. The push is at fault, not us."""

    exit_code = 5
    status = 422


class ConflictError(PenstockError):
    """Somebody else changed it first, or its state does not allow the act."""

    exit_code = 5
    status = 409


class IntegrityError(PenstockError):
    """A digest, a signature or the journal's chain does not hold."""

    exit_code = 7
    status = 500


class UnreachableError(PenstockError):
    """A server, a disk or a database does not answer; trying again can help."""

    exit_code = 8
    status = 503
    retryable = True


@dataclass(frozen=True, slots=True)
class Fault:
    """One mistake in a configuration file."""

    code: str
    file: str
    line: int | None
    """1-based; None where the fault has no line, such as a missing table."""
    key: str
    """Dotted, ``quality.limits.roc_auc``."""
    reason: str
    fix: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{self.code} {where}  {self.key}: {self.reason}\n  -> {self.fix}"


class ConfigurationError(PenstockError):
    """A configuration file has faults; all of them are here, in the order of the file."""

    exit_code = 5
    status = 422

    def __init__(self, faults: Sequence[Fault]) -> None:
        assert faults, "a ConfigurationError without a fault"
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        super().__init__("PS010", f"{faults[0].file} has {count}.", hint="Mend the lines below.")
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "\n".join([f"{self.code} {self.what}", *map(str, self.faults)])


def damaged_database(cause: object) -> IntegrityError:
    """Return what is said when SQLite calls the records' file malformed."""
    return IntegrityError(
        "PS102",
        f"The database file is damaged: {cause}.",
        hint="Stop the server and put the file back: docs/server.md, A damaged database.",
    )
