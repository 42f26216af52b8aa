"""Orders of the gateway to a worker or a host: JSON in, JSON or an `OrderError` out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from penstock.inference.program import frames
else:
    from penstock_worker import frames


class OrderError(Exception):
    """An order is not carried out; the text says why.

    Parameters
    ----------
    status
        As HTTP has it.
    more
        What else is told.
    """

    def __init__(self, status: int, code: str, sentence: str, hint: str, **more: Any) -> None:
        super().__init__(sentence)
        self.status = status
        self.told = {"error": sentence, "code": code, "hint": hint, **more}


def read(part: frames.RequestPart) -> dict[str, Any]:
    """Return what an order says; an empty body says nothing."""
    try:
        document = json.loads(part.body or b"{}")
    except (ValueError, RecursionError) as error:
        what = f"The order of kind {part.kind} is not JSON: {error}."
        raise OrderError(400, "PS523", what, "See host.py for its form.") from None
    if not isinstance(document, dict):
        what = f"The order of kind {part.kind} is no JSON object."
        raise OrderError(400, "PS523", what, "See host.py for its form.")
    return cast("dict[str, Any]", document)


def refused(part: frames.RequestPart, why: str, hint: str) -> OrderError:
    """Say that an order cannot be carried out as it stands."""
    return OrderError(400, "PS523", f"The order of kind {part.kind}: {why}.", hint)


def reply(part: frames.RequestPart, status: int, told: dict[str, Any]) -> frames.Reply:
    """Return the reply to an order."""
    body = json.dumps(told, separators=(",", ":")).encode()
    return frames.Reply(status, part.id.decode("utf-8", "replace")[:200], 0, body)
