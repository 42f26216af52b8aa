"""The worker: the one program of ours that runs in a model's own environment.

    python -I worker.py --folder DIR --socket PATH    serve the packed version in DIR
    python -I worker.py --folder DIR --describe       print what it is, as one line of JSON

With its two neighbours bodies.py and frames.py it needs the standard library of Python 3.9 and
nothing else; it imports a framework when the model does. A batch of requests comes as one frame
and is one call of the model: `bodies.read` turns each body into columns, `Version.predict` asks
the model, `Server.answer` splits and encodes. A body that cannot be read spoils no other, and a
batch that the model does not stand is asked body by body.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import pickle
import platform
import resource
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, cast

if TYPE_CHECKING:
    from penstock.inference import bodies, frames
else:

    def _neighbour(name: str) -> Any:
        """Load a file beside this one without putting our folder on the model's path."""
        place = Path(__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(f"penstock_worker_{name}", place)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    bodies, frames = _neighbour("bodies"), _neighbour("frames")

NUMERIC = frozenset({"FP64", "INT64", "BOOL"})
DECIDES_APART = ("FixedThresholdClassifier", "TunedThresholdClassifierCV", "SVC", "NuSVC")
"""Classifiers whose class is not the one of the greatest probability: they are asked twice."""


class AnswerError(Exception):
    """The model answered something that is no answer to what it was asked."""


class Answer(NamedTuple):
    """What the model said of some rows."""

    prediction: list[Any]
    probability: list[list[float]] | None
    """Rows x classes."""


class Pending(NamedTuple):
    """A request that was read and awaits its answer."""

    place: int
    """In the frame."""
    kind: int
    id: str
    asked: bodies.Asked


class Version:
    """A packed version, loaded."""

    def __init__(self, folder: Path) -> None:
        started = time.perf_counter()
        self.manifest: dict[str, Any] = json.loads((folder / "penstock.json").read_text("utf-8"))
        signature: dict[str, Any] | None = self.manifest.get("signature")
        self.columns = bodies.signature_columns(signature)
        stated = signature or self.manifest
        self.task: str | None = stated.get("task") or self.manifest.get("task")
        self.classes: list[Any] | None = stated.get("classes")
        self.positive: Any = stated.get("positive")
        self.feature_names: list[str] | None = None
        self.n_features: int | None = None
        for place in (folder / "code" / "src", folder / "code"):
            sys.path.insert(0, str(place))
        if self.manifest["format"] == "adapter":
            self._ask = self._adapter(folder)
        else:
            self._ask = self._estimator(folder / self.manifest["path"])
        self.load_s = time.perf_counter() - started

    def describe(self) -> dict[str, Any]:
        """Return what the version is, as plain JSON."""
        return {
            "ok": True,
            "format": self.manifest["format"],
            "feature_names": self.feature_names,
            "n_features": self.n_features,
            "classes": self.classes,
            "task": self.task,
            "python": platform.python_version(),
            "load_s": round(self.load_s, 6),
        }

    def predict(self, asked: bodies.Asked) -> Answer:
        """Ask the model once; AnswerError when it does not answer row by row."""
        answer = self._ask(asked)
        if len(answer.prediction) != asked.rows:
            raise AnswerError(f"{len(answer.prediction)} answers for {asked.rows} rows")
        return answer

    def _adapter(self, folder: Path) -> Callable[[bodies.Asked], Answer]:
        path = folder / self.manifest["predict"]
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path.name} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        model = module.load(str(folder / self.manifest["path"]))
        pandas = _optional("pandas")

        def ask(asked: bodies.Asked) -> Answer:
            return self._told(_plain(module.predict(model, _frame(pandas, asked))))

        return ask

    def _told(self, answers: Any) -> Answer:
        """Read what an adapter's ``predict`` returned: classes, numbers or probabilities."""
        if not isinstance(answers, list):
            raise AnswerError(f"{type(answers).__name__}, not one answer a row")
        rows = cast("list[Any]", answers)
        if rows and all(isinstance(row, list) for row in rows):
            return _most_probable(cast("list[list[float]]", rows), self.classes)
        classes = self.classes
        is_float = bool(rows) and all(type(row) is float for row in rows)
        if self.task != "classification" or classes is None or len(classes) != 2 or not is_float:
            return Answer(rows, None)
        for row in rows:
            if not 0 <= row <= 1:
                raise AnswerError(f"{row}, which is neither a class nor a probability")
        first = self.positive is not None and self.positive == classes[0]
        return _most_probable([[p, 1 - p] if first else [1 - p, p] for p in rows], classes)

    def _estimator(self, path: Path) -> Callable[[bodies.Asked], Answer]:
        model = _unpickled(path, self.manifest["format"])
        if not hasattr(model, "predict"):
            kind = type(model).__name__
            raise TypeError(f"{path.name} holds a {kind} without predict; write an adapter")
        self.feature_names = _plain(getattr(model, "feature_names_in_", None))
        count = getattr(model, "n_features_in_", None)
        self.n_features = None if count is None else int(count)
        own_classes = getattr(model, "classes_", None)
        self.classes = self.classes if own_classes is None else _plain(own_classes)
        if self.task is None:
            self.task = _task(model)
        by_name = self.feature_names is not None or count is None
        pandas = _optional("pandas") if by_name else None
        apart = type(_last(model)).__name__ in DECIDES_APART

        def ask(asked: bodies.Asked) -> Answer:
            frame = _matrix(asked) if pandas is None else _frame(pandas, asked)
            if own_classes is None or not hasattr(model, "predict_proba"):
                return Answer(_plain(model.predict(frame)), None)
            answer = _most_probable(_plain(model.predict_proba(frame)), self.classes)
            return answer._replace(prediction=_plain(model.predict(frame))) if apart else answer

        return ask


def _unpickled(path: Path, kind: str) -> Any:
    if kind == "skops":
        skops = importlib.import_module("skops.io")
        # The types need no permission: what is loaded here can harm this sandbox only.
        return skops.load(path, trusted=skops.get_untrusted_types(file=path))
    joblib = _optional("joblib")
    if joblib is not None:
        return joblib.load(path)
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301  the model's own file, in its own sandbox


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def _last(model: Any) -> Any:
    steps = getattr(model, "steps", None)
    return steps[-1][1] if steps else model


def _task(model: Any) -> str | None:
    if getattr(model, "classes_", None) is not None:
        return "classification"
    kinds = sys.modules.get("sklearn.base")
    return "regression" if kinds is not None and kinds.is_regressor(model) else None


def _most_probable(probability: list[list[float]], classes: list[Any] | None) -> Answer:
    for row in probability:
        if classes is not None and len(row) != len(classes):
            raise AnswerError(f"{len(row)} probabilities for {len(classes)} classes")
    best = [max(range(len(row)), key=row.__getitem__) for row in probability]
    return Answer(best if classes is None else [classes[index] for index in best], probability)


def _plain(value: Any) -> Any:
    """Turn arrays, frames and tuples into lists of Python values."""
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in cast("list[Any]", value)]
    return value


def _frame(pandas: Any, asked: bodies.Asked) -> Any:
    """Return a DataFrame, or where there is no pandas a dict of columns."""
    pairs = zip(asked.columns, asked.values)
    if pandas is None:
        return {column.name: values for column, values in pairs}
    return pandas.DataFrame({c.name: _series(pandas, c, values) for c, values in pairs})


def _series(pandas: Any, column: bodies.Column, values: list[Any]) -> Any:
    # The type hangs on the column, never on the values: a batch must answer as its rows do.
    if column.datatype == "BYTES" and int(pandas.__version__.split(".")[0]) >= 3:
        return pandas.array(values, dtype="str")
    required = {"FP64": "float64", "INT64": "int64", "BOOL": "bool"}
    optional = {"FP64": "float64", "INT64": "float64"}
    dtype = (optional if column.optional else required).get(column.datatype, "object")
    numpy = importlib.import_module("numpy")
    return numpy.array([float("nan") if v is None else v for v in values], dtype=dtype)


def _matrix(asked: bodies.Asked) -> Any:
    numeric = all(column.datatype in NUMERIC for column in asked.columns)
    rows = [[float("nan") if v is None else v for v in row] for row in zip(*asked.values)]
    return importlib.import_module("numpy").array(rows, dtype="float64" if numeric else "object")


class Server:
    """Answers frames, one at a time."""

    def __init__(self, version: Version) -> None:
        self.version = version

    def answer(self, parts: Sequence[frames.RequestPart]) -> list[frames.Reply]:
        """Return the replies to the parts of one frame, in their order."""
        replies: dict[int, frames.Reply] = {}
        groups: dict[tuple[bodies.Column, ...], list[Pending]] = {}
        for place, part in enumerate(parts):
            name = part.id.decode("utf-8", "replace")
            if part.kind == frames.METADATA:
                facts = {**self.version.describe(), "rss_bytes": _rss_bytes()}
                replies[place] = frames.Reply(200, name, 0, _json(facts))
                continue
            try:
                document = bodies.decode(part.body)
                name = bodies.own_id(document, name)
                asked = bodies.read(part.kind, document, self.version.columns)
            except bodies.RequestError as error:
                replies[place] = _error(error.status, name, error.code, str(error))
            else:
                pending = Pending(place, part.kind, name, asked)
                groups.setdefault(asked.columns, []).append(pending)
        for group in groups.values():
            replies.update(zip((pending.place for pending in group), self._ask(group)))
        return [replies[place] for place in range(len(parts))]

    def _ask(self, group: list[Pending]) -> list[frames.Reply]:
        """Ask the model once for requests with the same columns."""
        try:
            answer = self.version.predict(_joined([pending.asked for pending in group]))
        except Exception as error:  # noqa: BLE001  whatever a model raises is told, not died of
            if len(group) > 1:
                return [self._ask([pending])[0] for pending in group]
            if isinstance(error, AnswerError):
                return [_error(500, group[0].id, "PS555", f"The model answered {error}.")]
            sentence = f"The model raised {type(error).__name__}: {error}"
            return [_error(500, group[0].id, "PS554", sentence)]
        replies: list[frames.Reply] = []
        start = 0
        for pending in group:
            rows = slice(start, start + pending.asked.rows)
            probability = None if answer.probability is None else answer.probability[rows]
            replies.append(self._reply(pending, Answer(answer.prediction[rows], probability)))
            start = rows.stop
        return replies

    def _reply(self, pending: Pending, answer: Answer) -> frames.Reply:
        try:
            datatype = _datatype(answer.prediction)
            if pending.kind == frames.V2:
                document = self._v2(answer, datatype)
            else:
                document = {"predictions": answer.prediction}
                if answer.probability is not None:
                    document["probabilities"] = answer.probability
            body = _json({**document, "id": pending.id})
        except (AnswerError, TypeError, ValueError) as error:
            return _error(500, pending.id, "PS555", f"The model answered {error}.")
        return frames.Reply(200, pending.id, pending.asked.rows, body)

    def _v2(self, answer: Answer, datatype: str) -> dict[str, Any]:
        rows = len(answer.prediction)
        outputs: list[dict[str, Any]] = [
            {
                "name": "prediction",
                "shape": [rows],
                "datatype": datatype,
                "data": answer.prediction,
            }
        ]
        document: dict[str, Any] = {
            "model_name": self.version.manifest["model"],
            "model_version": str(self.version.manifest["number"]),
            "outputs": outputs,
        }
        if answer.probability is not None:
            shape = [rows, len(answer.probability[0])]
            flat = [p for row in answer.probability for p in row]
            outputs.append(
                {"name": "probability", "shape": shape, "datatype": "FP64", "data": flat}
            )
            document["parameters"] = {"classes": self.version.classes}
        return document

    def serve(self, path: str) -> None:
        """Listen at `path` until killed; one connection at a time, one frame at a time."""
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(16)
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError, frames.FrameError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        buffer = bytearray(1 << 16)
        while _receive(connection, memoryview(buffer)[: frames.HEADER.size]):
            (size,) = frames.HEADER.unpack_from(buffer)
            if size > frames.MAX_FRAME_BYTES:
                raise frames.FrameError(f"A frame of {size} bytes is too large.")
            if size > len(buffer):
                buffer = bytearray(size)
            payload = memoryview(buffer)[:size]
            if not _receive(connection, payload):
                return
            replies = self.answer(frames.decode_request(payload))
            connection.sendall(frames.encode_reply(replies))


def _receive(connection: socket.socket, target: memoryview) -> bool:
    """Fill `target`; False when the other side has gone."""
    while target:
        count = connection.recv_into(target)
        if count == 0:
            return False
        target = target[count:]
    return True


def _joined(requests: list[bodies.Asked]) -> bodies.Asked:
    if len(requests) == 1:
        return requests[0]
    columns = requests[0].columns
    values = [[v for r in requests for v in r.values[i]] for i in range(len(columns))]
    return bodies.Asked(columns, values, sum(request.rows for request in requests))


def _datatype(prediction: list[Any]) -> str:
    kinds = set(map(type, prediction))
    for kind, datatype in ((bool, "BOOL"), (int, "INT64"), (str, "BYTES")):
        if kinds == {kind}:
            return datatype
    if kinds <= {int, float}:
        return "FP64"
    raise AnswerError(", ".join(sorted(kind.__name__ for kind in kinds)) + ", not one value a row")


def _json(document: dict[str, Any]) -> bytes:
    try:
        return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise AnswerError("NaN or infinity") from None


def _error(status: int, name: str, code: str, sentence: str) -> frames.Reply:
    return frames.Reply(status, name, 0, _json({"error": sentence, "code": code}))


def _rss_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:  # no /proc: the most that it ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def _describe(folder: Path) -> dict[str, Any]:
    try:
        return Version(folder).describe()
    except Exception as error:  # noqa: BLE001  why a model does not load is the answer
        sentence = f"{type(error).__name__}: {error}"
        return {"ok": False, "error": sentence, "traceback": traceback.format_exc()}


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Serve one packed version of a model.")
    parser.add_argument("--folder", required=True, type=Path)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--socket", help="where to listen")
    task.add_argument("--describe", action="store_true", help="print one line of JSON and end")
    options = parser.parse_args()
    folder = options.folder.resolve()
    sys.dont_write_bytecode = True  # the folder is what its digest says, and stays so
    if options.describe:
        answer = os.dup(1)
        os.dup2(2, 1)  # what the model prints while it loads must not spoil the line
        line = json.dumps(_describe(folder)) + "\n"
        os.write(answer, line.encode())
        return
    Server(Version(folder)).serve(options.socket)


if __name__ == "__main__":
    main()
