"""ONNX models by onnxruntime: feeds from columns, answers from whatever stands at the outputs.

Inputs: one tensor that takes all columns, one input a column, or tensors such as images.
Outputs: a label, probabilities (an array, or the list of dicts of a ZipMap), or one of both.
A lone array of scores whose rows do not sum to one becomes probabilities by softmax: that is
found out at loading, by a few made-up rows, so that a batch answers as its rows do.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from penstock.inference.program import formats, rows
    from penstock.inference.program.bodies import Asked
else:
    from penstock_worker import formats, rows

TYPES = {
    "tensor(float)": ("FP64", "float32"),
    "tensor(double)": ("FP64", "float64"),
    "tensor(float16)": ("FP64", "float16"),
    **{f"tensor({sign}int{bits})": ("INT64", f"{sign}int{bits}")
       for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "tensor(bool)": ("BOOL", "bool"),
    "tensor(string)": ("BYTES", "object"),
}  # fmt: skip


class Input(NamedTuple):
    """One input of the session."""

    name: str
    datatype: str
    dtype: str
    shape: tuple[int, ...]
    """Without the rows; -1 where it is free."""
    one_by_one: bool
    """Whether it takes one row at a time."""


def load(source: formats.Source) -> formats.Model:
    """Load an ONNX model."""
    runtime = formats.need("onnxruntime", source.path.name)
    formats.need("numpy", source.path.name)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(
            str(source.path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise formats.unreadable(source.path.name, "ONNX", error) from error
    inputs = [_input(one, source.path.name) for one in session.get_inputs()]
    outputs = _Outputs(session, source)
    outputs.try_out(inputs)

    def ask(asked: Asked) -> rows.Answer:
        if any(one.one_by_one for one in inputs) and asked.rows > 1:
            return _joined([ask(_row(asked, row)) for row in range(asked.rows)])
        return outputs.read(session.run(None, _feeds(inputs, asked)), asked.rows)

    wide = list(inputs[0].shape)
    table = len(inputs) == 1 and len(wide) == 1 and wide[0] != 1
    return formats.Model(
        ask,
        framework="onnxruntime",
        feature_names=None,
        n_features=wide[0] if table and wide[0] > 0 else None,
        classes=outputs.classes,
        n_classes=outputs.n_classes,
        task=source.stated.task or outputs.task,
        inputs=None if table else [_told(one) for one in inputs],
    )


def _input(found: Any, file: str) -> Input:
    shape: list[Any] = list(found.shape or [])
    if found.type not in TYPES or len(shape) == 0:
        what = f"Input {found.name} of {file} is {found.type} of shape {shape}."
        raise formats.LoadError("PS576", what, "Export it with rows as the first dimension.")
    datatype, dtype = TYPES[found.type]
    free = tuple(size if isinstance(size, int) and size > 0 else -1 for size in shape[1:])
    return Input(str(found.name), datatype, dtype, free, shape[0] == 1)


def _told(one: Input) -> dict[str, Any]:
    told: dict[str, Any] = {"name": one.name, "datatype": one.datatype}
    if one.datatype != "FP64":
        told["optional"] = False  # there is no missing whole number or text
    if list(one.shape) not in ([], [1]):
        told["shape"] = list(one.shape)
    return told


def _feeds(inputs: list[Input], asked: Asked) -> dict[str, Any]:
    shapes = [column.shape for column in asked.columns]
    if len(inputs) == 1 and (len(shapes) != 1 or shapes[0]):
        (one,) = inputs
        array = rows.matrix(asked)
        if len(one.shape) > 1:
            array = array.reshape(asked.rows, *(shapes[0] or one.shape))
        return {one.name: array.astype(one.dtype)}
    places = {column.name: place for place, column in enumerate(asked.columns)}
    if len(inputs) == 1 and inputs[0].name not in places:
        places = {inputs[0].name: 0}
    feeds: dict[str, Any] = {}
    for one in inputs:
        place = places[one.name]
        array = rows.stack(asked.columns[place], asked.values[place]).astype(one.dtype)
        shape = asked.columns[place].shape or one.shape
        feeds[one.name] = array.reshape(asked.rows, *shape)
    return feeds


class _Outputs:
    """Reads what a session returns."""

    def __init__(self, session: Any, source: formats.Source) -> None:
        self._session = session
        self._file = source.path.name
        self._stated = source.stated
        self.classes: list[Any] | None = source.stated.classes
        self.n_classes: int | None = None
        self.task: str | None = None
        self._is_scores = False
        self._label, self._shares = self._places()

    def _places(self) -> tuple[int | None, int | None]:
        """Find the outputs that are the label and the probabilities."""
        label: int | None = None
        shares: int | None = None
        for place, found in enumerate(self._session.get_outputs()):
            shape: list[Any] = list(found.shape or [])
            of_classes = found.type.startswith("seq(map(")
            is_float = found.type in ("tensor(float)", "tensor(double)", "tensor(float16)")
            wide = is_float and len(shape) == 2 and shape[1] != 1
            if shares is None and (of_classes or wide):
                shares = place
            elif label is None and not of_classes and len(shape) < 3 and found.type in TYPES:
                label = place
        if label is None and shares is None:
            shown = ", ".join(f"{o.name} {o.type} {o.shape}" for o in self._session.get_outputs())
            what = f"No output of {self._file} is an answer a row: {shown}."
            raise formats.LoadError("PS576", what, "Export a label, a number or probabilities.")
        if shares is not None:
            self.task = "classification"
        return label, shares

    def try_out(self, inputs: list[Input]) -> None:
        """Ask a few made-up rows, to learn the classes and what the numbers are."""
        numpy = formats.need("numpy", self._file)
        if self._shares is None:
            return
        found: list[list[float]] = []
        for level in (0.0, 1.0, -3.5, 40.0):
            feeds: dict[str, Any] = {}
            for one in inputs:
                shape = (1, *(size if size > 0 else 1 for size in one.shape))
                if one.dtype == "object":
                    feeds[one.name] = numpy.full(shape, "", dtype="object")
                else:
                    feeds[one.name] = numpy.full(shape, level).astype(one.dtype)
            shares: Any = None
            with contextlib.suppress(Exception):  # made-up rows need not suit a model
                shares = self._session.run(None, feeds)[self._shares]
            if isinstance(shares, list):
                named = cast("list[dict[Any, float]]", shares)
                self.classes = [rows.plain(name) for name in named[0]]
                return
            if shares is not None:
                found += shares.tolist()
                self.n_classes = len(found[0])
        if self._label is None:
            self._is_scores = not found or not all(_sums_to_one(row) for row in found)

    def read(self, results: list[Any], count: int) -> rows.Answer:
        """Turn what the session returned for `count` rows into an answer."""
        labels: Any = None
        if self._label is not None:
            labels = results[self._label].reshape(count, -1).tolist()
        if self._shares is None:
            return rows.told(labels, self._stated)
        shares: Any = results[self._shares]
        if isinstance(shares, list):
            maps = cast("list[dict[Any, float]]", shares)
            probability = [list(map(float, row.values())) for row in maps]
        else:
            probability = shares.tolist()
        if self._stated.task == "regression":
            return rows.told(labels or probability, self._stated)
        if self._is_scores:
            probability = [_softmax(row) for row in probability]
        answer = rows.most_probable(probability, self.classes)
        return answer if labels is None else answer._replace(prediction=[r[0] for r in labels])


def _joined(answers: list[rows.Answer]) -> rows.Answer:
    shares = [row for answer in answers for row in answer.probability or ()]
    return rows.Answer([one for answer in answers for one in answer.prediction], shares or None)


def _row(asked: Asked, row: int) -> Asked:
    return asked._replace(values=[[values[row]] for values in asked.values], rows=1)


def _sums_to_one(row: list[float]) -> bool:
    return all(-1e-6 <= share <= 1 + 1e-6 for share in row) and abs(sum(row) - 1) < 1e-3


def _softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    total = sum(powers)
    return [power / total for power in powers]
