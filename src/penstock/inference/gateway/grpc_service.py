"""The Open Inference Protocol over gRPC: the same gateway, asked in another dress.

A ModelInfer becomes the binary request of the REST protocol, and what that is answered becomes
the reply: draw, fallback, log and limits are those of every other request. The test environment
is asked with the metadata ``penstock-environment: test``.
"""

from __future__ import annotations

import importlib
import json
import os
import struct
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any, NamedTuple, Protocol

import msgspec

from penstock.domain import Environment
from penstock.errors import UnreachableError
from penstock.inference.gateway.answers import Answer, RefusedError, refused
from penstock.inference.gateway.batching import Failure
from penstock.inference.gateway.oip_messages import CONTENTS, METHODS, SERVICE, messages
from penstock.inference.gateway.paths import Action, Call
from penstock.inference.gateway.questions import Question, customer_of, within_s
from penstock.inference.program import tensors
from penstock.inference.program.frames import BINARY_MEDIA, V2_BINARY

_CODES = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    406: "INVALID_ARGUMENT",
    413: "RESOURCE_EXHAUSTED",
    415: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""What a status of HTTP is called here; INTERNAL for any other."""
_HEAD = b"inference-header-content-length"
_NAMED = b"penstock-"
_GRACE_S = 15.0


class _Said(NamedTuple):
    """What the metadata of a request says."""

    environment: Environment
    customer: str | None
    within_s: float


class Asked(Protocol):
    """What of the gateway is asked."""

    async def tell(self, call: Call) -> Answer:
        """Answer about a model or the server."""
        ...

    async def predict(self, question: Question) -> Answer:
        """Answer with predictions."""
        ...


class GrpcServer:
    """Serves a gateway over gRPC from `start` to `stop`.

    Raises
    ------
    UnreachableError
        PS538: grpcio or protobuf is not installed.
    """

    def __init__(self, gateway: Asked, address: str, *, max_bytes: int) -> None:
        # Workers are started from this process: gRPC's own handling of forks would wait for it.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        try:
            self._grpc: Any = importlib.import_module("grpc")
            self._types = messages()
        except ImportError as error:
            raise UnreachableError(
                "PS538",
                f"Predictions cannot be served over gRPC: {error}.",
                hint="Install penstock[grpc], or take grpc_port out of server.toml.",
            ) from error
        self._gateway = gateway
        self._address = address
        options = [
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_metadata_size", 1 << 14),
        ]
        self._server: Any = importlib.import_module("grpc.aio").server(options=options)
        handlers = {name: self._handler(name) for name in METHODS}
        generic = self._grpc.method_handlers_generic_handler(SERVICE, handlers)
        self._server.add_generic_rpc_handlers((generic,))

    async def start(self) -> None:
        """Listen; UnreachableError PS518 when the port is taken."""
        try:
            self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise UnreachableError(
                "PS518",
                f"Predictions cannot be served over gRPC on {self._address}.",
                hint="End what holds the port, or set grpc_port in server.toml.",
            ) from error
        await self._server.start()

    async def stop(self) -> None:
        """Answer what is in flight, then end."""
        await self._server.stop(_GRACE_S)

    def _handler(self, name: str) -> Any:
        answers: dict[str, Callable[[Any, _Said], Awaitable[tuple[Any, Answer]]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }

        async def handle(request: Any, context: Any) -> Any:
            try:
                message, answer = await answers[name](request, _said(context))
            except RefusedError as error:
                await self._abort(context, refused(error.failure, error.headers))
                raise
            if answer.status >= 400:
                await self._abort(context, answer)
            await context.send_initial_metadata(_metadata(answer))
            return message

        return self._grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=self._types[f"{name}Request"].FromString,
            response_serializer=self._types[f"{name}Response"].SerializeToString,
        )

    async def _abort(self, context: Any, answer: Answer) -> None:
        facts = json.loads(answer.body)
        code = getattr(self._grpc.StatusCode, _CODES.get(answer.status, "INTERNAL"))
        what = " ".join(str(facts.get(part, "")) for part in ("code", "error", "hint")).strip()
        await context.abort(code, what, _metadata(answer))

    async def _live(self, _request: Any, said: _Said) -> tuple[Any, Answer]:
        answer = await self._gateway.tell(Call(Action.LIVE, said.environment, None, None))
        return self._types["ServerLiveResponse"](live=answer.status == 200), answer

    async def _ready(self, _request: Any, said: _Said) -> tuple[Any, Answer]:
        answer = await self._gateway.tell(Call(Action.READY, said.environment, None, None))
        ready = answer.status == 200
        return self._types["ServerReadyResponse"](ready=ready), answer._replace(status=200)

    async def _model_ready(self, request: Any, said: _Said) -> tuple[Any, Answer]:
        call = Call(Action.MODEL_READY, said.environment, request.name, _number(request.version))
        try:
            answer = await self._gateway.tell(call)
        except RefusedError as error:
            if error.failure.status != 503:
                raise
            answer = Answer(200, [], b"")
            return self._types["ModelReadyResponse"](ready=False), answer
        return self._types["ModelReadyResponse"](ready=True), answer

    async def _server_metadata(self, _request: Any, said: _Said) -> tuple[Any, Answer]:
        answer = await self._gateway.tell(Call(Action.SERVER, said.environment, None, None))
        return self._types["ServerMetadataResponse"](**json.loads(answer.body)), answer

    async def _model_metadata(self, request: Any, said: _Said) -> tuple[Any, Answer]:
        call = Call(Action.MODEL, said.environment, request.name, _number(request.version))
        answer = await self._gateway.tell(call)
        facts = json.loads(answer.body)
        del facts["parameters"]  # which the message has no place for
        for side in ("inputs", "outputs"):
            facts[side] = [self._types["TensorMetadata"](**tensor) for tensor in facts[side]]
        return self._types["ModelMetadataResponse"](**facts), answer

    async def _infer(self, request: Any, said: _Said) -> tuple[Any, Answer]:
        number = _number(request.model_version)
        answer = await self._gateway.predict(
            Question(
                said.environment,
                request.model_name,
                number,
                V2_BINARY,
                _body(request),
                BINARY_MEDIA,
                said.customer,
                said.within_s,
            )
        )
        if answer.status >= 400:
            return None, answer
        return self._response(answer, raw=bool(request.raw_input_contents)), answer

    def _response(self, answer: Answer, *, raw: bool) -> Any:
        """Return a reply; its values in the form that the request had."""
        size = next((int(value) for name, value in answer.headers if name == _HEAD), None)
        document = json.loads(answer.body[:size])
        message = self._types["ModelInferResponse"](
            model_name=document["model_name"],
            model_version=document["model_version"],
            id=document.get("id", ""),
        )
        classes = document.get("parameters", {}).get("classes")
        if classes is not None:
            entry = message.parameters.add(key="classes")
            entry.value.string_param = json.dumps(classes)
        start = size or 0
        for told in document["outputs"]:
            output = message.outputs.add(
                name=told["name"], datatype=told["datatype"], shape=told["shape"]
            )
            end = start + told["parameters"]["binary_data_size"]
            values = answer.body[start:end]
            start = end
            if raw:
                message.raw_output_contents.append(values)
                continue
            plain = tensors.decode(output.datatype, values)
            if output.datatype == "BYTES":
                plain = [text.encode() for text in plain]
            getattr(output.contents, CONTENTS[output.datatype]).extend(plain)
        return message


def _body(request: Any) -> bytes:
    """Return the REST protocol's binary request."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise _unfit(f"{len(raw)} raw contents for {len(request.inputs)} inputs")
    values = list(raw) or [_encoded(given) for given in request.inputs]
    inputs = [
        {
            "name": given.name,
            "shape": list(given.shape),
            "datatype": given.datatype,
            "parameters": {"binary_data_size": len(one)},
        }
        for given, one in zip(request.inputs, values, strict=True)
    ]
    document: dict[str, Any] = {"inputs": inputs}
    if request.id:
        document["id"] = request.id
    if request.outputs:
        document["outputs"] = [{"name": output.name} for output in request.outputs]
    return tensors.join(msgspec.json.encode(document), b"".join(values))


def _encoded(given: Any) -> bytes:
    field = CONTENTS.get(given.datatype)
    if field is None:
        raise _unfit(f"datatype {given.datatype!r} for {given.name!r}; send it as raw contents")
    try:
        return tensors.encode(given.datatype, list(getattr(given.contents, field)))
    except struct.error as error:
        raise _unfit(f"values of {given.name!r} that are no {given.datatype}: {error}") from None


def _unfit(what: str) -> RefusedError:
    hint = "Let the contents be those of each input's datatype."
    return RefusedError(Failure(400, "PS535", f"The request has {what}.", hint))


def _number(version: str) -> int | None:
    if not version:
        return None
    if not version.isdecimal() or len(version) > 9:
        what = f"{version[:40]!r} is no version; versions are numbers."
        raise RefusedError(Failure(404, "PS502", what, "Leave the version out."))
    return int(version)


def _said(context: Any) -> _Said:
    """Return what the metadata says; the caller's deadline is gRPC's own."""
    metadata: Sequence[tuple[str, str | bytes]] = context.invocation_metadata() or ()
    sent = {n.encode(): v if isinstance(v, bytes) else v.encode() for n, v in metadata}
    customer = customer_of(sent.get(b"penstock-key"))
    wished_s = within_s(sent.get(b"penstock-deadline-ms"))
    left_s: float | None = context.time_remaining()
    test = sent.get(b"penstock-environment") == Environment.TEST.value.encode()
    environment = Environment.TEST if test else Environment.PRODUCTION
    return _Said(environment, customer, min(wished_s, inf if left_s is None else left_s))


def _metadata(answer: Answer) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name.decode(), value.decode("latin-1"))
        for name, value in answer.headers
        if name.startswith(_NAMED)
    )
