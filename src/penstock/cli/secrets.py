"""`penstock secret`: what the operator lets the server use to fetch data, by name.

Works on this computer's PENSTOCK_HOME. Values come from a prompt or from stdin, never from the
command line, where other programs could read them.
"""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from penstock.cli.machine import person_here, records_here, state_folder
from penstock.cli.session import Session, columns, session
from penstock.errors import UsageError

secret = typer.Typer(help="What the server may use to fetch data.", no_args_is_help=True)


@secret.command("set")
def secret_set(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What [data] calls it.")],
    keys: Annotated[list[str], typer.Argument(help="Storage options, each as KEY=-.")],
    *,
    models: Annotated[list[str], typer.Option(help="Models that may have it used; patterns.")],
    allow: Annotated[list[str], typer.Option(help="Prefixes at which it may be shown.")],
) -> None:
    """Keep a secret; each value is asked for, or read from stdin, a line each."""
    from penstock.build.named_secrets import NamedSecrets

    here = session(ctx)
    wanted = [_key(one) for one in keys]
    options = {key: _value(here, key) for key in wanted}
    home = state_folder()
    NamedSecrets(home).put(name, models=models, allow=allow, options=options)
    told = {"name": name, "models": models, "allow": allow, "options": wanted}
    with records_here(make=True) as database, database.change(person_here()) as change:
        change.journal("secret.set", told)
    here.write(f"secret {name} is kept for {', '.join(models)}", mark="passed")
    here.data("secret", told)


@secret.command("list")
def secret_list(ctx: typer.Context) -> None:
    """List the secrets: names only."""
    from penstock.build.named_secrets import NamedSecrets

    here = session(ctx)
    names = NamedSecrets(state_folder()).names()
    for line in columns((name,) for name in names):
        here.write(line)
    here.data("secrets", names)


@secret.command("remove")
def secret_remove(
    ctx: typer.Context, name: Annotated[str, typer.Argument(help="From secret list.")]
) -> None:
    """Remove a secret."""
    from penstock.build.named_secrets import NamedSecrets

    here = session(ctx)
    NamedSecrets(state_folder()).remove(name)
    with records_here(make=True) as database, database.change(person_here()) as change:
        change.journal("secret.removed", {"name": name})
    here.write(f"secret {name} is removed", mark="passed")
    here.data("secret", {"name": name, "removed": True})


def _key(text: str) -> str:
    key, _, value = text.partition("=")
    if value != "-":
        raise UsageError(
            "PS049",
            f"{key} has its value on the command line, where other programs could read it.",
            hint=f"Write {key}=- and give the value at the prompt, or a line of stdin.",
        )
    return key


def _value(here: Session, key: str) -> str | bool:
    if sys.stdin.isatty() and not here.no_input:
        value = getpass.getpass(f"{key}: ")
    else:
        value = sys.stdin.readline().rstrip("\r\n")
    if not value:
        raise UsageError(
            "PS049", f"There is no value for {key}.", hint="Give one line of stdin for each key."
        )
    return {"true": True, "false": False}.get(value, value)
