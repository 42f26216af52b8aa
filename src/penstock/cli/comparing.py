"""Two versions beside each other, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli.explaining import write_file
from penstock.cli.session import Session, columns, session

_BAR = 24
_MOST = 12


def compare(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A model.")],
    first: Annotated[str, typer.Argument(help="A number, champion or latest.")] = "champion",
    second: Annotated[str, typer.Argument(help="What is held against it.")] = "latest",
    *,
    html: Annotated[Path | None, typer.Option(help="Write it all, with charts, here.")] = None,
) -> None:
    """Hold one version against another: what is better, what is other."""
    here = session(ctx)
    client = here.client()
    if html is not None:
        write_file(html, client.compare_page(name, first, second))
        here.write(f"Written to {html}.")
        here.data("file", {"path": str(html)})
        return
    report = client.compare(name, first, second)
    here.data("compare", report)
    _told(here, report)


def _told(here: Session, report: Mapping[str, Any]) -> None:
    before, now = (f"v{report[side]['number']}" for side in ("a", "b"))
    quality: Mapping[str, Any] = report["quality"] or {}
    if quality:
        here.write(
            f"{report['model']} {now} against {before}: {quality['summary']}",
            mark=quality["verdict"],
        )
        if quality["lay"]:
            here.write(f"that is: {quality['lay']['text']}")
        here.write("")
        rows = [
            (
                "MEASURE",
                f"worse {'':<6}|{'':>6} better",
                "DIFFERENCE",
                "95 % BOUNDS",
                before,
                now,
                "",
            )
        ]
        rows += [_row(one, quality) for one in quality["table"]]
        for line in columns(rows):
            here.write(line)
        for one in quality["slices"]:
            if one["verdict"] != "passed":
                here.write(f"{one['slice']}: {one['verdict']}, {one['rows']:,} rows")
    else:
        here.write(
            f"{report['model']} {now} against {before}: no paired comparison, {report['why']}"
        )
    _others(here, report, before, now)
    here.following(
        f"penstock compare {report['model']} {before[1:]} {now[1:]} --html compare.html"
    )


def _row(one: Mapping[str, Any], quality: Mapping[str, Any]) -> tuple[str, ...]:
    decides = " (decides)" if one["metric"] == quality["metric"] else ""
    told = "too few rows"
    if one["low"] is not None:
        told = f"{one['low']:+.4g} to {one['high']:+.4g}"
    difference = "" if one["difference"] is None else f"{one['difference']:+.4g}"
    values = (f"{one['champion']:.4g}", f"{one['challenger']:.4g}")
    return (f"{one['word']}{decides}", drawn(one), difference, told, *values, one["reading"] or "")


def drawn(one: Mapping[str, Any]) -> str:
    """Draw an interval around nothing, in characters that every terminal has.

    Examples
    --------
    >>> drawn({"low": 0.5, "high": 1.0, "difference": 0.75})
    '            |     ---o--'
    """
    low, high = one["low"], one["high"]
    if low is None or high is None:
        return ""
    reach, half = max(abs(low), abs(high)) or 1.0, _BAR // 2

    def at(value: float) -> int:
        return min(max(round(half + value / reach * half), 0), _BAR - 1)

    line = [" "] * _BAR
    for place in range(at(low), at(high) + 1):
        line[place] = "-"
    line[half] = "|"
    line[at(one["difference"])] = "o"
    return "".join(line).rstrip()


def _others(here: Session, report: Mapping[str, Any], before: str, now: str) -> None:
    data, code, environment = report["data"], report["code"], report["environment"]
    rows: list[tuple[str, ...]] = []
    rows += [("check", one["check"], one["a"] or "-", one["b"] or "-") for one in report["checks"]]
    rows += [
        (one["source"], one["name"], _short(one["a"]), _short(one["b"]))
        for one in report["parameters"]
    ]
    for one in data["inputs"]:
        rows.append(("data", one["path"], _short(one["a"])[:12], _short(one["b"])[:12]))
    rows += [
        ("column", one["column"], one["a"] or "-", one["b"] or "-") for one in data["columns"]
    ]
    rows += [
        ("package", one["package"], one["a"] or "-", one["b"] or "-")
        for one in environment["packages"]
    ]
    rows += [_file(one) for one in code["files"]]
    if rows:
        here.write("")
        for line in columns([("OTHER", "WHAT", before, now), *rows[: _MOST * 5]]):
            here.write(line)
    if len(rows) > _MOST * 5:
        here.note(f"and {len(rows) - _MOST * 5} more: see --json or --html")
    commits: Sequence[Mapping[str, str]] = code["commits"]
    for one in commits[:_MOST]:
        here.write(f"commit  {one['message']}")


def _file(one: Mapping[str, Any]) -> tuple[str, ...]:
    if one["added"] is None:
        return ("file", one["path"], "", "no text")
    return ("file", one["path"], f"-{one['removed']}", f"+{one['added']}")


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 32 else f"{text[:31]}…"


COMMANDS = (compare,)
