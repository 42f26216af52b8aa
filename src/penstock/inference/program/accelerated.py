"""Faster calls of a fitted model that answer as its own call does.

    array    the fitted transformers and the predictor, asked with arrays instead of DataFrames
    flat     what they learned as tables and arrays of numbers, all trees of an ensemble as one
    booster  a gradient booster without its wrapper

`path` makes such a call from a loaded model, or raises `Refused` with the reason why there is
none. A call that meets a row that it does not know for certain asks the model's own call, so
that refusals and rare values come from there. That it answers the same is not believed: the
check ``serving.fast_path`` asks both (docs/serving.md), and only what it proved serves.

Runs in the model's own environment, on the standard library of Python 3.9; numpy, pandas and
scikit-learn are there when a model needs them.
"""

from __future__ import annotations

import copy
import importlib
from typing import TYPE_CHECKING, Any, Callable, ClassVar, NamedTuple, Optional, cast

if TYPE_CHECKING:
    from penstock.inference.program import encodings, formats, predictors, rows
    from penstock.inference.program.bodies import Asked, Column
else:
    from penstock_worker import encodings, formats, predictors, rows

PATHS = ("array", "flat", "booster")
KNOWN = ("sklearn", "xgboost", "lightgbm", "catboost")
"""Code that is known to treat an array as it does a DataFrame with the same values."""
SEARCHES = (
    "GridSearchCV",
    "RandomizedSearchCV",
    "HalvingGridSearchCV",
    "HalvingRandomSearchCV",
)

Call = Callable[[Any], Any]


class Refused(Exception):  # noqa: N818  no fault: the model's own call serves
    """A model has no such path; the text says why."""


class Given(NamedTuple):
    """Columns of the request, as the first step of a model takes them."""

    columns: tuple[Column, ...]
    one: bool = False
    """Whether the step wants the values of one column instead of a table."""

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return [column.name for column in self.columns]


Incoming = Optional[Given]
"""What a step is given: columns of the request, or, as None, an array."""


def path(name: str, model: formats.Model, columns: tuple[Column, ...] | None) -> formats.Ask:
    """Return a faster call of a model.

    Parameters
    ----------
    columns
        Of the version's signature.

    Raises
    ------
    Refused
        The model has no such path.
    """
    if name not in PATHS:
        raise Refused(f"there is no path {name!r}; there are own, {', '.join(PATHS)}")
    if columns is None:
        raise Refused("the version has no signature")
    if model.fitted is None:
        raise Refused("its format has only one call")
    try:
        call = Maker(flat=name != "array", columns=columns).whole(name, model)
    except Refused:
        raise
    except Exception as error:  # of whatever shape a model is, it stays served
        raise Refused(f"{type(error).__name__}: {error}") from error
    own, classes, probable = model.ask, model.classes, model.method == "predict_proba"

    def ask(asked: Asked) -> rows.Answer:
        if asked.columns is not columns and asked.columns != columns:
            return own(asked)
        try:
            told = call(asked.values)
        except Exception:  # noqa: BLE001  the model's own call says what is wrong, or answers
            return own(asked)
        if probable:
            return rows.most_probable(told.tolist(), classes)
        return rows.Answer(formats.column(told.tolist()), None)

    return ask


class Maker:
    """Makes one path of one model."""

    def __init__(self, *, flat: bool, columns: tuple[Column, ...]) -> None:
        self.flat = flat
        self.columns = columns
        self.gained = 0
        """How many pieces have a call of ours."""

    def whole(self, name: str, model: formats.Model) -> Call:
        """Return the call, from lists of values to an array of answers."""
        fitted = model.fitted
        if model.apart:
            kind = type(fitted).__name__
            raise Refused(f"{kind} decides apart from its probabilities, in a call of its own")
        boosted = _top(fitted) in KNOWN[1:]
        if boosted != (name == "booster"):
            raise Refused("it is a booster" if boosted else "it is no booster")
        if model.made:
            raise Refused("it was trained with pandas categories")
        call = self._predictor(fitted, Given(self.columns), model.method)
        if name == "flat" and not self.gained:
            raise Refused("nothing of it has a table or trees; see the path array")
        return call

    def _predictor(self, fitted: Any, given: Incoming, method: str) -> Call:
        kind = _known(fitted)
        if kind in SEARCHES:
            return self._predictor(fitted.best_estimator_, given, method)
        if kind == "Pipeline":
            first, incoming = self._chain([step for _, step in fitted.steps[:-1]], given)
            return _then(first, self._predictor(fitted.steps[-1][1], incoming, method))
        if self.flat:
            if kind in predictors.HISTOGRAMS and fitted._preprocessor is not None:  # noqa: SLF001
                # Its own encoder of categories; what comes out of it is walked as it is.
                first = self._transformer(fitted._preprocessor, given)  # noqa: SLF001
                self.gained += 1
                return _then(first, predictors.histogram(fitted, method))
            made = predictors.of(fitted, method)
            if made is not None:
                self.gained += 1
                return self._asked_with(fitted, made, given)
        bare = _bare(fitted)
        if _top(fitted) in KNOWN[1:] and not hasattr(bare, method):
            raise Refused(f"{kind} has no {method}")
        return self._asked_with(fitted, getattr(bare, method), given)

    def _asked_with(self, fitted: Any, call: Call, given: Incoming) -> Call:
        return call if given is None else _then(_array(given, fitted), call)

    def _chain(self, steps: list[Any], given: Incoming) -> tuple[Call, Incoming]:
        call: Call = _same
        for step in steps:
            if step is None or (isinstance(step, str) and step == "passthrough"):
                continue
            call, given = _then(call, self._transformer(step, given)), None
        return call, given

    def _transformer(self, fitted: Any, given: Incoming) -> Call:
        """Return what a fitted transformer does, from columns or an array to an array."""
        if fitted == "passthrough":
            return _same if given is None else _array(given, None)
        if self.flat and given is not None and not given.one:
            table = encodings.of(fitted, given.columns)
            if table is not None:
                self.gained += 1
                return table
        compound = self._COMPOUND.get(_known(fitted))
        if compound is not None:
            return compound(self, fitted, given)
        made = encodings.arithmetic(fitted) if self.flat else None
        if made is not None:
            self.gained += 1
        return self._asked_with(fitted, made or _bare(fitted).transform, given)

    def _pipeline(self, fitted: Any, given: Incoming) -> Call:
        call, rest = self._chain([step for _, step in fitted.steps], given)
        return call if rest is None else _then(call, _array(rest, None))

    def _function(self, fitted: Any, given: Incoming) -> Call:
        return self._asked_with(fitted, _function(fitted), given)

    def _columns(self, fitted: Any, given: Incoming) -> Call:
        parts: list[tuple[Any, Call]] = []
        named = formats.attribute(fitted, "feature_names_in_")
        for name, step, chosen in fitted.transformers_:
            if isinstance(step, str) and step == "drop":
                continue
            indices = [int(i) for i in fitted._transformer_to_input_indices[name]]  # noqa: SLF001
            if not indices:
                continue
            if given is None:
                pick = _picked(indices)
                parts.append((pick, self._transformer(step, None)))
                continue
            places = self._places(given, indices, named)
            one = isinstance(chosen, str) or type(chosen) is int
            taken = Given(tuple(given.columns[place] for place in places), one)
            parts.append((_taken(places), self._transformer(step, taken)))
        return _beside(parts, sparse=bool(fitted.sparse_output_))

    def _places(self, given: Given, indices: list[int], named: Any) -> list[int]:
        if named is None:
            return indices
        known = {name: place for place, name in enumerate(given.names)}
        names = [str(named[index]) for index in indices]
        lacking = [name for name in names if name not in known]
        if lacking:
            raise Refused(f"column {lacking[0]!r} is not in the signature")
        return [known[name] for name in names]

    def _union(self, fitted: Any, given: Incoming) -> Call:
        if fitted.transformer_weights:
            raise Refused("a FeatureUnion has weights")
        steps = [step for _, step in fitted.transformer_list if step not in ("drop", None)]
        return _beside([(_same, self._transformer(step, given)) for step in steps], sparse=None)

    _COMPOUND: ClassVar[dict[str, Callable[[Maker, Any, Incoming], Call]]] = {
        "Pipeline": _pipeline,
        "ColumnTransformer": _columns,
        "FeatureUnion": _union,
        "FunctionTransformer": _function,
    }


# ---- pieces ----------------------------------------------------------------------------------


def _then(first: Call, second: Call) -> Call:
    if first is _same:
        return second
    if second is _same:
        return first
    return lambda x: second(first(x))


def _same(x: Any) -> Any:
    return x


def _taken(places: list[int]) -> Call:
    return lambda values: [values[place] for place in places]


def _picked(indices: list[int]) -> Call:
    return lambda x: x[:, indices]


def _beside(parts: list[tuple[Any, Call]], *, sparse: bool | None) -> Call:
    """Stack what parts make of the same rows.

    Parameters
    ----------
    sparse
        Whether the result is sparse; None: where one of the parts is.
    """
    numpy = importlib.import_module("numpy")
    matrices = importlib.import_module("scipy.sparse")

    def call(x: Any) -> Any:
        made = [step(pick(x)) for pick, step in parts]
        is_sparse = [matrices.issparse(one) for one in made]
        if sparse if sparse is not None else any(is_sparse):
            if not any(is_sparse):
                return matrices.csr_matrix(numpy.hstack(made))
            return matrices.hstack(made).tocsr()
        return numpy.hstack([one.toarray() if s else one for one, s in zip(made, is_sparse)])

    return call


def _function(fitted: Any) -> Call:
    """Return what a FunctionTransformer does: nothing, or what numpy or scikit-learn does."""
    numpy = importlib.import_module("numpy")
    if fitted.func is None:
        return _same
    if isinstance(fitted.func, numpy.ufunc) and fitted.func.nin == 1 and not fitted.kw_args:
        return cast("Call", fitted.func)
    inner = getattr(fitted.func, "func", fitted.func)  # of a partial, or itself
    if str(getattr(inner, "__module__", "")).startswith("sklearn.") and not fitted.kw_args:
        return cast("Call", fitted.func)
    name = getattr(fitted.func, "__name__", type(fitted.func).__name__)
    raise Refused(f"a FunctionTransformer calls {name}, which may need a DataFrame")


def _array(given: Given, fitted: Any) -> Call:
    """Return how columns of a request become the array that a DataFrame of them would be."""
    numpy = importlib.import_module("numpy")
    names = formats.real_names(formats.attribute(fitted, "feature_names_in_"))
    if names is not None and names != given.names:
        raise Refused(f"{type(fitted).__name__} was trained with columns of another order")
    for column in given.columns:
        _require_plain(column)
    if given.one:
        text = given.columns[0].datatype == "BYTES"
        if not text or given.columns[0].optional:
            raise Refused(f"column {given.columns[0].name!r} alone is no required text")
        return lambda values: values[0]
    types = {(column.datatype, column.optional) for column in given.columns}
    if any(column.datatype == "BYTES" for column in given.columns):
        return _objects(numpy)
    only = types.pop() if len(types) == 1 else None
    dtype = {("INT64", False): "int64", ("BOOL", False): "bool"}.get(only or ("", False))

    def numbers(values: Any) -> Any:
        table = numpy.array(values, dtype=dtype or "float64").T
        if dtype is None and numpy.isinf(table).any():
            raise ValueError("infinity")  # most of scikit-learn refuses it, each in its words
        return table

    return numbers


def _require_plain(column: Column) -> None:
    """Refuse a column of which a DataFrame would make more than numbers or text."""
    if column.kind or column.shape:
        raise Refused(f"column {column.name!r} is {column.kind or 'a tensor'}")
    if column.datatype not in rows.NUMERIC and column.datatype != "BYTES":
        raise Refused(f"column {column.name!r} has values of several types")
    if column.datatype == "BOOL" and column.optional:
        raise Refused(f"column {column.name!r} is true, false or missing")


def _objects(numpy: Any) -> Call:
    nan = float("nan")

    def call(values: Any) -> Any:
        table = numpy.empty((len(values[0]), len(values)), dtype="object")
        for place, column in enumerate(values):
            table[:, place] = [nan if value is None else value for value in column]
        return table

    return call


def _bare(fitted: Any) -> Any:
    """Return an object that no longer asks for names: it would warn of an array each time."""
    bare = copy.copy(fitted)
    for name in ("feature_names_in_", "_sklearn_output_config"):
        vars(bare).pop(name, None)
    return bare


def _top(fitted: Any) -> str:
    return type(fitted).__module__.split(".")[0]


def _known(fitted: Any) -> str:
    kind = type(fitted).__name__
    if _top(fitted) not in KNOWN:
        raise Refused(f"{kind} is code of its own, which may need a DataFrame")
    return kind
