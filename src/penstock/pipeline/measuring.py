"""Step speed of stage test: latency, throughput, memory and start, beside the champion.

Both versions run in the test environment behind the gateway's own code. Latency is measured with
one request at a time, pair by pair; throughput, where the project asks for it, with more and
more connections whose threads have the lowest priority. All of it pauses while production is
slow, and ends when its budget is used up.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

import numpy as np

from penstock.check import speed, speed_ratio, throughput
from penstock.config.speed import Speed
from penstock.domain import JSON, CheckResult, Environment, Verdict, Version
from penstock.errors import PenstockError, StoppedError
from penstock.inference.asking import WorkerAnswerError, chunks
from penstock.inference.endpoint import Endpoint
from penstock.pipeline.contests import Contest, can_ask, contest, wanted
from penstock.pipeline.guarding import Guard, ProductionSlowError
from penstock.pipeline.tools import Work, reasons, worst

PAIRS = speed_ratio.PAIRS_MIN
WARM_UP = 5
BODIES = 500
"""Different rows that are sent."""
WINDOW_S, WINDOWS = 0.3, 4
"""Of the load, for each number of connections."""
_LOWEST = 19


@dataclass(slots=True)
class _Arm:
    """One version under measurement."""

    version: Version
    endpoint: Endpoint
    bodies: list[bytes]
    latencies_ms: list[float] = field(default_factory=list[float])
    levels: list[throughput.Level] = field(default_factory=list[throughput.Level])
    rss: list[float] = field(default_factory=list[float])
    """Bytes, whenever it was looked at."""
    cold_start_s: float | None = None

    def measured(self) -> speed.Measured:
        return speed.Measured(
            latencies_ms=np.array(self.latencies_ms),
            rss_mb=max(self.rss) / 2**20 if self.rss else None,
            cold_start_s=self.cold_start_s,
        )


def judge_speed(work: Work) -> JSON:
    """Measure, judge against limits and champion, and keep what was found."""
    found = contest(work)
    if found is None:
        return {"state": "skipped", "reason": "no [evaluate]: no rows to send"}
    stated = found.config.speed
    arms = _arms(work, found)
    guard = Guard(arms[0].endpoint.workers)
    unfinished = ""
    try:
        guard.begin()
        _measure(work, arms, guard, stated)
    except ProductionSlowError as slow:
        unfinished = slow.what
    finally:
        _look(work, arms)
        for arm in arms:
            arm.endpoint.close()
    _still_there(arms)
    results = _judged(arms, stated)
    if unfinished:
        results = [_unfinished(one, unfinished) for one in results]
    told = guard.told()
    results = [
        replace(one, evidence={**one.evidence, "beside_production": told}) for one in results
    ]
    _report(work, arms, told)
    work.keep(results)
    said = reasons(results)
    if guard.paused_s:
        said += f"; paused {guard.paused_s:.0f} s while production was slow"
    return {"state": worst(results), "reason": said}


def _arms(work: Work, found: Contest) -> list[_Arm]:
    versions = [found.version]
    if found.champion is not None and can_ask(found.champion, found.evaluation):
        versions.append(found.champion)
    return [
        _Arm(
            version,
            work.tools.endpoint(version.model, version.number, Environment.TEST),
            [
                body
                for _, body in chunks(
                    wanted(version, found.evaluation).slice(0, BODIES),
                    version.signature,
                    max_rows=1,
                )
            ],
        )
        for version in versions
    ]


def _measure(work: Work, arms: Sequence[_Arm], guard: Guard, stated: Speed) -> None:
    ends_s = time.monotonic() + stated.budget_s
    for arm in arms:
        for body in arm.bodies[:WARM_UP]:
            arm.endpoint.took_s(body)
    # Who is first is drawn anew for each pair: what the first leaves in a cache is the second's.
    order = np.random.default_rng(work.run.id)
    for pair in range(PAIRS):
        if time.monotonic() - guard.paused_s > ends_s:
            break
        if pair % 20 == 0:
            guard.wait()
            work.progress("speed", pair / PAIRS * (0.5 if stated.load else 1), doing="latency")
        for place in order.permutation(len(arms)):
            arm = arms[int(place)]
            took_s = arm.endpoint.took_s(arm.bodies[pair % len(arm.bodies)])
            arm.latencies_ms.append(took_s * 1000)
    if stated.load or stated.min_rps is not None:
        _load(work, arms, guard, ends_s)


def _load(work: Work, arms: Sequence[_Arm], guard: Guard, ends_s: float) -> None:
    """Let more and more connections ask each version in turn, until none gives more."""
    for step, connections in enumerate(throughput.CONNECTIONS):
        guard.wait()
        rising = [arm for arm in arms if _rises(arm.levels)]
        if not rising or time.monotonic() - guard.paused_s > ends_s:
            return
        work.progress("speed", 0.5 + 0.5 * step / len(throughput.CONNECTIONS), doing="throughput")
        for arm in rising:
            arm.levels.append(_level(work, arm, connections))
        _look(work, arms)


def _rises(levels: Sequence[throughput.Level]) -> bool:
    if len(levels) < 2:
        return True
    before, last = (float(np.mean(one.rates)) for one in levels[-2:])
    return last >= throughput.GROWS * before


def _level(work: Work, arm: _Arm, connections: int) -> throughput.Level:
    """Ask over so many connections for some windows of time."""
    begins_s = time.perf_counter() + 0.05 + 0.002 * connections
    ends_s = begins_s + WINDOW_S * WINDOWS
    threads = [_Asker(work, arm, place, begins_s, ends_s) for place in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = [0] * WINDOWS
    took: list[float] = []
    for thread in threads:
        for ended_s, took_s in thread.answers:
            window = int((ended_s - begins_s) / WINDOW_S)
            if 0 <= window < WINDOWS:
                counted[window] += 1
                took.append(took_s * 1000)
    return throughput.Level(
        connections,
        tuple(count / WINDOW_S for count in counted),
        float(np.quantile(took, 0.95)) if took else 0.0,
        sum(thread.errors for thread in threads),
        sum(thread.cpu_s for thread in threads) / (WINDOW_S * WINDOWS),
    )


class _Asker(threading.Thread):
    """One connection that asks again as soon as it has its answer."""

    def __init__(self, work: Work, arm: _Arm, place: int, begins_s: float, ends_s: float) -> None:
        super().__init__(name=f"load-{place}", daemon=True)
        self._endpoint = work.tools.endpoint(
            arm.version.model, arm.version.number, Environment.TEST
        )
        self._bodies: Iterator[bytes] = cycle(arm.bodies[place:] + arm.bodies[:place])
        self._span = (begins_s, ends_s)
        self.answers: list[tuple[float, float]] = []
        """When each came, and how long it took, seconds."""
        self.errors = 0
        self.cpu_s = 0.0

    def run(self) -> None:
        # Of this thread alone; it ends with it. Production goes first.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        begins_s, ends_s = self._span
        time.sleep(max(begins_s - time.perf_counter(), 0))
        began_cpu_s = time.thread_time()
        while time.perf_counter() < ends_s:
            try:
                took_s = self._endpoint.took_s(next(self._bodies))
            except WorkerAnswerError:
                self.errors += 1
                time.sleep(0.01)  # it sheds: asking at once again would only be refused faster
                continue
            except PenstockError:
                self.errors += 1
                break
            self.answers.append((time.perf_counter(), took_s))
        self.cpu_s = time.thread_time() - began_cpu_s
        self._endpoint.close()


def _look(work: Work, arms: Sequence[_Arm]) -> None:
    """Note what the versions' processes take now."""
    try:
        workers = arms[0].endpoint.workers()
    except PenstockError:
        return  # what is missing is said by what is asked of it
    for arm in arms:
        for one in workers:
            mine = one["model"] == work.run.model and one["environment"] == Environment.TEST
            if mine and one["number"] == arm.version.number:
                arm.cold_start_s = one["cold_start_s"]
                arm.rss.append(float(one["rss_bytes"] or 0))


def _still_there(arms: Sequence[_Arm]) -> None:
    gone = [str(arm.version) for arm in arms if not arm.rss]
    if gone:
        raise StoppedError(
            "PS340",
            f"{', '.join(gone)} left the test environment while it was measured.",
            hint="Try again: penstock retry.",
        )


def _judged(arms: Sequence[_Arm], stated: Speed) -> list[CheckResult]:
    mine, champion = arms[0], arms[1] if len(arms) > 1 else None
    results = speed.speed_checks(
        mine.measured(),
        speed.SpeedLimits(
            p50_ms=stated.p50_ms,
            p95_ms=stated.p95_ms,
            memory_mb=stated.max_memory_mb,
            cold_start_s=stated.cold_start_s,
        ),
        champion=champion.measured() if champion else None,
    )
    if champion is not None:
        results.append(
            speed_ratio.judged(
                np.array(mine.latencies_ms),
                np.array(champion.latencies_ms),
                margin=stated.margin,
                limited=stated.p50_ms is not None or stated.p95_ms is not None,
            )
        )
    if mine.levels:
        results.append(
            throughput.throughput_check(
                mine.levels, stated.min_rps, champion=champion.levels if champion else ()
            )
        )
    elif stated.min_rps is not None:
        results.append(
            CheckResult(
                "speed.throughput",
                Verdict.UNDECIDED,
                f"the budget of {stated.budget_s:g} s was used up before it was measured",
                {"question": "How many requests a second does it answer?", "reading": "no time"},
            )
        )
    return results


def _unfinished(one: CheckResult, why: str) -> CheckResult:
    """Take back what passed: a measurement that was cut short proves nothing good."""
    if one.verdict is not Verdict.PASSED or one.evidence.get("limit") is None:
        return one
    summary = f"{one.summary}; cut short, since production was slow: {why}"
    return CheckResult(one.check, Verdict.UNDECIDED, summary, {**one.evidence, "cut_short": why})


def _report(work: Work, arms: Sequence[_Arm], beside: dict[str, Any]) -> None:
    """Keep what a picture of it needs."""
    shares = [round(0.02 * place, 2) for place in range(1, 50)] + [0.99]
    report = {
        "shares": shares,
        "beside_production": beside,
        "versions": [
            {
                "number": arm.version.number,
                "requests": len(arm.latencies_ms),
                "latencies_ms": [float(value) for value in np.quantile(arm.latencies_ms, shares)]
                if arm.latencies_ms
                else [],
                "levels": [
                    {
                        "connections": one.connections,
                        "rate": float(np.mean(one.rates)),
                        "p95_ms": one.p95_ms,
                    }
                    for one in arm.levels
                ],
            }
            for arm in arms
        ],
    }
    work.report("speed").write_text(json.dumps(report), encoding="utf-8")
