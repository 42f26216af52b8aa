"""Commands that decide: approve, reject, promote, pause, resume, rollback, abort, retry, …

Each prints what it is about first and asks, unless ``--yes`` says it before.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock.cli.looking import done, field, rows_of
from penstock.cli.session import Session, session
from penstock.errors import UsageError

Name = Annotated[str, typer.Argument(help="A model.")]
Number = Annotated[int, typer.Argument(help="An approval's number; see penstock status.")]
Reason = Annotated[str, typer.Option("-m", "--reason", help="Why, for the journal.")]
For = Annotated[str | None, typer.Option("--for", help="Whose vote it is, if not yours.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def approve(  # noqa: PLR0913  the options
    ctx: typer.Context,
    number: Number,
    *,
    reason: Reason = "",
    condition: Annotated[
        str, typer.Option(help="What has to happen, although it may go to production.")
    ] = "",
    due: Annotated[str | None, typer.Option(help="The condition's last day: 2026-12-31.")] = None,
    giver: For = None,
    yes: Yes = False,
) -> None:
    """Say yes to a version, after its summary; with a condition if need be."""
    here = session(ctx)
    client = here.client()
    asked = client.approval(number)
    version = f"{field(asked, 'model')}@{field(asked, 'number')}"
    _summary(here, asked)
    here.typed(f"Type the version to approve: {version}\n", version, yes=yes)
    more = {"condition": condition, "due": due, "in_place_of": giver, "dossier": _read(asked)}
    done(here, "approve", client.approve(number, reason, **more), f"{version} is approved.")


def reject(
    ctx: typer.Context,
    number: Number,
    *,
    reason: Reason = "",
    giver: For = None,
    yes: Yes = False,
) -> None:
    """Say no to a version; a reason is needed."""
    here = session(ctx)
    if not reason.strip():
        raise UsageError(
            "PS054", "A reason is needed to say no.", hint=f'penstock reject {number} -m "…"'
        )
    client = here.client()
    asked = client.approval(number)
    version = f"{field(asked, 'model')}@{field(asked, 'number')}"
    _summary(here, asked)
    here.confirm(f"Refuse {version}?", yes=yes)
    more = {"in_place_of": giver, "dossier": _read(asked)}
    done(here, "reject", client.reject(number, reason, **more), f"{version} is refused.")


def _read(asked: Any) -> str | None:
    """Return the digest of the dossier that was shown: the decision holds for no other."""
    found = field(asked, "dossier_digest")
    return None if found is None else str(found)


def promote(
    ctx: typer.Context,
    name: Name,
    *,
    to: Annotated[str | None, typer.Option(help="A share, such as 25%.")] = None,
    reason: Reason = "",
    yes: Yes = False,
) -> None:
    """Take a rollout to its next step, or to a share, before its evidence is complete."""
    here = session(ctx)
    share = None if to is None else _percent(to)
    where = "its next step" if share is None else f"{share} % of the traffic"
    here.confirm(f"Take {name} to {where}?", yes=yes)
    answer = here.client().promote(_model(name), to=share, reason=reason)
    done(here, "promote", answer, f"{name} goes to {where}.")


def pause(ctx: typer.Context, name: Name, *, reason: Reason = "") -> None:
    """Hold a rollout; the shares stay as they are."""
    here = session(ctx)
    answer = here.client().pause(_model(name), reason)
    done(here, "pause", answer, f"The rollout of {name} is held.", f"penstock resume {name}")


def resume(ctx: typer.Context, name: Name, *, reason: Reason = "") -> None:
    """Let a held rollout go on."""
    here = session(ctx)
    done(here, "resume", here.client().resume(_model(name), reason), f"{name} goes on.")


def rollback(
    ctx: typer.Context,
    name: Name,
    *,
    to: Annotated[str | None, typer.Option(help="A version, such as @12.")] = None,
    reason: Reason = "",
    yes: Yes = False,
) -> None:
    """End a canary, or give all traffic back to the version before."""
    here = session(ctx)
    number = None if to is None else _version(to)
    target = "the version before" if number is None else f"{_model(name)}@{number}"
    here.confirm(f"{target} of {name} gets 100 % of the traffic back. Go on?", yes=yes)
    answer = here.client().rollback(_model(name), to=number, reason=reason)
    following = f"penstock history {_model(name)}"
    done(here, "rollback", answer, "Done: all traffic is back.", following)


def abort(
    ctx: typer.Context,
    run: Annotated[int, typer.Argument(help="A run.")],
    *,
    reason: Reason = "",
    yes: Yes = False,
) -> None:
    """End a run or its rollout; the champion keeps all traffic."""
    here = session(ctx)
    here.confirm(f"End run {run}?", yes=yes)
    done(here, "abort", here.client().abort(run, reason), f"Run {run} ends.")


def retry(ctx: typer.Context, run: Annotated[int, typer.Argument(help="A run.")]) -> None:
    """Go on with a failed run; finished steps keep their results."""
    here = session(ctx)
    answer = here.client().retry(run)
    done(here, "retry", answer, f"Run {run} goes on.", f"penstock watch {run}")


def monitor(
    ctx: typer.Context,
    name: Name,
    *,
    run: Annotated[str | None, typer.Option(help="Run now: hour, day, week, month.")] = None,
) -> None:
    """Show what the monitors found, or run one now."""
    here = session(ctx)
    data = here.client().monitor(_model(name), run=run)
    here.data("monitor", data)
    periods = rows_of(data, "periods") or ([data] if rows_of(data, "results") else [])
    for period in periods:
        here.write(f"{field(period, 'name') or run or ''}  {field(period, 'due') or ''}".strip())
        for result in rows_of(period, "results"):
            verdict = str(result.get("verdict"))
            text = f"{verdict:<9}  {result.get('check'):<22}  {result.get('summary')}"
            here.write(text, mark=verdict)
    if not periods:
        here.write(str(field(data, "text") or "No period has been checked yet."))


def _summary(here: Session, asked: Any) -> None:
    text = field(asked, "markdown") or field(asked, "dossier", "lead") or ""
    if text:
        here.write(str(text).rstrip())


def _percent(text: str) -> int:
    number = text.removesuffix("%").strip()
    if not number.isdigit() or not 0 < int(number) <= 100:
        raise UsageError("PS057", f'"{text}" is no share.', hint="Write 1% to 100%.")
    return int(number)


def _version(text: str) -> int:
    number = text.rpartition("@")[2]
    if not number.isdigit():
        raise UsageError("PS058", f'"{text}" is no version.', hint="Write its number: --to @12")
    return int(number)


def _model(name: str) -> str:
    return name.partition("@")[0]


COMMANDS = (approve, reject, promote, pause, resume, rollback, abort, retry, monitor)
