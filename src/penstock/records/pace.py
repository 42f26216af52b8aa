"""How long a model's steps take: what an estimate of a running step is made from."""

from __future__ import annotations

from statistics import median

import sqlalchemy as sa

from penstock.records.schema import run, step

TAKEN_OVER = "taken over from"
"""How the reason of a step begins whose result an earlier run had found."""


def usual_s(
    connection: sa.Connection, model_name: str, at: tuple[str, str], *, most: int = 5
) -> float | None:
    """Return how long step `at` (stage, name) of a model usually takes, in seconds.

    The median of the last `most` runs whose step came to its end by its own work; None without
    one.
    """
    query = (
        sa.select(step.c.started_at, step.c.ended_at)
        .join(run, run.c.id == step.c.run_id)
        .where(
            run.c.model == model_name,
            step.c.stage == at[0],
            step.c.name == at[1],
            step.c.state.in_(["passed", "undecided"]),
            step.c.ended_at.is_not(None),
            step.c.reason.not_like(f"{TAKEN_OVER}%"),
        )
        .order_by(step.c.started_at.desc())
        .limit(most)
    )
    took = [(row.ended_at - row.started_at).total_seconds() for row in connection.execute(query)]
    return median(took) if took else None
