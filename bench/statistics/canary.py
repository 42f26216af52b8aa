"""How often a canary is wrong, by request and by customer: seeded simulations.

Customers differ in how much they ask (Pareto 1.1) and in how often they fail (Beta, mean 1 %, with
a correlation inside a customer, icc). Each belongs to one arm. In each cell: the share of
runs that ever reach harm at equal rates, that ever reach safe at half as many errors again, and
that reach harm at twice as many; promised are 5 % of the first two.

one share                  10 %, 10 requests a second, two hours, a look each 5 minutes
ramp                       5, 25 and 50 %, each for a third of the time
six metrics                six events that come together in a customer, harm at M/alpha
late labels                an event is known only some looks after its request
drifting threshold         the rate of both arms rises threefold, as with a fixed limit for slow
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.statistics import kept
from bench.statistics.kept import slack
from penstock.deploy.draws import Draw, Met
from penstock.deploy.etest import Counts
from penstock.deploy.keytest import together

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
RATE, PER_S, LOOKS, LOOK_S = 0.01, 10.0, 24, 300
RUNS = 60
AT = math.log(20)
"""1/alpha."""
SETTINGS = ((200, 0.02), (200, 0.2), (2000, 0.0), (2000, 0.02), (2000, 0.2), (10_000, 0.02))


class Customers:
    """Who asks: how much, and how often each fails; drawn anew for every run."""

    def __init__(self, rng: np.random.Generator, count: int, icc: float, events: int = 1) -> None:
        activity = rng.pareto(1.1, count) + 1
        self.mean = activity / activity.sum() * PER_S * LOOK_S
        self.rates = np.full((count, events), RATE)
        if icc:
            strength = 1 / icc - 1
            own = rng.beta(RATE * strength, (1 - RATE) * strength, count)
            # Six metrics of one customer: mostly the same trouble.
            each = rng.beta(RATE * strength, (1 - RATE) * strength, (count, events))
            self.rates = own[:, None] if events == 1 else 0.8 * own[:, None] + 0.2 * each
        self.place = rng.random(count)
        """Whoever lies below the share is the challenger's."""

    def batch(
        self, rng: np.random.Generator, on: NDArray[np.bool_], ratio: float, factor: float = 1.0
    ) -> tuple[Ints, Ints]:
        """Return requests, shape ``(customers,)``, and events, ``(customers, events)``."""
        requests = rng.poisson(self.mean)
        rates = np.minimum(self.rates * factor * np.where(on, ratio, 1.0)[:, None], 1.0)
        return requests, rng.binomial(requests[:, None], rates)


def run(
    rng: np.random.Generator,
    customers: Customers,
    ratio: float,
    *,
    shares: Sequence[float] = (0.1,),
    late: int = 0,
    drift: float = 1.0,
) -> dict[str, bool]:
    """Say which verdicts were ever reached, by customer and by request."""
    metrics = customers.rates.shape[1]
    draws: list[Draw] = []
    taken = np.zeros(len(customers.mean), np.bool_)
    arms: list[tuple[Ints, Ints, int, int]] = []
    waiting: list[tuple[Draw, Met]] = []
    found = dict.fromkeys(("harm", "safe", "harm by request", "safe by request"), False)
    harm_at = AT + math.log(metrics)
    for look in range(LOOKS):
        step = look * len(shares) // LOOKS
        if step == len(draws):
            before = shares[step - 1] if step else 0.0
            draws.append(Draw.of((shares[step] - before) / (1 - before), metrics))
            taken = customers.place < before  # they are in already, and are not drawn again
        on = customers.place < shares[step]
        factor = 1 + (drift - 1) * look / LOOKS
        requests, events = customers.batch(rng, on, ratio, factor)
        arms.append((requests, events, int(requests[on].sum()), int(requests[~on].sum())))
        asked = (requests > 0) & ~taken
        unit = np.flatnonzero(asked)
        each = np.repeat(requests[asked][:, None], metrics, axis=1)
        met = Met(unit, on[asked], on[asked], each, events[asked])
        waiting.append((draws[-1], met))
        while len(waiting) > late:
            of, one = waiting.pop(0)
            of.add(one, window=look)
        told = [
            together([draw.wagers(metric, 0.01) for draw in draws]) for metric in range(metrics)
        ]
        found["harm"] |= any(one.log_e_harm >= harm_at for one in told)
        found["safe"] |= all(one.log_e_safe >= AT for one in told)
        if len(shares) == 1 and metrics == 1 and not late:
            x = [int(e[on].sum()) for _, e, _, _ in arms]
            total = [int(e.sum()) for _, e, _, _ in arms]
            counts = Counts(
                np.array(x),
                np.array(total),
                np.array([one[2] for one in arms]),
                np.array([one[3] for one in arms]),
            )
            harm, safe = counts.log_e()
            found["harm by request"] |= bool(harm[-1] >= AT)
            found["safe by request"] |= bool(safe[-1] >= AT)
    return found


def cell(
    seed: int, count: int, icc: float, ratio: float, runs: int, **how: Any
) -> dict[str, float]:
    """Return the share of runs that ever reached each verdict."""
    rng = np.random.default_rng(seed)
    events = int(how.pop("events", 1))
    told = [run(rng, Customers(rng, count, icc, events), ratio, **how) for _ in range(runs)]
    return {name: sum(one[name] for one in told) / runs for name in told[0]}


def simulate(runs: int = RUNS, seed: int = 21) -> dict[str, Any]:
    """Return every table."""
    one_share = [
        {"customers": count, "icc": icc}
        | {
            f"{name} at {ratio:g}": value
            for ratio in (1.0, 1.5, 2.0)
            for name, value in cell(seed, count, icc, ratio, runs).items()
        }
        for count, icc in SETTINGS
    ]
    ways: dict[str, dict[str, Any]] = {
        "ramp": {"shares": (0.05, 0.25, 0.5)},
        "six metrics": {"events": 6},
        "late labels": {"late": 6},
        "drifting threshold": {"drift": 3.0},
    }
    others = [
        {"case": name, "customers": 2000, "icc": icc}
        | {
            f"{verdict} at {ratio:g}": value
            for ratio in (1.0, 1.5, 2.0)
            for verdict, value in cell(seed, 2000, icc, ratio, runs, **how).items()
        }
        for name, how in ways.items()
        for icc in (0.02, 0.2)
    ]
    return {"runs": runs, "seed": seed, "one share": one_share, "others": others}


def targets(found: dict[str, Any]) -> dict[str, bool]:
    """Say of each promise whether it was kept, within three standard errors."""
    bound = 0.05 + slack(0.05, int(found["runs"]))
    rows = [*found["one share"], *found["others"]]
    return {
        "by customer, equal rates are harm in 5 % at most": all(
            one["harm at 1"] <= bound for one in rows
        ),
        "by customer, half more is safe in 5 % at most": all(
            one["safe at 1.5"] <= bound for one in rows
        ),
    }


def write() -> None:
    """Do all of it, print the tables of the docs, and keep it."""
    began_s = time.monotonic()
    found = simulate()
    for one in found["one share"]:
        cells = " | ".join(
            f"{one[f'{verdict} by request at {ratio}']:.2f} -> {one[f'{verdict} at {ratio}']:.2f}"
            for verdict, ratio in (("harm", 1), ("safe", 1.5), ("harm", 2), ("safe", 1))
        )
        print(f"| {one['customers']:,}, {one['icc']:g} | {cells} |")
    for one in found["others"]:
        cells = " | ".join(
            f"{one[f'{verdict} at {ratio}']:.2f}"
            for verdict, ratio in (("harm", 1), ("safe", 1.5), ("harm", 2), ("safe", 1))
        )
        print(f"| {one['case']}, {one['icc']:g} | {cells} |")
    kept.write("canary", found, targets(found), began_s)


if __name__ == "__main__":
    write()
