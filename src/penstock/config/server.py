"""The server's own settings, $PENSTOCK_HOME/server.toml, and where that home is.

A push cannot set any of these. Without the file all defaults hold: one machine, loopback only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from penstock.config.faults import read_as
from penstock.config.reading import text_of
from penstock.config.rules import Block, Broken, Several, clash, refuse, wrong

Port = Annotated[int, Field(ge=0, le=65535)]


class SandboxSettings(Block):
    """How strongly foreign code is held."""

    mode: Literal["auto", "required"] = "auto"
    """auto: the best that works, with a warning below full; required: full or nothing."""


class NotifySettings(Block):
    """Who is told, besides the log."""

    webhooks: Several[str] = ()
    """Addresses that get each message as a signed POST."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(
            wrong(f'"{url}" is not an http or https address.', "Write https://…", "webhooks", n)
            for n, url in enumerate(self.webhooks)
            if not _is_address(url)
        )
        return self


class ApprovalSettings(Block):
    """Policy that no push can loosen."""

    by_author: bool = True
    """Whether, while the server has no accounts, the author may approve; it is recorded."""


class ServerSettings(Block):
    """What `penstock serve` does."""

    host: str = "127.0.0.1"
    port: Port = 8420
    """Dashboard, API and git; 0 takes any free port."""
    predict_port: Port = 8421
    """Predictions; 0 takes any free port."""
    allowed_hosts: Several[str] = ()
    """Names, besides the loopback's, that a request's Host header may carry."""
    url: str | None = None
    """The address that people use, in messages; default: http, host and port."""
    builds: Annotated[int, Field(ge=1, le=64)] = 2
    """Builds at the same time."""
    sandbox: SandboxSettings = SandboxSettings()
    notify: NotifySettings = NotifySettings()
    approval: ApprovalSettings = ApprovalSettings()

    @property
    def address(self) -> str:
        """Where people reach the dashboard, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (self.url or f"http://{host}:{self.port}").rstrip("/")

    @model_validator(mode="after")
    def _rules(self) -> Self:
        broken: list[Broken] = []
        if self.port == self.predict_port and self.port != 0:
            reason = f"{self.port} is the port of the dashboard too."
            broken.append(clash(reason, "Give each its own port.", "predict_port"))
        if self.url is not None and not _is_address(self.url):
            reason = f'"{self.url}" is not an http or https address.'
            broken.append(wrong(reason, "Write https://…", "url"))
        refuse(broken)
        return self


def server_settings(path: Path, *, options: Mapping[str, Any] | None = None) -> ServerSettings:
    """Read server.toml; without the file, all defaults hold. `options` win over the file."""
    text = text_of(path) if path.exists() else ""
    return read_as(ServerSettings, text, path.name, options=options)


def state_home(environ: Mapping[str, str], *, is_root: bool) -> Path:
    """Return where the server keeps everything; root's own folder is hidden from sandboxes."""
    if chosen := environ.get("PENSTOCK_HOME"):
        return Path(chosen).expanduser().absolute()
    if is_root:
        return Path("/var/lib/penstock")
    return Path(environ.get("HOME", "~")).expanduser() / ".penstock"


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
