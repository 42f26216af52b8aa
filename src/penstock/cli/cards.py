"""The command card: what a version's author wrote, and what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli.explaining import version_of, write_file
from penstock.cli.session import session


def card(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(help="Such as credit-default@12.")],
    *,
    html: Annotated[Path | None, typer.Option(help="Write it into a file to keep.")] = None,
) -> None:
    """Show a version's model card, or write it as one HTML file."""
    here = session(ctx)
    name, number = version_of(version)
    if html is not None:
        write_file(html, here.client().card_page(name, number))
        here.write(f"Written to {html}.")
        here.data("file", {"path": str(html)})
        return
    told: Any = here.client().card(name, number)
    here.data("card", told)
    here.write(str(told["markdown"]).rstrip("\n"))
    if told["gaps"]:
        at_high = ": at risk high nobody can approve this" if told["risk"] == "high" else ""
        here.note(f"CARD.md says nothing of {', '.join(told['gaps'])}{at_high}.", mark="warning")


COMMANDS = (card,)
