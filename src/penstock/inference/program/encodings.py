"""Transformers as tables of numbers: what each value of a column becomes.

An encoder of categories treats each column alone and each value always alike, so all that it
does is a table, and the table is learned by asking the fitted object itself, through the same
DataFrame as a request's. Scalers and fillers of numbers are the arithmetic that they do.
"""

from __future__ import annotations

import importlib
import math
import warnings
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from penstock.inference.program import rows
    from penstock.inference.program.bodies import Asked, Column
else:
    from penstock_worker import rows
    from penstock_worker.bodies import Asked

Call = Callable[[Any], Any]

ENCODERS = ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder")
BY_COLUMN = (*ENCODERS, "SimpleImputer", "StandardScaler", "MinMaxScaler", "MaxAbsScaler")
"""Transformers that treat each column alone and each value always alike."""
MOST_CELLS = 2_000_000
UNSEEN = "\x00unseen"
_NO = object()


def of(fitted: Any, columns: tuple[Column, ...]) -> Call | None:
    """Return a transformer of categories as tables; None where it is none, or too large.

    Parameters
    ----------
    fitted
        An encoder, or a Pipeline of one with fillers before and scalers after it.
    columns
        That it is given.
    """
    steps = _steps(fitted)
    kinds = [_kind(step) for step in steps]
    encoders = [place for place, kind in enumerate(kinds) if kind in ENCODERS]
    if len(encoders) != 1 or not all(kind in BY_COLUMN for kind in kinds):
        return None
    before, encoder = steps[: encoders[0]], steps[encoders[0]]
    if any(_kind(one) != "SimpleImputer" or one.add_indicator for one in before):
        return None
    if any(column.shape or column.kind == "datetime" for column in columns):
        return None
    categories = [known.tolist() for known in encoder.categories_]
    if len(categories) != len(columns):
        return None
    keys = [_keys(column, known, before) for column, known in zip(columns, categories)]
    return _Learned(fitted, columns).table(keys)


def _steps(fitted: Any) -> list[Any]:
    if _kind(fitted) != "Pipeline":
        return [fitted]
    inner = [step for _, step in fitted.steps if step not in (None, "passthrough")]
    return [one for step in inner for one in _steps(step)]


def _kind(fitted: Any) -> str:
    module = type(fitted).__module__.split(".")[0]
    return type(fitted).__name__ if module == "sklearn" else ""


def _keys(column: Column, known: list[Any], before: list[Any]) -> list[Any]:
    """Return the values of a column that an encoder knows, or that are filled before it."""
    found = [value for value in known if not _missing(value)]
    found += [one.missing_values for one in before if not _missing(one.missing_values)]
    made = {"INT64": int, "FP64": float, "BYTES": str, "BOOL": bool}.get(column.datatype)
    if made is None or any(type(value) is not str and made is str for value in found):
        return []
    if made is not str and any(type(value) is str for value in found):
        return []
    keys = list(dict.fromkeys(made(value) for value in found))
    return [key for key in keys if key in found]  # 2.5 is no value of a whole number


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


class _Learned:
    """Asks a fitted transformer what it makes of single values."""

    def __init__(self, fitted: Any, columns: tuple[Column, ...]) -> None:
        self._fitted = fitted
        self._columns = columns
        self._numpy = importlib.import_module("numpy")
        self._pandas = rows.optional("pandas")

    def _ask(self, values: list[list[Any]]) -> Any:
        asked = Asked(self._columns, values, len(values[0]))
        named = getattr(self._fitted, "feature_names_in_", None) is not None
        given = rows.frame(self._pandas, asked) if named else rows.matrix(asked)
        told = self._fitted.transform(given)
        told = told.toarray() if hasattr(told, "toarray") else self._numpy.asarray(told)
        return told.astype("float64")

    def table(self, keys: list[list[Any]]) -> Call | None:
        """Return the tables as a call; None where there are none, or too large ones."""
        if not all(keys):
            return None
        numpy = self._numpy
        first = [[known[0]] for known in keys]
        base = self._ask(first)[0]
        parts: list[tuple[dict[Any, int], int, Any, Any]] = []
        taken = numpy.zeros(len(base), dtype="bool")
        for place, known in enumerate(keys):
            if len(known) * len(base) > MOST_CELLS:
                return None
            told = self._ask([known if i == place else one * len(known)
                              for i, one in enumerate(first)])  # fmt: skip
            index = {key: row for row, key in enumerate(known)}
            for rare in self._rare(place, known):
                values = [[rare] if i == place else one for i, one in enumerate(first)]
                answer = self._answer(values)
                if answer is not None:
                    index[None if rare is None else _NO] = len(told)
                    told = numpy.vstack([told, answer])
            same = (told == base) | (numpy.isnan(told) & numpy.isnan(base))
            mine = numpy.flatnonzero(~same.all(axis=0))
            if taken[mine].any():
                return None  # it does not treat each column alone
            taken[mine] = True
            if len(mine):
                whole = mine[-1] - mine[0] + 1 == len(mine)
                where = slice(int(mine[0]), int(mine[-1]) + 1) if whole else mine
                table = numpy.ascontiguousarray(told[:, mine])
                parts.append((index, place, where, table))
            else:  # the same for all that is known; what is not must not pass
                parts.append((index, place, slice(0, 0), numpy.zeros((len(told), 0))))
        return _looked_up(numpy, base, parts)

    def _rare(self, place: int, known: list[Any]) -> list[Any]:
        """Return values that no training row had: none, and one that is not known."""
        column = self._columns[place]
        unseen: Any = UNSEEN
        if column.datatype == "BOOL":
            return [None] if column.optional else []
        if column.datatype != "BYTES":
            unseen = type(known[0])(max(known) + 1)
        return [None, unseen] if column.optional else [unseen]

    def _answer(self, values: list[list[Any]]) -> Any:
        """Return what it makes of a row; None where it refuses it, or warns."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                return self._ask(values)
        except Exception:  # noqa: BLE001  such a row is left to the model's own call
            return None


def _looked_up(numpy: Any, base: Any, parts: list[tuple[dict[Any, int], int, Any, Any]]) -> Call:
    width = len(base)

    def call(values: Any) -> Any:
        out = numpy.empty((len(values[0]), width))
        out[:] = base
        for index, place, where, table in parts:
            column = values[place]
            try:
                found = [index[value] for value in column]
            except KeyError:
                other = index[_NO]  # where it is not known either, the model's own call answers
                if None in column and None not in index:
                    raise
                found = [index.get(value, other) for value in column]
            out[:, where] = table[found]
        return out

    return call


# ---- numbers ---------------------------------------------------------------------------------


def arithmetic(fitted: Any) -> Call | None:
    """Return what a scaler or a filler of numbers computes; None for any other transformer."""
    make = _ARITHMETIC.get(_kind(fitted))
    return None if make is None else make(fitted, importlib.import_module("numpy"))


def _standard(fitted: Any, numpy: Any) -> Call | None:
    if fitted.with_mean and fitted.with_std:
        mean, scale = fitted.mean_, fitted.scale_
        return lambda x: (x - mean) / scale
    if fitted.with_mean:
        return lambda x: x - fitted.mean_
    if fitted.with_std:
        return _dense_only(numpy, lambda x: x / fitted.scale_)
    return None


def _min_max(fitted: Any, numpy: Any) -> Call | None:
    scale, least = fitted.scale_, fitted.min_
    if fitted.clip:
        low, high = fitted.feature_range
        return lambda x: numpy.clip(x * scale + least, low, high)
    return lambda x: x * scale + least


def _robust(fitted: Any, numpy: Any) -> Call | None:
    if not (fitted.with_centering and fitted.with_scaling):
        return None
    return _dense_only(numpy, lambda x: (x - fitted.center_) / fitted.scale_)


def _max_abs(fitted: Any, numpy: Any) -> Call | None:
    return _dense_only(numpy, lambda x: x / fitted.scale_)


def _filled(fitted: Any, numpy: Any) -> Call | None:
    values = fitted.statistics_
    plain = fitted.missing_values != fitted.missing_values  # NaN
    numeric = values.dtype.kind == "f" and not numpy.isnan(values).any()
    if not plain or not numeric or fitted.add_indicator:
        return None
    return _dense_only(numpy, lambda x: numpy.where(numpy.isnan(x), values, x))


def _dense_only(numpy: Any, call: Call) -> Call:
    """Leave what is not a plain array of numbers to the model's own call."""

    def checked(x: Any) -> Any:
        if type(x) is not numpy.ndarray or x.dtype.kind not in "fiub":
            raise TypeError(type(x).__name__)
        return call(x)

    return checked


_ARITHMETIC: dict[str, Callable[[Any, Any], Call | None]] = {
    "StandardScaler": _standard,
    "MinMaxScaler": _min_max,
    "RobustScaler": _robust,
    "MaxAbsScaler": _max_abs,
    "SimpleImputer": _filled,
}
