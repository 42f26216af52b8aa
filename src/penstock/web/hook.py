"""git's hooks: they ask the running server and print what it says.

Run by git in the server's own Python, ``python -I hook.py pre-receive``; standard library only,
nothing of the pushed repository is run or imported. What was pushed lies in git's quarantine
until pre-receive ends well, and only this process sees it there: that is why penstock.toml is
read here and sent to the server. When post-receive starts, the push is done; whatever happens to
the pusher from then on changes nothing.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from typing import Any, NoReturn
from urllib.parse import urlsplit

BRANCH, TAG = "refs/heads/", "refs/tags/"
FOLLOW_S = 1800
MAX_CONFIG_BYTES = 256 * 1024
ASK_TIMEOUT_S = 60


def main() -> int:
    """Do the hook that is named on the command line; git tells the refs on stdin."""
    pushed = [line.split() for line in sys.stdin.read().splitlines() if line.strip()]
    branches = [
        (old, new, ref) for old, new, ref in pushed if ref.startswith(BRANCH) and new.strip("0")
    ]
    if sys.argv[1] == "pre-receive":
        for _old, _new, ref in pushed:
            if not ref.startswith(BRANCH):
                say(f"{ref.removeprefix('refs/')} is kept and starts nothing: only branches do.")
        sound = [check(new, ref) for _old, new, ref in branches]
        return 0 if all(sound) else 1
    return follow([received(new, ref) for _old, new, ref in branches])


def check(commit: str, ref: str) -> bool:
    """Ask whether a commit may come in, and print why not."""
    shown = subprocess.run(
        ["git", "cat-file", "blob", f"{commit}:penstock.toml"], capture_output=True, check=False
    )
    text = None
    if shown.returncode == 0:
        text = shown.stdout[: MAX_CONFIG_BYTES + 1].decode(errors="replace")
    told = ask("/internal/git/check", {"ref": ref, "commit": commit, "config": text})
    for line in told["lines"]:
        say(line)
    return bool(told["ok"])


def received(commit: str, ref: str) -> int | None:
    """Tell the server of a branch that moved; return the run that it started."""
    pusher = os.environ.get("REMOTE_USER", "")
    told = ask("/internal/git/received", {"ref": ref, "commit": commit, "pusher": pusher})
    for line in told["lines"]:
        say(line)
    run: int | None = told["run"]
    return run


def follow(started: list[int | None]) -> int:
    """Print the first run's lines until it waits, ends, or this took too long."""
    known = [run for run in started if run is not None]
    if not known:
        return 0
    ends = time.monotonic() + FOLLOW_S
    connection = connect(ASK_TIMEOUT_S)
    try:
        connection.request("GET", f"/internal/runs/{known[0]}/stream", headers=proof())
        answer = connection.getresponse()
        while line := answer.readline():
            text = line.decode(errors="replace").rstrip("\n")
            if text and not text.startswith("exit "):
                say(text)
            if time.monotonic() > ends:
                say(f"Still running. Go on with: penstock watch {known[0]}")
                break
    except (OSError, http.client.HTTPException):
        say(f"The run goes on. Follow it with: penstock watch {known[0]}")
    finally:
        connection.close()
    return 0


def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post JSON to the server and return what it says; end with a sentence when it cannot."""
    body["model"] = os.environ["PENSTOCK_MODEL"]
    connection = connect(ASK_TIMEOUT_S)
    try:
        headers = {**proof(), "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body).encode(), headers)
        answer = connection.getresponse()
        told: dict[str, Any] = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        stop(f"The Penstock server does not answer ({error}). Push again.")
    finally:
        connection.close()
    if "error" in told:
        stop(f"{told['error']['code']} {told['error']['message']}")
    data: dict[str, Any] = told["data"]
    return data


def connect(timeout_s: float) -> http.client.HTTPConnection:
    """Return a connection to the server that called us."""
    address = urlsplit(os.environ["PENSTOCK_HOOK_URL"])
    return http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_s)


def proof() -> dict[str, str]:
    """Return the header that only this server's hooks can send."""
    return {"Penstock-Hook": os.environ["PENSTOCK_HOOK_SECRET"]}


def say(line: str) -> None:
    """Print a line; git brings it to the pusher at once. A pusher who left is no fault."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 -- until the end


def stop(line: str) -> NoReturn:
    """Print a line and refuse."""
    say(line)
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
