"""What prune takes and what it never touches."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from penstock.adapters.file_store import FileStore
from penstock.cli.running import run
from penstock.domain import Document, Environment, Role, RunState
from penstock.errors import NotFoundError
from penstock.pipeline.upkeep import Leftover, Upkeep, summed
from penstock.ports import MadeEnvironment
from penstock.records import documents, journal, rollouts, runs
from penstock.records.database import Database
from penstock.records.rollouts import Place
from penstock.records.runs import Push, Seal
from tests.fakes import PresentEnvironments

NOW = datetime.fromtimestamp(time.time(), UTC)
OLD = NOW - timedelta(days=90)
CONFIG = {"model": {"owner": "ada", "team": "risk", "risk": "low"}}


@dataclass
class Folders(PresentEnvironments):
    """Environments that are folders with a file in each."""

    root: Path
    gone: list[str] = field(default_factory=list[str])

    def made(self) -> Generator[MadeEnvironment]:
        for folder in sorted(self.root.glob("?*")):
            yield MadeEnvironment(folder.name, folder, folder.stat().st_mtime)

    def remove(self, lock_digest: str) -> None:
        self.gone.append(lock_digest)
        (self.root / lock_digest / "file").unlink()
        (self.root / lock_digest).rmdir()


@dataclass
class Rig:
    home: Path
    database: Database
    store: FileStore
    environments: Folders
    at: list[datetime]

    def prune(self, *, dry_run: bool = False) -> list[Leftover]:
        keeper = Upkeep(self.home, self.database, self.store, self.environments)
        return keeper.prune("mia", dry_run=dry_run)

    def put(self, text: str, *, days: int = 90) -> str:
        """Store a file as it was stored some days ago."""
        file = self.home / "file"
        file.write_text(text)
        digest = self.store.put(file)
        aged(self.store.root / digest[:2] / digest, days)
        return digest

    def environment(self, number: int, *, days: int = 90) -> str:
        folder = self.environments.root / f"{number:064x}"
        folder.mkdir()
        (folder / "file").write_text("x" * 1000)
        aged(folder, days)
        return folder.name

    def version(self, number: int, lock: str, *, ended: bool = True, days: int = 90) -> runs.Run:
        """Seal a version with a manifest and a document, some days ago."""
        self.at[0] = NOW - timedelta(days=days)
        push = Push("credit", "main", f"{number:040x}", "m", "ada", CONFIG)
        with self.database.change("ada") as change:
            run, _ = runs.start(change, push)
        inner = self.put(f"weights {number}")
        manifest = self.put(json.dumps({"penstock.json": {"sha256": inner}}))
        report = self.put(json.dumps({"artifacts": [self.put(f"plot {number}")]}))
        with self.database.change("penstock") as change:
            version = runs.version_of(change.connection, "credit", run.number)
            runs.seal(
                change, version, Seal(manifest, lock, self.put(f"rows {number}"), None, "full")
            )
            documents.add(
                change.connection,
                Document("credit", run.number, "tracking", "application/json", report, 9, OLD),
            )
            if ended:
                moved = runs.move(change, run, RunState.BUILDING, reason="")
                runs.move(change, moved, RunState.FAILED, reason="")
        self.at[0] = NOW
        return run


def aged(path: Path, days: int) -> None:
    at = (NOW - timedelta(days=days)).timestamp()
    os.utime(path, (at, at))


def folder(path: Path, *, days: int = 90) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text("x" * 100)
    aged(path, days)
    return path


@pytest.fixture
def rig(tmp_path: Path) -> Generator[Rig]:
    at = [NOW]
    database = Database(f"sqlite:///{tmp_path / 'penstock.db'}", clock=lambda: at[0])
    database.migrate()
    with database.change("ada") as change:
        runs.register_model(change, "credit")
    environments = Folders(tmp_path / "envs")
    environments.root.mkdir()
    yield Rig(tmp_path, database, FileStore(tmp_path / "artifacts"), environments, at)
    database.close()


def test_environments_of_recent_and_served_versions_stay(rig: Rig) -> None:
    locks = [rig.environment(number) for number in range(1, 9)]
    made = [rig.version(number, lock) for number, lock in enumerate(locks, 1)]
    with rig.database.change("penstock") as change:
        place = Place(made[0].number, Role.CHAMPION, 100)
        rollouts.split(change, "credit", Environment.PRODUCTION, [place], reason="")

    found = rig.prune()

    assert rig.environments.gone == locks[1:3]  # the newest five stay, and the champion's
    assert summed(found)["environment"] == {"count": 2, "bytes": 2000}


def test_an_environment_that_was_used_within_a_day_stays(rig: Rig) -> None:
    rig.environment(1, days=0)

    assert rig.prune() == []


def test_nothing_that_was_used_since_the_oldest_live_run_began_goes(rig: Rig) -> None:
    rig.version(1, rig.environment(1), ended=False, days=10)
    young, old = rig.environment(2, days=9), rig.environment(3, days=11)
    blob, older = rig.put("used", days=9), rig.put("unused", days=11)

    gone = {one.name for one in rig.prune()}

    assert gone == {old, older}
    assert {young, blob} & gone == set()


def test_files_of_the_store_stay_that_any_version_leads_to(rig: Rig, tmp_path: Path) -> None:
    rig.version(1, "a" * 64)
    named = rig.put("named by a report of a run")
    report = tmp_path / "runs" / "1" / "reports" / "tracking.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"sha256": named}))
    kept = {path.name for path in rig.store.root.glob("*/*")}
    orphan = rig.put("orphan")
    part = rig.store.root / orphan[:2] / f".{'0' * 32}.part"
    part.write_text("half")
    aged(part, 2)

    found = rig.prune()

    assert {one.name for one in found} == {orphan, part.name}
    assert {path.name for path in rig.store.root.glob("*/*")} == kept


def test_a_store_that_lacks_a_manifest_is_not_swept(rig: Rig) -> None:
    rig.version(1, "a" * 64)
    with rig.database.read() as connection:
        manifest = runs.version_of(connection, "credit", 1).artifact_digest
    assert manifest is not None
    (rig.store.root / manifest[:2] / manifest).unlink()
    orphan = rig.put("orphan")

    with pytest.raises(NotFoundError, match="PS111"):
        rig.prune()

    assert (rig.store.root / orphan[:2] / orphan).exists()


def test_working_folders_of_ended_runs_go_and_their_logs_stay(rig: Rig, tmp_path: Path) -> None:
    ended = rig.version(1, "a" * 64)
    live = rig.version(2, "b" * 64, ended=False, days=3)
    for one in (ended, live):
        for name in ("checkout", "scratch", "reports"):
            folder(tmp_path / "runs" / str(one.id) / name)

    found = rig.prune()

    assert {one.name for one in found if one.kind == "run"} == {
        *(f"{ended.id}/checkout", f"{ended.id}/scratch"),
    }
    assert (tmp_path / "runs" / str(ended.id) / "reports" / "file").exists()
    assert (tmp_path / "runs" / str(live.id) / "checkout" / "file").exists()


def test_unpacked_versions_that_nobody_serves_go(rig: Rig, tmp_path: Path) -> None:
    served, unserved = rig.version(1, "a" * 64), rig.version(2, "b" * 64)
    with rig.database.change("penstock") as change:
        digests = [
            str(runs.version_of(change.connection, "credit", run.number).artifact_digest)
            for run in (served, unserved)
        ]
        place = Place(served.number, Role.CHAMPION, 100)
        rollouts.split(change, "credit", Environment.PRODUCTION, [place], reason="")
    for digest in digests:
        folder(tmp_path / "models" / digest)
    folder(tmp_path / "models" / ".unpack-dead")

    found = rig.prune()

    assert [one.name for one in found if one.kind == "model"] == [digests[1]]
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [digests[0]]


def test_fetched_data_go_that_no_build_used_for_long(rig: Rig) -> None:
    folder = rig.home / "cache" / "data"
    folder.mkdir(parents=True)
    for name, age_s in (("used", 60), ("unused", 90 * 86400)):
        (folder / name).write_bytes(b"rows")
        used = time.time() - age_s
        os.utime(folder / name, (used, used))

    assert Leftover("data", "unused", 4) in rig.prune()
    assert [path.name for path in folder.iterdir()] == ["used"]


def test_a_dry_run_says_the_same_and_touches_nothing(rig: Rig, tmp_path: Path) -> None:
    rig.environment(1)
    rig.put("orphan")
    folder(tmp_path / "models" / ("c" * 64))

    said = rig.prune(dry_run=True)
    with rig.database.read() as connection:
        actions = [one.action for one in journal.entries(connection, most=9)]

    assert {one.kind for one in said} == {"environment", "file", "model"}
    assert "home.pruned" not in actions
    assert rig.prune() == said


def test_the_journal_says_who_pruned_what(rig: Rig) -> None:
    rig.environment(1)

    rig.prune()

    with rig.database.read() as connection:
        entry = journal.entries(connection, most=1)[0]
    assert (entry.actor, entry.action) == ("mia", "home.pruned")
    assert '"environment":{"bytes":1000,"count":1}' in entry.body


def test_pruning_twice_finds_nothing_more(rig: Rig) -> None:
    rig.environment(1)
    rig.put("orphan")
    rig.prune()

    assert rig.prune() == []


def test_the_command_says_what_would_go_and_asks_before_it_goes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", str(rig.home))
    orphan = rig.put("orphan" * 1000)

    assert run(["prune", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert run(["prune"]) == 2  # nobody is there to say yes
    assert (rig.store.root / orphan[:2] / orphan).exists()
    assert run(["--json", "prune", "--yes"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert "6.0 kB" in said
    assert "files of the store that no version names" in said
    assert [one["name"] for one in told["data"]["removed"]] == [orphan]
    assert not (rig.store.root / orphan[:2] / orphan).exists()
