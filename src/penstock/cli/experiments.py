"""The command experiments: what the build of a version tracked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from penstock.cli.looking import field, rows_of
from penstock.cli.session import Session, columns, session
from penstock.errors import UsageError

_MOST_VALUES = 6
_LONGEST_VALUE = 24


def experiments(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A model, or a version such as churn@4.")],
) -> None:
    """Show what a version's build tracked: runs, parameters, metrics."""
    here = session(ctx)
    model, _, version = name.partition("@")
    if version and not version.isdigit():
        raise UsageError("PS058", f'"{version}" is no version.', hint=f"Write {model}@4.")
    told = here.client().experiments(model, int(version) if version else None)
    here.data("experiments", told)
    if not here.json:
        _show(here, told)


def _show(here: Session, told: Any) -> None:
    runs = rows_of(told, "runs")
    here.write(f"{field(told, 'model')}@{field(told, 'number')} · run {field(told, 'run')}")
    made_by = field(told, "chosen", "run")
    rows = [("RUN", "EXPERIMENT", "STATUS", "PARAMETERS", "METRICS")]
    for depth, run in nested(runs):
        mark = " *" if made_by is not None and run["id"] == made_by else ""
        title = f"{'  ' * depth}{run['name'] or run['id'][:8]}{mark}"
        values = _values(run["params"]), _values(run["metrics"])
        rows.append((title, run["experiment"], str(run["status"]).lower(), *values))
    for line in columns(rows) if runs else ["Nothing was tracked with MLflow."]:
        here.write(line)
    if (chosen := field(told, "chosen")) is not None:
        here.write(f"model: {chosen['name']} ({chosen['format']}), {chosen['why']}")
    if metrics := field(told, "metrics"):
        here.write(f"the project's own figures: {_values(metrics)}")
    notes: list[str] = field(told, "notes") or []
    for note in notes:
        here.note(note, mark="warning")


def nested(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield runs with their depth, each behind the run that it is nested in.

    Examples
    --------
    >>> child, outer = {"id": "c", "parent": "a"}, {"id": "a", "parent": None}
    >>> [(depth, run["id"]) for depth, run in nested([child, outer])]
    [(0, 'a'), (1, 'c')]
    """
    known = {run["id"] for run in runs}
    shown = set[str]()

    def below(parent: str, depth: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for run in runs:
            if run["parent"] == parent and run["id"] not in shown:
                shown.add(run["id"])
                yield depth, run
                yield from below(run["id"], depth + 1)

    for run in runs:
        if run["parent"] not in known:
            shown.add(run["id"])
            yield 0, run
            yield from below(run["id"], 1)
    # Runs that are nested in one another have no outermost one; they are shown all the same.
    yield from ((0, run) for run in runs if run["id"] not in shown)


def _values(values: Mapping[str, Any]) -> str:
    shown = [f"{name}={_value(value)}" for name, value in list(values.items())[:_MOST_VALUES]]
    more = len(values) - len(shown)
    return " ".join([*shown, f"(+{more})"] if more > 0 else shown)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


COMMANDS = (experiments,)
