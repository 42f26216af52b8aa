"""Exact tree values from the model's environment, held against the sampled ones.

A program beside the worker can read a tree model's values exactly, where sampling only comes
near. But it runs where foreign code runs, so its word alone proves nothing: it is shown only
where it agrees with the values that were sampled from the worker's answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.check.explanation.asking import Floats, Target
from penstock.check.explanation.shapley import Values
from penstock.domain import JSON

Exact = Callable[[pa.Table, pa.Table, float], Mapping[str, Any]]
"""Told the explained and the background rows and the seconds it may take; returns what
`inference.explainer` prints, or ``{"why": …}``."""
_SUM_TOLERANCE = 0.01
"""How far base and effects together may be from the answer, as a share of the answers' spread."""
_ERRORS = 5.0
_LEAST_CORRELATION = 0.8
"""Of exact and sampled values, where the method does not promise the very same values."""


def held_against(
    told: Mapping[str, Any], values: Values, target: Target, columns: Sequence[str]
) -> JSON:
    """Hold what the program printed against the sampled values.

    Returns
    -------
    JSON
        ``shown``; ``why`` not, as a sentence; ``method``, ``scale`` (``log-odds``,
        ``probability`` or ``number``), ``agreement`` (correlation with the sampled values) and
        ``columns``: mean size of the effect by column.
    """
    if "why" in told:
        return {"shown": False, "why": str(told["why"])[:300]}
    scale = str(told.get("scale"))
    at = {"number": 0, "probability": 0, "log-odds": -1}.get(scale)
    if at is None or (scale == "number") != (target.unit == "number"):
        return {"shown": False, "why": f"it speaks of {scale[:40]}, not of the answer"}
    try:
        effects, base = _read(told, values.effects.shape[0], columns)
    except (KeyError, TypeError, ValueError) as error:
        return {"shown": False, "why": f"its answer cannot be read ({type(error).__name__})"}
    sampled, error = values.effects[:, :, at], values.error[:, :, at]
    answers = values.answers[:, at]
    spread = float(np.ptp(answers)) or 1.0
    missed = float(np.abs(effects.sum(axis=1) + base - answers).max()) / spread
    both = np.corrcoef(effects.ravel(), sampled.ravel())
    agreement = float(both[0, 1]) if np.isfinite(both).all() else 0.0
    report: JSON = {
        "method": str(told.get("method"))[:80],
        "scale": scale,
        "agreement": agreement,
        "columns": {
            name: float(size)
            for name, size in zip(columns, np.abs(effects).mean(axis=0), strict=True)
        },
    }
    why = ""
    if missed > _SUM_TOLERANCE:
        why = f"its values do not sum to the answers (off by {missed:.0%} of their spread)"
    elif told.get("same_game"):
        # Where the promise is the very same values, they lie within the sampling error.
        near = np.abs(effects - sampled) <= _ERRORS * np.nan_to_num(error) + 0.002 * spread
        if near.mean() < 0.98:
            why = f"{1 - near.mean():.0%} of its values lie outside the sampling error"
    elif agreement < _LEAST_CORRELATION:
        why = f"it disagrees with the sampled values (correlation {agreement:.2f})"
    return {"shown": not why, "why": why, **report}


def _read(told: Mapping[str, Any], rows: int, columns: Sequence[str]) -> tuple[Floats, Floats]:
    names = [str(name) for name in told["columns"]]
    effects = np.asarray(told["effects"], dtype=np.float64)
    base = np.asarray(told["base"], dtype=np.float64)
    if effects.shape != (rows, len(names)) or set(names) != set(columns) or base.ndim > 1:
        raise ValueError("another shape")
    if not (np.isfinite(effects).all() and np.isfinite(base).all()):
        raise ValueError("not finite")
    return effects[:, [names.index(name) for name in columns]], base
