"""The gateway's own description, OpenAPI 3.1, served at ``/openapi.json``.

Written by hand: the gateway has no framework to derive it from. A test holds it against paths.py,
and another asks the gateway whatever the document allows.
"""

from __future__ import annotations

from typing import Any

from penstock import __version__
from penstock.domain import MODEL_NAME
from penstock.inference.gateway.answers import ARROW_STREAM
from penstock.inference.program.bodies import DATATYPES, ID

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_ID: Schema = {"type": "string", "pattern": f"^{ID.pattern}$"}
_PARAMETERS: Schema = {"type": "object"}
_OCTETS: Schema = {"type": "string", "format": "binary"}
_SHAPE: Schema = {"type": "array", "items": {"type": "integer"}}
_ROWS: Schema = {"type": "array"}


def _object(required: str = "", **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": required.split()}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_DATATYPE: Schema = {"type": "string", "enum": sorted(DATATYPES)}
_SCHEMAS: dict[str, Schema] = {
    "Error": _object("error code hint", error=_TEXT, code=_TEXT, hint=_TEXT),
    "Server": _object("name version extensions", name=_TEXT, version=_TEXT, extensions=_ROWS),
    "Tensor": _object("name datatype shape", name=_TEXT, datatype=_TEXT, shape=_SHAPE),
    "Model": _object(
        "name versions platform inputs outputs",
        name=_TEXT,
        versions=_list(_TEXT),
        platform=_TEXT,
        inputs=_list(_ref("Tensor")),
        outputs=_list(_ref("Tensor")),
    ),
    "InferRequest": _object(
        "inputs",
        id=_ID,
        parameters=_object(binary_data_output={"type": "boolean"}),
        inputs=_list(
            _object(
                "name shape datatype",
                name=_TEXT,
                shape={"type": "array", "items": {"type": "integer", "minimum": 0}},
                datatype=_DATATYPE,
                parameters=_PARAMETERS,
                data=_ROWS,
            )
        ),
        outputs=_list(
            _object(
                "name",
                name={"enum": ["prediction", "probability"]},
                parameters=_object(binary_data={"type": "boolean"}),
            )
        ),
    ),
    "InferResponse": _object(
        "model_name model_version outputs",
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        parameters=_PARAMETERS,
        outputs=_list(
            _object(
                "name shape datatype", name=_TEXT, shape=_SHAPE, datatype=_DATATYPE, data=_ROWS
            )
        ),
    ),
    "Invocation": {
        "oneOf": [
            _object(
                "dataframe_split",
                dataframe_split=_object("columns data", columns=_list(_TEXT), data=_list(_ROWS)),
            ),
            _object("dataframe_records", dataframe_records=_list({"type": "object"})),
            _object("instances", instances=_ROWS),
            _object("inputs", inputs={"type": ["array", "object"]}),
        ]
    },
    "Predictions": _object(
        "predictions", predictions=_ROWS, probabilities=_list(_list({"type": "number"})), id=_ID
    ),
    "Ready": _object("name ready", name=_TEXT, ready={"const": True}),
    "IndexRequest": _object(ready={"type": "boolean"}),
    "Index": _list(
        _object(
            "name version state reason",
            name=_TEXT,
            version=_TEXT,
            state={"enum": ["READY", "UNAVAILABLE"]},
            reason=_TEXT,
        )
    ),
}

_HEADERS = {
    "Penstock-Version": "The version that answered, NAME@NUMBER.",
    "Penstock-Arm": "The side of the split: champion, challenger, or explicit.",
    "Penstock-Prediction-Id": "The key of the logged rows, and of their labels.",
}
_ANSWERED = {
    name: {"description": text, "schema": _TEXT, "required": True}
    for name, text in _HEADERS.items()
}
_PARAMETER = {
    "MODEL": {"type": "string", "pattern": f"^(?:{MODEL_NAME.pattern})$"},
    "NUMBER": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
}
_HEAD_LENGTH = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Length in bytes of the JSON in front of binary tensors.",
    "schema": {"type": "integer", "minimum": 0},
}
_ARROW = ARROW_STREAM.decode()


def document() -> dict[str, Any]:
    """Return the whole description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock predictions",
            "version": __version__,
            "description": "Open Inference Protocol v2 and MLflow's scoring protocol.",
        },
        "servers": [
            {"url": "/", "description": "production"},
            {"url": "/test", "description": "the test environment"},
        ],
        "paths": {path: _path(path, *operation) for path, operation in _OPERATIONS.items()},
        "components": {"schemas": _SCHEMAS},
    }


def _get(summary: str, schema: Schema, *, ready: bool = False) -> tuple[str, Schema]:
    answers = {"200": _answer("As asked.", {"application/json": schema})}
    if ready:
        body = {"application/json": {"type": "object"}}
        answers["503"] = _answer("Not ready.", body)
    return "get", {"summary": summary, "responses": answers}


def _post(
    summary: str, asked: dict[str, Schema], told: dict[str, Schema], **more: Any
) -> tuple[str, Schema]:
    request = {"required": True, "content": _content(asked)}
    answers = {
        "200": {**_answer("The answer to each row.", told), "headers": _ANSWERED},
        "5XX": _answer("No version could answer.", {"application/json": _ref("Error")}),
    }
    return "post", {"summary": summary, "requestBody": request, "responses": answers, **more}


def _answer(text: str, content: dict[str, Schema]) -> Schema:
    return {"description": text, "content": _content(content)}


def _content(media: dict[str, Schema]) -> Schema:
    return {name: {"schema": schema} for name, schema in media.items()}


def _path(path: str, method: str, operation: Schema) -> Schema:
    responses = {
        **operation["responses"],
        "4XX": _answer("The request's own fault.", {"application/json": _ref("Error")}),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in _PARAMETER.items()
        if "{" + name + "}" in path
    ]
    parameters += operation.get("parameters", [])
    return {method: {**operation, "parameters": parameters, "responses": responses}}


def _operations() -> dict[str, tuple[str, Schema]]:
    arrow: dict[str, Schema] = {_ARROW: _OCTETS}
    infer = _post(
        "Ask a model, Open Inference Protocol",
        {"application/json": _ref("InferRequest"), "application/octet-stream": _OCTETS},
        {
            "application/json": _ref("InferResponse"),
            "application/octet-stream": _OCTETS,
            **arrow,
        },
        parameters=[_HEAD_LENGTH],
    )
    explain = _post(
        "Why a version answers so",
        {"application/json": _ref("InferRequest")},
        {"application/json": {"type": "object"}},
    )
    explain[1]["responses"]["200"]["headers"] = {"Penstock-Version": _ANSWERED["Penstock-Version"]}
    invoke = _post(
        "Ask a model, MLflow",
        {
            "application/json": _ref("Invocation"),
            "text/csv": _TEXT,
            "application/vnd.apache.parquet": _OCTETS,
            **arrow,
        },
        {"application/json": _ref("Predictions"), **arrow},
    )
    model = _get("What a model takes and answers", _ref("Model"))
    ready = _get("Whether a model answers", _ref("Ready"), ready=True)
    named: dict[str, tuple[str, Schema]] = {}
    for version in ("", "/versions/{NUMBER}"):
        named |= {
            f"/v2/models/{{MODEL}}{version}/infer": infer,
            f"/v2/models/{{MODEL}}{version}/explain": explain,
            f"/v2/models/{{MODEL}}{version}": model,
            f"/v2/models/{{MODEL}}{version}/ready": ready,
            f"/models/{{MODEL}}{version}/invocations": invoke,
            f"/models/{{MODEL}}{version}/ping": ready,
            f"/models/{{MODEL}}{version}/health": ready,
        }
    index = _post(
        "The versions that run",
        {"application/json": _ref("IndexRequest")},
        {"application/json": _ref("Index")},
    )
    index[1]["requestBody"]["required"] = False
    del index[1]["responses"]["200"]["headers"]
    version = _object("name version", name=_TEXT, version={"type": ["string", "null"]})
    return {
        **named,
        "/invocations": invoke,
        "/ping": ready,
        "/health": ready,
        "/version": _get("The server's version", version),
        "/models/{MODEL}/version": _get("Which version answers", version),
        "/v2": _get("The server", _ref("Server")),
        "/v2/health/live": _get("Whether the gateway runs", {"type": "object"}),
        "/v2/health/ready": _get("Whether all champions run", {"type": "object"}, ready=True),
        "/v2/repository/index": index,
        "/penstock/workers": _get("Every worker process", _list({"type": "object"})),
        "/openapi.json": _get("This description", {"type": "object"}),
    }


_OPERATIONS = _operations()
