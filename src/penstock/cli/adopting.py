"""Models that were trained elsewhere: adopt."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.session import git, session
from penstock.errors import UsageError


def adopt(  # noqa: PLR0913  each is an option of the command
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(help="A file, a folder, models:/name/3 or runs:/id/path.")
    ],
    *,
    name: Annotated[str, typer.Option(help="Name of the model here.")],
    evaluate: Annotated[
        Path | None, typer.Option(help="Rows to judge it on, CSV or Parquet.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of those with the answers.")] = None,
    requirements: Annotated[
        Path | None, typer.Option(help="What its environment needs; guessed without.")
    ] = None,
    predict: Annotated[
        Path | None, typer.Option(help="An adapter, for what is no known format.")
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow store of models:/ and runs:/."),
    ] = None,
    on_server: Annotated[
        str | None, typer.Option(help="Address of the file as the server reaches it.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Folder to write; default: the name.")] = None,
) -> None:
    """Make a model repository around a model that was trained elsewhere."""
    from penstock.build.adoption import registry
    from penstock.build.adoption import repository as adoption

    here = session(ctx)
    if (evaluate is None) != (label is None):
        raise UsageError(
            "PS297", "--evaluate and --label go together.", hint="Name both, or neither."
        )
    folder = (to or Path(name)).resolve()
    wish = adoption.Wish(name, label, evaluate, requirements, predict, on_server, source)
    with tempfile.TemporaryDirectory(prefix="penstock-adopt-") as place:
        files = Path(source)
        if source.startswith(("models:/", "runs:/")):
            if tracking_uri is None:
                raise UsageError(
                    "PS294",
                    f"{source} needs to know where MLflow keeps its models.",
                    hint="penstock adopt … --tracking-uri URI (a folder, a file or a server).",
                )
            files = Path(place, "model")
            registry.fetch(source, registry.open_store(tracking_uri, os.environ), files)
        prepared = adoption.prepare(files, folder, wish)
    for arguments in (("init", "-q", "-b", "main"), ("add", "--all")):
        git(*arguments, cwd=folder)
    committed = git("commit", "-q", "-m", f"Adopt {source}", cwd=folder) is not None
    here.write(f"{folder}: {prepared.model} and what Penstock needs", mark="passed")
    if prepared.guessed:
        told = ", ".join(prepared.requirements) or "nothing"
        here.note(f"requirements.txt was read off the file: {told}. Look at it.", mark="warning")
    if evaluate is None:
        here.note("No [evaluate]: smoke checks only; quality is undecided.", mark="warning")
    if not committed:
        here.note("git did not commit it; commit it yourself.", mark="warning")
    here.data("adopt", {**asdict(prepared), "folder": str(folder), "committed": committed})
    here.following(f"cd {folder.name} && penstock connect URL && penstock push")


COMMANDS = (adopt,)
