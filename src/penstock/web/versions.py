"""One version: what it is made of, what it read, what was tracked, its checks, its documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from penstock.build import card
from penstock.config.card import read_card
from penstock.domain import JSON, CheckResult, Deployment, Document, Run, Verdict, Version
from penstock.pipeline import carding
from penstock.records import conditions, documents, rollouts, runs
from penstock.web import markdown, reports, speed
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.drawing import Pages
from penstock.web.envelope import answer
from penstock.web.words import Look

_AT = "/models/{name}/versions/{number}"
_FAMILIES: Mapping[str, str] = {
    "quality": "Is it good enough?",
    "fairness": "Are groups treated alike?",
    "speed": "Is it fast enough?",
    "explain": "What does it look at?",
    "sanity": "Is its quality real?",
    "smoke": "Does it work as every model must?",
    "replay": "Which decisions would have been others?",
    "serving": "Is there a faster call of it that answers the same?",
    "supply": "Is what it is made of in order?",
    "own": "The project's own checks",
}
"""Families of checks in the order in which people ask, each with its question."""
_LEVELS: Mapping[str, Look] = {
    "full": Look("ok", "Built in the full sandbox"),
    "external": Look("warn", "Built in a sandbox that the operator vouches for"),
    "partial": Look("warn", "Built in a weaker sandbox"),
    "none": Look("fail", "Built without a sandbox"),
}
DOCUMENTS: Mapping[str, str] = {
    "attestation": "The signed statement of what it was made from (in-toto, DSSE)",
    "bom": "The bill of materials: packages, licences, data, model (CycloneDX)",
    "card": "The model card, with what was measured",
    "explain": "What it looks at",
    "fairness": "How it treats groups of people",
    "golden": "Rows with the answers that training expected",
    "inputs": "The data files that training could read",
    "lock": "Every package with version and hash",
    "path": "The signed statement of how it answers (in-toto test result, DSSE)",
    "tracking": "What the build tracked: runs, parameters, metrics",
}
MOST_COLUMNS = 6
"""Of parameters, and of metrics, in the table of experiments."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """A tracked run, placed in the table."""

    run: JSON
    depth: int


@dataclass(frozen=True, slots=True)
class VersionView:
    """All that a version's page tells."""

    version: Version
    run: Run
    deployments: list[Deployment]
    documents: list[Document]
    results: list[CheckResult]
    reports: Mapping[str, JSON]

    @property
    def groups(self) -> list[tuple[str, list[CheckResult]]]:
        """The checks by their question; what did not pass first."""
        found: dict[str, list[CheckResult]] = {name: [] for name in _FAMILIES}
        for one in self.results:
            found.setdefault(one.check.partition(".")[0], []).append(one)
        rank = {Verdict.FAILED: 0, Verdict.UNDECIDED: 1, Verdict.PASSED: 2}
        return [
            (_FAMILIES.get(name, name.capitalize()), sorted(of, key=lambda one: rank[one.verdict]))
            for name, of in found.items()
            if of
        ]

    @property
    def badges(self) -> list[Look]:
        """What was found about how far it can be trusted, each as a word with a shape."""
        found: list[Look] = []
        level = _LEVELS.get(self.version.sandbox_level or "")
        if level is not None:
            found.append(level)
        form = self.reports.get("format", {})
        if "code" in form:
            kind = form["format"]
            safe = Look("ok", f"{kind}: loading runs no code")
            found.append(Look("warn", f"{kind}: loading can run code") if form["code"] else safe)
        if self.version.attestation_digest:
            found.append(Look("ok", "Origin signed"))
        elif self.version.sealed_at:
            found.append(Look("warn", "Origin not signed"))
        return found


def api(router: APIRouter, control: Control) -> None:
    """Add the routes of the API."""

    @router.get(f"/api{_AT}")
    def one(request: Request, name: str, number: int) -> Response:
        require(request, "read", name)
        return answer("version", told(version_view(control, name, number)))

    @router.get(f"/api{_AT}/card")
    def its_card(request: Request, name: str, number: int) -> Response:
        require(request, "read", name)
        of = carding.measured(control.database, control.home, name, number)
        gaps = read_card(of.version.card).gaps
        return answer("card", {"markdown": card.written(of), "gaps": gaps, "risk": of.risk})

    @router.get(f"/api{_AT}/documents/{{document}}")
    def document(request: Request, name: str, number: int, document: str) -> Response:
        require(request, "read", name)
        of, content = control.acts.document(name, number, document)
        return _file(of, content)


def routes(draw: Pages) -> APIRouter:
    """Return the pages' routes."""
    router = APIRouter()
    control = draw.control

    @router.get(_AT)
    def page(request: Request, name: str, number: int, sort: str = "") -> Response:
        require(request, "read", name)
        view = version_view(control, name, number)
        tracking = view.reports.get("tracking", {})
        with control.database.read() as connection:
            unmet = conditions.of_version(connection, name, number)
        runs_of = cast("Sequence[JSON]", tracking.get("runs") or ())
        return draw.page(
            request,
            "version.html",
            title=f"{name} v{number}",
            nav="Models",
            view=view,
            what_they_are=DOCUMENTS,
            unmet=unmet,
            gaps=read_card(view.version.card).gaps,
            tracking=tracking,
            experiments=ordered(runs_of, sort),
            params=names_in(runs_of, "params"),
            metrics=names_in(runs_of, "metrics"),
            sort=sort,
            speed=speed.measured(view.reports.get("speed")),
            replay=speed.replayed(view.results),
        )

    router.include_router(reports.routes(draw, "card", "Card of {name} v{number}", _card))
    return router


def version_view(control: Control, name: str, number: int) -> VersionView:
    """Read everything about one version; reports of an older release may be lacking."""
    of = carding.measured(control.database, control.home, name, number)
    with control.database.read() as connection:
        return VersionView(
            of.version,
            runs.get(connection, of.version.run_id),
            [
                one
                for one in rollouts.deployments(connection, model_name=name)
                if one.number == number
            ],
            documents.documents(connection, name, number),
            list(of.results),
            of.reports,
        )


def told(view: VersionView) -> dict[str, Any]:
    """Return a version as the API tells it."""
    version = view.version
    return {
        "model": version.model,
        "number": version.number,
        "run": view.run.id,
        "commit": version.commit,
        "artifact_digest": version.artifact_digest,
        "lock_digest": version.lock_digest,
        "data_digest": version.data_digest,
        "attestation_digest": version.attestation_digest,
        "sandbox_level": version.sandbox_level,
        "sealed_at": version.sealed_at,
        "signature": version.signature,
        "path": version.path,
        "format": view.reports.get("format"),
        "environment": view.reports.get("environment"),
        "facts": (view.reports.get("facts") or {}).get("facts"),
        "deployments": view.deployments,
        "documents": view.documents,
        "results": view.results,
    }


def ordered(tracked: Sequence[JSON], sort: str) -> list[Tracked]:
    """Order tracked runs: each behind the run that it is nested in, or by a column.

    Parameters
    ----------
    sort
        ``metrics:auc`` or ``params:depth``, with ``-`` before it from great to small; empty for
        the order of nesting. Runs without a value come last.

    Examples
    --------
    >>> outer = {"id": "a", "parent": None, "metrics": {"auc": 0.7}}
    >>> inner = {"id": "b", "parent": "a", "metrics": {"auc": 0.9}}
    >>> [(one.run["id"], one.depth) for one in ordered([inner, outer], "")]
    [('a', 0), ('b', 1)]
    >>> [one.run["id"] for one in ordered([outer, inner], "-metrics:auc")]
    ['b', 'a']
    """
    kind, _, name = sort.removeprefix("-").partition(":")
    if kind in {"metrics", "params"}:
        having = [run for run in tracked if name in (run.get(kind) or {})]
        having.sort(key=lambda run: _key(run[kind][name]), reverse=sort.startswith("-"))
        rest = [run for run in tracked if name not in (run.get(kind) or {})]
        return [Tracked(run, 0) for run in (*having, *rest)]
    known = {run["id"] for run in tracked}
    shown = set[str]()

    def below(run: JSON, depth: int) -> Iterator[Tracked]:
        if run["id"] in shown:
            return
        shown.add(run["id"])
        yield Tracked(run, depth)
        for child in tracked:
            if child.get("parent") == run["id"]:
                yield from below(child, depth + 1)

    outermost = [run for run in tracked if run.get("parent") not in known]
    return [one for run in (*outermost, *tracked) for one in below(run, 0)]


def _key(value: Any) -> tuple[int, float, str]:
    try:
        return (0, float(value), "")
    except (TypeError, ValueError):
        return (1, 0.0, str(value))


def names_in(tracked: Sequence[JSON], kind: str) -> list[str]:
    """Return the names that most runs have, at most `MOST_COLUMNS`."""
    counted: dict[str, int] = {}
    for run in tracked:
        for name in cast("Mapping[str, Any]", run.get(kind) or {}):
            counted[name] = counted.get(name, 0) + 1
    return sorted(counted, key=lambda name: -counted[name])[:MOST_COLUMNS]


def _card(control: Control, name: str, number: int) -> dict[str, Any]:
    of = carding.measured(control.database, control.home, name, number)
    text = card.written(of)
    body = text.split("\n---\n", 1)[1].split("\n", 2)[2]  # its head, and its title
    gaps = read_card(of.version.card).gaps
    return {"name": name, "number": number, "risk": of.risk, "gaps": gaps, "of": of} | {
        "card": markdown.html(body)
    }


def _file(of: Document, content: Iterator[bytes]) -> Response:
    ending = {"application/json": "json", "text/plain": "txt", "text/markdown": "md"}
    known = ending.get(of.media_type.partition(";")[0]) or (
        "json" if of.media_type.endswith("json") else "bin"
    )
    named = f'attachment; filename="{of.model}-{of.number}-{of.name}.{known}"'
    headers = {"Content-Disposition": named, "Content-Length": str(of.bytes)}
    return StreamingResponse(content, headers=headers, media_type=of.media_type)
