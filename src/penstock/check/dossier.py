"""The dossier: what people read before they say yes or no.

It is written by templates from check results, never by hand and never by a language model; the
author adds through CARD.md what no check can know (gain, cost, risk). A missing part is shown as
a gap. The dossier is plain JSON with one digest, so that a decision is bound to what was read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from penstock.config.card import LIMITS, USES, Card, read_card
from penstock.domain import JSON, CheckResult, Verdict

SCHEMA = "penstock.dossier/1"
DRILL = "drill.rollback"
"""The check that goes to the version and back, in the test environment."""
_MOST_INPUTS = 20

_MEANING = {
    "benefit": "What you gain",
    "work": "What it costs",
    "risks": "What could go wrong",
}
"""Titles of the parts that only people know, by their key in CARD.md."""

_QUESTIONS = {
    "smoke": "Does it work as every model must?",
    "adopt": "May a model that was trained elsewhere come in?",
    "quality": "Is it good enough?",
    "fairness": "Are groups treated alike?",
    "explain": "What does it look at?",
    "speed": "Is it fast enough?",
    "drill": "Can we go back?",
}
_ORDER = ("quality", "fairness", "speed", "drill", "explain", "smoke", "adopt")
_FOLDED = frozenset({"smoke", "sanity", "supply"})
"""What every model must do: folded away on the page where it passed."""
_WEIGH = {
    "quality": "How much would it cost if the worse end of the interval were true? More rows of "
    "evaluation data would settle it.",
    "fairness": "Who are these people, how many decisions about them are made, and what does a "
    "wrong one cost them? A larger sample of the group would settle it.",
    "speed": "Would callers notice? A quieter machine, or a longer measurement, would settle it.",
    "smoke": "Would it do harm in production, or is it the way this model is meant to work?",
    "supply": "Do the licence and the origin of what it brings along allow this use?",
    "drill": "Could you wait that long for the version before, if this one did harm?",
    "adopt": "Do you know and trust who trained it, and on what?",
}
"""What a person should think of where a check could not decide, by family."""
_FIRST_SENTENCE = {
    "better": "is better than {champion}, the version in use.",
    "not worse": "is not worse than {champion}, the version in use.",
    "worse": "is worse than {champion}, the version in use.",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """The version that is judged, and what identifies it."""

    model: str
    number: int
    commit: str
    risk: str
    artifact_digest: str
    lock_digest: str
    data_digest: str
    sandbox_level: str
    message: str = ""
    author: str = ""
    champion: int | None = None
    """Number of the version in use; None for a first version."""
    data_made_by_build: bool = False
    """The evaluation data came out of the same build as the model."""
    changed: tuple[str, ...] = ()
    """Sentences: what it has otherwise than its champion."""
    inputs: tuple[JSON, ...] = ()
    """Files that training could read: ``path``, ``bytes``, ``sha256``, ``read``."""


def dossier(
    subject: Subject,
    results: Sequence[CheckResult],
    *,
    card: str,
    groups: JSON | None = None,
    importance: JSON | None = None,
) -> JSON:
    """Write the dossier of a version.

    Parameters
    ----------
    results
        Of every check of the run.
    card
        Text of CARD.md, or empty.
    groups
        The report of `fairness.report.fairness`; what stands in the dossier is its gist.
    importance
        The report of `explanation.report.explain`; what stands in the dossier is its gist.

    Returns
    -------
    JSON
        ``title``, ``lead``, ``meaning`` (three parts, each with ``text`` or ``missing``),
        ``gaps``, ``blocked`` (why it cannot be approved, or None), ``counts``, ``evidence``,
        ``judgement`` (what only a person can end, each with what to ``weigh``), ``go_back``,
        ``changed``, ``about``, ``inputs``, ``groups``, ``importance``, ``identity``.
    """
    meaning = _meaning(read_card(card))
    gaps = [str(part["title"]) for part in meaning if part["missing"]]
    counts = {verdict.value: 0 for verdict in Verdict}
    for result in results:
        counts[result.verdict.value] += 1
    points = [result for result in results if result.verdict is Verdict.UNDECIDED]
    return {
        "schema": SCHEMA,
        "version": f"{subject.model}@{subject.number}",
        "title": f"Put {subject.model} v{subject.number} into production?",
        "lead": _lead(subject, results),
        "meaning": meaning,
        "gaps": gaps,
        "blocked": _blocked(subject, gaps),
        "counts": counts,
        "counts_text": counts_text(counts),
        "evidence": evidence_of(results),
        "judgement": [
            {
                "check": result.check,
                "question": _question(result),
                "why": result.summary,
                "weigh": _WEIGH.get(_family(result), "What would happen if the answer were no?"),
            }
            for result in sorted(points, key=_rank)
        ],
        "champion": subject.champion,
        "go_back": _go_back(subject, results),
        "changed": list(subject.changed),
        "about": _about(read_card(card)),
        "inputs": [dict(one) for one in subject.inputs[:_MOST_INPUTS]],
        "inputs_in_all": len(subject.inputs),
        "groups": _groups(groups),
        "importance": _importance(importance),
        "identity": _identity(subject),
    }


def evidence_of(results: Sequence[CheckResult]) -> list[JSON]:
    """Return each check's question and answer, in the order in which people ask."""
    return [_evidence(result) for result in sorted(results, key=_rank)]


def digest(document: JSON) -> str:
    """Return SHA-256 of the dossier's canonical JSON: sorted keys, no spaces, UTF-8.

    Examples
    --------
    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    text = json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def counts_text(counts: Mapping[str, int]) -> str:
    """Count checks in words; undecided is never counted as passed.

    Examples
    --------
    >>> counts_text({"passed": 14, "failed": 0, "undecided": 1})
    '14 of 15 checks passed, 1 undecided'
    """
    text = f"{counts['passed']} of {sum(counts.values())} checks passed"
    for verdict in ("failed", "undecided"):
        if counts[verdict]:
            text += f", {counts[verdict]} {verdict}"
    return text


def markdown(document: JSON) -> str:
    """Write the dossier as Markdown, for a terminal or a file."""
    lines = [f"# {document['title']}", "", str(document["lead"]), ""]
    if document["blocked"]:
        lines += [f"**It cannot be approved:** {document['blocked']}", ""]
    lines += ["## What saying yes means", ""]
    for part in cast("Sequence[JSON]", document["meaning"]):
        lines += [f"### {part['title']}", "", str(part["text"] or part["missing"]), ""]
    lines += [f"## Evidence: {document['counts_text']}", ""]
    lines += ["| result | question | answer | champion |", "|---|---|---|---|"]
    lines += [_row(one) for one in cast("Sequence[JSON]", document["evidence"])]
    points = cast("Sequence[JSON]", document["judgement"])
    if points:
        lines += ["", "## For your judgement", ""]
        for point in points:
            lines.append(f"- {point['question']} {point['why']} ({point['check']})")
            lines += [f"  {point['weigh']}"] if point.get("weigh") else []
    lines += _told_markdown(document)
    lines += _groups_markdown(cast("JSON | None", document["groups"]))
    lines += _importance_markdown(cast("JSON | None", document["importance"]))
    lines += ["", "## Exactly what you approve", ""]
    identity = cast("JSON", document["identity"])
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in identity.items() if value]
    return "\n".join(lines) + "\n"


def _told_markdown(document: JSON) -> list[str]:
    """Write the parts in words; a dossier of an older release has none of them."""
    lines: list[str] = []
    if go_back := cast("JSON | None", document.get("go_back")):
        lines += ["", "## Can we go back?", "", str(go_back["text"])]
    if changed := cast("Sequence[str]", document.get("changed") or ()):
        lines += ["", "## What changed since the version in use", ""]
        lines += [f"- {one}" for one in changed]
    for part in cast("Sequence[JSON]", document.get("about") or ()):
        lines += ["", f"## {part['title']}", "", str(part["text"])]
    if inputs := cast("Sequence[JSON]", document.get("inputs") or ()):
        lines += ["", "## What it was trained on", ""]
        lines += [f"- {one['path']}, sha256 {str(one['sha256'])[:12]}" for one in inputs]
        if (more := int(document.get("inputs_in_all") or 0) - len(inputs)) > 0:
            lines.append(f"- and {more} more")
    return lines


def _meaning(card: Card) -> list[JSON]:
    parts: list[JSON] = []
    for key, title in _MEANING.items():
        told = card.part(key)
        missing = None if told else f"CARD.md says nothing here: add `{key}` to its head."
        parts.append({"key": key, "title": title, "text": told or None, "missing": missing})
    return parts


def _go_back(subject: Subject, results: Sequence[CheckResult]) -> JSON:
    """Say whether the version before can have its requests back, from the drill."""
    drill = next((one for one in results if one.check == DRILL), None)
    if drill is not None:
        return {"verdict": drill.verdict.value, "text": drill.summary}
    if subject.champion is None:
        text = "There is no version before it: to take it back is to serve nothing."
    else:
        text = f"Going back to v{subject.champion} was not tried."
    return {"verdict": None, "text": text}


def _about(card: Card) -> list[JSON]:
    """Return what the card says of use and limits, where it says anything."""
    told = {"What it is for": card.under(*USES), "Where it must not be used": card.under(*LIMITS)}
    return [{"title": title, "text": text} for title, text in told.items() if text]


def _blocked(subject: Subject, gaps: Sequence[str]) -> str | None:
    if subject.risk != "high" or not gaps:
        return None
    return f"at risk high CARD.md must say: {', '.join(gap.lower() for gap in gaps)}"


def _family(result: CheckResult) -> str:
    return result.check.partition(".")[0]


def _rank(result: CheckResult) -> tuple[int, str]:
    family = _family(result)
    place = _ORDER.index(family) if family in _ORDER else len(_ORDER)
    if result.check == "quality.not_worse":
        place = -1
    return (place, result.check)


def _question(result: CheckResult) -> str:
    told = result.evidence.get("question")
    return str(told) if told else _QUESTIONS.get(_family(result), f"{result.check}?")


_NUMBERS = ("value", "champion", "limit", "low", "high")


def _written(value: Any) -> Any:
    """Return a number as JSON can hold it: a bound that does not exist is None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _evidence(result: CheckResult) -> JSON:
    shown = result.evidence
    return {
        "check": result.check,
        "question": _question(result),
        "verdict": result.verdict.value,
        "reading": shown.get("reading"),
        "answer": result.summary,
        **{name: _written(shown.get(name)) for name in _NUMBERS},
        "unit": shown.get("unit"),
        # Folded on the page: what every model must do, and this one does.
        "folded": _family(result) in _FOLDED and result.verdict is Verdict.PASSED,
    }


def _identity(subject: Subject) -> JSON:
    data = subject.data_digest
    if data and subject.data_made_by_build:
        data += " (made by the build itself, so training could see it)"
    return {
        "model": f"{subject.model}@{subject.number}",
        "commit": subject.commit,
        "message": subject.message,
        "author": subject.author,
        "artifact_digest": subject.artifact_digest,
        "lock_digest": subject.lock_digest,
        "data_digest": data,
        "sandbox_level": subject.sandbox_level,
        "risk": subject.risk,
    }


def _lead(subject: Subject, results: Sequence[CheckResult]) -> str:
    sentences = [_first_sentence(subject, results)]
    for family, words in _FAMILY_WORDS.items():
        of_family = [result for result in results if _family(result) == family]
        if of_family:
            sentences.append(_family_sentence(of_family, words))
    if subject.data_made_by_build:
        sentences.append("It was judged on data that its own build made.")
    if subject.sandbox_level in _ISOLATION:
        sentences.append(_ISOLATION[subject.sandbox_level])
    points = [result for result in results if result.verdict is Verdict.UNDECIDED]
    if points:
        count = "One point needs" if len(points) == 1 else f"{len(points)} points need"
        named = "; ".join(f"{_question(one)} {one.summary}" for one in points[:3])
        more = f"; and {len(points) - 3} more" if len(points) > 3 else ""
        sentences.append(f"{count} your judgement: {named}{more}.")
    return " ".join(sentence for sentence in sentences if sentence)


def _first_sentence(subject: Subject, results: Sequence[CheckResult]) -> str:
    version = f"v{subject.number}"
    if subject.champion is None:
        return f"{version} is the first version: there is nothing in use to compare it with."
    champion = f"v{subject.champion}"
    compared = next((one for one in results if one.check == "quality.not_worse"), None)
    reading = "" if compared is None else str(compared.evidence.get("reading", ""))
    # The reading speaks of the numbers; where the verdict was taken back, they do not decide.
    if compared is None or compared.verdict is Verdict.UNDECIDED:
        return f"Whether {version} is better than {champion}, the version in use, is not known."
    text = _FIRST_SENTENCE.get(reading, "was compared with {champion}, the version in use.")
    lay: JSON = compared.evidence.get("lay") or {}
    daily = f" That is: {lay['text']}." if lay.get("text") else ""
    return f"{version} {text.format(champion=champion)}{daily}"


_ISOLATION: Mapping[str, str] = {
    "none": "It was built without isolation from the machine.",
    "partial": "It was built in a weaker sandbox, which closed files and the network to it.",
    "external": "It was built without a sandbox of Penstock's; the operator vouches for another.",
}
"""Sentences about what is below full."""
_FAMILY_WORDS = {
    "fairness": (
        "No difference between groups is over its limit.",
        "A difference between groups is over its limit",
    ),
    "speed": ("It is fast enough and fits in memory.", "It is over a limit of speed or memory"),
    "smoke": ("It works as every model must.", "It does not work as every model must"),
    "adopt": (
        "It was trained elsewhere, and holds nothing that no model needs.",
        "It was trained elsewhere, and holds what no model needs",
    ),
}
_REPORTED_WORDS = {
    "fairness": "Differences between groups were measured; no limit is set for them.",
    "speed": "Its speed was measured; no limit is set for it.",
}


def _family_sentence(results: Sequence[CheckResult], words: tuple[str, str]) -> str:
    """Sum up a family of checks; an undecided one speaks for itself at the end of the lead."""
    passed, failed = words
    broken = [result for result in results if result.verdict is Verdict.FAILED]
    if broken:
        return f"{failed}: {'; '.join(result.summary for result in broken[:3])}."
    if any(result.verdict is Verdict.UNDECIDED for result in results):
        return ""
    family = _family(results[0])
    if family in _REPORTED_WORDS and all(one.evidence.get("limit") is None for one in results):
        return _REPORTED_WORDS[family]
    return passed


def _groups(report: JSON | None) -> JSON | None:
    """Keep the columns that have a result of their own, and the sentences."""
    if report is None:
        return None
    changed = cast("JSON | None", report.get("change"))
    left_out = {"bins", "positives"}
    columns = [
        {
            **{key: column.get(key) for key in ("column", "measure", "limit", "text")},
            "groups": [
                {key: value for key, value in group.items() if key not in left_out}
                for group in cast("Sequence[JSON]", column["groups"])
            ],
            "differences": column.get("differences"),
        }
        for column in cast("Sequence[JSON]", report["columns"])
        if column.get("held", True)
    ]
    return {"columns": columns, "changed": None if changed is None else changed["text"]}


def _importance(report: JSON | None) -> JSON | None:
    if report is None:
        return None
    changed = cast("JSON | None", report.get("change"))
    columns = cast("Sequence[JSON]", report["columns"])[:10]
    keys = ("column", "mean", "sd", "low", "high", "repeats")
    return {
        "metric": report.get("metric"),
        "rows": report.get("rows"),
        "columns": [{key: one.get(key) for key in keys} for one in columns],
        "text": report.get("text"),
        "changed": None if changed is None else changed["text"],
        "skipped": list(cast("Sequence[JSON]", report["skipped"])[:5]),
    }


def _row(evidence: JSON) -> str:
    verdict = str(evidence["verdict"])
    shown = verdict if verdict == "passed" else f"**{verdict}**"
    champion = _number(evidence["champion"])
    cells = [shown, evidence["question"], evidence["answer"], champion]
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _groups_markdown(groups: JSON | None) -> list[str]:
    lines: list[str] = []
    for column in cast("Sequence[JSON]", (groups or {}).get("columns", ())):
        members = cast("Sequence[JSON]", column["groups"])
        shown = [name for name in _RATES if any(name in group for group in members)]
        lines += ["", f"## Groups by {column['column']}", ""]
        lines += [f"{column['text']}\n"] if column.get("text") else []
        titles = [_RATES[name] for name in shown]
        lines += [f"| group | rows | {' | '.join(titles)} |", "|---|---|" + "---|" * len(shown)]
        for group in members:
            cells = [_interval(cast("JSON | None", group.get(name))) for name in shown]
            few = "" if group["judged"] else " (too few to judge)"
            row = [f"{group['group']}{few}", group["rows"], *cells]
            lines.append("| " + " | ".join(_cell(cell) for cell in row) + " |")
    changed = (groups or {}).get("changed")
    return [*lines, "", str(changed)] if changed else lines


_RATES = {
    "selection_rate": "gets a yes",
    "tpr": "found of the true",
    "fpr": "false alarms",
    "accuracy": "answered rightly",
    "mean_error": "mean error",
}


def _interval(found: JSON | None) -> str:
    if found is None:
        return "–"
    return f"{found['value']:.3g} ({found['low']:.3g} to {found['high']:.3g})"


def _importance_markdown(importance: JSON | None) -> list[str]:
    columns = cast("Sequence[JSON]", (importance or {}).get("columns", ()))
    if importance is None or not columns:
        return []
    lines = ["", f"## What it looks at (change of {importance['metric']} without it)", ""]
    told = [importance.get("text"), importance.get("changed")]
    lines += [f"{text}\n" for text in told if text]
    lines += [f"- {column['column']}: {column['mean']:.4g}" for column in columns[:10]]
    skipped = cast("Sequence[JSON]", importance["skipped"])
    return lines + [f"- skipped {one['what']}: {one['why']}" for one in skipped[:5]]
