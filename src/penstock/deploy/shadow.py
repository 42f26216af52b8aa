"""What a shadow would have answered: copies of requests, beside the answers that callers got.

Each copy has the id and the arrival of its request, so the two are compared in pairs, and nobody
was drawn. `tally` counts the pairs of one look as plain JSON, `together` adds looks up, `judged`
says what they show. Only errors have a verdict: a copy that fails where its caller was answered
is harm to come. How many decisions would be others is told and judged by nobody, for a better
model changes decisions too; so is the time, for copies wait until little else does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock.deploy.etest import log_e_above, log_e_absolute
from penstock.deploy.planning import ALPHA
from penstock.domain import JSON, CheckResult, Verdict

EXAMPLES = 20
MOST_SLICES = 40
NUMBER_SHARE = 0.1
"""A number is another decision when it moves by more than this part of the standard deviation
of the callers' answers in a look."""
LOG_PROVEN = math.log(1 / ALPHA)
_STEP = 1.25
"""Between two bounds of the counts of latencies."""


def tally(pairs: Sequence[Mapping[str, Any]], *, numeric: bool, slices: Sequence[str]) -> JSON:
    """Count the rows of one look.

    Parameters
    ----------
    pairs
        One for each row of a copy: ``prediction_id``, ``row``, ``failed`` (the copy's own error,
        or its refusal of what its caller's version accepted), ``ms`` and ``caller_ms``,
        ``answer`` and ``caller_answer`` as text, ``score`` and ``caller_score``, and the inputs
        as ``x_<name>``. None where there is none.
    numeric
        Whether answers are numbers rather than classes.
    slices
        Names of the inputs by whose values the changed decisions are told.
    """
    firsts = [one for one in pairs if not one["row"]]
    both = [one for one in pairs if None not in (one["answer"], one["caller_answer"])]
    changed = _changed(both, numeric)
    moves = [
        abs(one["score"] - one["caller_score"])
        for one in both
        if None not in (one["score"], one["caller_score"])
    ]
    by_slice: Counter[tuple[str, str, bool]] = Counter()
    for one, other in zip(both, changed, strict=True):
        by_slice.update((name, str(one[f"x_{name}"]), other) for name in slices)
    known = sorted({(name, value) for name, value, _ in by_slice})
    return {
        "copies": len(firsts),
        "failed": sum(bool(one["failed"]) for one in firsts),
        "rows": len(both),
        "changed": sum(changed),
        "scored": len(moves),
        "moved": float(sum(moves)),
        "slices": [
            [name, value, sum(by_slice[name, value, is_] for is_ in (True, False)),
             by_slice[name, value, True]]
            for name, value in known
        ],
        "ms": _binned([one["ms"] for one in firsts]),
        "caller_ms": _binned([one["caller_ms"] for one in firsts]),
        "examples": [_example(one) for one, is_ in zip(both, changed, strict=True) if is_][
            :EXAMPLES
        ],
    }  # fmt: skip


def together(looks: Sequence[JSON]) -> JSON:
    """Add up what `tally` counted, look by look; the newest examples stay."""
    sums = ("copies", "failed", "rows", "changed", "scored", "moved")
    slices: Counter[tuple[str, str, int]] = Counter()
    times: dict[str, Counter[str]] = {"ms": Counter(), "caller_ms": Counter()}
    examples: list[Any] = []
    for one in looks:
        for name, value, rows, changed in one["slices"]:
            slices[name, value, 0] += rows
            slices[name, value, 1] += changed
        for name, counted in times.items():
            counted.update(one[name])
        examples = [*one["examples"], *examples][:EXAMPLES]
    found: dict[str, Any] = {name: sum(one[name] for one in looks) for name in sums}
    named = sorted({(name, value) for name, value, _ in slices})
    listed = [(n, v, slices[n, v, 0], slices[n, v, 1]) for n, v in named]
    listed.sort(key=lambda one: -one[3] / max(one[2], 1))
    return {
        **found,
        "slices": listed[:MOST_SLICES],
        **{name: dict(counted) for name, counted in times.items()},
        "examples": examples,
    }


def judged(
    looks: Sequence[JSON], *, p_max_errors: float
) -> tuple[Verdict, str, list[CheckResult]]:
    """Say what the copies show.

    Returns
    -------
    tuple
        Failed: a rate of errors above `p_max_errors` is proven; passed: one below is; the chance
        of being wrong is at most 5 % each, however often somebody looks. A sentence, and the
        checks ``shadow.errors`` and ``shadow.changed``.
    """
    copies = np.cumsum([one["copies"] for one in looks], dtype=np.float64)
    failed = np.cumsum([one["failed"] for one in looks], dtype=np.float64)
    verdict = Verdict.UNDECIDED
    if len(looks) and (log_e_above(failed, copies, p_max_errors) >= LOG_PROVEN).any():
        verdict = Verdict.FAILED
    elif len(looks) and (log_e_absolute(failed, copies, p_max_errors) >= LOG_PROVEN).any():
        verdict = Verdict.PASSED
    told = together(looks)
    errors, changed = _errors(told, verdict, p_max_errors), _decisions(told)
    sentence = f"{_capital(errors.summary)}; {changed.summary}."
    return verdict, sentence, [errors, changed]


def _errors(told: JSON, verdict: Verdict, p_max: float) -> CheckResult:
    summary = f"{told['failed']:,} of {told['copies']:,} copies of requests failed"
    readings = {Verdict.PASSED: "rare", Verdict.FAILED: "harm", Verdict.UNDECIDED: "too early"}
    evidence = {
        "question": "Does it answer what production is asked?",
        "value": told["failed"] / told["copies"] if told["copies"] else None,
        "limit": p_max,
        "rows": told["copies"],
        "reading": readings[verdict],
        "p95_ms": quantile(told["ms"], 0.95),
        "caller_p95_ms": quantile(told["caller_ms"], 0.95),
    }
    return CheckResult("shadow.errors", verdict, summary, evidence)


def _decisions(told: JSON) -> CheckResult:
    rows = told["rows"]
    share = told["changed"] / rows if rows else None
    evidence = {
        "question": "Which answers would have been others?",
        "value": share,
        "rows": rows,
        "changed": told["changed"],
        "mean_move": told["moved"] / told["scored"] if told["scored"] else None,
        "slices": told["slices"],
        "examples": told["examples"],
        "gate": False,
    }
    if share is None:
        summary = "no copy has an answer to compare yet"
        return CheckResult(
            "shadow.changed", Verdict.UNDECIDED, summary, evidence | {"reading": "too early"}
        )
    summary = f"{100 * share:.2g} % of {rows:,} decisions would have been others"
    evidence["reading"] = "reported"
    return CheckResult("shadow.changed", Verdict.PASSED, summary, evidence)


def quantile(counted: Mapping[str, int], part: float) -> float | None:
    """Return a quantile of counted latencies in ms, up to 25 % too high; None without any.

    Examples
    --------
    >>> quantile(_binned([1.0, 1.0, 1.0, 100.0]), 0.5)
    1.0
    """
    wanted, seen = part * sum(counted.values()), 0
    for step in sorted(map(int, counted)):
        seen += counted[str(step)]
        if seen >= wanted:
            return round(_STEP**step, 2)
    return None


def _binned(latencies_ms: Sequence[float | None]) -> dict[str, int]:
    known = [one for one in latencies_ms if one is not None]
    steps = (math.ceil(math.log(max(one, 0.01), _STEP) - 1e-9) for one in known)
    return dict(Counter(str(step) for step in steps))


def _changed(both: Sequence[Mapping[str, Any]], numeric: bool) -> list[bool]:
    if not numeric:
        return [one["answer"] != one["caller_answer"] for one in both]
    pairs = np.array([[_float(one["answer"]), _float(one["caller_answer"])] for one in both])
    if not len(pairs):
        return []
    least = NUMBER_SHARE * float(np.nanstd(pairs[:, 1]))
    moved = np.abs(pairs[:, 0] - pairs[:, 1])
    return [bool(one > least or math.isnan(one)) for one in moved.tolist()]


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _example(one: Mapping[str, Any]) -> JSON:
    inputs = {name[2:]: _plain(of) for name, of in one.items() if name.startswith("x_")}
    kept = ("prediction_id", "answer", "caller_answer", "score", "caller_score")
    return {**{name: one[name] for name in kept}, "inputs": inputs}


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
