"""What runs where, read so often that a change is seen at once, and so cheaply that nobody minds.

Each change of a model's deployments in an environment is noted in ``route_change`` under a
number that rises. A reader asks for the highest number first, and for what changed since it
last looked only when that is another one: with ten thousand deployments, one row instead of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from penstock.domain import Deployment, Environment
from penstock.records.database import Database
from penstock.records.rollouts import deployments
from penstock.records.schema import LATEST, route_change


class Routes:
    """The deployments of all models, as of the last call."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._mark: int | None = None
        self._by_model: dict[tuple[str, Environment], list[Deployment]] = {}
        self._found: Sequence[Deployment] = ()

    def __call__(self) -> Sequence[Deployment]:
        """Return what runs, or should: the same sequence as before while nothing has changed."""
        with self._database.read() as connection:
            mark = connection.scalar(sa.select(route_change.c.mark).where(LATEST)) or 0
            if mark == self._mark:
                return self._found
            if self._mark is None or mark < self._mark:  # the first time, or another database
                self._by_model = {}
                for each in deployments(connection):
                    self._by_model.setdefault((each.model, each.environment), []).append(each)
            else:
                self._read_changed(connection, self._mark)
        self._mark = mark
        self._found = [one for key in sorted(self._by_model) for one in self._by_model[key]]
        return self._found

    def _read_changed(self, connection: sa.Connection, since: int) -> None:
        changed = sa.select(route_change.c.model, route_change.c.environment).where(
            route_change.c.mark > since, ~LATEST
        )
        for row in connection.execute(changed).all():
            where = Environment(row.environment)
            found = deployments(connection, model_name=row.model, environment=where)
            if found:
                self._by_model[row.model, where] = found
            else:
                self._by_model.pop((row.model, where), None)
