"""What was found is taken over for the same inputs alone, and never when it failed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from penstock.adapters.file_store import FileStore
from penstock.build import checkout, pack
from penstock.config import ModelConfig, parse, resolve
from penstock.domain import CheckResult, Run, Verdict, Version
from penstock.pipeline import keeping
from penstock.pipeline.tools import Work
from penstock.records import runs
from tests.unit.web_rig import Checkout, House, house

CONFIG = '[model]\nname = "m"\n[evaluate]\ndata = "d.csv"\nlabel = "y"\n'
FOUND = CheckResult("smoke.loads", Verdict.PASSED, "loads", {"value": 1})


@dataclass
class Tools:
    home: Path
    store: FileStore
    database: Any
    clock: Any


class Beside:
    """As much of a run's work as keeping touches."""

    def __init__(self, home: House, weight: str = "1", config: str = CONFIG) -> None:
        root = home.control.home
        self.tools = Tools(root, FileStore(root / "artifacts"), home.database, home.control.clock)
        self.run: Run = home.push("m")
        self.said: list[str] = []
        staged = root / f"staged-{self.run.id}"
        (staged / "model").mkdir(parents=True)
        (staged / "model" / "w.json").write_text(weight)
        told = {"number": self.run.number, "model": "m", "format": "adapter"}
        (staged / pack.DESCRIPTION).write_text(json.dumps(told))
        self.artifact = pack.pack(staged, self.tools.store)
        pack.unpack(self.artifact, self.tools.store, root / "models")
        self.settings: ModelConfig = resolve(parse(config), "classification")
        with home.database.read() as connection:
            version = runs.version_of(connection, "m", self.run.number)
        self.of: Version = replace(
            version, artifact_digest=self.artifact, lock_digest="lock", data_digest="data"
        )

    def version(self) -> Version:
        return self.of

    def config(self) -> ModelConfig:
        return self.settings

    def report(self, name: str) -> Path:
        path = self.tools.home / "reports" / f"{self.run.id}-{name}.json"
        path.parent.mkdir(exist_ok=True)
        return path

    def say(self, step: str, line: str) -> None:
        self.said.append(line)

    @property
    def work(self) -> Work:
        return cast("Work", self)

    @property
    def key(self) -> str:
        return keeping.key(self.work, "check", {"a": 1})


@pytest.fixture
def home(tmp_path: Path) -> House:
    return house(tmp_path)


def kept(beside: Beside, *results: CheckResult) -> None:
    beside.report("answers").write_text("[1, 2]")
    keeping.keep(beside.work, "check", beside.key, results, "answers")


def test_another_version_with_the_same_inputs_takes_over_and_says_from_which(home: House) -> None:
    first = Beside(home)
    kept(first, FOUND)
    second = Beside(home)

    found = keeping.found(second.work, "check", second.key, "answers")

    assert found is not None
    assert found.results == [replace(FOUND, evidence={"value": 1, "taken_over": 1})]
    assert second.report("answers").read_text() == "[1, 2]"
    assert second.said == ["check: taken over from m@1 (same model, data and settings)"]


def test_a_version_takes_over_from_its_own_earlier_attempt(home: House) -> None:
    beside = Beside(home)
    kept(beside, FOUND)

    found = keeping.found(beside.work, "check", beside.key, "answers")

    assert found is not None
    assert "an earlier attempt" in found.sentence(beside.work)


def test_whatever_a_finding_depends_on_changes_its_key(home: House) -> None:
    first = Beside(home)
    others = [
        Beside(home, weight="2").key,
        Beside(home, config=f"{CONFIG}time = 't'\n").key,
        keeping.key(first.work, "explain", {"a": 1}),
        keeping.key(first.work, "check", {"a": 2}),
    ]
    for changed in ({"lock_digest": "x"}, {"data_digest": "x"}, {"signature": {"task": "x"}}):
        beside = Beside(home)
        beside.of = replace(beside.of, **cast("dict[str, Any]", changed))
        others.append(beside.key)

    assert Beside(home).key == first.key
    assert len({first.key, *others}) == len(others) + 1


def test_a_failure_is_not_kept(home: House) -> None:
    beside = Beside(home)
    kept(beside, FOUND, CheckResult("smoke.order", Verdict.FAILED, "no", {}))

    assert keeping.found(beside.work, "check", beside.key, "answers") is None


def test_what_was_pruned_is_done_again(home: House) -> None:
    beside = Beside(home)
    kept(beside, FOUND)
    list(beside.tools.store.sweep({beside.artifact}, 1e12, dry_run=False))

    assert keeping.found(beside.work, "check", beside.key, "answers") is None
    assert beside.said == []


def test_words_for_people_do_not_change_the_digest_of_a_commit(tmp_path: Path) -> None:
    project = Checkout(tmp_path / "project")
    digests: list[str] = []
    for files in (
        {"train.py": "1", "README.md": "a"},
        {"README.md": "b", "CARD.md": "c", "LICENSE": "d"},
        {"train.py": "2"},
    ):
        for name, content in files.items():
            (project.path / name).write_text(content)
        digests.append(checkout.tree_digest(project.path / ".git", project.commit("x")))

    assert digests[0] == digests[1] != digests[2]
