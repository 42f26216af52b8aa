"""What a caller gets: from a model's answer to the bytes of one reply, and back.

`answered` writes the form that the request wants: a document of its protocol, the same with
binary tensors behind it, or an Arrow IPC stream. `told` reads each of them again, for the
prediction log. Standard library of Python 3.9, as the rest of the worker.
"""

from __future__ import annotations

import json
import math
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from . import frames, tables, tensors  # noqa: TID252  also imported as penstock_worker
from .bodies import MAX_ROWS  # noqa: TID252
from .rows import Answer, AnswerError  # noqa: TID252

if TYPE_CHECKING:
    from .requests import Request  # noqa: TID252

HINTS = {
    "PS533": "Send JSON, or add pyarrow to the project's dependencies.",
    "PS534": "Write it with a table library, with the column names in its head.",
    "PS535": "Let binary_data_size be the bytes of each tensor, in the order of the inputs.",
    "PS536": "Leave outputs out to get all that the model answers.",
    "PS550": "GET /v2/models/NAME shows what the model takes.",
    "PS551": "GET /v2/models/NAME lists the columns.",
    "PS552": "GET /v2/models/NAME lists the columns with their types.",
    "PS553": "Send between 1 and 1000 rows of equal length.",
    "PS554": "Look at these rows first, then ask the model's owner.",
    "PS555": "Ask the model's owner.",
}
"""What next, for each code of an answer that is none."""
_PREFIX = "probability_"
_text = json.encoder.encode_basestring_ascii
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


class About:
    """What a version says of itself in its answers."""

    def __init__(self, model: str, number: int, classes: list[Any] | None) -> None:
        self.model = model
        self.number = number
        self.classes = classes
        self._head: dict[bool, str] = {}

    def head(self, *, probable: bool) -> str:
        """Return how each answer of the protocol begins, up to its outputs."""
        head = self._head.get(probable)
        if head is None:
            document: dict[str, Any] = {"model_name": self.model}
            document["model_version"] = str(self.number)
            if probable:
                document["parameters"] = {"classes": self.classes}
            head = self._head[probable] = plain(document)[:-1].decode() + ","
        return head


class Told(NamedTuple):
    """What a reply says of its rows."""

    prediction: list[Any] | None
    """None where the caller asked for another output only."""
    probability: list[list[float]] | None
    """Rows x classes."""
    classes: list[Any] | None
    """None where the reply does not name them."""


def answered(request: Request, answer: Answer, about: About) -> frames.Reply:
    """Return the reply to a request that the model answered, or why it cannot be sent."""
    try:
        media, body = _body(request, answer, about)
    except tables.LibraryMissingError:
        sentence = "An Arrow answer needs pyarrow, which the model's environment lacks."
        return refused(406, request.id, "PS533", sentence, request.kind)
    except _UnknownOutputError as error:
        return refused(400, request.id, "PS536", str(error), request.kind)
    except (AnswerError, TypeError, ValueError, OverflowError) as error:
        return refused(500, request.id, "PS555", f"The model answered {error}.", request.kind)
    return frames.Reply(200, request.id, request.asked.rows, body, media)


def refused(status: int, name: str, code: str, sentence: str, kind: int) -> frames.Reply:
    """Return the reply to a request that got no answer, as its protocol has errors."""
    body = plain(fault(status, code, sentence, HINTS.get(code, ""), kind))
    return frames.Reply(status, name, 0, body)


def fault(status: int, code: str, sentence: str, hint: str, kind: int) -> dict[str, Any]:
    """Return an error as a document: what happened, its code, what to do next.

    A caller that speaks MLflow gets MLflow's words beside ours.
    """
    facts = {"error": sentence, "code": code, "hint": hint}
    if kind not in (frames.V2, frames.V2_BINARY):
        word = "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR"
        facts.update(error_code=word, message=sentence)
    return facts


def told(kind: int, media: int, body: bytes) -> Told:
    """Read the reply to a request of some kind.

    Raises
    ------
    ValueError, LookupError, TypeError
        The body is no such reply.
    """
    if media == frames.ARROW_MEDIA:
        return _told_by_stream(body)
    try:
        parts = tensors.split(body) if media == frames.BINARY_MEDIA else tensors.Split(body, b"")
        document = json.loads(parts.json)
        if kind not in (frames.V2, frames.V2_BINARY):
            return Told(document["predictions"], document.get("probabilities"), None)
        tensors.fill(document["outputs"], parts.tensors)
    except tensors.TensorError as error:
        raise ValueError(str(error)) from None
    outputs = {output["name"]: output for output in document["outputs"]}
    probability: list[list[float]] | None = None
    if "probability" in outputs:
        flat, width = outputs["probability"]["data"], outputs["probability"]["shape"][1]
        probability = [flat[at : at + width] for at in range(0, len(flat), width)]
    prediction = outputs["prediction"]["data"] if "prediction" in outputs else None
    return Told(prediction, probability, document.get("parameters", {}).get("classes"))


def plain(document: dict[str, Any]) -> bytes:
    """Return a document as JSON; AnswerError when it holds NaN or infinity."""
    try:
        return _ENCODER.encode(document).encode()
    except ValueError:
        raise AnswerError("NaN or infinity") from None


class _UnknownOutputError(Exception):
    pass


def _body(request: Request, answer: Answer, about: About) -> tuple[int, bytes]:
    datatype = _datatype(answer.prediction)
    if request.media == frames.ARROW_MEDIA:
        return frames.ARROW_MEDIA, _stream(answer, about)
    if request.kind in (frames.V2, frames.V2_BINARY):
        return _outputs(request, answer, about, datatype)
    document: dict[str, Any] = {"predictions": answer.prediction}
    if answer.probability is not None:
        document["probabilities"] = answer.probability
    return frames.JSON_MEDIA, plain({**document, "id": request.id})


def _outputs(request: Request, answer: Answer, about: About, datatype: str) -> tuple[int, bytes]:
    found: dict[str, tuple[str, str, list[Any]]] = {
        "prediction": (str(len(answer.prediction)), datatype, answer.prediction)
    }
    if answer.probability is not None:
        shape = f"{len(answer.prediction)},{len(answer.probability[0])}"
        found["probability"] = (shape, "FP64", list(chain.from_iterable(answer.probability)))
    outputs: list[str] = []
    raw: list[bytes] = []
    for name, binary in (request.outputs or dict.fromkeys(found, request.binary)).items():
        if name not in found:
            raise _UnknownOutputError(f"{about.model}@{about.number} answers no {name}.")
        shape, kind, values = found[name]
        if binary:
            _finite(values, kind)
            raw.append(tensors.encode(kind, values))
            rest = f'"parameters":{{"binary_data_size":{len(raw[-1])}}}'
        else:
            rest = f'"data":{_written(values)}'
        outputs.append(f'{{"name":"{name}","shape":[{shape}],"datatype":"{kind}",{rest}}}')
    head = about.head(probable=answer.probability is not None)
    body = f'{head}"outputs":[{",".join(outputs)}],"id":{_text(request.id)}}}'.encode()
    if not raw:
        return frames.JSON_MEDIA, body
    return frames.BINARY_MEDIA, tensors.join(body, b"".join(raw))


def _written(values: list[Any]) -> str:
    """Return values as JSON, as the encoder writes them; AnswerError for NaN or infinity."""
    kinds = set(map(type, values))
    if kinds == {float}:
        text = ",".join(map(float.__repr__, values))
        if "n" in text:  # nan and inf; no other float has the letter
            raise AnswerError("NaN or infinity")
        return f"[{text}]"
    if kinds == {str}:
        return f"[{','.join(map(_text, values))}]"
    try:
        return _ENCODER.encode(values)
    except ValueError:
        raise AnswerError("NaN or infinity") from None


def _stream(answer: Answer, about: About) -> bytes:
    columns: dict[str, list[Any]] = {"prediction": answer.prediction}
    _finite(answer.prediction, "FP64")
    for at in range(len(answer.probability[0]) if answer.probability else 0):
        name = at if about.classes is None else about.classes[at]
        values = [row[at] for row in cast("list[list[float]]", answer.probability)]
        _finite(values, "FP64")
        columns[f"{_PREFIX}{name}"] = values
    told = {"model_name": about.model, "model_version": str(about.number)}
    if about.classes is not None:
        told["classes"] = json.dumps(about.classes)
    return tables.write(columns, told)


def _told_by_stream(body: bytes) -> Told:
    try:
        table = tables.stream(tables.pyarrow(), body, MAX_ROWS)
    except tables.TableError as error:
        raise ValueError(str(error)) from None
    facts: dict[bytes, bytes] = table.schema.metadata or {}
    names = [name for name in table.column_names if name.startswith(_PREFIX)]
    columns = [table.column(name).to_pylist() for name in names]
    probability = [list(row) for row in zip(*columns)] if columns else None
    classes = json.loads(facts[b"classes"]) if b"classes" in facts else None
    return Told(table.column("prediction").to_pylist(), probability, classes)


def _datatype(prediction: list[Any]) -> str:
    kinds = set(map(type, prediction))
    for kind, datatype in ((bool, "BOOL"), (int, "INT64"), (str, "BYTES")):
        if kinds == {kind}:
            return datatype
    if kinds <= {int, float}:
        return "FP64"
    raise AnswerError(", ".join(sorted(kind.__name__ for kind in kinds)) + ", not one value a row")


def _finite(values: list[Any], datatype: str) -> None:
    """Refuse what JSON refuses: an answer is the same in each form."""
    if datatype == "FP64" and any(type(v) is float and not math.isfinite(v) for v in values):
        raise AnswerError("NaN or infinity")
