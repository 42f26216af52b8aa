"""The form of every JSON answer: ``{"schema", "data"}``, or ``{"error"}``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from penstock.errors import ConfigurationError, PenstockError, UsageError

Body = TypeVar("Body", bound=BaseModel)


def plain(value: Any) -> Any:
    """Turn records into JSON's own types; what is not finite becomes null.

    Examples
    --------
    >>> plain({"at": datetime(2026, 3, 1), "shares": (1, 5), "value": math.nan})
    {'at': '2026-03-01T00:00:00', 'shares': [1, 5], 'value': None}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return plain(fields)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value)
        return {str(key): plain(one) for key, one in pairs.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in cast("Sequence[Any]", value)]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def answer(thing: str, data: Any, *, status: int = 200) -> Response:
    """Wrap data as the answer ``penstock.<thing>/1``."""
    document = {"schema": f"penstock.{thing}/1", "data": plain(data)}
    return Response(json.dumps(document, allow_nan=False), status, media_type="application/json")


def read_body(kind: type[Body], content: bytes) -> Body:
    """Read a request's JSON; UsageError PS828 names everything that is not understood."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in error.errors()
        )
        raise UsageError(
            "PS828", f"The request is not understood: {told}.", hint="Look at the API's page."
        ) from None


def refused(error: PenstockError) -> Response:
    """Wrap an error as its answer."""
    return Response(
        json.dumps(error_json(error)),
        error.status,
        {"Retry-After": "1"} if error.retryable else None,
        "application/json",
    )


def error_json(error: PenstockError) -> dict[str, Any]:
    """Return an error in the form that clients read."""
    told: dict[str, Any] = {
        "code": error.code,
        "name": type(error).__name__,
        "message": error.what,
        "cause": None,
        "next": [error.hint],
        "docs": f"docs/errors#{error.code.lower()}",
    }
    if isinstance(error, ConfigurationError):
        told["faults"] = [
            {key: getattr(fault, key) for key in ("code", "file", "line", "key", "reason", "fix")}
            for fault in error.faults
        ]
    return {"error": told}
