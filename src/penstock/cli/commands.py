"""Every command by its name; the modules beside this one hold what each does.

    project      init, check, plan, connect, push      looking     status, watch, logs, list, …
    deciding     approve, reject, promote, rollback, … machine     serve, demo, doctor, token, …
    trust        key, verify, export                    experiments  experiments
    fairness     fairness                              comparing    compare

A command is a thin client of the server: it parses, makes one request and writes the answer.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from penstock import __version__
from penstock.cli import (
    adopting,
    approving,
    cards,
    comparing,
    deciding,
    experiments,
    fairness,
    labelling,
    looking,
    machine,
    project,
    secrets,
    serving,
    trust,
    upkeep,
)
from penstock.cli.session import Session

app = typer.Typer(
    name="penstock",
    help="From a push to a model in production, safely.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"penstock {__version__}\n")
        raise typer.Exit


@app.callback()
def root(  # noqa: PLR0913  the global options
    ctx: typer.Context,
    *,
    server: Annotated[str | None, typer.Option(help="Address of the server.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Results only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Tell more.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours.")] = False,
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask.")] = False,
    _version_wanted: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """From a push to a model in production, safely."""
    ctx.obj = Session(
        server=server,
        json=json,
        quiet=quiet,
        verbose=verbose,
        color=not no_color,
        no_input=no_input,
        environ=os.environ,
        out=sys.stdout,
        err=sys.stderr,
    )


for module in (
    project,
    adopting,
    looking,
    experiments,
    fairness,
    comparing,
    cards,
    deciding,
    approving,
    labelling,
    serving,
    trust,
    machine,
    upkeep,
):
    for command in module.COMMANDS:
        app.command(command.__name__.rstrip("_"))(command)
app.add_typer(machine.audit, name="audit")
app.add_typer(machine.token, name="token")
app.add_typer(machine.config, name="config")
app.add_typer(secrets.secret, name="secret")
app.add_typer(trust.key, name="key")
