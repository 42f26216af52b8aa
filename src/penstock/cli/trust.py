"""Commands about trust: key. It works on this computer's home, with no server running."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from penstock.cli import machine
from penstock.cli.session import columns, session

key = typer.Typer(help="The keys that attestations are signed with.", no_args_is_help=True)


@key.command("show")
def key_show(ctx: typer.Context) -> None:
    """Print the public key that verifies what this server signs now, as PEM."""
    from penstock.build.signing import Keys

    here = session(ctx)
    current = Keys(machine.state_folder()).current()
    here.data("key", asdict(current))
    if not here.json:
        here.out.write(current.pem)
    here.note(f"Its id is {current.id}, in use since {current.since[:19]}.")


@key.command("list")
def key_list(ctx: typer.Context) -> None:
    """List every key whose signatures are believed."""
    from penstock.build.signing import Keys

    here = session(ctx)
    trusted = Keys(machine.state_folder()).trusted()
    here.data("keys", [asdict(one) for one in trusted])
    rows = [
        (
            one.id[:16],
            f"since {one.since[:19]}",
            f"until {one.until[:19]}" if one.until else "signs now",
        )
        for one in trusted
    ]
    for line in columns(rows):
        here.write(line)


@key.command("rotate")
def key_rotate(
    ctx: typer.Context, *, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> None:
    """Make a new key; the old one still proves what it has signed."""
    from penstock.build.signing import Keys

    here = session(ctx)
    here.confirm("Sign with a new key from now on?", yes=yes)
    keys = Keys(machine.state_folder())
    with machine.records_here() as records, records.change(machine.person_here()) as change:
        old = [one.id for one in keys.trusted() if one.until is None]
        made = keys.make(now=change.now)
        change.journal("key.rotated", {"key": made.id, "retired": old})
    here.write(f"key {made.id[:16]} signs from now on", mark="passed")
    here.data("key", asdict(made))
    here.following("penstock key show, and give it to those who verify")
