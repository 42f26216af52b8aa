"""Two versions beside each other: a page, the same as one file to keep, and the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from penstock.domain import JSON
from penstock.pipeline import comparing
from penstock.records import runs
from penstock.web import reports
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.drawing import Pages
from penstock.web.envelope import answer
from penstock.web.explaining import CHANGES

_AT = "/models/{name}/compare/{first}/{second}"
LOOKS: Mapping[str, str] = {"better": "ok", "worse": "fail", "too close": "idle"}
MOST_FILES = 200


@dataclass(frozen=True, slots=True)
class Bar:
    """A difference, its interval, nothing and the margin, in percent of the width."""

    value: float
    low: float
    high: float
    zero: float
    margin: float | None
    kind: str
    """ok, fail or idle: on which side of nothing all of it lies."""
    text: str


@dataclass(frozen=True, slots=True)
class PatchLine:
    """A line of a patch, and what it is: added, removed, a place, a file, or context."""

    kind: str
    text: str


def api(router: APIRouter, control: Control) -> None:
    """Add the comparison's route."""

    @router.get(f"/api{_AT}")
    def told(request: Request, name: str, first: str, second: str) -> Response:
        require(request, "read", name)
        return answer("compare", compared(control, name, first, second))


def routes(draw: Pages) -> APIRouter:
    """Return the pages' routes; the page and the file draw the same template."""
    router = APIRouter()
    control = draw.control

    @router.get("/models/{name}/compare")
    def asked(request: Request, name: str, a: str = "champion", b: str = "latest") -> Response:
        require(request, "read", name)
        first, second = (comparing.number_of(control.database, name, word) for word in (a, b))
        return RedirectResponse(f"/models/{name}/compare/{first}/{second}", 303)

    @router.get(f"{_AT}.html")
    def file(request: Request, name: str, first: str, second: str) -> Response:
        require(request, "read", name)
        report = compared(control, name, first, second)
        return reports.as_file(draw, (name, report["b"]["number"]), "compare", **parts_of(report))

    @router.get(_AT)
    def page(request: Request, name: str, first: str, second: str) -> Response:
        require(request, "read", name)
        report = compared(control, name, first, second)
        with control.database.read() as connection:
            numbers = [one.number for one in runs.versions(connection, name)]
        title = f"{name}: v{report['a']['number']} and v{report['b']['number']}"
        return draw.page(
            request,
            "compare.html",
            title=title,
            nav="Models",
            numbers=numbers,
            **parts_of(report),
        )

    return router


def compared(control: Control, name: str, first: str, second: str) -> JSON:
    """Put two versions beside each other; each a number, ``champion`` or ``latest``."""
    numbers = [comparing.number_of(control.database, name, word) for word in (first, second)]
    return comparing.compared(control.database, control.home, name, (numbers[0], numbers[1]))


def parts_of(report: JSON) -> dict[str, Any]:
    """Return what the template draws."""
    quality: JSON = report["quality"] or {}
    table: Sequence[JSON] = quality.get("table", ())
    margins = {quality.get("metric"): quality.get("margin")}
    margins |= {one["metric"]: one["margin"] for one in quality.get("guardrails", ())}
    slices: Sequence[JSON] = quality.get("slices", ())
    most = max((abs(one[end] or 0.0) for one in slices for end in ("low", "high")), default=0.0)
    most = max(most, quality.get("margin") or 0.0)
    return {
        "report": report,
        "name": report["model"],
        "quality": quality,
        "drawn": [(one, bar(one, margins.get(one["metric"]))) for one in table],
        "margins": margins,
        "slices": [(one, bar(one, quality.get("margin"), most)) for one in slices],
        "patch": patch_lines(report["code"]["patch"]),
        "changes": CHANGES,
        "most_files": MOST_FILES,
    }


def bar(of: JSON, margin: float | None, most: float | None = None) -> Bar | None:
    """Place a difference on a scale whose middle is nothing; right is better.

    Examples
    --------
    >>> found = {"difference": 0.01, "low": 0.0, "high": 0.02}
    >>> placed = bar(found, 0.02, 0.02)
    >>> placed.zero, placed.value, placed.margin, placed.kind
    (50.0, 72.73, 4.55, 'idle')
    """
    value, low, high = (of[key] for key in ("difference", "low", "high"))
    if value is None or low is None or high is None:
        return None
    reach = max(abs(low), abs(high), margin or 0.0, most or 0.0) * 1.1 or 1.0

    def at(where: float) -> float:
        return round(50 + where / reach * 50, 2)

    kind = LOOKS["better" if low > 0 else "worse" if high < 0 else "too close"]
    placed = None if margin is None else at(-margin)
    return Bar(at(value), at(low), at(high), at(0.0), placed, kind, f"{low:.4g} to {high:.4g}")


def patch_lines(patch: str) -> list[PatchLine]:
    r"""Say of each line of a patch what it is; of a file's head its path is left.

    Examples
    --------
    >>> patch = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n--- a\n+b\n c\n"
    >>> [(line.kind, line.text) for line in patch_lines(patch)][:3]
    [('file', 'x'), ('place', '@@ -1 +1 @@'), ('del', '--- a')]
    """
    lines: list[PatchLine] = []
    head = True
    for line in patch.splitlines():
        if line.startswith("diff --git "):
            head = True
            lines.append(PatchLine("file", line.partition(" b/")[2]))
        elif line.startswith("@@"):
            head = False
            lines.append(PatchLine("place", line))
        elif not head:
            lines.append(PatchLine({"+": "add", "-": "del"}.get(line[:1], ""), line))
        elif line.startswith(("Binary files", "new file", "deleted file")):
            lines.append(PatchLine("place", line))
    return lines
