"""The prediction log's Parquet, asked with DuckDB, in bounded memory.

DuckDB reasons from a Parquet file's least and greatest value, which leave NaN out, so a filter
on `isnan` finds nothing. Two rules follow, and a test plants NaN to hold them: every float
column is read as ``case when isfinite(v) then v end``, and `isnan` is never asked.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from penstock.errors import UnreachableError

FEATURE_PREFIX = "x_"
_MEMORY_LIMIT = "512MB"
# Literal queries on the view ``log``, whose float columns are finite or null.
_THESE = """
    ts >= $since and ts < $until and number = $number and environment = $environment
        and role <> 'shadow'
"""
_ANSWERS = f"{_THESE} and outcome in ('answered', 'fallback') and prediction is not null"
_ANSWERED = f"select count(*) as answered from log where {_ANSWERS}"  # noqa: S608  literals
_LABELLED = f"""
    select prediction, score, label
    from log join label using (prediction_id)
    where {_ANSWERS}
    order by prediction_id
"""  # noqa: S608
_SERVICE = f"""
    select
        count(*) as requests,
        count(*) filter (where outcome = 'failed') as errors,
        count(*) filter (where latency_ms > $slow_ms) as slow,
        quantile_cont(latency_ms, 0.95) as p95_ms
    from log
    where {_THESE} and coalesce(row, 0) = 0
"""  # noqa: S608
# A caller's own id may come twice: the arrival tells which request a copy is of.
_COPIES = """
    select
        s.prediction_id, s.row, s.outcome = 'failed' or (s.status >= 400 and c.status < 400)
            as failed,
        s.latency_ms as ms, c.latency_ms as caller_ms, s.prediction as answer,
        c.prediction as caller_answer, s.score as score, c.score as caller_score -- inputs
    from log s join log c using (request_id, ts, row)
    where s.ts >= $since and s.ts < $until and s.role = 'shadow' and c.role <> 'shadow'
        and c.outcome in ('answered', 'fallback')
    order by s.ts, s.request_id, s.row
    limit $most
"""


@dataclass(frozen=True, slots=True)
class Window:
    """The rows that a period is about: one version's, in one environment."""

    since: datetime
    """Aware; included."""
    until: datetime
    """Aware; not included."""
    number: int
    environment: str = "production"

    def parameters(self) -> dict[str, Any]:
        """Return the values of the queries' names."""
        return {
            "since": self.since,
            "until": self.until,
            "number": self.number,
            "environment": self.environment,
        }


@dataclass(frozen=True, slots=True)
class Service:
    """How requests were answered."""

    requests: int
    errors: int
    """The version's own: 5xx, dead, late, or refused what another version accepted."""
    slow: int
    p95_ms: float | None


@dataclass(frozen=True, slots=True)
class Labelled:
    """Answers whose true value is known."""

    rows: pa.Table
    """``prediction``, ``score`` and ``label``."""
    answered: int
    """With or without a label."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What the log of a span of time lacks of one version."""

    answers: int = 0
    """That were given and not logged."""
    rows: int = 0
    """Of these answers, and of the hours that were dropped."""
    hours: int = 0
    """That were dropped to keep the log within its bound."""

    def __add__(self, more: Missing) -> Missing:
        return Missing(self.answers + more.answers, self.rows + more.rows, self.hours + more.hours)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows somebody wants to see."""

    since: datetime
    """Aware; included."""
    until: datetime
    """Aware; not included."""
    number: int | None = None
    role: str | None = None
    id: str | None = None
    """Of a row, or of a request: then all of its rows."""
    errors: bool = False
    """Only what was answered with an error."""
    limit: int = 100


class PredictionTable:
    """The rows of one model.

    Parameters
    ----------
    files
        Parquet with the columns of `penstock.inference.prediction_log.table`, paths or addresses.
        Each may have other inputs: a version may have other columns than the one before. No file
        is a table without rows.
    filesystem
        The fsspec file system that opens the addresses among them.
    missing
        By version, what the files lack of their span.
    """

    def __init__(
        self,
        files: Sequence[str],
        filesystem: Any = None,
        missing: Mapping[int, Missing] | None = None,
    ) -> None:
        self.missing = missing or {}
        self._files = list(files)
        self._filesystem = filesystem

    def inputs(self, window: Window) -> pa.Table:
        """Return what the model was asked, with `prediction` and `score` beside it.

        An input that is itself named so is called ``x_prediction`` or ``x_score``.
        """
        found = self._ask(None, window)
        return found.rename_columns([_plain_name(name) for name in found.column_names])

    def service(self, window: Window, *, slow_ms: float | None) -> Service:
        """Count requests, errors and slow ones; a request of several rows counts once."""
        found = self._ask(_SERVICE, window, slow_ms=slow_ms).to_pylist()
        return Service(**found[0]) if found else Service(0, 0, 0, None)

    def labelled(self, window: Window, labels: Mapping[str, str]) -> Labelled:
        """Join answers with labels by prediction id."""
        known = pa.table(
            {
                "prediction_id": pa.array(list(labels), pa.string()),
                "label": pa.array(list(labels.values()), pa.string()),
            }
        )
        rows = self._ask(_LABELLED, window, label=known)
        counted = self._ask(_ANSWERED, window).to_pylist()
        return Labelled(rows, counted[0]["answered"] if counted else 0)

    def copies(self, since: datetime, until: datetime, *, most: int) -> list[dict[str, Any]]:
        """Return the rows of copies that a shadow got, each beside its caller's, oldest first.

        Returns
        -------
        list
            Of each row ``prediction_id``, ``row``, ``failed``, ``ms``, ``caller_ms``, ``answer``,
            ``caller_answer``, ``score``, ``caller_score`` and its inputs, ``x_<name>``.
        """
        if not self._files:
            return []
        values = {"since": since, "until": until, "most": most}
        with self._log() as (connection, columns):
            inputs = "".join(f", s.{quoted(c)}" for c in columns if c.startswith(FEATURE_PREFIX))
            query = _COPIES.replace("-- inputs", inputs)
            return connection.sql(query, params=values).to_arrow_table().to_pylist()

    def rows(self, wanted: Wanted) -> pa.Table:
        """Return rows with every column, newest first."""
        if not self._files:
            return pa.table({})
        where = ["ts >= $since and ts < $until"]
        values: dict[str, Any] = {"since": wanted.since, "until": wanted.until}
        for column, value in (("number", wanted.number), ("role", wanted.role)):
            if value is not None:
                where.append(f"{column} = ${column}")
                values[column] = value
        if wanted.id is not None:
            where.append("(prediction_id = $id or request_id = $id)")
            values["id"] = wanted.id
        if wanted.errors:
            where.append("status >= 400")
        order = "order by ts desc, request_id, row limit $limit"
        query = f"select * from log where {' and '.join(where)} {order}"  # noqa: S608  literals
        with self._log() as (connection, _):
            values["limit"] = wanted.limit
            return connection.sql(query, params=values).to_arrow_table()

    def sample(self, since: datetime, until: datetime, *, number: int, rows: int) -> pa.Table:
        """Return what callers asked a version and had answered, evenly over time, oldest first.

        Returns
        -------
        pa.Table
            ``ts``, ``prediction_id`` and the inputs, ``x_<name>``; at most `rows` rows.
        """
        if not self._files:
            return pa.table({"ts": [], "prediction_id": []})
        values: dict[str, Any] = Window(since, until, number).parameters()
        with self._log() as (connection, columns):
            counted = connection.sql(_ANSWERED, params=values).to_arrow_table().to_pylist()
            every = max(-(-int(counted[0]["answered"]) // rows), 1)
            asked_for = [c for c in columns if c.startswith(FEATURE_PREFIX)]
            listed = ", ".join(map(quoted, ["ts", "prediction_id", *asked_for]))
            numbered = (  # S608: names are quoted, the rest is literal
                f"select {listed}, row_number() over (order by ts, prediction_id) - 1 as place "  # noqa: S608
                f"from log where {_ANSWERS}"
            )
            query = (
                f"select {listed} from ({numbered}) where place % $every = 0 "  # noqa: S608
                "order by place"
            )
            return connection.sql(query, params={**values, "every": every}).to_arrow_table()

    def _ask(
        self,
        query: str | None,
        window: Window,
        *,
        label: pa.Table | None = None,
        **values: float | None,
    ) -> pa.Table:
        """Answer a query, None asks for the inputs; without any file, a table without rows."""
        if not self._files:
            return pa.table({})
        with self._log() as (connection, columns):
            if label is not None:
                connection.register("label", label)
            if query is None:
                asked_for = [c for c in columns if c.startswith(FEATURE_PREFIX)]
                listed = ", ".join(map(quoted, [*asked_for, "prediction", "score"]))
                query = f"select {listed} from log where {_ANSWERS}"  # noqa: S608  quoted
            parameters = {**window.parameters(), **values}
            return connection.sql(query, params=parameters).to_arrow_table()

    @contextmanager
    def _log(self) -> Generator[tuple[duckdb.DuckDBPyConnection, list[str]]]:
        """Give a connection with the view ``log``, whose floats are finite or null."""
        with _connection() as connection:
            if self._filesystem is not None:
                connection.register_filesystem(self._filesystem)
            try:
                read = connection.read_parquet(
                    self._files, union_by_name=True, hive_partitioning=False
                )
                read.project(_finite_columns(read)).create_view("log")
                yield connection, read.columns
            except duckdb.Error as error:
                raise _unreadable(self._files, error) from error


def _plain_name(name: str) -> str:
    if not name.startswith(FEATURE_PREFIX):
        return name
    return input_name(name.removeprefix(FEATURE_PREFIX))


def input_name(name: str) -> str:
    """Return the name under which an input is judged; ``prediction`` is the model's own."""
    return f"{FEATURE_PREFIX}{name}" if name in ("prediction", "score") else name


def _connection() -> duckdb.DuckDBPyConnection:
    # Nothing may be fetched from the network: what the wheel holds has to do.
    return duckdb.connect(
        ":memory:",
        config={
            "memory_limit": _MEMORY_LIMIT,
            "threads": 2,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )


def _unreadable(files: list[str], error: duckdb.Error) -> UnreachableError:
    reason = str(error).splitlines()[0]
    return UnreachableError(
        "PS601",
        f"The prediction log of {Path(files[0]).parent} cannot be read: {reason}.",
        hint="Move the file that is named there away; the next period goes on without it.",
    )


def _finite_columns(read: duckdb.DuckDBPyRelation) -> str:
    """Write the list of all columns; of floats only what is finite."""
    return ", ".join(
        f"case when isfinite({quoted(name)}) then {quoted(name)} end as {quoted(name)}"
        if str(kind) in ("DOUBLE", "FLOAT")
        else quoted(name)
        for name, kind in zip(read.columns, read.types, strict=True)
    )


def quoted(name: str) -> str:
    """Write a column's name for a query."""
    return '"' + name.replace('"', '""') + '"'
