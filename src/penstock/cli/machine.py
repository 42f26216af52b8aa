"""Commands for whoever runs the server: serve, reload, demo, doctor, audit, token, config, …

`audit` and `token` work on this computer's PENSTOCK_HOME, with no server running.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import socket
import sqlite3
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from penstock.cli.session import columns, git, session
from penstock.errors import NotFoundError, PenstockError, UnreachableError, UsageError

if TYPE_CHECKING:
    from penstock.config import ServerSettings
    from penstock.records.database import Database

audit = typer.Typer(help="Read the journal.", no_args_is_help=True)
token = typer.Typer(help="Who may call.", no_args_is_help=True)
config = typer.Typer(help="Settings.", no_args_is_help=True)

OLDEST_SQLITE = (3, 35, 0)
FULL_DISK = 0.90


def serve(
    ctx: typer.Context,
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Dashboard, API and git.")] = None,
    predict_port: Annotated[int | None, typer.Option(help="Predictions.")] = None,
    only: Annotated[str | None, typer.Option(help="One part: control, engine or gateway.")] = None,
) -> None:
    """Run the server until it is stopped."""
    session(ctx)
    home = state_folder()
    stated = {"host": host, "port": port, "predict_port": predict_port}
    settings = settings_here(
        home, {key: value for key, value in stated.items() if value is not None}
    )
    if only not in (None, "control", "engine", "gateway"):
        raise UsageError(
            "PS059", f'"{only}" is no part of the server.', hint="control, engine or gateway"
        )
    importlib.import_module("penstock.wiring").serve(home, settings, only=only)


def reload(ctx: typer.Context) -> None:
    """Replace the gateway by a new one, with the settings and release of now; no request fails."""
    here = session(ctx)
    took_s = importlib.import_module("penstock.supervisor").reload(state_folder())
    here.write(f"gateway reloaded in {took_s:.1f} s", mark="passed")
    here.data("reload", {"seconds": took_s})


def demo(
    ctx: typer.Context,
    *,
    once: Annotated[bool, typer.Option("--once", help="End by itself.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the home.")] = False,
    port: Annotated[int, typer.Option(help="Dashboard's port; 0 = any.")] = 8420,
) -> int:
    """Play the whole path on real data, in a throw-away home."""
    session(ctx)
    played = importlib.import_module("penstock.demo").play(once=once, keep=keep, port=port)
    return int(played or 0)


def doctor(ctx: typer.Context) -> int:
    """Look at this machine: Python, tools, disk, ports, sandbox."""
    here = session(ctx)
    home = state_folder()
    seen = list(_examine(home))
    for one in seen:
        here.write(f"{one.subject:<10}  {one.text}", mark=one.verdict)
        if one.fix:
            here.write(f"  try         {one.fix}")
    here.data("doctor", [asdict(one) for one in seen])
    return 1 if any(one.verdict == "failed" for one in seen) else 0


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that the doctor looked at."""

    verdict: str
    subject: str
    text: str
    fix: str = ""


def _examine(home: Path) -> Iterator[Seen]:
    yield Seen("passed", "Python", platform.python_version())
    yield sqlite_seen(sqlite3.sqlite_version_info)
    version = git("--version")
    if version is None:
        yield Seen("failed", "git", "is not there", "Install git.")
    else:
        yield Seen("passed", "git", version.removeprefix("git version "))
    yield _uv()
    yield from _home_seen(home)
    settings = settings_here(home)
    yield from _database(home, settings)
    for name, port in (("port", settings.port), ("predict", settings.predict_port)):
        yield _port(name, settings.host, port)
    yield _sandbox(home, settings)


def sqlite_seen(version: tuple[int, ...]) -> Seen:
    """Say whether this SQLite will do."""
    from penstock.records.sqlite import has_reset_race

    text = ".".join(map(str, version))
    if version < OLDEST_SQLITE:
        return Seen("failed", "SQLite", f"{text} is too old", "Install SQLite 3.51.3 or later.")
    if not has_reset_race(version):
        return Seen("passed", "SQLite", text)
    return Seen(
        "warning",
        "SQLite",
        f"{text}: another program that checkpoints penstock.db can damage it (WAL-reset race)",
        "Let only Penstock use the file, or install SQLite 3.51.3 or later.",
    )


def _database(home: Path, settings: ServerSettings) -> Iterator[Seen]:
    from penstock.records.sqlite import faults

    if settings.database.url is not None:
        yield _postgresql(settings)
        return
    file = home / "penstock.db"
    if not file.exists():
        return
    try:
        found = faults(file)
    except (OSError, sqlite3.Error) as error:
        yield Seen("failed", "database", f"{file} cannot be read: {error}")
        return
    if found:
        fix = "Stop the server and put it back: docs/server.md, A damaged database."
        yield Seen("failed", "database", f"PS102 {file} is damaged: {'; '.join(found)}", fix)
    else:
        yield Seen("passed", "database", f"{file} is whole")


def _postgresql(settings: ServerSettings) -> Seen:
    try:
        with records_here() as database, database.read() as connection:
            version = connection.exec_driver_sql("SHOW server_version").scalar()
    except PenstockError as error:
        return Seen("failed", "database", f"{error.code} {error.what}", error.hint)
    return Seen("passed", "database", f"PostgreSQL {version}, {settings.database.url}")


def _uv() -> Seen:
    try:
        return Seen("passed", "uv", str(importlib.import_module("uv").find_uv_bin()))
    except (ImportError, FileNotFoundError):
        return Seen("failed", "uv", "is not there", "Install Penstock again: uv belongs to it.")


def _home_seen(home: Path) -> Iterator[Seen]:
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    fix = "Set PENSTOCK_HOME to a folder that you may write to."
    if not os.access(place, os.W_OK):
        yield Seen("failed", "home", f"{home}: {place} cannot be written", fix)
    elif home.is_relative_to("/root"):
        text = f"{home} lies below /root, where sandboxes see nothing"
        yield Seen("failed", "home", text, "Set PENSTOCK_HOME=/var/lib/penstock.")
    else:
        yield Seen("passed", "home", str(home))
    usage = shutil.disk_usage(place)
    share = usage.used / usage.total
    text = f"{share:.0%} full, {usage.free / 2**30:.1f} GiB free"
    yield Seen("warning" if share > FULL_DISK else "passed", "disk", text)


def _port(name: str, host: str, port: int) -> Seen:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            text = f"{host}:{port}: {(error.strerror or str(error)).lower()}"
            return Seen("warning", name, text, "Fine if it is Penstock; else change server.toml.")
    return Seen("passed", name, f"{host}:{port} is free")


def _sandbox(home: Path, settings: ServerSettings) -> Seen:
    try:
        found = importlib.import_module("penstock.wiring").sandbox(home, settings).level()
    except PenstockError as error:
        return Seen("failed", "sandbox", error.what, error.hint)
    if not found.warning:
        return Seen("passed", "sandbox", found.level)
    fix = f"{found.fix[:1].upper()}{found.fix[1:]}"
    return Seen("warning", "sandbox", f"{found.level}: {found.reason}", fix)


@audit.command("verify")
def audit_verify(ctx: typer.Context) -> None:
    """Walk the journal's chain from the first entry to the last."""
    from penstock.records import journal

    here = session(ctx)
    with records_here() as database, database.read() as connection:
        count = journal.verify(connection)
    here.write(f"{count:,} entries, chain whole", mark="passed")
    here.data("audit", {"entries": count, "whole": True})


@audit.command("show")
def audit_show(
    ctx: typer.Context,
    *,
    model: Annotated[str | None, typer.Option(help="Only this model's.")] = None,
    most: Annotated[int, typer.Option(help="How many, newest first.")] = 50,
) -> None:
    """Show the newest entries."""
    from penstock.records import journal

    here = session(ctx)
    with records_here() as database, database.read() as connection:
        found = journal.entries(connection, model=model, most=most)
    rows = [(str(one.seq), one.ts[:19], one.actor, one.action, one.body) for one in found]
    for line in columns(rows):
        here.write(line)
    here.data("journal", [asdict(one) for one in found])


@token.command("create")
def token_create(
    ctx: typer.Context,
    person: Annotated[str, typer.Argument(help="Who it stands for.")],
    *,
    role: Annotated[
        str, typer.Option(help="viewer, developer, approver, operator or admin.")
    ] = "developer",
    on: Annotated[
        str, typer.Option(help='Models it may change: "credit-*", or "@Credit Risk", a team.')
    ] = "*",
    days: Annotated[int, typer.Option(help="How long it lives.", min=1, max=3650)] = 90,
) -> None:
    """Make a token; its text is shown this once."""
    from penstock.records import tokens

    here = session(ctx)
    if role not in tokens.ROLES:
        known = ", ".join(tokens.ROLES)
        raise UsageError("PS071", f'"{role}" is no role.', hint=f"Choose from {known}.")
    with records_here(make=True) as database, database.change(person_here()) as change:
        scopes = [
            scope if scope.startswith("read:") else f"{scope.partition(':')[0]}:{on}"
            for scope in tokens.ROLES[role]
        ]
        text = tokens.create(change, person, scopes, life=timedelta(days=days))
    here.write(text)
    here.data("token", {"token": text, "person": person, "role": role, "on": on, "days": days})
    here.note("It is shown this once. From the first token on, every call needs one.")
    here.following("penstock connect URL --token TOKEN")


@token.command("list")
def token_list(ctx: typer.Context) -> None:
    """List tokens without their secrets."""
    from penstock.records import tokens

    here = session(ctx)
    with records_here() as database, database.read() as connection:
        found = tokens.listed(connection)
    rows = [
        (
            str(one["id"]),
            str(one["person"]),
            "revoked" if one["revoked_at"] else f"until {str(one['expires_at'])[:10]}",
            f"used {str(one['last_used_at'])[:16]}" if one["last_used_at"] else "never used",
        )
        for one in found
    ]
    for line in columns(rows):
        here.write(line)
    here.data("tokens", found)


@token.command("revoke")
def token_revoke(
    ctx: typer.Context, token_id: Annotated[str, typer.Argument(help="From token list.")]
) -> None:
    """End a token at once."""
    from penstock.records import tokens

    here = session(ctx)
    with records_here() as database, database.change(person_here()) as change:
        tokens.revoke(change, token_id)
    here.write(f"token {token_id} is revoked", mark="passed")
    here.data("token", {"id": token_id, "revoked": True})


@config.command("schema")
def config_schema(ctx: typer.Context) -> None:
    """Print the JSON Schema of penstock.toml, for editors."""
    import json

    from penstock.config import json_schema

    session(ctx).out.write(json.dumps(json_schema(), indent=2) + "\n")


@config.command("show")
def config_show(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="Folder of the project.")] = Path(),
) -> None:
    """Show every setting of the model, defaults filled in."""
    import json

    from penstock.config import read, resolve

    here = session(ctx)
    settings = resolve(read(path / "penstock.toml"), None).model_dump(mode="json")
    here.data("config", settings)
    for block, value in settings.items():
        if isinstance(value, dict):
            for key, inner in cast("dict[str, object]", value).items():
                here.write(f"{block}.{key} = {json.dumps(inner, ensure_ascii=False)}")
        else:
            here.write(f"{block} = {json.dumps(value, ensure_ascii=False)}")


def explain(
    ctx: typer.Context,
    word: Annotated[
        str | None, typer.Argument(help="A word of Penstock's, or a version: NAME@V.")
    ] = None,
    *,
    row: Annotated[int | None, typer.Option(help="Of a version: why this row's answer.")] = None,
    html: Annotated[Path | None, typer.Option(help="Of a version: write it all here.")] = None,
) -> None:
    """Say what a word means, or what a version looks at."""
    from penstock.cli.explaining import explain_version
    from penstock.cli.glossary import explained, near

    here = session(ctx)
    if word is not None and "@" in word:
        explain_version(here, word, row=row, html=html)
        return
    if word is None:
        for line in columns(sorted(explained().items())):
            here.write(line)
        here.data("glossary", dict(explained()))
        return
    sentence = explained().get(word.lower())
    if sentence is None:
        similar = near(word)
        hint = f"Did you mean {similar}?" if similar else "All words: penstock explain"
        raise NotFoundError("PS069", f'"{word}" is no word of Penstock\'s.', hint=hint)
    here.write(f"{word.lower()}: {sentence}")
    here.data("word", {"word": word.lower(), "meaning": sentence})


def state_folder() -> Path:
    """Return this computer's PENSTOCK_HOME."""
    from penstock.config import state_home

    return state_home(os.environ, is_root=os.geteuid() == 0)


def settings_here(home: Path, options: Mapping[str, Any] | None = None) -> ServerSettings:
    """Return this computer's settings."""
    from penstock.config import server_settings

    return server_settings(home / "server.toml", options=options)


@contextmanager
def records_here(*, make: bool = False) -> Generator[Database]:
    """Give the records of this computer's home."""
    from penstock import wiring
    from penstock.records.database import Database

    home = state_folder()
    settings = settings_here(home)
    path = home / "penstock.db"
    if settings.database.url is None and not path.exists() and not make:
        raise UnreachableError(
            "PS070",
            f"{path} is not there: no server has run in this home.",
            hint="penstock serve, or set PENSTOCK_HOME to the server's.",
        )
    if make:
        database = wiring.database(home, settings)
    else:
        database = Database(wiring.database_url(home, settings), clock=wiring.clock)
    try:
        yield database
    finally:
        database.close()


def person_here() -> str:
    """Return who is at the keyboard, as the journal names them."""
    import getpass

    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


COMMANDS = (serve, reload, demo, doctor, explain)
