"""The README's pictures, taken of a real server: ``make pictures``.

    python docs/pictures.py              play the demo, then take them
    python docs/pictures.py --url URL    take them of a server that runs

Writes docs/pictures/{fleet,rollout}-{light,dark}.png. Exits with 1 when a page scrolls sideways
or writes an error to the browser's console, as a breach of its content security policy does.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, ConsoleMessage, sync_playwright

from penstock.client import Client

OUT = Path(__file__).parent / "pictures"
WIDTH, HEIGHT = 1280, 1000
SETTLED_MS = 1500
"""Charts of a live page are drawn after its first events."""


@contextlib.contextmanager
def demo() -> Generator[str]:
    """Play the demo to its end and give its address; end it afterwards."""
    command = [
        *(sys.executable, "-u", "-c", "from penstock.cli import main; main()"),
        *("demo", "--port", "0"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None, "started with a pipe"
        try:
            address = ""
            for line in process.stdout:
                print(line, end="", flush=True)
                if found := re.search(r"Dashboard (http://\S+)", line):
                    address = found[1]
                if "ctrl-c" in line.lower():  # its last line: it stays up from here on
                    break
            else:
                sys.exit("The demo ended before its pictures could be taken.")
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.read()


def rollout_of(client: Client) -> int:
    """Return the canary to show: the one with the most batches, so that its charts are full."""
    runs = [client.run(run["id"]) for run in client.runs()["runs"]]
    found = [client.rollout(run["rollout"]) for run in runs if run["rollout"]]
    canaries = [one for one in found if one["batches"]]
    if not canaries:
        sys.exit("The server has had no canary yet; push a second version first.")
    return max(canaries, key=lambda one: len(one["batches"]))["rollout"]["id"]


def take(browser: Browser, address: str, name: str) -> list[str]:
    """Take one page in both themes and return what was wrong with it."""
    faults: list[str] = []
    themes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for theme in themes:
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=theme, device_scale_factor=1
        )

        def heard(said: ConsoleMessage, theme: str = theme) -> None:
            if said.type == "error":
                faults.append(f"{name}, {theme}: {said.text}")

        page.on("console", heard)
        page.goto(address, wait_until="load")
        page.wait_for_timeout(SETTLED_MS)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            faults.append(f"{name}, {theme}: scrolls sideways")
        ends = page.evaluate("document.querySelector('footer').getBoundingClientRect().bottom")
        page.screenshot(
            path=OUT / f"{name}-{theme}.png",
            clip={"x": 0, "y": 0, "width": WIDTH, "height": min(HEIGHT, ends)},
        )
        page.close()
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the README's pictures.")
    parser.add_argument("--url", help="of a server that runs; else the demo is played")
    url: str | None = parser.parse_args().url
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    OUT.mkdir(exist_ok=True)
    with (
        contextlib.nullcontext(url) if url else demo() as address,
        sync_playwright() as started,
        # Chromium's own sandbox does not start as root; the pages are ours.
        started.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser,
    ):
        faults = take(browser, f"{address}/", "fleet")
        number = rollout_of(Client(address))
        faults += take(browser, f"{address}/rollouts/{number}", "rollout")
    for fault in faults:
        print(fault)
    print(f"Pictures are in {OUT}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
