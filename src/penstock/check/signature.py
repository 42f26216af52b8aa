"""The signature of a version: what it wants and what it answers, written down once.

What the model says of itself counts, as far as the evaluation data bear it out; where it says
nothing, the data do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import NDArray

from penstock.check.answers import same_class
from penstock.check.evaluation import (
    datatype,
    label_task,
    lacks_columns,
    laid_flat,
    tensor_shape,
)
from penstock.config.schema import Evaluate
from penstock.domain import JSON
from penstock.errors import StoppedError

_MAX_ROW_BYTES = 2**20 - 500
"""The gateway's limit, less what stands around the values."""

_OFTEN = 5
"""A text seen more seldom may be of one person: it is not shown as an example."""


def infer_signature(
    features: pa.Table,
    describe: JSON,
    labels: NDArray[Any],
    spec: Evaluate,
    *,
    task: str | None = None,
) -> JSON:
    """Write down what a model wants and answers: what it says of itself, else what the data say.

    Parameters
    ----------
    features
        As in `Evaluation.features`.
    describe
        The worker's description of the loaded model.
    labels
        Shape ``(n,)``.
    task
        ``[model] task`` where the user set it; it beats the model's word.

    Returns
    -------
    JSON
        ``columns`` (each with ``name``, ``datatype``, ``optional``, for a tensor ``shape``, for
        what pandas reads otherwise ``kind``, and an ``example`` that is no row's own),
        ``task``, ``classes``, ``positive``.

    Raises
    ------
    StoppedError
        PS315 the model wants other columns than the data have, PS316 one class only, PS317
        ``[evaluate] positive`` is none of two classes, PS320 it wants tensors of another shape,
        PS321 it wants another type, PS322 it knows another number of classes,
        PS323 a row fits in no request.
    """
    wanted = _wanted(features, describe, spec)
    _require_small(features.select([name for name, _ in wanted]))
    task = task or cast("str | None", describe.get("task")) or label_task(labels)
    classes = _classes(describe, labels) if task == "classification" else None
    return {
        "columns": [_signed(features, name, own) for name, own in wanted],
        "task": task,
        "classes": classes,
        "positive": None if classes is None else _positive(classes, spec),
    }


Wanted = tuple[str, JSON]
"""A column of the evaluation data, and what the model itself says of it."""


def _require_small(features: pa.Table) -> None:
    rows = features.slice(0, 1).to_pylist()
    size = len(json.dumps(rows, default=str, separators=(",", ":")))
    if size > _MAX_ROW_BYTES:
        raise StoppedError(
            "PS323",
            f"One row of the evaluation data takes {size / 2**20:.1f} MiB as JSON; a request may "
            "have 1 MiB.",
            hint="Send smaller tensors, or whole numbers: they are shorter than fractions.",
        )


def _wanted(features: pa.Table, describe: JSON, spec: Evaluate) -> list[Wanted]:
    """Match what the model wants with the columns of the evaluation data."""
    own = cast("Sequence[JSON]", describe.get("inputs") or ())
    if len(own) == 1 and own[0].get("shape") is not None:
        found = _wanted_tensor(features, own[0], spec)
        if found is not None:
            return [found]
        count = cast("Sequence[int]", own[0]["shape"])[0]
        own, describe = (), {**describe, "n_features": count if count > 0 else None}
    if own and all(one.get("name") is None for one in own):
        own, describe = (), {**describe, "n_features": len(own)}
    told = {str(one["name"]): one for one in own}
    names = cast("list[str] | None", describe.get("feature_names"))
    if told and (names is None or set(names) != set(told)):
        names = list(told)
    if names is None:
        return [(name, {}) for name in _counted_columns(features, describe, spec)]
    known = set(features.column_names)
    lacking = [name for name in names if name not in known]
    if lacking:
        # LightGBM writes an underscore where a name has a blank.
        blanks = {name.replace(" ", "_"): name for name in features.column_names}
        if any(name not in blanks for name in lacking):
            raise lacks_columns(lacking, features.column_names)
        return [(blanks[name] if name in lacking else name, told.get(name, {})) for name in names]
    return [(name, told.get(name, {})) for name in names]


def _wanted_tensor(features: pa.Table, own: JSON, spec: Evaluate) -> Wanted | None:
    """Find the column for a model's only tensor; None when the columns together are it."""
    tensors = _tensors(features, spec)
    name = cast("str | None", own.get("name"))
    if name in tensors:
        return name, own
    if len(tensors) == 1:
        return tensors[0], own
    shape = cast("Sequence[int]", own["shape"])
    if len(shape) == 1 and not tensors:
        return None
    shown = f'no column "{name}"' if tensors and name else "no column of lists"
    raise StoppedError(
        "PS320",
        f"The model wants a tensor of shape {_shape_text(shape)} a row; the evaluation data have "
        f"{shown}.",
        hint="Write it as a (nested) list column of a Parquet file.",
    )


def _tensors(features: pa.Table, spec: Evaluate) -> list[str]:
    return [
        field.name
        for field in features.schema
        if pt.is_fixed_size_list(field.type) and field.name not in spec.sensitive
    ]


def _counted_columns(features: pa.Table, describe: JSON, spec: Evaluate) -> list[str]:
    every = list(features.column_names)
    count = cast("int | None", describe.get("n_features"))
    if count is None or count == len(every):
        return every
    tensors = _tensors(features, spec)
    if len(tensors) == 1 and count == math.prod(tensor_shape(features.column(tensors[0]).type)):
        return tensors
    # A model that was fitted on a bare array knows only how many columns it wants; the usual
    # reason for a difference is that the sensitive ones were left out of training.
    plain = [name for name in every if name not in spec.sensitive]
    if count == len(plain):
        return plain
    raise StoppedError(
        "PS315",
        f"The model wants {count} columns; {spec.data} has {len(every)} beside label, id and time"
        f" ({', '.join(every[:8])}{', …' if len(every) > 8 else ''}).",
        hint="Fit on a DataFrame, so that the model knows the names, or drop the other columns.",
    )


def _signed(features: pa.Table, name: str, own: JSON) -> JSON:
    """Write down one column: the model's word, as far as the evaluation data bear it out."""
    column = features.column(name)
    shape = tensor_shape(column.type)
    values = laid_flat(column, name)[0] if shape else column
    optional = cast("bool | None", own.get("optional"))
    told: dict[str, Any] = {
        "name": name,
        "datatype": _agreed_type(name, own, values),
        "optional": values.null_count > 0 if optional is None else optional,
    }
    if shape:
        return {**told, "shape": _agreed_shape(name, own, shape)}
    metadata = cast("dict[bytes, bytes]", features.schema.field(name).metadata or {})
    if b"kind" in metadata and told["datatype"] == "BYTES":
        told["kind"] = metadata[b"kind"].decode()
    return {**told, "example": _example(values, str(told["datatype"]), told.get("kind"))}


def _agreed_type(name: str, own: JSON, values: pa.ChunkedArray) -> str:
    seen, wanted = datatype(values), cast("str | None", own.get("datatype"))
    if wanted in (None, seen, "BYTES"):
        return wanted or seen
    numbers = {"FP64", "INT64", "BOOL"}
    whole = True
    if wanted == "INT64" and seen == "FP64":
        found = cast("NDArray[np.float64]", values.drop_null().to_numpy())
        whole = bool((found == np.round(found)).all())
    if {wanted, seen} <= numbers and wanted != "BOOL" and whole:
        return wanted
    words = {"FP64": "numbers", "INT64": "whole numbers", "BOOL": "true or false", "BYTES": "text"}
    raise StoppedError(
        "PS321",
        f'The model wants {words[wanted]} in "{name}"; the evaluation data have {words[seen]}'
        f"{' with fractions' if not whole else ''}.",
        hint="Keep the column in [evaluate] data as training had it, or log the model anew.",
    )


def _agreed_shape(name: str, own: JSON, seen: list[int]) -> list[int]:
    wanted = cast("Sequence[int] | None", own.get("shape"))
    if not wanted:
        return seen
    if len(wanted) == len(seen) and all(
        w in (-1, s) for w, s in zip(wanted, seen, strict=True)
    ):  # fmt: skip
        return seen
    if math.prod(seen) == math.prod(wanted) and min(wanted) > 0:
        return list(wanted)
    if len(wanted) == 1 and wanted[0] < 0:
        return seen
    raise StoppedError(
        "PS320",
        f'The model wants "{name}" of shape {_shape_text(wanted)}; the evaluation data have '
        f"{_shape_text(seen)}.",
        hint="Bring the column of [evaluate] data to the shape that training had.",
    )


def _shape_text(shape: Sequence[int]) -> str:
    return " x ".join("any" if size < 0 else str(size) for size in shape)


def _example(values: pa.ChunkedArray, datatype: str, kind: str | None) -> object:
    """Return a typical value of a column, never one that tells a row apart."""
    found = values.drop_null()
    if not len(found):
        return None
    if datatype in ("FP64", "INT64") and not pt.is_boolean(values.type):
        middle = float(np.median(found.to_numpy()))
        return round(middle) if datatype == "INT64" else float(f"{middle:.6g}")
    if kind == "datetime":
        ordered = np.sort(found.to_numpy(zero_copy_only=False).astype(str))
        return f"{ordered[len(ordered) // 2][:4]}-01-01"
    counted = found.value_counts()
    counts = counted.field("counts").to_numpy()
    if counts.max() < _OFTEN:
        return "…" if datatype == "BYTES" else False
    value: object = counted.field("values")[int(counts.argmax())].as_py()
    return str(value) if datatype == "BYTES" else value


def _classes(describe: JSON, labels: NDArray[Any]) -> list[object]:
    told = cast("Sequence[object] | None", describe.get("classes"))
    seen = cast("list[object]", np.unique(labels).tolist())
    count = cast("int | None", describe.get("n_classes"))
    classes = list(told) if told is not None else seen
    if told is None and count is not None and count != len(seen):
        # Label encoders number classes from 0; some need not occur in the evaluation data.
        numbered = list[object](range(count))
        if labels.dtype.kind not in "iu" or any(one not in numbered for one in seen):
            raise StoppedError(
                "PS322",
                f"The model tells {count} classes apart; the labels of the evaluation data have "
                f"{len(seen)} ({', '.join(map(repr, seen[:8]))}).",
                hint="Keep rows of every class in [evaluate] data, with labels as in training.",
            )
        classes = numbered
    if len(classes) < 2:
        raise StoppedError(
            "PS316",
            f"Every answer is {classes[0]!r}: with one class there is nothing to tell apart."
            if classes
            else "The model knows no class.",
            hint='Check the label column, or set task = "regression" in [model].',
        )
    return classes


def _positive(classes: Sequence[object], spec: Evaluate) -> object | None:
    if spec.positive is None:
        return classes[1] if len(classes) == 2 else None
    shown = ", ".join(map(repr, classes[:8]))
    if len(classes) != 2:
        raise StoppedError(
            "PS317",
            f"[evaluate] positive is set, but there are {len(classes)} classes ({shown}).",
            hint="Remove `positive`: it chooses one of two classes.",
        )
    index = same_class(spec.positive, tuple(classes))
    if index is None:
        raise StoppedError(
            "PS317",
            f"[evaluate] positive = {spec.positive!r} is none of the classes {shown}.",
            hint="Write one of the classes, spelled as in the label column.",
        )
    return classes[index]
