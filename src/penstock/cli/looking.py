"""Commands that look: status, watch, logs, history, list."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from penstock.cli.answered import show_predictions
from penstock.cli.pacing import Pacing, is_pace
from penstock.cli.session import Session, as_json, columns, session
from penstock.client import Client
from penstock.errors import NotFoundError, UnreachableError, UsageError

ATTENTION = 9
"""Exit code of ``status --attention`` when something needs a person."""

MARK_OF_STATE: Mapping[str, str] = {
    "Degraded": "failed",
    "Failed": "failed",
    "Rolled back": "failed",
    "Approval": "waits",
    "Paused": "waits",
    "Drifting": "warning",
    "Check overdue": "warning",
    "Building": "running",
    "Testing": "running",
    "Canary": "running",
    "Queued": "running",
    "Healthy": "passed",
    "Done": "passed",
}
QUIET_STATES = ("Healthy", "Retired", "Done")


def field(document: Any, *path: str) -> Any:
    """Return a value from an answer; None where the server did not tell it."""
    for key in path:
        if not isinstance(document, dict):
            return None
        document = cast("dict[str, Any]", document).get(key)
    return document


def rows_of(document: Any, name: str) -> list[dict[str, Any]]:
    """Return the list in an answer, whether it stands there bare or under its name."""
    found: Any = field(document, name) if isinstance(document, dict) else document
    return cast("list[dict[str, Any]]", found) if isinstance(found, list) else []


def done(here: Session, thing: str, answer: Any, text: str, following: str = "") -> None:
    """Write what the server says it did; its words win over ours."""
    here.write(str(field(answer, "text") or text), mark="passed")
    here.data(thing, answer)
    if next_ := field(answer, "next") or following:
        here.following(str(next_))


def status(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A model; else all.")] = None,
    *,
    attention: Annotated[
        bool, typer.Option("--attention", help="Only what needs a person; then exit 9.")
    ] = False,
) -> int:
    """Show what is where, and what waits for what."""
    here = session(ctx)
    data = here.client().status(_model(name) if name else None)
    models = [cast("dict[str, Any]", data)] if name else rows_of(data, "models")
    shown = [one for one in models if name or field(one, "state") not in QUIET_STATES]
    here.data("status", data if not attention else shown)
    _table(here, shown)
    if not name and (rest := len(models) - len(shown)):
        here.write(f"{rest} more healthy or quiet. All: penstock list")
    if not models:
        here.write("No models yet.")
        here.following("penstock init, then penstock connect and penstock push")
    return ATTENTION if attention and any(_needs_a_person(one) for one in shown) else 0


def list_(
    ctx: typer.Context,
    query: Annotated[str | None, typer.Argument(help="A part of the name.")] = None,
) -> None:
    """List all models."""
    here = session(ctx)
    client = here.client()
    models: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = client.list(query, after=after)
        models += rows_of(page, "models")
        after = field(page, "next")
        if not after:
            break
    here.data("list", models)
    _table(here, models)


def history(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A model.")],
    *,
    at: Annotated[
        str | None, typer.Option(help="A day or a moment: who served then, and why.")
    ] = None,
) -> None:
    """Show which version served when and who let it in, then a model's decisions."""
    here = session(ctx)
    data = here.client().history(_model(name), at=at)
    here.data("history", data)
    rows = [
        (
            f"{_model(name)}@{one.get('number')}",
            f"{_short(one.get('since'))} to {_short(one.get('until')) or 'now'}",
            _text(one.get("text")),
        )
        for one in rows_of(data, "served")
    ]
    for line in columns(rows):
        here.write(line)
    for place in rows_of(field(data, "split"), "split"):
        here.write(f"  @{place.get('number')} {place.get('role')} {place.get('share')} %")
    entries = rows_of(data, "entries")
    if rows and entries:
        here.write("")
    for line in columns(
        (
            _short(one.get("at")),
            _text(one.get("actor")),
            _text(one.get("text") or one.get("action")),
        )
        for one in entries
    ):
        here.write(line)


def watch(
    ctx: typer.Context,
    run: Annotated[int | None, typer.Argument(help="A run; else this project's newest.")] = None,
    *,
    exit_status: Annotated[
        bool, typer.Option("--exit-status", help="Exit with the run's outcome: 0, 5, 6.")
    ] = False,
) -> int:
    """Follow a run until it waits or ends; Ctrl-C leaves it running."""
    here = session(ctx)
    number = newest_run(here.client()) if run is None else run
    return follow(here, number, exit_status=exit_status)


def follow(here: Session, run: int, *, exit_status: bool, seen: bool = False) -> int:
    """Write a run's lines as they come and return what its end says.

    `seen`: the lines were shown by git already, so only the outcome is written when it is
    there.
    """
    client = here.client()
    outcome = 0
    with Pacing(here) as pacing:
        for line in client.logs(run, paced=True):
            if is_pace(line):
                pacing.show(line)
                continue
            pacing.aside()
            if line.startswith("exit ") and line[5:].strip().isdigit():
                outcome = int(line[5:])
            elif here.json:
                here.out.write(as_json({"schema": "penstock.line/1", "data": {"line": line}}))
                here.out.flush()
            elif not seen:
                here.write(line)
    data = client.run(run)
    if here.json:
        here.data("run", data)
    else:
        _run(here, data)
    return outcome if exit_status else 0


def logs(  # noqa: PLR0913 -- each is an option
    ctx: typer.Context,
    of: Annotated[str, typer.Argument(help="A run, a version such as churn@4, or a model.")],
    *,
    step: Annotated[str | None, typer.Option(help="Such as train or build/train.")] = None,
    grep: Annotated[str | None, typer.Option(help="Only lines that hold this text.")] = None,
    tail: Annotated[int, typer.Option(min=0, help="Last lines only; 0 = all.")] = 0,
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    predictions: Annotated[
        bool, typer.Option("--predictions", help="What a model was asked and answered.")
    ] = False,
    since: Annotated[str | None, typer.Option(help="Such as 2026-11-30T08:00, in UTC.")] = None,
    until: Annotated[str | None, typer.Option(help="The same; default: now.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Of one version.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="One prediction.")] = None,
    errors: Annotated[bool, typer.Option("--errors", help="Errors only.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Rows as CSV.")] = False,
    parquet: Annotated[Path | None, typer.Option(help="Write the rows into this file.")] = None,
) -> int:
    """Show what a run's steps wrote, or find a text in it; in all runs of a model, by its name.

    With --grep, the exit code is 1 when no line holds the text. With --predictions, rows of the
    prediction log, newest first: what came in, what was answered, and the label if it has come.
    """
    here = session(ctx)
    asked = {"since": since, "until": until, "version": version, "id": id_}
    if predictions:
        wanted = {**asked, "errors": int(errors), "limit": limit}
        return show_predictions(here, of, wanted, csv=csv, parquet=parquet)
    if csv or errors or parquet or limit or any(value is not None for value in asked.values()):
        raise UsageError(
            "PS051",
            "--since, --until, --version, --id, --errors, --limit, --csv and --parquet choose "
            "among predictions.",
            hint=f"Add --predictions: penstock logs {of} --predictions",
        )
    client = here.client()
    name, _, number = of.partition("@")
    if grep is not None and not number and not of.isdigit():
        return _grep(here, client.find_in_logs(name, grep), across=True)
    run = run_of(client, of)
    if grep is not None and not follow_:
        return _grep(here, client.find_in_log(run, grep, step=step), across=False)
    _print_log(here, _Wanted(run, step, grep, tail, follow_))
    return 0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which lines of a log are shown."""

    run: int
    step: str | None
    grep: str | None
    tail: int
    goes_on: bool


def _print_log(here: Session, wanted: _Wanted) -> None:
    """Write a log piece by piece; nothing is kept of it but for --json."""
    client = here.client()
    data = client.log(wanted.run, step=wanted.step, tail=wanted.tail or None)
    kept: list[str] = []
    while True:
        piece = _text(field(data, "text"))
        if wanted.grep is not None:
            lines = piece.splitlines(keepends=True)
            piece = "".join(one for one in lines if wanted.grep.lower() in one.lower())
        if here.json and not wanted.goes_on:
            kept.append(piece)
        else:
            here.out.write(piece)
            here.out.flush()
        more, ended = bool(field(data, "more")), field(data, "ended") is not False
        if not more and (ended or not wanted.goes_on):
            break
        if not more:
            time.sleep(1)  # the log grows on the server; there is no event to wait for over HTTP
        after = int(field(data, "next") or 0)
        data = client.log(wanted.run, step=wanted.step, after=after)
    if here.json and not wanted.goes_on:
        here.data("log", {"run": wanted.run, "step": wanted.step, "text": "".join(kept)})


def _grep(here: Session, found: Any, *, across: bool) -> int:
    here.data("found", found)
    lines = rows_of(found, "lines")
    for one in lines:
        begin = f"run {one['run']}  " if across else ""
        here.write(f"{begin}{one['step']}:{one['line']}  {one['text']}")
    if not lines or field(found, "ended") != "end":
        here.note(_text(field(found, "sentence")))
    return 0 if lines else 1


def run_of(client: Client, of: str) -> int:
    """Return the run that is meant: its number, a version's, or a model's newest."""
    name, _, version = of.partition("@")
    if of.isdigit():
        return int(of)
    if not version:
        found = rows_of(client.runs(name), "runs")
        if not found:
            raise NotFoundError("PS067", f"{name} has no run yet.", hint="penstock push")
        return int(found[0]["id"])
    if not version.isdigit():
        raise UsageError("PS058", f'"{version}" is no version.', hint=f"Write {name}@4.")
    return int(client.version(name, int(version))["run"])


def newest_run(client: Client) -> int:
    """Return the newest run of the model whose repository this is."""
    from penstock.config import read

    path = Path("penstock.toml")
    if not path.is_file():
        raise UsageError(
            "PS066",
            "This folder is no model's repository, so no run is meant.",
            hint="Name the run: penstock watch RUN",
        )
    name = read(path).model.name
    found = rows_of(client.runs(name), "runs")
    if not found:
        raise NotFoundError("PS067", f"{name} has no run yet.", hint="penstock push")
    return int(found[0]["id"])


def run_of_commit(client: Client, name: str, commit: str) -> int:
    """Return the newest run of a commit."""
    for run in rows_of(client.runs(name), "runs"):
        if run.get("commit") == commit:
            return int(run["id"])
    raise UnreachableError(
        "PS068",
        f"The server has commit {commit[:7]} and shows no run of it yet.",
        hint="penstock status, in a few seconds.",
    )


def _run(here: Session, run: Any) -> None:
    state = _text(field(run, "state"))
    reason = _text(field(run, "reason"))
    name, number = field(run, "model"), field(run, "number")
    kind = {"succeeded": "passed", "awaiting_approval": "waits"}.get(state)
    if kind is None:
        kind = "failed" if state in ("failed", "rolled_back", "rejected") else "running"
    words = state.replace("_", " ")
    here.write(f"{name}@{number} · run {field(run, 'id')} · {words}  {reason}".rstrip(), mark=kind)
    if approval := field(run, "approval"):
        here.following(f"penstock approve {approval}")
    elif state == "failed":
        here.following(f"penstock logs {field(run, 'id')}")


def _table(here: Session, models: Sequence[Mapping[str, Any]]) -> None:
    rows = [("STATE", "IN PRODUCTION", "NEXT", "QUALITY", "WAITS FOR")]
    for one in models:
        name, share = _text(one.get("name")), one.get("share")
        challenger = one.get("challenger")
        next_ = "" if challenger is None else f"{name}@{challenger}"
        next_ += f" {share} %" if next_ and share else ""
        champion = one.get("champion")
        serves = f"{name} (none)" if champion is None else f"{name}@{champion}"
        state = _text(one.get("state"))
        mark = here.mark(MARK_OF_STATE.get(state, "idle")) if not here.json else ""
        quality, waits = _text(one.get("quality")), _text(one.get("waits_for"))
        rows.append((f"{mark} {state}", serves, next_, quality, waits))
    if len(rows) > 1:
        for line in columns(rows):
            here.write(line)


def _needs_a_person(model: Mapping[str, Any]) -> bool:
    return MARK_OF_STATE.get(_text(model.get("state"))) in ("failed", "waits", "warning")


def _model(name: str) -> str:
    return name.partition("@")[0]


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _short(moment: object) -> str:
    """Return a time of the server's without its fraction of a second."""
    return _text(moment)[:16].replace("T", " ")


COMMANDS = (status, watch, logs, history, list_)
