"""The model card of a version: what its author wrote, and what Penstock measured, set apart.

Written as Markdown with a YAML head, so that it can be kept beside a model anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

from penstock.config.card import LIMITS, PARTS, USES, Card, read_card
from penstock.domain import JSON, CheckResult, Verdict, Version

MEDIA_TYPE = "text/markdown"
UNSAID = "*CARD.md says nothing here.*"
OWN = "Told by the project's own code. Penstock did not measure them, and no gate reads them."
_TITLES = {"benefit": "Benefit", "work": "Work", "risks": "Risks"}
_READ: Mapping[Any, str] = {True: "yes", False: "no"}
_KEPT_FIELDS = ("license", "language", "tags", "pipeline_tag", "datasets", "library_name")
"""Of the author's head, what readers of cards elsewhere look for."""
_MOST_ROWS = 50
_MOST_COLUMNS = 10


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a version, apart from its author's words. Any part may be lacking."""

    version: Version
    results: Sequence[CheckResult]
    risk: str = "medium"
    reports: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    """Of its run: ``inputs``, ``tracking``, ``explain``, ``environment``, ``format``."""


def written(of: Measured) -> str:
    """Write the card."""
    card = read_card(of.version.card)
    lines = [_head(of, card), f"# {of.version}", ""]
    lines += _said(card)
    lines += ["## Measured by Penstock", ""]
    for title, part in _PARTS:
        found = part(of)
        if found:
            lines += [f"### {title}", "", *found, ""]
    own = _own_figures(of)
    if own:
        lines += ["## The project's own figures", "", OWN, "", *own, ""]
    lines += _rest(card)
    return "\n".join(lines)


def _head(of: Measured, card: Card) -> str:
    fields = {key: card.fields[key] for key in _KEPT_FIELDS if card.fields and key in card.fields}
    told = {
        **fields,
        "model_name": of.version.model,
        "version": of.version.number,
        "risk": of.risk,
        "artifact_digest": of.version.artifact_digest,
    }
    text = yaml.safe_dump(told, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return f"---\n{text}---\n"


def _said(card: Card) -> list[str]:
    lines: list[str] = []
    uses, limits = card.under(*USES), card.under(*LIMITS)
    told = [("Intended use", uses)]
    told += [(_TITLES[key], card.part(key)) for key in PARTS]
    told += [("Limitations", limits)]
    for title, text in told:
        lines += [f"## {title}", "", _lowered(text) or UNSAID, ""]
    return lines


def _rest(card: Card) -> list[str]:
    """Return what the author wrote under other headings."""
    shown = {*USES, *LIMITS, *(name for names in PARTS.values() for name in names)}
    lines: list[str] = []
    for heading, text in card.sections.items():
        if heading not in shown and text:
            lines += [f"### {_line(heading).capitalize()}", "", _lowered(text), ""]
    return ["## In the author's words", "", *lines] if lines else []


def _lowered(text: str) -> str:
    """Put the author's headings below ours; what stands between fences is no heading."""
    fence, lines = "", list[str]()
    for line in text.split("\n"):
        mark = re.match(r" {0,3}(`{3,}|~{3,})(.*)$", line)
        if mark is not None and not fence and not (mark[1][0] == "`" and "`" in mark[2]):
            fence = str(mark[1])
        elif mark is not None and fence and mark[1].startswith(fence) and not mark[2].strip():
            fence = ""
        elif not fence and re.match(r" {0,3}#", line):
            line = f"##{line.lstrip()}"  # noqa: PLW2901
        elif not fence and re.fullmatch(r" {0,3}(=+|-+)\s*", line):
            lines.append("")  # else it would make a heading of the line above
        lines.append(line)
    # A fence that is left open would swallow what we say below.
    return "\n".join([*lines, fence] if fence else lines)


def _data(of: Measured) -> list[str]:
    lines: list[str] = []
    measured = _result(of, "quality.measured")
    rows = None if measured is None else measured.evidence.get("rows")
    if of.version.data_digest:
        count = f"{rows:,} rows" if isinstance(rows, int) else "the evaluation data"
        lines.append(f"Judged on {count}, SHA-256 `{of.version.data_digest}`.")
    files = _list(of, "inputs", "files")
    if files:
        lines += [
            "",
            "| training could read | bytes | SHA-256 | from | read |",
            "|---|---|---|---|---|",
        ]
        lines += [
            _row(
                one["path"],
                f"{one['bytes']:,}",
                f"`{str(one['sha256'])[:12]}`",
                one.get("uri") or one.get("source"),
                _READ.get(one.get("read"), "not known"),
            )
            for one in files[:_MOST_ROWS]
        ]
        if len(files) > _MOST_ROWS:
            lines.append(f"\nand {len(files) - _MOST_ROWS:,} more files")
    return lines


def _family(of: Measured, *names: str) -> list[CheckResult]:
    return [one for one in of.results if one.check.partition(".")[0] in names]


def _quality(of: Measured) -> list[str]:
    found = _family(of, "quality")
    if not found:
        return []
    lines = ["| question | answer | verdict | 95 % interval | champion |", "|---|---|---|---|---|"]
    for one in found:
        shown = one.evidence
        low, high = shown.get("low"), shown.get("high")
        interval = "" if low is None or high is None else f"{_number(low)} to {_number(high)}"
        question = shown.get("question") or one.check
        champion = _number(shown.get("champion"))
        lines.append(_row(question, one.summary, _verdict(one), interval, champion))
    return lines


def _sentences(*families: str) -> Callable[[Measured], list[str]]:
    def told(of: Measured) -> list[str]:
        return [f"- {_verdict(one)}: {_line(one.summary)}" for one in _family(of, *families)]

    return told


def _looks_at(of: Measured) -> list[str]:
    report = of.reports.get("explain", {})
    columns = [one for one in _list(of, "explain", "columns") if one.get("mean") is not None]
    columns.sort(key=lambda one: -float(one["mean"]))
    lines = [_line(report["text"]), ""] if report.get("text") else []
    if columns:
        lines += [f"| column | change of {report.get('metric')} without it |", "|---|---|"]
        lines += [_row(one["column"], _number(one["mean"])) for one in columns[:_MOST_COLUMNS]]
    return lines


def _others(of: Measured) -> list[str]:
    found = _family(of, "smoke", "sanity", "supply", "own")
    if not found:
        return []
    passed = sum(one.verdict is Verdict.PASSED for one in found)
    lines = [f"{passed} of {len(found)} passed."]
    rest = [one for one in found if one.verdict is not Verdict.PASSED]
    return [*lines, *(f"- {_verdict(one)}: {one.check}: {_line(one.summary)}" for one in rest)]


def _environment(of: Measured) -> list[str]:
    made, form = of.reports.get("environment", {}), of.reports.get("format", {})
    told = {
        "Python": made.get("python"),
        "packages": made.get("packages"),
        "from": ", ".join(made.get("files") or ()),
        "as of": str(made.get("as_of") or "")[:10],
        "lock": of.version.lock_digest and f"`{of.version.lock_digest}`",
        "model format": form.get("format"),
        "loading it": None
        if "code" not in form
        else "can run code that came with it"
        if form["code"]
        else "runs no code of its own",
        "sandbox of the build": of.version.sandbox_level,
    }
    return [f"- {name}: {_line(value)}" for name, value in told.items() if value]


def _provenance(of: Measured) -> list[str]:
    version = of.version
    told = {
        "commit": version.commit,
        "artifact": version.artifact_digest,
        "signed attestation": version.attestation_digest,
    }
    return [f"- {name}: `{value}`" for name, value in told.items() if value]


def _own_figures(of: Measured) -> list[str]:
    told: Any = of.reports.get("tracking", {}).get("metrics")
    figures = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
    if not figures:
        return []
    lines = ["| figure | value |", "|---|---|"]
    return lines + [_row(name, _number(v)) for name, v in list(figures.items())[:_MOST_ROWS]]


_PARTS: Sequence[tuple[str, Callable[[Measured], list[str]]]] = (
    ("Data", _data),
    ("Quality", _quality),
    ("Fairness", _sentences("fairness")),
    ("What it looks at", _looks_at),
    ("Speed", _sentences("speed")),
    ("Other checks", _others),
    ("Environment", _environment),
    ("Origin", _provenance),
)


def _list(of: Measured, report: str, name: str) -> list[JSON]:
    """Return a list in a report; empty where it is not there."""
    told: Any = of.reports.get(report, {}).get(name)
    return cast("list[JSON]", told) if isinstance(told, list) else []


def _result(of: Measured, check: str) -> CheckResult | None:
    return next((one for one in of.results if one.check == check), None)


def _verdict(result: CheckResult) -> str:
    if result.reported:
        return "measured"
    return "passed" if result.verdict is Verdict.PASSED else f"**{result.verdict}**"


def _row(*cells: object) -> str:
    return "| " + " | ".join(_line(cell).replace("|", "\\|") for cell in cells) + " |"


def _line(text: object) -> str:
    """Return text on one line, in which nothing begins a tag."""
    return " ".join(str(text).split()).replace("<", "&lt;")


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
