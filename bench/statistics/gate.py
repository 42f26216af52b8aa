"""How often the promotion gate is wrong: seeded simulations of its verdicts.

    auc       champion AUC .80, scores correlated at .9, 20 % positives, margin .01
    accuracy  champion right on 90 %, 4 % of rows discordant, margin .01 (Bonett and Price)
    cases     DeLong's bounds with few positive rows: how often they miss the true difference
    slices    10 slices of 300 rows: how often one is called worse, by Holm and without
    needed    the rows that the check names: how often an equal version passes with that many
    groups    bounds of rows that belong together: by group, and as if each row were its own

Run alone: ``python -m bench.statistics.gate``; ``--trials 300`` is the table of the docs.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from bench.statistics import kept
from bench.statistics.kept import slack
from penstock.check.comparison import chance_to_pass, decide, holm, needed_rows
from penstock.check.paired import Difference, Pair, auc_difference, proportion_difference
from penstock.check.rows import Rows

Floats = NDArray[np.float64]
MARGIN, CORRELATION, PREVALENCE, AUC = 0.01, 0.9, 0.2, 0.8
SEED = 9


def scores(
    draw: np.random.Generator, labels: NDArray[np.bool_], better: float, base: float = AUC
) -> tuple[Floats, Floats]:
    """Draw the scores of a champion with the AUC `base`, and of one `better` by so much."""
    shared, own, other = draw.normal(size=(3, len(labels)))
    near, far = math.sqrt(CORRELATION), math.sqrt(1 - CORRELATION)
    found = [
        labels * norm.ppf(area) * math.sqrt(2) + near * shared + far * noise
        for area, noise in ((base, own), (base + better, other))
    ]
    return found[0], found[1]


def drawn(draw: np.random.Generator, rows: int, better: float) -> Difference:
    labels = draw.random(rows) < PREVALENCE
    return auc_difference(labels, *scores(draw, labels, better))


def shares(verdicts: Sequence[str]) -> dict[str, float]:
    return {
        one: round(verdicts.count(one) / len(verdicts), 4)
        for one in ("passed", "failed", "undecided")
    }


def auc(trials: int, seed: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    table: list[dict[str, Any]] = []
    for rows in (500, 2000, 10_000):
        for better in (-0.02, -0.01, 0.0, 0.005, 0.01, 0.02):
            found = [drawn(draw, rows, better) for _ in range(trials)]
            se = float(np.mean([one.se for one in found]))
            table.append(
                {
                    "rows": rows,
                    "true": better,
                    "higher_wins": round(float(np.mean([one.value > 0 for one in found])), 4),
                    **shares([str(decide(one, MARGIN)) for one in found]),
                    "superior": round(float(np.mean([one.low > 0 for one in found])), 4),
                    "formula": round(chance_to_pass(se, MARGIN, assumed=better), 4),
                }
            )
    return table


def accuracy(trials: int, seed: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    table: list[dict[str, Any]] = []
    for rows in (100, 500, 2000, 10_000):
        for better in (-0.02, -0.01, 0.0, 0.01):
            won, lost = 0.02 + max(better, 0.0), 0.02 + max(-better, 0.0)
            verdicts: list[str] = []
            for _ in range(10 * trials):
                a, b, _ = draw.multinomial(rows, [won, lost, 1 - won - lost])
                champion = np.arange(rows) >= a
                challenger = (np.arange(rows) < a) | (np.arange(rows) >= a + b)
                verdicts.append(str(decide(proportion_difference(champion, challenger), MARGIN)))
            table.append({"rows": rows, "true": better, **shares(verdicts)})
    return table


def cases(trials: int, seed: int) -> list[dict[str, Any]]:
    """Two equal models: the true difference is 0, so each bound should miss it in 5 %."""
    draw = np.random.default_rng(seed)
    table: list[dict[str, Any]] = []
    for positives in (3, 5, 10, 20, 50):
        labels = np.arange(40 * positives) < positives
        found = [auc_difference(labels, *scores(draw, labels, 0.0)) for _ in range(10 * trials)]
        table.append({"positives": positives, "rows": len(labels), **missed(found, 0.0)})
    return table


def missed(found: Sequence[Difference], true: float) -> dict[str, float]:
    return {
        "below": round(float(np.mean([one.low > true for one in found])), 4),
        "above": round(float(np.mean([one.high < true for one in found])), 4),
    }


def slices(trials: int, seed: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    table: list[dict[str, Any]] = []
    settings: Mapping[str, list[float]] = {
        "all equal": [0.0] * 10,
        "all exactly at the margin": [-MARGIN] * 10,
        "one .05 worse": [-0.05, *[0.0] * 9],
        "one .10 worse": [-0.10, *[0.0] * 9],
        "three .05 worse": [*[-0.05] * 3, *[0.0] * 7],
    }
    for name, truths in settings.items():
        counts = np.zeros(3)
        for _ in range(trials):
            found = [drawn(draw, 300, better) for better in truths]
            p_values = [float(norm.cdf((one.value + MARGIN) / one.se)) for one in found]
            rejected = holm(p_values)
            bad = [better < -MARGIN for better in truths]
            counts += (
                any(rejected),
                any(p < 0.05 for p in p_values),
                np.mean([r for r, worse in zip(rejected, bad, strict=True) if worse] or [0.0]),
            )
        table.append(
            {
                "slices": name,
                "any_failed": round(counts[0] / trials, 4),
                "any_failed_without_holm": round(counts[1] / trials, 4),
                "found_of_the_worse": round(counts[2] / trials, 4),
            }
        )
    return table


def pair_of(draw: np.random.Generator, metric: str, rows: int) -> Pair:
    """Draw two equally good models' probabilities for rows of two classes."""
    labels = draw.random(rows) < PREVALENCE
    shares_ = [norm.cdf(one - 1.6) for one in scores(draw, labels, 0.0)]
    both = [
        Rows(labels * 1, (share > 0.5) * 1, np.column_stack([1 - share, share]), 2)
        for share in shares_
    ]
    return Pair(metric, both[0], both[1])


def needed(trials: int, seed: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    margins = {"roc_auc": 0.01, "log_loss": 0.01, "accuracy": 0.01, "f1": 0.02}
    table: list[dict[str, Any]] = []
    for metric, margin in margins.items():
        named: list[float] = []
        passed = 0
        often = trials if metric != "f1" else max(trials // 3, 10)
        for _ in range(often):
            first = pair_of(draw, metric, 1000).difference(400)
            assert first is not None, "1,000 rows tell a difference"
            rows = math.ceil(needed_rows(1000, first.se, margin))
            named.append(rows)
            found = pair_of(draw, metric, max(rows, 50)).difference(400)
            passed += found is not None and decide(found, margin) == "passed"
        table.append(
            {
                "metric": metric,
                "margin": margin,
                "rows_named": round(float(np.median(named))),
                "passed": round(passed / often, 4),
                "trials": often,
            }
        )
    return table


def grouped(
    draw: np.random.Generator, metric: str, groups: int, *, by_group: bool
) -> Difference | None:
    """Draw two equally good models' answers to groups of ten rows that are alike."""
    size = 10
    group = np.repeat(np.arange(groups), size)
    labels = (draw.normal(size=groups)[group] + draw.normal(size=groups * size)) > 0.8
    both: list[Rows] = []
    for _ in range(2):
        # What a model gets wrong about one row of a group it gets wrong about most of them.
        wrong = 0.9 * draw.normal(size=groups)[group] + 0.6 * draw.normal(size=len(group))
        share = np.asarray(norm.cdf(1.2 * (labels - 0.5) + 0.8 * wrong), dtype=np.float64)
        both.append(
            Rows(
                labels * 1,
                (share > 0.5) * 1,
                np.column_stack([1 - share, share]),
                2,
                group if by_group else None,
            )
        )
    return Pair(metric, both[0], both[1]).difference(400)


def groups(trials: int, seed: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    table: list[dict[str, Any]] = []
    for metric in ("accuracy", "roc_auc", "f1"):
        often = trials if metric == "f1" else 3 * trials
        for count in (30, 100, 300):
            for by_group in (True, False):
                found = [grouped(draw, metric, count, by_group=by_group) for _ in range(often)]
                known = [one for one in found if one is not None]
                table.append(
                    {
                        "metric": metric,
                        "groups": count,
                        "by": "group" if by_group else "row",
                        **missed(known, 0.0),
                        "trials": len(known),
                    }
                )
    return table


TABLES: Mapping[str, Callable[[int, int], list[dict[str, Any]]]] = {
    "auc": auc,
    "accuracy": accuracy,
    "cases": cases,
    "slices": slices,
    "needed": needed,
    "groups": groups,
}


def tables(trials: int, seed: int = SEED) -> dict[str, Any]:
    """Return every table; each has a stream of its own, so that one can be run alone."""
    found = {name: make(trials, seed + at) for at, (name, make) in enumerate(TABLES.items())}
    return {"trials": trials, "seed": seed, **found}


def targets(found: Mapping[str, Any]) -> dict[str, bool]:
    """Say of each promise whether it was kept, within three standard errors."""
    bound = 0.05 + slack(0.05, int(found["trials"]))
    at = [
        one
        for one in (*found["auc"], *found["accuracy"])
        if one["true"] == -MARGIN and one["rows"] >= 500
    ]
    equal = [
        one
        for one in found["slices"]
        if one["slices"] in {"all equal", "all exactly at the margin"}
    ]
    whole = [one for one in found["groups"] if one["by"] == "group" and one["groups"] >= 100]
    return {
        "at the margin it passes in 5 % at most": all(one["passed"] <= bound for one in at),
        "at the margin it fails in 5 % at most": all(one["failed"] <= bound for one in at),
        "ten slices that are not worse fail it in 5 % at most": all(
            one["any_failed"] <= bound for one in equal
        ),
        "bounds of 100 groups and more miss in 5 % at most": all(
            max(one["below"], one["above"]) <= bound for one in whole
        ),
    }


def write(trials: int = 300) -> None:
    """Do all of it, and keep it."""
    began_s = time.monotonic()
    found = tables(trials)
    kept.write("gate", found, targets(found), began_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", help=f"Of {', '.join(TABLES)}; all by default.")
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    for at, (name, make) in enumerate(TABLES.items()):
        if not asked.tables or name in asked.tables:
            print(name)
            for row in make(asked.trials, asked.seed + at):
                print("  ", *(f"{key} {value}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
