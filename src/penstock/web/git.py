"""git over HTTP: `git push` is the trigger.

    /git/<model>  ->  git http-backend (git's own program)  ->  hook.py  ->  /internal/git/...

The body streams both ways, so that what a hook prints arrives at once as a ``remote:`` line. The
repository of a new model is made by its first push. `reconcile` starts the runs that a crash
between the moved branch and the started run has lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from penstock.build.checkout import commit_facts, read_file
from penstock.config import parse, resolve
from penstock.domain import MODEL_NAME, Run
from penstock.errors import (
    ConfigurationError,
    NotFoundError,
    PenstockError,
    StoppedError,
    UnreachableError,
    UsageError,
)
from penstock.records import runs
from penstock.web import hook
from penstock.web.access import caller_of, require
from penstock.web.control import Control

MAX_PUSH_BYTES = 256 * 2**20
BRANCH = "refs/heads/"
EMPTY = ".empty"
"""A repository that is never written: what a first push is shown before its own exists."""
_CHUNK = 64 * 1024
_PATH = re.compile(
    r"/(?P<model>[^/]+?)(?:\.git)?/"
    r"(?P<rest>info/refs|git-upload-pack|git-receive-pack)"
)
_HOOKS = ("pre-receive", "post-receive")


class _Asked(NamedTuple):
    model: str
    rest: str
    writes: bool


class GitServer:
    """Runs git's http-backend as CGI."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of a git client."""
        request = Request(scope, receive)
        try:
            asked = _asked(request)
            repository = await run_in_threadpool(self._repository, request, asked)
        except PenstockError as error:
            # git shows plain text to its user.
            answer = PlainTextResponse(f"{error}\n", error.status)
            await answer(scope, receive, send)
            return
        await self._run(request, repository, asked, send)

    def _repository(self, request: Request, asked: _Asked) -> str:
        """Return the name of the repository that answers; made now for a first push."""
        require(request, "push" if asked.writes else "read", asked.model)
        name = f"{asked.model}.git"
        if (self._control.repositories / name).exists():
            return name
        if not asked.writes:
            raise NotFoundError(
                "PS821",
                f"There is no model {asked.model!r} to fetch.",
                hint="Push it first: penstock push.",
            )
        if asked.rest == "info/refs":
            # Asking changes nothing: a repository is made when something is sent.
            name = EMPTY
        make_repository(self._control.repositories / name)
        return name

    async def _run(self, request: Request, repository: str, asked: _Asked, send: Send) -> None:
        process = await asyncio.create_subprocess_exec(
            "git",
            "http-backend",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._environment(request, repository, asked),
            limit=_CHUNK,
        )
        # git answers after it has read everything; what it says meanwhile fits in the pipe.
        await _feed(request, process)
        # To a pusher who left, sending does nothing: the push goes on to its end.
        await _send_back(process, send)
        await process.wait()

    def _environment(self, request: Request, repository: str, asked: _Asked) -> dict[str, str]:
        host, port = request.scope["server"]
        host = f"[{host}]" if ":" in host else host
        settings = {
            "http.receivepack": "true",
            "receive.maxInputSize": str(MAX_PUSH_BYTES),
            "receive.advertiseAtomic": "true",
            "transfer.fsckObjects": "true",
            "transfer.hideRefs": "refs/penstock",
            "core.hooksPath": str(self._control.home / "hooks"),
            "safe.directory": "*",
        }
        return {
            **git_environment(settings),
            "GIT_PROJECT_ROOT": str(self._control.repositories.absolute()),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": f"/{repository}/{asked.rest}",
            "QUERY_STRING": request.scope["query_string"].decode("latin-1"),
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "CONTENT_LENGTH": request.headers.get("content-length", ""),
            "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": request.headers.get("git-protocol", ""),
            "REMOTE_USER": caller_of(request).person,
            "REMOTE_ADDR": request.client.host if request.client else "",
            "PENSTOCK_MODEL": asked.model,
            "PENSTOCK_HOOK_URL": f"http://{host}:{port}",
            "PENSTOCK_HOOK_SECRET": self._control.hook_secret,
        }


def _asked(request: Request) -> _Asked:
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    found = _PATH.fullmatch(path)
    if found is None:
        raise NotFoundError(
            "PS820",
            f"{path} is no address of a repository.",
            hint="Push to /git/NAME: penstock connect URL sets it.",
        )
    model, rest = found["model"], found["rest"]
    if MODEL_NAME.fullmatch(model) is None:
        raise UsageError(
            "PS822",
            f"{model!r} is no name for a model.",
            hint="Use small letters, digits and hyphens, at most 63, not at the ends.",
        )
    service = request.query_params.get("service", "") if rest == "info/refs" else rest
    expected = "GET" if rest == "info/refs" else "POST"
    if service not in {"git-upload-pack", "git-receive-pack"} or request.method != expected:
        raise UsageError(
            "PS823",
            "Only git's smart protocol is spoken here.",
            hint="Use git 2.0 or later.",
        )
    return _Asked(model, rest, service == "git-receive-pack")


async def _feed(request: Request, process: asyncio.subprocess.Process) -> None:
    """Stream the request's body into the process; what it no longer reads is read away.

    A client whose body is not read sees a broken pipe instead of the answer that says why.
    """
    assert process.stdin is not None, "started with a pipe"
    open_ = True
    try:
        async for chunk in request.stream():
            # uvloop raises no error of the pipe's when the process has ended: it must be asked.
            if not open_ or not chunk or process.stdin.is_closing():
                continue
            try:
                process.stdin.write(chunk)
                await process.stdin.drain()
            except (BrokenPipeError, ConnectionResetError):
                open_ = False
    except ClientDisconnect:
        pass
    finally:
        process.stdin.close()


async def _send_back(process: asyncio.subprocess.Process, send: Send) -> None:
    """Send the CGI's answer, chunk by chunk, as it comes."""
    assert process.stdout is not None, "started with a pipe"
    status, headers = await _head(process.stdout)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    async for chunk in _chunks(process.stdout):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _head(answer: asyncio.StreamReader) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Read header lines up to the blank one; ``Status:`` is CGI's own."""
    status, headers = 200, list[tuple[bytes, bytes]]()
    seen = False
    while (line := (await answer.readline()).rstrip(b"\r\n")) or not seen:
        if not line:
            return 500, [(b"content-type", b"text/plain")]
        seen = True
        name, _, value = line.partition(b":")
        if name.lower() == b"status":
            status = int(value.split()[0])
        else:
            headers.append((name.lower(), value.strip()))
    return status, headers


async def _chunks(answer: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while chunk := await answer.read(_CHUNK):
        yield chunk


def git_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which git knows these settings and no others."""
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_COUNT": str(len(settings)),
    }
    for number, (key, value) in enumerate(settings.items()):
        environment[f"GIT_CONFIG_KEY_{number}"] = key
        environment[f"GIT_CONFIG_VALUE_{number}"] = value
    return environment


def write_hooks(control: Control) -> None:
    """Write the two hooks of every repository; each runs hook.py in this very Python."""
    folder = control.home / "hooks"
    folder.mkdir(parents=True, exist_ok=True)
    for name in _HOOKS:
        words = [sys.executable, "-I", str(Path(hook.__file__).absolute()), name]
        # Not `#!python`: the kernel cuts long first lines and splits them at blanks.
        fresh = folder / f".{name}.{uuid.uuid4().hex}"
        fresh.write_text(f"#!/bin/sh\nexec {shlex.join(words)}\n", encoding="utf-8")
        fresh.chmod(0o755)
        fresh.rename(folder / name)


def make_repository(path: Path) -> None:
    """Make an empty bare repository, whole or not at all; one that is there stays."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.parent / f".{uuid.uuid4().hex}"
    _git(path.parent, "init", "--quiet", "--bare", "--initial-branch=main", str(fresh))
    try:
        fresh.rename(path)
    except OSError:
        shutil.rmtree(fresh)
        if not path.exists():
            raise


def check(model: str, text: str | None) -> list[str]:
    """Return what speaks against letting a commit in, as lines; none: it may come."""
    if text is None:
        return [
            "PS824 The commit has no penstock.toml, which says what to build and to check.",
            "  -> Write one with penstock init, commit it, and push again.",
        ]
    try:
        config = parse(text)
    except ConfigurationError as error:
        return [*str(error).splitlines(), "Nothing was changed. Mend it, commit, push again."]
    if config.model.name != model:
        named = config.model.name
        return [
            f"PS825 penstock.toml names the model {named!r}, this repository is {model!r}.",
            f"  -> Push to /git/{named} (penstock connect), or change [model] name.",
        ]
    return []


def received(control: Control, model: str, ref: str, commit: str, *, pusher: str) -> Run:
    """Start the run of a branch that moved; twice the same gives the same run."""
    repository = control.repositories / f"{model}.git"
    content = read_file(repository, commit, "penstock.toml")
    text = None if content is None else content.decode(errors="replace")
    faults = check(model, text)
    if text is None or faults:
        raise StoppedError("PS826", " ".join(faults), hint="Push a commit without this fault.")
    facts = commit_facts(repository, commit)
    card = read_file(repository, commit, "CARD.md") or b""
    push = runs.Push(
        model=model,
        branch=ref.removeprefix(BRANCH),
        commit=commit,
        message=facts.message,
        pusher=pusher or facts.author,
        config=resolve(parse(text), None).model_dump(mode="json"),
        card=card.decode(errors="replace"),
    )
    control.acts.register_model(push.pusher, model)
    run = control.acts.start_run(push.pusher, push)
    # Held by a name of its own, the commit outlives a branch that is moved elsewhere.
    _git(repository, "--git-dir", str(repository), "update-ref", f"refs/penstock/{run.id}", commit)
    return run


def reconcile(control: Control) -> list[Run]:
    """Start the run of each branch whose newest commit has none; return what was started."""
    started: list[Run] = []
    for repository in sorted(control.repositories.glob("*.git")):
        model = repository.name.removesuffix(".git")
        listed = _git(
            repository,
            *("--git-dir", str(repository), "for-each-ref"),
            *("--format=%(objectname) %(refname)", BRANCH),
        )
        for line in listed.splitlines():
            commit, ref = line.split(" ", 1)
            if not _has_run(control, model, ref, commit):
                with contextlib.suppress(StoppedError):
                    started.append(received(control, model, ref, commit, pusher=""))
    return started


def _has_run(control: Control, model: str, ref: str, commit: str) -> bool:
    branch = ref.removeprefix(BRANCH)
    with control.database.read() as connection:
        if not runs.known(connection, model):
            return False
        release = runs.model_of(connection, model).release_branch or branch
        trigger = "push" if branch == release else f"branch-{branch}"
        return any(r.trigger == trigger for r in runs.of_commit(connection, model, commit))


def _git(folder: Path, *arguments: str) -> str:
    reason = "it did not end within 60 s"
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=git_environment({"safe.directory": "*"}),
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout.decode(errors="replace")
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()[:500]
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        reason = str(error)
    raise UnreachableError(
        "PS827",
        f"git {arguments[0]} failed: {reason}",
        hint="Look whether git is installed and the disk has room: penstock doctor.",
    )
