"""Commands in a model's repository: init, check, plan, connect, push."""

from __future__ import annotations

import base64
import json as json_
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from penstock.cli import looking
from penstock.cli.session import Session, columns, git, session
from penstock.client import Client
from penstock.errors import (
    ConfigurationError,
    NotFoundError,
    PenstockError,
    StoppedError,
    UnreachableError,
    UsageError,
)

MARK_OF = {"ok": "passed", "warning": "warning", "error": "failed"}
KEPT_IN = "penstock.config"
"""File beside git's own configuration that holds address and token, readable by its owner."""


def init(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Name of the model.")] = None,
    *,
    risk: Annotated[str, typer.Option(help="low, medium or high.")] = "medium",
    path: Annotated[Path, typer.Option(help="Folder of the project.")] = Path(),
) -> None:
    """Write what a model repository needs; never overwrite a file."""
    from penstock.build.project import starter

    here = session(ctx)
    folder = path.resolve()
    owner = git("config", "user.email", cwd=folder if folder.is_dir() else None) or ""
    written = starter.init(folder, name or starter.name_for(folder), owner=owner, risk=risk)
    rows = [
        ("Made" if one.made else "Kept", one.file, one.why if one.made else "(was there)")
        for one in written
    ]
    for line in columns(rows):
        here.write(line)
    facts = _facts(here, folder)
    here.data("init", {"files": [asdict(one) for one in written], "facts": facts})
    here.following("penstock check")


def check(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="Folder of the project.")] = Path(),
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings stop, too.")] = False,
) -> int:
    """Validate the project as the server does first: offline, in seconds."""
    return _check(session(ctx), path, strict=strict)


def _check(here: Session, path: Path, *, strict: bool) -> int:
    from penstock.build.validate import check_project

    facts = _facts(here, path.resolve())
    findings = check_project(path.resolve())
    for finding in findings:
        code = f"{finding.code} " if finding.code else ""
        place = f" ({_place(finding.file, finding.line)})" if finding.level != "ok" else ""
        line = f"{finding.subject:<20}  {code}{finding.text}{place if finding.file else ''}"
        here.write(line, mark=MARK_OF[finding.level])
        if finding.fix and finding.level != "ok":
            here.write(f"  try                   {finding.fix}")
    here.data("check", {"findings": [asdict(one) for one in findings], "facts": facts})
    errors = sum(finding.level == "error" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    here.write(f"{_count(errors, 'error')}, {_count(warnings, 'warning')}. Nothing was sent.")
    if errors or (strict and warnings):
        return StoppedError.exit_code
    here.following("penstock plan")
    return 0


def _facts(here: Session, folder: Path) -> list[dict[str, str]]:
    """Show what was found in a project: value, file, and how to overrule it."""
    from penstock.build.project.detect import look
    from penstock.config import read

    try:
        config = read(folder / "penstock.toml")
    except ConfigurationError:
        return []
    facts, _ = look(folder, config)
    for line in columns((f.name, f.value, f.source, f.overrule) for f in facts):
        here.write(line)
    return [asdict(fact) for fact in facts]


def plan(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="Folder of the project.")] = Path(),
) -> None:
    """Say what a push would do; send nothing."""
    from penstock.build.plan import plan as planned
    from penstock.build.project.detect import detect
    from penstock.config import read

    here = session(ctx)
    folder = path.resolve()
    config = read(folder / "penstock.toml")
    champion, unknown = _champion(here, config.model.name)
    result = planned(config, detect(folder, config), champion=champion, asked=not unknown)
    branch = git("rev-parse", "--abbrev-ref", "HEAD", cwd=folder) or "this folder"
    commit = git("rev-parse", "--short", "HEAD", cwd=folder)
    at = f"{branch} ({commit})" if commit else branch
    here.write(f"{result.model}: what a push of {at} would do")
    stage = ""
    rows: list[tuple[str, str, str, str]] = []
    for step in result.steps:
        rows.append((step.stage if step.stage != stage else "", step.step, step.text, step.note))
        stage = step.stage
    for line in columns(rows):
        here.write(line)
    for text in (*result.notes, *unknown):
        here.write(f"Note: {text}")
    if result.off:
        here.write(f"Off: {', '.join(result.off)}.   Next useful block: {result.next_block}.")
    here.write("Nothing was sent.")
    here.data("plan", asdict(result))
    here.following("penstock push")


def _champion(here: Session, name: str) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
    """Return the version that serves now, or why that is not known; a plan works offline."""
    client = Client(here.address(), here.token(), timeout_s=2)
    try:
        number = looking.field(client.status(name), "champion")
    except NotFoundError:
        return None, ()
    except UnreachableError:
        return None, (f"{client.url} does not answer, so this plan knows no champion.",)
    return (None, ()) if number is None else ({"number": number}, ())


def connect(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(help="Address of the server.")],
    *,
    token: Annotated[
        str | None, typer.Option(envvar="PENSTOCK_TOKEN", help="What the server knows you by.")
    ] = None,
) -> None:
    """Set the git remote ``penstock`` and keep the token for this repository."""
    from penstock.config import read

    here = session(ctx)
    client = Client(url, token)
    top = git("rev-parse", "--show-toplevel")
    if top is None:
        raise UsageError(
            "PS060", f"{Path.cwd()} is not a git repository.", hint="git init, then again."
        )
    name = read(Path.cwd() / "penstock.toml").model.name
    remote = f"{client.url}/git/{name}"
    known = git("remote", "get-url", "penstock") is not None
    if git("remote", "set-url" if known else "add", "penstock", remote) is None:
        raise UsageError("PS061", "git would not set the remote.", hint="Look at git remote -v.")
    _keep(client.url, token)
    here.write(f"remote penstock is {remote}", mark="passed")
    if token and _in_the_clear(client.url):
        here.note(f"{client.url} is not encrypted: the token can be read on the way.")
    try:
        client.health()
    except UnreachableError as error:
        here.note(f"{error.what} The remote is set all the same.", mark="warning")
    here.data("connect", {"model": name, "remote": remote, "token": token is not None})
    here.following("penstock push")


def _keep(url: str, token: str | None) -> None:
    """Write address and token into a file that git includes; no secret stands in an argv."""
    folder = git("rev-parse", "--git-common-dir")
    assert folder is not None, "inside a repository git knows its folder"
    lines = ["[penstock]", f"\turl = {json_.dumps(url)}"]
    if token:
        basic = base64.b64encode(f"penstock:{token}".encode()).decode()
        lines += [f"\ttoken = {json_.dumps(token)}", f"[http {json_.dumps(f'{url}/')}]"]
        lines += [f'\textraHeader = "Authorization: Basic {basic}"']
    path = Path(folder) / KEPT_IN
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")
    temporary.replace(path)
    included = (git("config", "--get-all", "include.path") or "").splitlines()
    if KEPT_IN not in included:
        git("config", "--add", "include.path", KEPT_IN)


def push(
    ctx: typer.Context,
    *,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Stay until it waits or ends.")
    ] = (True),
) -> int:
    """Check, git push, watch."""
    from penstock.config import read

    here = session(ctx)
    if git("remote", "get-url", "penstock") is None:
        raise UsageError(
            "PS062", "This repository has no remote penstock.", hint="penstock connect URL"
        )
    branch, commit = git("symbolic-ref", "--short", "HEAD"), git("rev-parse", "HEAD")
    if branch is None or commit is None:
        raise UsageError(
            "PS063", "There is no branch to push.", hint="git switch -c main; commit."
        )
    quiet = replace(here, json=False, out=here.err)
    if (code := _check(quiet, Path(), strict=False)) != 0:
        return code
    run = _git_push(here, branch, stay=watch)
    name = read(Path("penstock.toml")).model.name
    if run is None:
        run = looking.run_of_commit(here.client(), name, commit)
        here.note("The server has this commit already.")
    if not watch:
        here.data("push", {"model": name, "commit": commit, "run": run})
        here.following(f"penstock watch {run}")
        return 0
    return looking.follow(here, run, exit_status=True, seen=True)


def _git_push(here: Session, branch: str, *, stay: bool) -> int | None:
    """Push, show what git shows, and return the run that the server has named."""
    run: int | None = None
    left = False
    command = ["git", "push", "--progress", "penstock", branch]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as pushing:
        assert pushing.stderr is not None, "stderr is a pipe"
        for line in pushing.stderr:
            here.note(line.rstrip("\n"))
            if named := re.search(r"Penstock run (\d+)\b", line):
                run = int(named[1])
                if not stay:
                    # The run is recorded by now; leaving the stream changes nothing on the server.
                    left = True
                    pushing.terminate()
                    break
    if pushing.returncode != 0 and not left:
        raise _refused(run)
    return run


def _refused(run: int | None) -> PenstockError:
    if run is not None:
        return UnreachableError(
            "PS064",
            f"The connection broke after run {run} had started; the run goes on.",
            hint=f"penstock watch {run}",
        )
    return UnreachableError(
        "PS065",
        "git push failed; git's own reason stands above. No run was started.",
        hint="penstock doctor, or mend what git names and push again.",
    )


def _in_the_clear(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1")


def _place(file: str, line: int | None) -> str:
    return file if line is None else f"{file}:{line}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


COMMANDS = (init, check, plan, connect, push)
