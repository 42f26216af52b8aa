"""What training saw: its data files, and whether they hold the rows that a version is judged on.

`find` picks the files; `shared_rows` and `later_rows` stream through them, so memory is bounded
whatever their size. A file is certain when penstock.toml names it or its own name says "train";
a find in any other file is a question to a person, never a failure: the project may have left
those rows out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pyarrow.types as pt
from numpy.typing import NDArray

from penstock.check.evaluation import MISSING_WORDS, Evaluation
from penstock.check.leaks import Finding, names_rows, readable
from penstock.check.quality import wilson
from penstock.domain import Verdict

MOST_ROWS = 500_000
"""Training rows that are read; more are said and left."""
MATERIAL, HARMFUL = 0.01, 0.05
"""Share of shared rows, beyond those expected, from which it matters and from which it fails."""
LATER_MATERIAL, LATER_HARMFUL = 0.01, 0.20
"""Chance that a training row is newer than an evaluation row: 0 in order, 0.5 when mixed."""
ENDINGS = (".csv", ".csv.gz", ".parquet", ".pq")
_MOST_FEATURES_MISSING = 0.2
_COARSE = 0.001
"""Equal rows that independent columns would give each row; columns depend, so truly more."""
_SENTENCE = 20
"""Characters of a text that two cases do not share by chance."""
_BATCH_BYTES, _BATCH_ROWS, _LIST_ROWS = 8 << 20, 65_536, 2_048
_MOST_FILES = 200

Hashes = NDArray[np.uint64]
_MISSING = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class DataFile:
    """A table that training could read."""

    path: Path
    name: str
    """As the project has it, ``data/train.csv``."""
    sha256: str | None = None
    read: bool | None = None
    """Whether training read it; None = nobody knows."""


@dataclass(frozen=True, slots=True)
class Training:
    """The files that training learned from, as far as can be told."""

    files: tuple[DataFile, ...]
    columns: tuple[str, ...]
    """Features that evaluation and training have in common."""
    label: str
    certain: bool
    """Whether the project itself calls these its training data."""
    time: str | None = None

    @property
    def shown(self) -> str:
        """Names for a sentence."""
        names = [one.name for one in self.files]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(slots=True)
class Saw:
    """What one pass over the training data gathers."""

    hashes: list[Hashes] = field(default_factory=list[Hashes])
    times: list[NDArray[np.float64]] = field(default_factory=list["NDArray[np.float64]"])
    rows: int = 0
    cut: bool = False
    """There were more rows."""


def find(
    files: Sequence[DataFile],
    evaluation: Evaluation,
    names: Sequence[str],
    roles: Mapping[str, str | None],
    *,
    declared: bool,
    split_by_build: bool = False,
) -> Training | str:
    """Return the files that hold the label and most of the model's columns, or why none does.

    Parameters
    ----------
    files
        What training could read; with `declared` what penstock.toml names.
    names
        Columns of the model.
    roles
        ``label`` and ``time``: columns by role.
    split_by_build
        The build itself keeps the evaluation rows away, so no file is certain by its name: even
        a ``train.csv`` may be what it split.
    """
    wanted = comparable(evaluation.features, names)
    label = str(roles["label"])
    candidates = [
        one
        for one in files[:_MOST_FILES]
        if declared or (one.read is not False and one.sha256 != evaluation.digest)
    ]
    held: list[tuple[DataFile, set[str]]] = []
    for one in candidates:
        heads = _columns_of(one.path)
        lacking = [name for name in wanted if name not in heads]
        if label in heads and len(lacking) <= _MOST_FEATURES_MISSING * len(wanted):
            held.append((one, heads))
    if not held:
        looked = ", ".join(one.name for one in candidates[:3])
        among = f" among {looked}" if looked else ""
        return f'no table with "{label}" and the model\'s columns was found{among}'
    named = [pair for pair in held if _called_training(pair[0].name)]
    chosen = named or held
    common = set[str].intersection(*(heads for _, heads in chosen))
    time = roles.get("time")
    every = comparable(evaluation.features, evaluation.features.column_names)
    return Training(
        files=tuple(one for one, _ in chosen),
        columns=tuple(name for name in every if name in common),
        label=label,
        certain=declared or (bool(named) and not split_by_build),
        time=time if time is not None and time in common else None,
    )


def comparable(features: pa.Table, names: Sequence[str]) -> list[str]:
    """Return the columns that rows can be compared by: one value a row, or a list of numbers."""
    plain = set(readable(features, names))
    return [name for name in names if name in plain or _is_list(features.schema.field(name).type)]


def saw(training: Training, evaluation: Evaluation) -> Saw:
    """Read the training data once: a hash of every row, and its time.

    Raises
    ------
    ValueError
        A file cannot be read as the evaluation data can; the text says which and why.
    """
    types = {name: evaluation.features.schema.field(name).type for name in training.columns}
    kind = pa.array(evaluation.label[:1].tolist()).type
    label = pa.float64() if pt.is_integer(kind) or pt.is_floating(kind) else kind
    hashed = _identifying(training, evaluation)
    found = Saw()
    for one in training.files:
        try:
            for batch in _batches(one.path, types, label, training):
                left = MOST_ROWS - found.rows
                if left <= 0:
                    found.cut = True
                    return found
                part = batch.slice(0, left)
                found.cut |= part.num_rows < batch.num_rows
                found.rows += part.num_rows
                columns = [part.column(name) for name in hashed]
                found.hashes.append(row_hashes(columns, part.column(training.label)))
                if training.time is not None:
                    found.times.append(moments(part.column(training.time)))
        except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
            raise ValueError(f"{one.name} cannot be read: {str(error).splitlines()[0]}") from error
    return found


def shared_rows(training: Training, seen: Saw, evaluation: Evaluation) -> Finding:
    """Count the evaluation rows that stand in the training data, label and all.

    Some rows are equal without a leak. How many is told by the data: a training row has an equal
    one among the others with the same chance, if nothing leaked; and by the equal rows within
    the evaluation data, whatever was done to training. The smaller of the two is expected.

    Returns
    -------
    Finding
        Failed when the share is provably 5 points above what is expected, undecided above 1
        point. As many as expected passes where rows are coarse (a few small categories), so that
        different cases look alike; rows that are not (texts, many numbers) repeat because the
        same case was written down twice, and copies on both sides of a split are undecided.
    """
    columns = [evaluation.features.column(name) for name in _identifying(training, evaluation)]
    label = pa.chunked_array([pa.array(evaluation.label.tolist())])
    ours, theirs = row_hashes(columns, label), np.concatenate([np.empty(0, "u8"), *seen.hashes])
    if not len(theirs):
        return Finding(Verdict.UNDECIDED, f"{training.shown} has no rows", {})
    known, counts = np.unique(theirs, return_counts=True)
    place = np.minimum(np.searchsorted(known, ours), len(known) - 1)
    shared = known[place] == ours
    share = float(shared.mean())
    low, high = wilson(int(shared.sum()), len(ours))
    expected = min(_twins_in(counts), _twins_told_by(ours, seen.rows))
    of = f"of {len(ours):,} rows are in {training.shown} too"
    if seen.cut:
        of += f" (of which the first {MOST_ROWS:,} rows were read)"
    evidence: dict[str, Any] = {
        "value": share,
        "low": low,
        "high": high,
        "limit": MATERIAL,
        "expected": expected,
        "rows": len(ours),
        "training_rows": seen.rows,
        "files": [one.name for one in training.files],
        "columns": len(columns),
        "examples": [int(row) + 1 for row in np.flatnonzero(shared)[:5]],
    }
    summary = f"{share:.1%} {of}"
    if low > expected + MATERIAL:
        summary += f", {expected:.1%} expected"
        harmful = low > expected + HARMFUL and training.certain
        verdict = Verdict.FAILED if harmful else Verdict.UNDECIDED
        if not training.certain:
            summary += "; does training leave them out?"
        return Finding(verdict, summary, evidence | {"reading": "seen in training"})
    if low > MATERIAL and not _coarse(columns, seen.rows):
        summary += ": the data repeat themselves, so equal rows are on both sides of the split"
        return Finding(Verdict.UNDECIDED, summary, evidence | {"reading": "repeated rows"})
    if share > MATERIAL:
        summary += f", as many as are equal by chance ({expected:.1%})"
    return Finding(Verdict.PASSED, summary, evidence)


def later_rows(training: Training, seen: Saw, evaluation: Evaluation) -> Finding:
    """Say whether a version is judged on later rows than it learned from.

    Returns
    -------
    Finding
        ``evidence["value"]`` is the chance that a training row is newer than an evaluation row.
        Failed from 20 % on, undecided above 1 %.
    """
    if training.time is None or evaluation.time is None:
        return Finding(Verdict.UNDECIDED, f"{training.shown} has no time column", {})
    theirs = np.concatenate([np.empty(0), *seen.times])
    ours = moments(pa.chunked_array([pa.array(evaluation.time.tolist())]))
    known, judged = np.sort(theirs[np.isfinite(theirs)]), ours[np.isfinite(ours)]
    if not len(known) or not len(judged):
        summary = f'"{training.time}" cannot be read as a time'
        return Finding(Verdict.UNDECIDED, summary, {})
    newer = 1 - np.searchsorted(known, judged, side="right") / len(known)
    value = float(newer.mean())
    evidence = {
        "value": value,
        "limit": LATER_MATERIAL,
        "rows": len(judged),
        "training_rows": len(known),
        "files": [one.name for one in training.files],
    }
    if value <= LATER_MATERIAL:
        return Finding(Verdict.PASSED, "it is judged on later rows than it learned from", evidence)
    summary = f"a row of {training.shown} is newer than a row it is judged on in {value:.0%} of"
    summary += " pairs: it may know the future that it is asked for"
    harmful = value >= LATER_HARMFUL and training.certain
    return Finding(Verdict.FAILED if harmful else Verdict.UNDECIDED, summary, evidence)


def _called_training(name: str) -> bool:
    return "train" in Path(name).name.lower()


def _identifying(training: Training, evaluation: Evaluation) -> list[str]:
    """Return the columns that a row is compared by: without a counter, that no two rows share."""
    return [
        name for name in training.columns if not names_rows(evaluation.features.column(name))
    ] or list(training.columns)


def _twins_in(counts: NDArray[np.int64]) -> float:
    """Upper bound of the share of training rows that have an equal one."""
    total = int(counts.sum())
    return wilson(int(counts[counts > 1].sum()), total)[1]


def _twins_told_by(ours: Hashes, rows: int) -> float:
    """Bound the same from the evaluation rows alone, of which a training set has many times."""
    _, counts = np.unique(ours, return_counts=True)
    twins = wilson(int(counts[counts > 1].sum()), len(ours))[1]
    return float(1 - (1 - twins) ** max(rows / len(ours), 1.0))


def _coarse(columns: Sequence[pa.ChunkedArray], rows: int) -> bool:
    """Say whether different cases can look alike in all columns, among so many rows."""
    logarithm = math.log(rows)
    for column in columns:
        if _is_list(column.type):
            return False
        counts = cast("NDArray[np.int64]", pc.value_counts(column).field("counts").to_numpy())
        total = len(column)
        if pt.is_string(column.type) and len(counts) > total / 2:
            length = pc.mean(pc.utf8_length(column)).as_py()
            if length is not None and length >= _SENTENCE:
                return False
        same = float((counts * (counts - 1.0)).sum()) / (total * (total - 1.0))
        logarithm += math.log(max(same, total**-2.0))
    return logarithm > math.log(_COARSE)


# ---- rows as hashes --------------------------------------------------------------------------


def row_hashes(columns: Sequence[pa.ChunkedArray], label: pa.ChunkedArray) -> Hashes:
    """Hash rows, shape ``(n,)``: equal values give equal hashes, whatever their numeric type."""
    mixed = np.zeros(len(label), dtype=np.uint64)
    for column in (*columns, label):
        mixed = _mixed(mixed * np.uint64(31) + _column_hashes(column))
    return mixed


def _column_hashes(column: pa.ChunkedArray) -> Hashes:
    kind = column.type
    if _is_list(kind):
        return _list_hashes(column)
    if pt.is_string(kind) or pt.is_large_string(kind):
        coded: Any = pc.dictionary_encode(column).combine_chunks()
        if isinstance(coded, pa.ChunkedArray):
            coded = coded.chunk(0)
        texts = cast("list[str]", coded.dictionary.to_pylist())
        known = np.array([_text_hash(text) for text in texts], dtype=np.uint64)
        place = cast("NDArray[Any]", coded.indices.fill_null(-1).to_numpy(zero_copy_only=False))
        return np.append(known, _MISSING)[place]
    if pt.is_boolean(kind):
        column = column.cast(pa.int8())
    numbers = cast(
        "NDArray[np.float64]",
        column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False),
    )
    bits = _mixed((numbers + 0.0).view(np.uint64))  # + 0.0: -0.0 is 0.0
    return np.where(np.isnan(numbers), _MISSING, bits)


def _is_list(kind: pa.DataType) -> bool:
    return pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)


def _list_hashes(column: pa.ChunkedArray) -> Hashes:
    """Hash lists of numbers, such as pictures, by their values in order."""
    values: Any = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = values.chunk(0)
    rows = len(values)
    while _is_list(values.type):
        values = values.flatten()
    if rows and not column.null_count and len(values) % rows == 0:
        flat = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) + 0.0
        texts = [row.tobytes() for row in flat.reshape(rows, -1)]
    else:
        texts = [repr(row).encode() for row in column.to_pylist()]
    return np.array([_bytes_hash(text) for text in texts], dtype=np.uint64)


def _text_hash(text: str) -> int:
    return _bytes_hash(text.encode())


def _bytes_hash(of: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(of, digest_size=8).digest(), "little")


def _mixed(of: Hashes) -> Hashes:
    """Mix the bits (SplitMix64's finaliser)."""
    of = (of ^ (of >> np.uint64(30))) * _MIX[0]
    of = (of ^ (of >> np.uint64(27))) * _MIX[1]
    return of ^ (of >> np.uint64(31))


def moments(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Read times as seconds, shape ``(n,)``; NaN where a value is none.

    Numbers are taken as they are: only their order counts.
    """
    kind = column.type
    if pt.is_temporal(kind) and not pt.is_time(kind) and not pt.is_duration(kind):
        column = column.cast(pa.timestamp("us")).cast(pa.int64())
        numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return cast("NDArray[np.float64]", numbers) / 1e6
    return np.array([_moment(value) for value in column.to_pylist()], dtype=np.float64)


def _moment(value: object) -> float:
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return _number(value)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return float("nan")


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return float("nan")


# ---- files -----------------------------------------------------------------------------------


def _columns_of(path: Path) -> set[str]:
    """Return a table's column names; empty for what is no readable table."""
    try:
        if path.name.lower().endswith((".parquet", ".pq")):
            return set(pq.read_schema(path).names)
        with pacsv.open_csv(path, read_options=pacsv.ReadOptions(block_size=1 << 16)) as reader:
            return set(reader.schema.names)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return set()


def _batches(
    path: Path, types: Mapping[str, pa.DataType], label: pa.DataType, training: Training
) -> Iterator[pa.Table]:
    """Yield the wanted columns of a file, part by part, in the types of the evaluation data."""
    extra = [training.label] + ([training.time] if training.time is not None else [])
    wanted = [*types, *(name for name in extra if name not in types)]
    if path.name.lower().endswith((".parquet", ".pq")):
        with pq.ParquetFile(path) as file:
            few = any(map(_is_list, types.values()))
            for batch in file.iter_batches(_LIST_ROWS if few else _BATCH_ROWS, columns=wanted):
                yield _typed(pa.Table.from_batches([batch]), types)
        return
    as_read = {
        name: pa.float64() if pt.is_integer(kind) or pt.is_floating(kind) else kind
        for name, kind in types.items()
    }
    as_read[training.label] = label
    if training.time is not None:
        as_read[training.time] = pa.string()
    options = pacsv.ConvertOptions(
        column_types=as_read,
        include_columns=wanted,
        null_values=list(MISSING_WORDS),
        strings_can_be_null=True,
    )
    reading = pacsv.ReadOptions(block_size=_BATCH_BYTES)
    with pacsv.open_csv(path, read_options=reading, convert_options=options) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _typed(table: pa.Table, types: Mapping[str, pa.DataType]) -> pa.Table:
    for index, name in enumerate(table.column_names):
        column = table.column(index)
        if pt.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if name in types and pt.is_string(types[name]):
            column = column.cast(pa.string())
        table = table.set_column(index, name, column)
    return table
