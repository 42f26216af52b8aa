"""Commands about approvals, besides yes and no: approvals, withdraw, comment, …"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock.cli.looking import done, field, rows_of
from penstock.cli.session import Session, columns, session
from penstock.errors import UsageError

Number = Annotated[int, typer.Argument(help="An approval's number; see penstock approvals.")]


def approvals(
    ctx: typer.Context,
    number: Annotated[int | None, typer.Argument(help="One of them; else all that wait.")] = None,
) -> None:
    """List what waits for people, or show one with all that was said."""
    here = session(ctx)
    if number is not None:
        asked = here.client().approval(number)
        here.data("approval", asked)
        here.write(str(field(asked, "markdown") or field(asked, "dossier", "lead")).rstrip())
        _said(here, asked)
        return
    data = here.client().approvals()
    here.data("approvals", data)
    found = rows_of(data, "approvals")
    rows = [
        (str(one["id"]), f"{one['model']}@{one['number']}", f"closes {one['expires_at'][:10]}")
        for one in found
    ]
    for line, one in zip(columns(rows), found, strict=True):
        here.write(f"{line}  {one['lead'] or ''}"[:120], mark="waits")
    if not found:
        here.write("Nobody is asked anything.")


def _said(here: Session, asked: Any) -> None:
    here.write(f"\n{field(asked, 'state')}: {_count(asked)} of {field(asked, 'needed')} yeses")
    for one in rows_of(asked, "votes"):
        whose = f" in place of {one['in_place_of']}" if one.get("in_place_of") else ""
        reason = f": {one['reason']}" if one["reason"] else ""
        here.write(f"  {one['vote']:<8} {one['actor']}{whose}, {one['ts'][:16]}{reason}")
    for one in rows_of(asked, "conditions"):
        here.write(f"  on condition {one['id']}, {one['set_by']}: {one['text']}")
    for one in rows_of(asked, "comments"):
        here.write(f"  comment  {one['actor']}, {one['ts'][:16]}: {one['text']}")


def _count(asked: Any) -> int:
    return sum(one["vote"] == "approve" for one in rows_of(asked, "votes"))


def withdraw(
    ctx: typer.Context,
    number: Number,
    *,
    reason: Annotated[str, typer.Option("-m", "--reason", help="Why, for the journal.")] = "",
) -> None:
    """Take your yes back, while others are still asked."""
    here = session(ctx)
    done(here, "withdraw", here.client().withdraw(number, reason), "Your yes is withdrawn.")


def comment(
    ctx: typer.Context,
    number: Number,
    *,
    text: Annotated[str, typer.Option("-m", "--message", help="What you want to say.")],
) -> None:
    """Say something about a version that waits, without deciding."""
    here = session(ctx)
    done(here, "comment", here.client().comment(number, text), "Your comment is kept.")


def conditions(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A model; else all.")] = None,
    *,
    met: Annotated[int | None, typer.Option(help="Say that this one is met.")] = None,
    note: Annotated[str, typer.Option("-m", "--note", help="How it was met.")] = "",
) -> None:
    """List the conditions of yeses that nobody has met, or say that one is."""
    here = session(ctx)
    if met is not None:
        done(here, "met", here.client().met(met, note), f"Condition {met} is met.")
        return
    data = here.client().conditions(name)
    here.data("conditions", data)
    for one in rows_of(data, "conditions"):
        due = "no date" if one["due"] is None else f"due {one['due'][:10]}"
        text = f"{one['id']}  {one['model']}@{one['number']}  {due}  {one['text']}"
        here.write(f"{text} ({one['set_by']})", mark="warning" if one["overdue"] else "waits")
    if not rows_of(data, "conditions"):
        here.write("No condition is open.")


def delegate(  # noqa: PLR0913  the options
    ctx: typer.Context,
    to: Annotated[str | None, typer.Argument(help="Who gets your vote; else list them.")] = None,
    *,
    until: Annotated[str | None, typer.Option(help="Its last day: 2026-12-31.")] = None,
    model: Annotated[str | None, typer.Option(help="Only on this model.")] = None,
    approval: Annotated[int | None, typer.Option(help="Only on this approval.")] = None,
    reason: Annotated[str, typer.Option("-m", "--reason", help="Why, for the journal.")] = "",
    end: Annotated[int | None, typer.Option(help="Take back the one of this number.")] = None,
) -> None:
    """Hand your vote to somebody for a time, take it back, or list what is handed over."""
    here = session(ctx)
    client = here.client()
    if end is not None:
        done(here, "delegate", client.end_delegation(end), "It is yours again.")
        return
    if to is None:
        data = client.delegations()
        here.data("delegations", data)
        for one in rows_of(data, "delegations"):
            where = f"approval {one['approval_id']}" if one["approval_id"] else one["model"] or "*"
            text = f"{one['id']}  {one['giver']} -> {one['taker']}  {where}"
            here.write(f"{text}  until {one['until'][:10]}  {one['reason']}".rstrip())
        if not rows_of(data, "delegations"):
            here.write("No vote is handed over.")
        return
    if until is None:
        raise UsageError(
            "PS481", "A vote is handed over for a time.", hint="Say until when: --until 2026-12-31"
        )
    made = client.delegate(to, until=until, model=model, approval=approval, reason=reason)
    done(here, "delegate", made, f"{to} holds your vote.")


COMMANDS = (approvals, withdraw, comment, conditions, delegate)
