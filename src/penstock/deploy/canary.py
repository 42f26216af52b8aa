"""Judge a canary: may the challenger have more traffic, all of it, or none?

Traffic is counted in *batches*, closed windows of time in which the share was constant. Three
e-tests (see `etest`) look at each metric, errors and slow requests, after each batch:

    harm       odds at most 1.1 times the champion's; refuted at 2/alpha on any metric -> failed
    safe       odds at least 1.5 times the champion's; refuted at 2/alpha ...
    absolute   a rate of at least p_max; refuted at 2/alpha ...
               ... one of the two on every metric -> passed

Between odds of 1.1 and 1.5 either verdict is right. Both latch, and harm is looked at first. The
absolute bound is there because without events the odds never say safe, and a good model has no
errors. Start reading at `judge`; `planning` says beforehand how long it will take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from penstock.deploy.customers import ArmCounts, Customers
from penstock.deploy.etest import Counts, log_e_absolute
from penstock.deploy.planning import (
    LOG_HARM,
    LOG_SAFE,
    METRICS,
    STEP_REQUESTS_MIN,
    requests_by_bound,
    requests_needed,
)
from penstock.domain import CheckResult, Verdict

AWAY = 1e-3
"""With so small a chance of as few requests, a control arm was not there all the time."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A closed window of time with one constant share; each of its requests has ended."""

    challenger: ArmCounts
    champion: ArmCounts
    """What it is compared with: of the champion the arm that `compared` chose."""
    customers: Customers | None = None


@dataclass(frozen=True, slots=True)
class MetricJudgement:
    """The evidence on one metric after all batches."""

    verdict: Verdict
    """Failed = harm, passed = safe. It latches: once reached it stays."""
    log_e_harm: float
    log_e_safe: float
    log_e_absolute: float
    events: int
    """The challenger's."""
    requests: int
    """The challenger's."""
    champion_events: int
    champion_requests: int
    expected: float
    """Events of the challenger at equal odds, given how many there were in each batch."""
    p_max: float
    needs_requests: int | None
    """About how many more challenger requests would prove it safe, if all goes on like this;
    0 when it is decided, None when no number would."""
    steady: bool = True
    """False when harm is proven only with the two worst windows of five minutes: a stall of the
    challenger's worker may be all there is."""
    independent: int | None = None
    """Where customers are drawn: the challenger's requests, counted like independent ones."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a canary has proven so far."""

    verdict: Verdict
    metrics: Mapping[str, MetricJudgement]
    """By name: ``errors`` and ``slow``."""
    sentence: str
    needs: str
    """What is missing for a verdict, as a sentence; empty when there is one."""
    burst: bool = False
    """Whether the challenger should rest: harm is proven, but only with its worst moments."""

    def results(self) -> list[CheckResult]:
        """Return the metrics as checks, ``canary.errors`` and ``canary.slow``."""
        return [_result(name, one) for name, one in self.metrics.items()]

    def evidence(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "verdict": str(self.verdict),
            "sentence": self.sentence,
            "needs": self.needs,
            "metrics": {name: _evidence(one) for name, one in self.metrics.items()},
        }


# ---- the verdict ---------------------------------------------------------------------------


def judge(
    batches: Sequence[Batch], *, p_max_errors: float = 0.01, p_max_slow: float = 0.10
) -> Judgement:
    """Judge all closed batches of a canary so far, over all its steps.

    The same batches always give the same judgement, and a batch more never takes a verdict
    back, except that harm still wins after safe.

    Parameters
    ----------
    batches
        In the order of time, each once.
    p_max_errors, p_max_slow
        Rates of errors and of slow requests that are bad in themselves, 0 to 1 exclusive. A
        challenger provably below its `p_max` is safe even where the champion shows no event
        to compare with.

    Returns
    -------
    Judgement
        Failed: harm is proven on a metric. Passed: each metric is proven safe. Undecided: see
        `needs`.
    """
    customers = next((one.customers for one in reversed(batches) if one.customers), None)
    found: dict[str, MetricJudgement] = {}
    for name, p_max in zip(METRICS, (p_max_errors, p_max_slow), strict=True):
        assert 0 < p_max < 1, f"p_max of {name} must lie between 0 and 1, not {p_max}"
        found[name] = (
            _judge_metric(_counts(batches, name), p_max)
            if customers is None
            else _judge_customers(batches, name, p_max)
        )
    verdicts = {one.verdict for one in found.values()}
    verdict = Verdict.UNDECIDED
    if Verdict.FAILED in verdicts:
        verdict = Verdict.FAILED
    elif verdicts == {Verdict.PASSED}:
        verdict = Verdict.PASSED
    burst = verdict is not Verdict.FAILED and not all(one.steady for one in found.values())
    needs = _needs(verdict, found)
    if customers is not None and verdict is not Verdict.FAILED:
        if (broken := customers.misrouted()) is not None:
            verdict, needs = Verdict.UNDECIDED, broken
        elif verdict is Verdict.UNDECIDED:
            needs = customers.needs(
                {
                    name: (_WORDS[name][1], one.log_e_absolute / LOG_SAFE)
                    for name, one in found.items()
                    if one.verdict is Verdict.UNDECIDED
                }
            )
    return Judgement(verdict, found, _sentence(verdict, found, customers), needs, burst)


def compared(
    challenger: ArmCounts, champion: ArmCounts, control: ArmCounts | None
) -> tuple[str, ArmCounts]:
    """Return the arm that the challenger is compared with in a batch, and its name.

    The control arm, as large as the challenger's and with a worker of its own, so that neither
    sizes of batches nor a cold worker pass for harm. Where it got fewer requests than chance
    explains it was away for a part of the batch, and the champion had its requests: then the two
    together are everything that was not drawn for the challenger.

    Returns
    -------
    tuple
        ``control``, ``champion`` (there is no control arm) or ``both``, and the counts.
    """
    if control is None:
        return "champion", champion
    drawn = control.requests + challenger.requests
    if special.bdtr(control.requests, drawn, 0.5) >= AWAY:
        return "control", control
    return "both", both(champion, control)


def both(one: ArmCounts, other: ArmCounts) -> ArmCounts:
    """Return what two arms did together."""
    return ArmCounts(
        one.requests + other.requests, one.errors + other.errors, one.slow + other.slow
    )


def may_step(
    batches_at_this_share: Sequence[Batch], requests_min: int = STEP_REQUESTS_MIN
) -> bool:
    """Say whether the challenger has been seen enough at this share to get a larger one.

    That no metric is at harm is for `judge` to say; this asks for at least one closed batch and
    `requests_min` requests of the challenger.
    """
    seen = sum(batch.challenger.requests for batch in batches_at_this_share)
    return seen >= requests_min


def _judge_customers(batches: Sequence[Batch], name: str, p_max: float) -> MetricJudgement:
    """Judge one metric where customers are drawn; who has no key is drawn by request.

    The draws of the two are independent, so their e-values multiply.
    """
    alone = _counts(
        [
            Batch(one.customers.challenger, one.customers.champion)
            for one in batches
            if one.customers
        ],
        name,
    )
    told = [one.customers.metrics[name] for one in batches if one.customers]
    own_harm, own_safe = alone.log_e()
    bad, answered = np.cumsum(alone.x), np.cumsum(alone.n_c)
    own_rare = log_e_absolute(bad.astype(np.float64), answered.astype(np.float64), p_max)
    harm = own_harm + [one.log_e_harm for one in told]
    steady = own_harm + [one.log_e_harm_steady for one in told]
    safe = own_safe + [one.log_e_safe for one in told]
    rare = own_rare + [one.log_e_rare for one in told]
    verdict = Verdict.UNDECIDED
    if ((harm >= LOG_HARM) & (steady >= LOG_HARM)).any():
        verdict = Verdict.FAILED
    elif (safe >= LOG_SAFE).any() or (rare >= LOG_SAFE).any():
        verdict = Verdict.PASSED
    all_ = _counts(batches, name)
    last, events, requests = told[-1], int(all_.x.sum()), int(all_.n_c.sum())
    part = last.effective / last.usual if last.usual else 1.0
    return MetricJudgement(
        verdict,
        float(min(harm[-1], steady[-1])),
        float(safe[-1]),
        float(rare[-1]),
        events,
        requests,
        int(all_.events.sum()) - events,
        int(all_.n_b.sum()),
        last.expected + alone.expected(),
        p_max,
        0 if verdict is not Verdict.UNDECIDED else None,
        steady=bool(harm[-1] < LOG_HARM or steady[-1] >= LOG_HARM),
        independent=round(part * (requests - answered[-1]) + answered[-1]),
    )


def _counts(batches: Sequence[Batch], metric: str) -> Counts:
    def events(arm: ArmCounts) -> int:
        return arm.errors if metric == "errors" else arm.slow

    rows = [
        (
            events(one.challenger),
            events(one.champion),
            one.challenger.requests,
            one.champion.requests,
        )
        for one in batches
    ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Counts(table[:, 0], table[:, 0] + table[:, 1], table[:, 2], table[:, 3])


def _judge_metric(counts: Counts, p_max: float) -> MetricJudgement:
    events, requests = int(counts.x.sum()), int(counts.n_c.sum())
    if not len(counts.x):
        more = requests_by_bound(0, 0, p_max)
        none = (Verdict.UNDECIDED, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0.0)
        return MetricJudgement(*none, p_max, more)
    harm, safe = counts.log_e()
    bad, answered = np.cumsum(counts.x), np.cumsum(counts.n_c)
    absolute = log_e_absolute(bad.astype(np.float64), answered.astype(np.float64), p_max)
    verdict = Verdict.UNDECIDED
    if (harm >= LOG_HARM).any():
        verdict = Verdict.FAILED
    elif (safe >= LOG_SAFE).any() or (absolute >= LOG_SAFE).any():
        verdict = Verdict.PASSED
    more = 0 if verdict is not Verdict.UNDECIDED else requests_needed(counts, p_max)
    return MetricJudgement(
        verdict,
        float(harm[-1]),
        float(safe[-1]),
        float(absolute[-1]),
        events,
        requests,
        int(counts.events.sum()) - events,
        int(counts.n_b.sum()),
        counts.expected(),
        p_max,
        more,
    )


# ---- words ---------------------------------------------------------------------------------

_WORDS = {"errors": ("error", "errors"), "slow": ("slow request", "slow requests")}


def _needs(verdict: Verdict, metrics: Mapping[str, MetricJudgement]) -> str:
    if verdict is not Verdict.UNDECIDED:
        return ""
    missing = {name: one for name, one in metrics.items() if one.verdict is Verdict.UNDECIDED}
    hopeless = [name for name, one in missing.items() if one.needs_requests is None]
    if hopeless:
        one, words = missing[hopeless[0]], _WORDS[hopeless[0]][1]
        return (
            f"{_percent(one.events, one.requests)} of its requests are {words} and the "
            "champion has none to compare with: more requests alone will not decide."
        )
    more = max(one.needs_requests or 0 for one in missing.values())
    return f"About {_rounded(more):,} more challenger requests would decide."


def _rounded(requests: int) -> int:
    """Round up to two digits that count: it is a guess."""
    unit = 10 ** max(0, len(str(requests)) - 2)
    return -(-requests // unit) * unit


def _percent(events: int, requests: int) -> str:
    return f"{100 * events / max(requests, 1):.2g} %"


def _sentence(
    verdict: Verdict,
    metrics: Mapping[str, MetricJudgement],
    customers: Customers | None = None,
) -> str:
    requests = metrics["errors"].requests
    parts = [_part(name, one) for name, one in metrics.items()]
    of = ""
    if customers is not None:
        alike = min(one.independent or 0 for one in metrics.values())
        of = f" of {customers.named()}, counted like {alike:,} independent ones"
    told = f"After {requests:,} challenger requests{of}: {' and '.join(parts)}."
    if verdict is Verdict.FAILED:
        harmed = [n for n, one in metrics.items() if one.verdict is Verdict.FAILED]
        words = " and ".join(_WORDS[name][1] for name in harmed)
        return f"{told} More {words} than the champion is proven: harm."
    if verdict is Verdict.PASSED:
        return f"{told} For each, half as much again as the champion or its limit is excluded."
    return f"{told} Neither harm nor safety is proven yet."


def _part(name: str, one: MetricJudgement) -> str:
    words = _WORDS[name][0 if one.events == 1 else 1]
    expected = f"{one.expected:,.0f}" if one.expected >= 10 else f"{one.expected:.1f}"
    return f"{one.events:,} {words} where {expected} would be expected at equal rates"


# ---- as checks -----------------------------------------------------------------------------

_QUESTIONS = {
    "errors": "Does it answer with errors more often than what we use today?",
    "slow": "Is it slower than what we use today?",
}
_READINGS = {Verdict.PASSED: "no harm", Verdict.FAILED: "harm", Verdict.UNDECIDED: "too early"}


def _result(name: str, one: MetricJudgement) -> CheckResult:
    summary = _part(name, one)
    if one.needs_requests:
        summary += f"; about {_rounded(one.needs_requests):,} more requests would decide"
    evidence = _evidence(one) | {"question": _QUESTIONS[name], "reading": _READINGS[one.verdict]}
    return CheckResult(f"canary.{name}", one.verdict, summary, evidence)


def _evidence(one: MetricJudgement) -> dict[str, Any]:
    return {
        "verdict": str(one.verdict),
        "value": one.events / one.requests if one.requests else None,
        "limit": one.p_max,
        "champion": one.champion_events / one.champion_requests if one.champion_requests else None,
        "rows": one.requests,
        "events": one.events,
        "requests": one.requests,
        "champion_events": one.champion_events,
        "champion_requests": one.champion_requests,
        "expected": one.expected,
        "log_e_harm": one.log_e_harm,
        "log_e_safe": one.log_e_safe,
        "log_e_absolute": one.log_e_absolute,
        "harm_at": LOG_HARM,
        "safe_at": LOG_SAFE,
        "needs_requests": one.needs_requests,
    }
