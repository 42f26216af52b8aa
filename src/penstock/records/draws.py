"""What the customers of a canary met, kept so that a look reads only what is new in the log."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from penstock.domain import JSON
from penstock.records.schema import customer_draw


@dataclass(frozen=True, slots=True)
class CustomerDraw:
    """One drawing of the customers of a rollout."""

    hour: int
    """Since 1970, where customers are drawn anew each hour; else 0."""
    share: int
    """Percent."""
    low: int
    high: int
    """Only customers placed in ``[low, high)`` percent were not drawn before."""
    met: bytes | None
    """What each met; None when the draw is over for good."""
    wagers: JSON
    """What was won, by metric."""


def of_rollout(connection: sa.Connection, rollout_id: int) -> list[CustomerDraw]:
    """Return a rollout's draws, in the order of hour and share."""
    query = (
        sa.select(customer_draw)
        .where(customer_draw.c.rollout_id == rollout_id)
        .order_by(customer_draw.c.hour, customer_draw.c.share)
    )
    return [
        CustomerDraw(row.hour, row.share, row.low, row.high, row.met, row.wagers)
        for row in connection.execute(query)
    ]


def keep(connection: sa.Connection, rollout_id: int, found: CustomerDraw) -> None:
    """Keep one draw in place of what was kept of it."""
    here = (
        (customer_draw.c.rollout_id == rollout_id)
        & (customer_draw.c.hour == found.hour)
        & (customer_draw.c.share == found.share)
    )
    changed = connection.execute(
        customer_draw.update().where(here).values(met=found.met, wagers=found.wagers)
    )
    if not changed.rowcount:
        connection.execute(
            customer_draw.insert().values(
                rollout_id=rollout_id,
                hour=found.hour,
                share=found.share,
                low=found.low,
                high=found.high,
                met=found.met,
                wagers=found.wagers,
            )
        )
