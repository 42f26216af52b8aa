"""The composition root: the only module that knows which adapter stands behind each port.

serve -> supervisor -> control   dashboard, API, git       (penstock serve --only control)
-> engine    the pipeline's stretches  (--only engine)
-> gateway   predictions, workers      (--only gateway)
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from penstock import supervisor
from penstock.config import ServerSettings
from penstock.errors import UnreachableError, UsageError
from penstock.ports import ArtifactStore, Sandbox

if TYPE_CHECKING:  # for start-up time: what a process does not use, it does not import
    from penstock.adapters.dbos_engine import DbosEngine
    from penstock.pipeline.acts import Acts
    from penstock.pipeline.tools import Tools
    from penstock.pipeline.upkeep import Upkeep
    from penstock.pipeline.workers import Workers
    from penstock.records.database import Database

SETTLE_S = 8.0
"""So long a gateway that is alone lets requests wait for its champions; shorter than deadlines."""
TICK_S = 60
_FOLDERS = ("run", "runs", "models")
_PRIVATE = ("artifacts", "log", "parquet", "repositories", "secrets")
"""Of the server alone, whatever the sandbox's level."""

_logger = logging.getLogger(__name__)


def clock() -> datetime:
    """Return now."""
    return datetime.now(UTC)


def sandbox(home: Path, settings: ServerSettings) -> Sandbox:
    """Return the sandbox that this machine offers."""
    from penstock.adapters.sandbox.local import LocalSandbox

    chosen = settings.sandbox
    return LocalSandbox(home, chosen.mode, first_user=chosen.first_user)


def database_url(home: Path, settings: ServerSettings) -> str:
    """Return the records' address, for SQLAlchemy; it may hold a password.

    The password of PostgreSQL is ``PENSTOCK_DATABASE_PASSWORD``, else what the file
    ``secrets/database`` holds, else whatever PostgreSQL's own library finds.
    """
    chosen = settings.database.url
    if chosen is None:
        return f"sqlite:///{home / 'penstock.db'}"
    password = os.environ.get("PENSTOCK_DATABASE_PASSWORD")
    if password is None:
        with contextlib.suppress(FileNotFoundError):
            password = (home / "secrets" / "database").read_text(encoding="utf-8").strip()
    from sqlalchemy import make_url

    address = make_url(chosen).set(drivername="postgresql+psycopg", password=password or None)
    return address.render_as_string(hide_password=False)


def database(home: Path, settings: ServerSettings) -> Database:
    """Return the records, brought to this release's schema."""
    from penstock.records.database import Database

    prepare(home, settings)
    made = Database(database_url(home, settings), clock=clock)
    made.migrate()
    return made


def prepare(home: Path, settings: ServerSettings) -> None:
    """Make the home's folders; a home that cannot be written is said at once."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        for name in (*_FOLDERS, *_PRIVATE):
            (home / name).mkdir(exist_ok=True)
        for name in _PRIVATE:
            (home / name).chmod(0o700)
        if settings.database.url is None:
            _own(home / "penstock.db")
        if os.geteuid() == 0:  # users of sandboxes pass through, and see no names
            home.chmod(0o711)
    except OSError as error:
        raise UnreachableError(
            "PS811",
            f"PENSTOCK_HOME {home} cannot be used: {error.strerror}.",
            hint="Set PENSTOCK_HOME to a folder that you may write to.",
        ) from error


def _own(file: Path) -> None:
    """Make a file that the server alone reads.

    It is never opened once it is there: the close would drop SQLite's locks of this process.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    file.chmod(0o600)


def secret(home: Path, name: str) -> str:
    """Return a secret of this home, made at the first call."""
    path = home / "secrets" / name
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_text(encoding="ascii")


def signing_key(home: Path, records: Database) -> None:
    """Make the key that attestations are signed with, once for a home; the journal tells it."""
    from penstock.build.trust.signing import Keys

    keys = Keys(home)
    if not keys.made() and not keys.trust.exists():
        with records.change("penstock") as change:  # one at a time: the key is made once
            if not keys.made():
                key = keys.make(now=change.now)
                change.journal("key.made", {"key": key.id})
            else:
                change.journal("key.known", {"key": keys.current().id})


def store(home: Path) -> ArtifactStore:
    """Return the artifact store."""
    from penstock.adapters.file_store import FileStore

    return FileStore(home / "artifacts")


def engine(home: Path, settings: ServerSettings) -> DbosEngine:
    """Return the engine, not launched."""
    from penstock.adapters.dbos_engine import DbosEngine

    return DbosEngine(
        database_url(home, settings),
        home=home,
        executor_id=f"{socket.gethostname()}-0",
        builds=settings.builds,
    )


def workers(home: Path, settings: ServerSettings) -> Workers:
    """Return what starts workers."""
    from penstock.adapters.uv_environments import UvEnvironments
    from penstock.pipeline.workers import Workers

    held = sandbox(home, settings)
    allowed = settings.environment.source_builds
    environments = UvEnvironments(home, held, source_builds=allowed)
    return Workers(held, environments, settings.limits.worker_memory_mb)


def upkeep(home: Path, settings: ServerSettings, records: Database) -> Upkeep:
    """Return what looks for leftovers in this home."""
    from penstock.pipeline.upkeep import Upkeep

    return Upkeep(home, records, store(home), workers(home, settings).environments)


def tools(home: Path, settings: ServerSettings, work: DbosEngine) -> Tools:
    """Return what the pipeline works with."""
    from penstock.adapters.notifiers import LogNotifier, Notifiers, WebhookNotifier
    from penstock.build.data.sources import Sources
    from penstock.pipeline.tools import Tools
    from penstock.pipeline.warm_hosts import WarmHosts

    started = workers(home, settings)
    key = secret(home, "webhook").encode()
    records = database(home, settings)
    signing_key(home, records)
    return Tools(
        home=home,
        database=records,
        engine=work,
        store=store(home),
        sandbox=started.sandbox,
        environments=started.environments,
        workers=started,
        hosts=WarmHosts(started, home),
        notifier=Notifiers(
            [
                LogNotifier(home / "notifications.log"),
                *(WebhookNotifier(url, key) for url in settings.notify.webhooks),
            ]
        ),
        clock=clock,
        predict_url=predict_url(settings),
        url=settings.address,
        limits=settings.limits,
        adopt_allow=settings.adopt.allow,
        least_people=settings.approval.least.model_dump(),
        reached=_fail_point(home, os.environ),
        sources=Sources(home, settings.data.prefixes, int(settings.data.max_mb * 1e6)),
        logs_url=settings.serving.log_url,
        log_bytes=settings.serving.log_mb * 10**6,
        build_threads=max(1, len(os.sched_getaffinity(0)) // settings.builds),
    )


def _fail_point(home: Path, environ: Mapping[str, str]) -> Callable[[str], None]:
    """Return what is told of every point at which a crash must do no harm.

    ``PENSTOCK_FAIL=build/store:after,test/decide:begun`` kills the process with signal 9 at
    each of these points, once: how the tests prove the promise on a real process.
    """
    wanted = frozenset(environ.get("PENSTOCK_FAIL", "").split(",")) - {""}

    def reached(point: str) -> None:
        if point not in wanted:
            return
        mark = home / "run" / ("killed-" + point.replace("/", "-").replace(" ", "-"))
        with contextlib.suppress(FileExistsError):
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def run_engine(home: Path, settings: ServerSettings) -> None:
    """Run the pipeline's stretches until told to stop."""
    from penstock.pipeline.standing import Standing
    from penstock.pipeline.stretches import Pipeline

    _redact_logs(home)
    work = engine(home, settings)
    made = tools(home, settings, work)
    pipeline, standing = Pipeline(made), Standing(made, builds=settings.builds)
    pipeline.register(standing)
    work.every(TICK_S, "tick")
    work.every(TICK_S, "logs")
    work.launch()
    _logger.info("engine ready")
    standing.watch(sys.stderr)
    pipeline.heal()
    _until_stopped()
    work.close()


def _redact_logs(home: Path) -> None:
    """Take the values of secrets out of what this process logs, libraries' tracebacks too."""
    from penstock.build.named_secrets import NamedSecrets

    kept = NamedSecrets(home)

    class Redacting(logging.Formatter):
        def __init__(self, inner: logging.Formatter) -> None:
            super().__init__()
            self._inner = inner

        def format(self, record: logging.LogRecord) -> str:
            return kept.redact(self._inner.format(record))

    for handler in logging.getLogger().handlers:
        handler.setFormatter(Redacting(handler.formatter or logging.Formatter()))


def run_gateway(home: Path, settings: ServerSettings) -> None:
    """Answer predictions until told to stop."""
    from penstock.config.rules import duration_s
    from penstock.inference.gateway.application import Gateway
    from penstock.inference.gateway.explaining import Explainer
    from penstock.inference.gateway.handover import Handover
    from penstock.inference.gateway.serving import serve
    from penstock.inference.gateway.settings import GatewaySettings
    from penstock.pipeline.backgrounds import Backgrounds
    from penstock.pipeline.hosting import Hosting
    from penstock.records.routes import Routes

    handover = Handover.taken(os.environ)
    records, kept, made = database(home, settings), store(home), workers(home, settings)

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    serving = settings.serving
    chosen = GatewaySettings(
        grpc=None if settings.grpc_port is None else f"{host}:{settings.grpc_port}",
        allowed_hosts=tuple(settings.allowed_hosts),
        deadline_s=serving.deadline_ms / 1000,
        worker_memory_bytes=settings.limits.worker_memory_mb << 20,
        idle_s=duration_s(serving.idle),
        batch_rows=serving.batch_rows,
    )
    if serving.memory_mb is not None:
        chosen = replace(chosen, memory_bytes=serving.memory_mb << 20)
    settle_s = chosen.start_timeout_s if handover.takes_over else SETTLE_S
    gateway = Gateway(
        replace(chosen, settle_s=settle_s, takes_over=handover.takes_over),
        Routes(records),
        Hosting(made, kept, home, chosen.memory_bytes >> 20),
        home / "log",
        home / "run" / "routes.json",
        clock,
        Explainer(
            (sys.executable, "-m", "penstock.pipeline.local_explainer"),
            Backgrounds(records, kept, home / "run" / "background"),
        ),
    )
    gateway.settled = handover.say
    serve(gateway, settings.host, settings.predict_port, handover)


def run_control(home: Path, settings: ServerSettings) -> None:
    """Become the process of the dashboard, the API and git."""
    argv = _control_argv(home, settings)
    os.execv(argv[0], argv)  # noqa: S606 -- our own interpreter and module


def _control_argv(home: Path, settings: ServerSettings) -> list[str]:
    # The web application stands above this module, so it is started, not imported.
    return [sys.executable, "-m", "penstock.web", str(home), settings.model_dump_json()]


@dataclass(frozen=True, slots=True)
class ControlParts:
    """What the web application works with."""

    database: Database
    acts: Acts
    hook_secret: str


def control(home: Path, settings: ServerSettings) -> ControlParts:
    """Make what the web application works with."""
    from penstock.pipeline.acts import Acts

    records, work = database(home, settings), engine(home, settings)
    acts = Acts(records, work, settings, home, store(home))
    return ControlParts(records, acts, secret(home, "hook"))


def predict_url(settings: ServerSettings) -> str:
    """Return where this machine's processes reach the gateway."""
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    return f"http://{host}:{settings.predict_port}"


_RUN: Mapping[str, Callable[[Path, ServerSettings], None]] = {
    "control": run_control,
    "engine": run_engine,
    "gateway": run_gateway,
}


def serve(home: Path, settings: ServerSettings, *, only: str | None = None) -> None:
    """Run the server, or one part of it, until it is told to stop."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    for name in ("httpx", "alembic", "dbos"):
        logging.getLogger(name).setLevel(logging.WARNING)
    _loopback_only(settings)
    if only is not None:
        if "PENSTOCK_PART" in os.environ:
            end_with_parent()
        _RUN[only](home, settings)
        return
    records = database(home, settings)
    signing_key(home, records)
    records.close()
    engine(home, settings).close()
    _port_free(settings)
    _say_sandbox(home, settings)
    supervisor.serve(home, settings, lambda part, found: _argv(part, home, found))


def _loopback_only(settings: ServerSettings) -> None:
    if settings.host not in {"127.0.0.1", "::1", "localhost"}:
        raise UsageError(
            "PS812",
            f"{settings.host} would open Penstock to other machines, which is not available yet.",
            hint="Listen on 127.0.0.1 and let a proxy with TLS stand in front.",
        )


def _port_free(settings: ServerSettings) -> None:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((settings.host, settings.port))
        except OSError as error:
            raise UnreachableError(
                "PS813",
                f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}.",
                hint="Stop what uses it, or choose another: penstock serve --port N.",
            ) from error


def _say_sandbox(home: Path, settings: ServerSettings) -> None:
    warning = sandbox(home, settings).level().warning
    if warning:
        sys.stderr.write(f"! {warning}\n")


def _argv(part: str, home: Path, settings: ServerSettings) -> list[str]:
    if part == "control":
        return _control_argv(home, settings)
    program = "from penstock.cli import main; main()"
    ports = ["--port", str(settings.port), "--predict-port", str(settings.predict_port)]
    options = ["--host", settings.host, *ports, "--only", part]
    return [sys.executable, "-c", program, "serve", *options]


def _until_stopped() -> None:
    """Wait for SIGTERM or SIGINT."""
    stop = threading.Event()

    def told(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    while not stop.wait(1.0):
        pass


def end_with_parent() -> None:
    """End this part when the supervisor is gone: its end of our stdin closes then."""

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):
            os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="supervisor-watch").start()
