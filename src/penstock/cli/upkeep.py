"""The command prune: what of this computer's home nothing needs any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli import machine
from penstock.cli.session import Session, columns, session

if TYPE_CHECKING:
    from penstock.pipeline.upkeep import Leftover

WORDS = {
    "environment": "environments that no live or recent version needs",
    "model": "unpacked versions that nobody serves",
    "run": "folders of runs that have ended",
    "file": "files of the store that no version names",
    "data": "data fetched for builds",
    "download": "downloads that nothing refers to",
}


def prune(
    ctx: typer.Context,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove what nothing needs any more from this computer's home, server running or not."""
    from penstock import wiring

    here = session(ctx)
    home = machine.state_folder()
    with machine.records_here() as records:
        keeper = wiring.upkeep(home, machine.settings_here(home), records)
        found = keeper.prune("", dry_run=True)
        _tell(here, found)
        if dry_run:
            here.data("prune", {"dry_run": True, "removed": [asdict(one) for one in found]})
            return
        if found:
            here.confirm(f"Remove {_size(sum(one.bytes for one in found))}?", yes=yes)
        gone = keeper.prune(machine.person_here(), dry_run=False)
    freed = sum(one.bytes for one in gone)
    here.write(f"{_size(freed)} are free again" if gone else "nothing to remove", mark="passed")
    here.data("prune", {"dry_run": False, "removed": [asdict(one) for one in gone]})


def _tell(here: Session, found: Sequence[Leftover]) -> None:
    """Write a line for each kind, the largest first."""
    from penstock.pipeline.upkeep import summed

    by_kind = sorted(summed(found).items(), key=lambda pair: -pair[1]["bytes"])
    rows = [(f"{of['count']:,}", _size(of["bytes"]), WORDS[kind]) for kind, of in by_kind]
    for line in columns(rows):
        here.write(line)
    if not found:
        here.write("nothing that is not needed", mark="passed")


def _size(count: int) -> str:
    """Give bytes as people read them.

    Examples
    --------
    >>> _size(512), _size(1_500_000), _size(2 * 10**9)
    ('512 B', '1.5 MB', '2.0 GB')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


COMMANDS = (prune,)
