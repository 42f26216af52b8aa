"""A transport that sends what is written in one turn of the loop at once.

The HTTP server writes the head of an answer and then its body. Each write is a call of the
system, a packet and a caller woken: half of what an answer costs.
"""

from __future__ import annotations

import asyncio
from typing import Any


class OneWrite:
    """Stands before a transport; all but `write`, `close` and `abort` is the transport's own."""

    __slots__ = ("_loop", "_parts", "_transport", "get_extra_info", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def __getattr__(self, name: str) -> Any:
        """Return what else the transport has."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send before the loop waits again."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Send what was written, then end."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._parts = []
        self._transport.abort()

    def _flush(self) -> None:
        parts = self._parts
        if parts:
            self._parts = []
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
