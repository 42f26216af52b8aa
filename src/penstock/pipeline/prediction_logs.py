"""The prediction logs: into Parquet each minute, within their bound; people hear of gaps."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from penstock.deploy import rollout
from penstock.domain import JSON, Alert, Environment
from penstock.errors import NotFoundError, PenstockError
from penstock.inference.prediction_log.hour_store import HourStore
from penstock.inference.prediction_log.hours import Excess, Found, Hours
from penstock.inference.prediction_log.records import Entry
from penstock.inference.prediction_log.table import Of, SignatureOf
from penstock.monitor.tables import Missing, PredictionTable
from penstock.records import rollouts, runs, watch
from penstock.records.database import Change, Database

KEEP_SEGMENTS = timedelta(hours=1)
"""Canaries count from segments; what is older than this is read as Parquet only."""
GAP_OVER = timedelta(minutes=10)
"""After so long without a lost entry, a log counts as whole again."""
SAID_AGAIN = timedelta(hours=6)

_logger = logging.getLogger(__name__)


def _every(entries: Iterable[Entry]) -> Iterable[Entry]:
    return entries


@dataclass(frozen=True, slots=True)
class PredictionLogs:
    """The logs of all models.

    Parameters
    ----------
    url
        Where hours that are over lie; None: in the home.
    most_bytes
        Of the log of one model in one environment.
    reached
        Told of every point at which a crash must do no harm.
    """

    home: Path
    database: Database
    url: str | None = None
    most_bytes: int = 10**10
    reached: Callable[[str], None] = field(default=lambda _point: None)

    def of(self, model: str, environment: Environment = Environment.PRODUCTION) -> Hours:
        """Return the log of one model."""
        found = Hours(
            Of(environment, model),
            self.home / "log" / environment / model,
            self.home / "parquet" / environment / model,
            HourStore(self.url or str(self.home / "parquet")),
            self.reached,
        )
        if environment is Environment.PRODUCTION:
            before = sorted((self.home / "parquet" / model).glob("*.parquet"))
            if before:  # of a release that kept one flat file a segment
                found.adopt(before)
        return found

    def known(self) -> list[Of]:
        """Return every log that there is."""
        return [
            Of(environment, folder.name)
            for environment in Environment
            for folder in sorted((self.home / "log" / environment).glob("*"))
        ]

    def signatures(self, model: str) -> SignatureOf:
        """Return what knows the signature of each version of a model."""
        seen: dict[int, JSON | None] = {}

        def signature_of(number: int) -> JSON | None:
            if number not in seen:
                with self.database.read() as connection:
                    try:
                        seen[number] = runs.version_of(connection, model, number).signature
                    except NotFoundError:  # its rows keep what they say of themselves
                        seen[number] = None
            return seen[number]

        return signature_of

    @contextmanager
    def table(
        self,
        of: Of,
        since: datetime,
        until: datetime,
        only: Callable[[Iterable[Entry]], Iterable[Entry]] = _every,
    ) -> Generator[PredictionTable]:
        """Give a model's rows of a span of time, those too that were answered just now.

        Parameters
        ----------
        only
            Chooses among the entries that are not yet Parquet.
        """
        log = self.of(of.model, of.environment)
        with log.found(since, until, self.signatures(of.model), only) as found:
            yield PredictionTable(found.files, found.filesystem, _missing(found))

    def tabulate(self, of: Of, now: datetime) -> int:
        """Turn closed segments into Parquet; return how many hours became one file."""
        log = self.of(of.model, of.environment)
        log.convert(self.signatures(of.model))
        hours = log.compact(now)
        log.forget(min(now - KEEP_SEGMENTS, self._counted_until(of)))
        return hours

    def _counted_until(self, of: Of) -> datetime:
        """Return the moment since which a canary still has to count, with some room."""
        moments = [datetime.max.replace(tzinfo=UTC)]
        with self.database.read() as connection:
            for live in rollouts.live(connection, of.model):
                batches = rollouts.batches(connection, live.id)
                if batches:
                    until_s = int(batches[-1]["until_us"]) / 1e6
                    moments.append(datetime.fromtimestamp(until_s, UTC) - GAP_OVER)
                else:
                    moments.append(live.started_at - GAP_OVER)
        return min(moments)

    def keep(self, now: datetime) -> JSON:
        """Bring every log forward; what is wrong with one does not hold up another."""
        told = {"hours": 0, "failed": 0}
        for of in self.known():
            try:
                if self.of(of.model, of.environment).waiting():
                    hours = self.tabulate(of, now)
                    if hours:
                        self._bound(of, now)
                    told["hours"] += hours
            except PenstockError as error:
                told["failed"] += 1
                _logger.warning("The prediction log of %s/%s waits: %s", *of, error.what)
            except Exception:  # one model's bodies must not hold up the others' logs
                told["failed"] += 1
                _logger.exception("The prediction log of %s/%s waits", *of)
        return told

    def _bound(self, of: Of, now: datetime) -> None:
        """Drop the oldest hours of a log that is too large, once people can know it."""
        log = self.of(of.model, of.environment)
        excess = log.excess(self.most_bytes)
        if excess is None:
            return
        with self.database.change("penstock") as change:
            _say_dropped(change, of, excess, self.most_bytes, now)
        log.drop(excess.files)


def _missing(found: Found) -> dict[int, Missing]:
    """Return by version what the rows of a span of time lack."""
    lacks: defaultdict[int, Missing] = defaultdict(Missing)
    for gap in found.missing.gaps:
        lacks[gap.number] += Missing(gap.answers, gap.rows)
    hours: defaultdict[int, set[str]] = defaultdict(set)
    for name, of in found.missing.dropped.items():
        for number, rows in of.items():
            place = name.rpartition("/")[0]
            lacks[number] += Missing(rows=rows, hours=int(place not in hours[number]))
            hours[number].add(place)
    return dict(lacks)


def _say_dropped(change: Change, of: Of, excess: Excess, most_bytes: int, now: datetime) -> None:
    """Write it into the journal, and tell people once a day."""
    key = f"log.dropped:{of.environment}:{of.model}:{now:%Y-%m-%d}"
    until = f"{excess.until:%Y-%m-%d %H:%M} UTC"
    text = (
        f"The log takes more than serving.log_mb lets it, {most_bytes / 1e6:,.0f} MB: "
        f"{excess.rows:,} rows of the {excess.hours} oldest hours were dropped, all that is "
        f"before {until}."
    )
    short = [
        one.name
        for one in watch.monitors(change.connection, of.model)
        if of.environment is Environment.PRODUCTION
        and excess.until > now - rollout.PERIODS[one.name]
    ]
    if short:
        text += f" The monitors of a {' and a '.join(short)} see no more than what is left."
    message = {
        "kind": "log.dropped",
        "model": of.model,
        "subject": f"{of.model}: the oldest predictions were dropped",
        "text": text,
        "path": f"/models/{of.model}",
    }
    watch.tell(change.connection, key, message, now=change.now)
    body = {"model": of.model, "environment": str(of.environment), "until": until}
    change.journal("log.dropped", {**body, "rows": excess.rows, "hours": excess.hours})


def tell_gaps(database: Database, workers: Iterable[JSON], now: datetime) -> int:
    """Open an alert for each model whose log loses entries, and close it when it is whole again.

    Parameters
    ----------
    workers
        What the gateway tells of its workers: ``log_drops`` since it started, and
        ``log_dropped_us``, when it was last.

    Returns
    -------
    int
        How many models' logs have gaps now.
    """
    latest: dict[str, tuple[datetime, int, int]] = {}
    for one in workers:
        if one.get("log_dropped_us"):
            moment = datetime.fromtimestamp(one["log_dropped_us"] / 1e6, UTC)
            found = (moment, int(one["log_drops"]), int(one["number"]))
            latest[str(one["model"])] = max(found, latest.get(str(one["model"]), found))
    with database.read() as connection:
        known = {one.model: one for one in watch.open_alerts(connection) if one.kind == "log"}
    lost = {model: of for model, of in latest.items() if of[0] > now - GAP_OVER}
    for model in sorted(lost.keys() | known.keys()):
        said = known[model].last_due if model in known else None
        if model in lost and said is not None and lost[model][0] < said + SAID_AGAIN:
            continue
        with database.change("penstock") as change:
            _tell_gap(change, model, lost.get(model), known.get(model))
    return len(lost)


def _tell_gap(
    change: Change, model: str, lost: tuple[datetime, int, int] | None, known: Alert | None
) -> None:
    if lost is None:
        assert known is not None, "neither lost nor known"
        watch.close_alert(change, known, reason="Every answer is logged again.")
        _tell(change, model, known, "is whole again", "Every answer is logged again.")
        return
    moment, drops, number = lost
    text = (
        f"{drops:,} answers since the gateway started are not in the prediction log, the last "
        f"at {moment:%H:%M:%S} UTC: the disk takes no more. Predictions go on; these answers "
        "carry no prediction id. Make room on the disk of PENSTOCK_HOME."
    )
    cause = watch.Cause(moment, number, text, ())
    if known is None:
        watch.open_alert(change, model, "log", cause)
        opened = next(
            one for one in watch.open_alerts(change.connection, model) if one.kind == "log"
        )
        _tell(change, model, opened, "has gaps", text)
    else:
        watch.continue_alert(change, known, cause)


def _tell(change: Change, model: str, of: Alert, how: str, text: str) -> None:
    watch.tell(
        change.connection,
        f"alert:{model}:log:{of.id}:{how}",
        {
            "kind": "alert.log",
            "model": model,
            "subject": f"{model}: the prediction log {how}",
            "text": text,
            "path": f"/models/{model}",
        },
        now=change.now,
    )
