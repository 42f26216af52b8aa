"""The server's own settings, $PENSTOCK_HOME/server.toml, and where that home is.

A push cannot set any of these. Without the file all defaults hold: one machine, loopback only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, model_validator

from penstock.config.addresses import Address, address
from penstock.config.approval import ApprovalSettings
from penstock.config.faults import read_as
from penstock.config.reading import text_of
from penstock.config.rules import Block, Broken, Several, clash, refuse, wrong
from penstock.config.serving import ServingSettings

Port = Annotated[int, Field(ge=0, le=65535)]


class DatabaseSettings(Block):
    """Where the records are, and the engine's own tables with them."""

    url: str | None = None
    """``postgresql://user@host:5432/name``, without a password; default: SQLite in the home."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(broken_database_url(self.url) if self.url is not None else ())
        return self


def broken_database_url(url: str) -> list[Broken]:
    """Check an address of PostgreSQL; what is shown of it is never a password."""
    fix = "Write postgresql://user@host:5432/name."
    try:
        parts = urlsplit(url)
        secret = parts.password or "password" in dict(parse_qsl(parts.query))
    except ValueError:
        return [wrong("is no address of a database.", fix, "url")]
    if parts.scheme not in ("postgresql", "postgresql+psycopg"):
        return [wrong(f'"{parts.scheme}" is no kind of database that Penstock uses.', fix, "url")]
    if secret:
        reason = "has a password in it, which lists of processes would show."
        where = "Put it into secrets/database, or into PENSTOCK_DATABASE_PASSWORD."
        return [wrong(reason, where, "url")]
    if not parts.path.strip("/"):
        return [wrong("names no database.", fix, "url")]
    return []


class SandboxSettings(Block):
    """How strongly foreign code is held."""

    mode: Literal["auto", "required", "external"] = "auto"
    """auto: the best that works, with a warning below full; required: full or nothing;
    external: what Penstock runs in, a container for instance, is the sandbox."""
    first_user: Annotated[int, Field(ge=1000, le=2**31 - 200_000)] = 1_900_000_000
    """Where the server is root: the first of 100,001 user numbers that commands run as."""


class LimitSettings(Block):
    """What code of models may use of this machine; a push may ask for less."""

    build_memory_mb: Annotated[int, Field(ge=64)] | None = None
    """For the command of one build, with all its processes; default: three quarters of the
    machine's memory."""
    build_timeout_s: Annotated[float, Field(gt=0)] = 24 * 3600
    """The most that `[build] timeout_s` may ask for."""
    build_cpus: Annotated[int, Field(ge=1)] | None = None
    """Processors for one build; default: all, behind what serves production."""
    worker_memory_mb: Annotated[int, Field(ge=64)] = 4096
    """For one worker."""
    log_mb: Annotated[int, Field(ge=1, le=1024)] = 32
    """What is kept of a build's output: its head and its last lines."""


class EnvironmentSettings(Block):
    """What may run while an environment is made."""

    source_builds: Several[str] = ()
    """Packages without a wheel that may be built from source, in the sandbox, without network."""


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


class DataSettings(Block):
    """From where the server reads data for projects, and how much."""

    allow: Several[str] = ()
    """Prefixes: addresses such as ``s3://lake/loans/``; paths such as ``/srv/data/``, and then no
    other file of the server is read."""
    max_mb: Annotated[float, Field(gt=0)] = 20_000
    """Largest file that is fetched, in megabytes of 10^6 bytes."""

    @property
    def prefixes(self) -> tuple[Address, ...]:
        """What is allowed, read."""
        return tuple(address(one) for one in self.allow)

    @model_validator(mode="after")
    def _rules(self) -> Self:
        broken: list[Broken] = []
        for number, one in enumerate(self.allow):
            try:
                address(one)
            except ValueError as error:
                fix = "Write a prefix such as s3://lake/loans/ or /srv/data/."
                broken.append(wrong(f'"{one}" {error}.', fix, "allow", number))
        refuse(broken)
        return self


class SupplySettings(Block):
    """What is asked of the packages that models bring along."""

    licences: Literal["report", "ask"] = "report"
    """ask: a copyleft or unknown licence is a point for a person's judgement."""


class AdoptSettings(Block):
    """What the gate for models that were trained elsewhere lets in besides its own list."""

    allow: dict[str, Several[str]] = Field(default_factory=dict)
    """Names by model: { "credit-default" = ["company.models.Scaler"] }."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(
            wrong(f'"{name}" is no name of a class.', "Write module.Class.", "allow", model, n)
            for model, names in self.allow.items()
            for n, name in enumerate(names)
            if not all(part.isidentifier() for part in name.split(".")) or "." not in name
        )
        return self


class ServerSettings(Block):
    """What `penstock serve` does."""

    host: str = "127.0.0.1"
    port: Port = 8420
    """Dashboard, API and git; 0 takes any free port."""
    predict_port: Port = 8421
    """Predictions; 0 takes any free port."""
    grpc_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Predictions over gRPC; default: none."""
    allowed_hosts: Several[str] = ()
    """Names, besides the loopback's, that a request's Host header may carry."""
    url: str | None = None
    """The address that people use, in messages; default: http, host and port."""
    builds: Annotated[int, Field(ge=1, le=64)] = 2
    """Builds at the same time."""
    database: DatabaseSettings = DatabaseSettings()
    sandbox: SandboxSettings = SandboxSettings()
    limits: LimitSettings = LimitSettings()
    environment: EnvironmentSettings = EnvironmentSettings()
    notify: NotifySettings = NotifySettings()
    approval: ApprovalSettings = ApprovalSettings()
    data: DataSettings = DataSettings()
    supply: SupplySettings = SupplySettings()
    adopt: AdoptSettings = AdoptSettings()
    serving: ServingSettings = ServingSettings()

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
        if self.grpc_port is not None and self.grpc_port in {self.port, self.predict_port}:
            reason = f"{self.grpc_port} is the port of another part too."
            broken.append(clash(reason, "Give each its own port.", "grpc_port"))
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
