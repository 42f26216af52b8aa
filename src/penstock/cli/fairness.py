"""How a version treats groups of people, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli.explaining import version_of, write_file
from penstock.cli.session import Session, columns, session

_SHOWN = {
    "selection_rate": "GETS A YES",
    "tpr": "FOUND",
    "fpr": "FALSE ALARMS",
    "precision": "YES IS RIGHT",
    "accuracy": "RIGHT",
    "mean_error": "MEAN ERROR",
    "mean_absolute_error": "SIZE OF ERRORS",
}


def fairness(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(help="NAME@NUMBER")],
    *,
    html: Annotated[Path | None, typer.Option(help="Write it all, with charts, here.")] = None,
) -> None:
    """Say how a version treats groups of people."""
    here = session(ctx)
    name, number = version_of(version)
    client = here.client()
    if html is not None:
        write_file(html, client.fairness_page(name, number))
        here.write(f"Written to {html}.")
        here.data("file", {"path": str(html)})
        return
    report = client.fairness(name, number)
    here.data("fairness", report)
    _told(here, version, report)


def _told(here: Session, version: str, report: Mapping[str, Any]) -> None:
    here.write(f"{version}, {report['rows']:,} rows of evaluation data")
    if report["change"]:
        here.write(str(report["change"]["text"]))
    told: Sequence[Mapping[str, Any]] = report["columns"]
    for one in told:
        here.write("")
        here.write(f"By {' and '.join(one['of'])}. {one['text']}")
        for line in columns(_rows(one)):
            here.write(line)
    for one in report["skipped"]:
        here.note(f"skipped {one['what']}: {one['why']}")
    here.following(f"penstock fairness {version} --html fairness.html")


def _rows(one: Mapping[str, Any]) -> list[tuple[str, ...]]:
    groups: Sequence[Mapping[str, Any]] = one["groups"]
    shown = [key for key in _SHOWN if any(key in group for group in groups)]
    rows: list[tuple[str, ...]] = [("GROUP", "ROWS", *(_SHOWN[key] for key in shown), "")]
    for group in groups:
        cells = [_cell(key, group[key]) for key in shown]
        few = f"not judged: {group['few']}" if group["few"] else ""
        rows.append((str(group["group"]), f"{group['rows']:,}", *cells, few))
    return rows


def _cell(key: str, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    if key in ("mean_error", "mean_absolute_error"):
        return f"{found['value']:.3g} ({found['low']:.3g} to {found['high']:.3g})"
    return f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"


COMMANDS = (fairness,)
