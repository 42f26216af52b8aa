"""Which prediction ids does a log hold? Asked for labels, which may come before their rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.inference.prediction_log.hours import Found, Hours
from penstock.inference.prediction_log.records import Entry
from penstock.inference.prediction_log.table import SignatureOf

_EVER = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC))


def present(ids: Collection[str], log: Hours, signature_of: SignatureOf) -> set[str]:
    """Return those of some prediction ids that are logged.

    Memory is that of the ids and some rows; one column of the log is read, the newest first,
    until all are found.
    """
    missing, there = set(ids), set[str]()
    if not missing:
        return there
    with log.found(*_EVER, signature_of, _asked_for(missing)) as found:
        for file in reversed(found.files):
            if missing:
                here = _in_file(file, found, missing)
                there |= here
                missing -= here
    return there


def _asked_for(ids: Collection[str]) -> Callable[[Iterable[Entry]], Iterator[Entry]]:
    """Choose the entries that may be meant: by their own id, or by that of a row of theirs."""
    whole = {one for name in ids for one in (name, name.rpartition(".")[0])}

    def chosen(entries: Iterable[Entry]) -> Iterator[Entry]:
        return (entry for entry in entries if entry.id in whole)

    return chosen


def _in_file(file: str, found: Found, wanted: Collection[str]) -> set[str]:
    values = pa.array(sorted(wanted), pa.string())
    here: set[str] = set()
    with ExitStack() as stack:
        source: Any = file
        if found.filesystem is not None and "://" in file:
            source = stack.enter_context(found.filesystem.open(file, "rb"))
        opened = stack.enter_context(pq.ParquetFile(source))
        for batch in opened.iter_batches(columns=["prediction_id"], batch_size=1 << 17):
            column: Any = batch.column(0)
            here |= set(column.filter(pc.is_in(column, value_set=values)).to_pylist())
    return here
