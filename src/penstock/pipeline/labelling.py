"""Labels as they come: each row is judged, kept, and looked for in the prediction log.

A call may be repeated: what stands so already is counted as the same. Rows that are no labels
are named and spoil no other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

from penstock.check.answers import class_text
from penstock.domain import JSON
from penstock.errors import UsageError
from penstock.inference.prediction_log.lookup import present
from penstock.pipeline.prediction_logs import PredictionLogs
from penstock.records import labels, runs

BATCH = 2_000
SHOWN = 10
MOST_LISTED = 100_000
ID_LENGTH = 200


class Given(NamedTuple):
    """One row as it came."""

    prediction_id: object
    value: object
    at: object = None


class _BadError(Exception):
    """Why a row is no label."""


def add(logs: PredictionLogs, model: str, rows: Iterable[Given]) -> JSON:
    """Keep the labels among some rows, and say what became of each.

    Returns
    -------
    JSON
        Counts ``kept`` (= ``new`` + ``same`` + ``corrected`` + ``older``), ``bad``, ``matched``
        and ``unmatched`` (of the kept ones' ids), and ``examples``: the first few ``bad`` (row,
        id, why), ``corrected`` (id, before, now) and ``unmatched`` (ids).

    Raises
    ------
    UsageError
        PS829, no row is a label.
    NotFoundError
        There is no such model.
    """
    database = logs.database
    with database.read() as connection:
        runs.model_of(connection, model)
        judge = _Judge(_known(runs.versions(connection, model)))
    whole, bad, ids = labels.Fates(), list[JSON](), set[str]()
    counted = 0
    good = judge.labels(rows, bad)
    while some := list(islice(good, BATCH)):
        with database.write() as connection:
            fates = labels.keep(connection, model, some, now=database.clock())
        ids.update(one.prediction_id for one in some)
        counted += len(some)
        whole.new += fates.new
        whole.same += fates.same
        whole.older += fates.older
        whole.corrected += fates.corrected
    if bad and not counted:
        first = bad[0]
        raise UsageError(
            "PS829",
            f"None of {judge.bad:,} rows is a label; row {first['row']}: {first['why']}.",
            hint='Send {"labels": [{"prediction_id": "…", "label": …}]}, or a table with these.',
        )
    unmatched = sorted(ids - _present(logs, model, ids))
    changed = [{"id": id_, "before": was, "now": is_} for id_, was, is_ in whole.corrected[:SHOWN]]
    told: JSON = {
        "kept": counted,
        "new": whole.new,
        "same": whole.same,
        "corrected": len(whole.corrected),
        "older": whole.older,
        "bad": judge.bad,
        "matched": len(ids) - len(unmatched),
        "unmatched": len(unmatched),
        "examples": {"bad": bad, "corrected": changed, "unmatched": unmatched[:SHOWN]},
    }
    return {**told, "text": sentence(told)}


def standing(logs: PredictionLogs, model: str) -> JSON:
    """Say how many labels a model has, and which wait for their prediction in the log."""
    with logs.database.read() as connection:
        runs.model_of(connection, model)
        ids = labels.newest(connection, model, most=MOST_LISTED)
        count = labels.count(connection, model)
    there = _present(logs, model, ids)
    waiting = [one for one in ids if one not in there]
    return {
        "labels": count,
        "looked_for": len(ids),
        "unmatched": len(waiting),
        "ids": waiting[:1000],
    }


def sentence(told: JSON) -> str:
    """Say what became of a call's labels.

    Examples
    --------
    >>> sentence({"kept": 3, "new": 2, "same": 1, "corrected": 0, "older": 0, "bad": 0,
    ...           "matched": 3, "unmatched": 0})
    '3 labels kept: 2 new, 1 the same already. All belong to a logged prediction.'
    """
    words = {"new": "new", "same": "the same already", "corrected": "corrected", "older": "older"}
    parts = [f"{told[key]:,} {word}" for key, word in words.items() if told[key]]
    text = f"{told['kept']:,} labels kept" + (f": {', '.join(parts)}." if parts else ".")
    if told["unmatched"]:
        text += f" {told['unmatched']:,} belong to no logged prediction yet."
    elif told["kept"]:
        text += " All belong to a logged prediction."
    if told["bad"]:
        text += f" {told['bad']:,} rows are no labels."
    return text


class _Known(NamedTuple):
    task: str | None
    classes: frozenset[str]
    """As `class_text` spells them; empty where nothing is known."""


def _known(versions: Iterable[Any]) -> _Known:
    """Read what the versions with a signature answer, the newest first."""
    signed = [one.signature for one in versions if one.signature]
    if not signed:
        return _Known(None, frozenset())
    classes = frozenset(class_text(name) for one in signed for name in one.get("classes") or ())
    return _Known(str(signed[0]["task"]), classes)


class _Judge:
    """Tells labels from what is none."""

    def __init__(self, known: _Known) -> None:
        self._known = known
        self.bad = 0

    def labels(self, rows: Iterable[Given], bad: list[JSON]) -> Iterator[labels.Label]:
        for place, given in enumerate(rows, 1):
            try:
                yield self._label(given)
            except _BadError as error:
                self.bad += 1
                if len(bad) < SHOWN:
                    bad.append({"row": place, "id": str(given[0])[:60], "why": str(error)})

    def _label(self, given: Given) -> labels.Label:
        name = given.prediction_id
        if not isinstance(name, str) or not 0 < len(name.strip()) <= ID_LENGTH:
            raise _BadError("it has no prediction id")
        return labels.Label(name.strip(), self._value(given.value), _moment(given.at))

    def _value(self, value: object) -> str:
        if not isinstance(value, (str, int, float, bool)) or str(value).strip() == "":
            raise _BadError("its label is empty" if value is None else "its label is no value")
        if isinstance(value, float) and not math.isfinite(value):
            raise _BadError(f"its label is {value}")
        text = str(value).strip()
        if self._known.task == "regression":
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise _BadError(f'its label "{text[:40]}" is no number')
        elif self._known.classes and class_text(text) not in self._known.classes:
            classes = ", ".join(sorted(self._known.classes)[:8])
            raise _BadError(f'its label "{text[:40]}" is no class of the model ({classes})')
        return text


def _moment(given: object) -> datetime | None:
    if given is None or given == "":
        return None
    moment = given
    if isinstance(given, str):
        try:
            moment = datetime.fromisoformat(given)
        except ValueError:
            raise _BadError(f'its time "{given[:40]}" is none such as 2026-01-31T08:00') from None
    if not isinstance(moment, datetime):
        raise _BadError("its time is no date with a time")
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _present(logs: PredictionLogs, model: str, ids: Iterable[str]) -> set[str]:
    return present(set(ids), logs.of(model), logs.signatures(model))


def given_of(row: Mapping[str, Any]) -> Given:
    """Read a row of names and values; both the short and the long names are known."""
    name = row.get("prediction_id", row.get("id"))
    return Given(name, row.get("label", row.get("value")), row.get("at"))
