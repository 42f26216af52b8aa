"""The engines under test, and the little world that their tests need around them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from penstock.adapters.dbos_engine import DbosEngine, durable_engine
from tests.replay_engine import ReplayEngine


class MemoryRig:
    def __init__(self, folder: Path) -> None:
        self.engine = ReplayEngine()
        self._database = sa.create_engine("sqlite://")

    def start(self) -> None:
        self.engine.launch()

    @contextmanager
    def transaction(self) -> Generator[sa.Connection]:
        with self._database.begin() as connection:
            yield connection

    def finish(self, *ids: str) -> dict[str, str]:
        self.engine.drain()
        return self.engine.states(ids)

    def now_s(self) -> float:
        return self.engine.now_s

    def close(self) -> None:
        self.engine.close()
        self._database.dispose()


class DbosRig:
    """Work is enqueued as another process does it: through an engine that never launches."""

    def __init__(self, folder: Path) -> None:
        self.home = folder
        self.url = f"sqlite:///{folder}/penstock.db"
        self.engine = self.other()
        self._client = self.other()
        self._database = durable_engine(self.url)

    def other(self) -> DbosEngine:
        return DbosEngine(
            self.url, home=self.home, executor_id="test-1", retry_pauses_s=(0.01, 0.01, 0.01)
        )

    def start(self) -> None:
        self.engine.launch()

    @contextmanager
    def transaction(self) -> Generator[sa.Connection]:
        with self._database.begin() as connection:
            yield connection

    def finish(self, *ids: str) -> dict[str, str]:
        ended = {"done", "failed", "cancelled"}
        eventually(lambda: set(self._client.states(ids).values()) <= ended)
        return self._client.states(ids)

    def now_s(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        self.engine.close()
        self._client.close()
        self._database.dispose()


def eventually(condition: Callable[[], bool], *, within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.02)


Rig = MemoryRig | DbosRig


class Diary:
    """What stretches did, in order; written from several threads."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._lock = threading.Lock()

    def write(self, line: str) -> str:
        with self._lock:
            self.lines.append(line)
        return line


def diary_stretch(rig: Rig, diary: Diary) -> None:
    async def work(argument: str) -> None:
        await rig.engine.step("write", lambda: diary.write(argument))

    rig.engine.register("work", work)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that is dead and not yet reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
