"""The page, the file, the API and the command that show how a version treats groups."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.check.answers import Answers
from penstock.check.evaluation import Evaluation
from penstock.check.fairness import change
from penstock.check.fairness.report import fairness
from penstock.cli.running import run as penstock
from penstock.config import Fairness
from penstock.web.fairness import charts_of, limit_of
from tests.unit.web_rig import House, get, house, listening

AT = "/models/credit-default/versions/1/fairness"


@functools.cache
def report(task: str = "binary") -> str:
    """A report on three columns, with a champion's gaps beside them."""
    random = np.random.default_rng(4)
    rows = 3000
    sensitive = pa.table(
        {
            "sex": random.choice(["Female", "Male", "<b>other</b>"], rows, p=[0.48, 0.5, 0.02]),
            "age": random.integers(18, 80, rows),
        }
    )
    women = np.array(sensitive.column("sex").to_pylist()) == "Female"
    score = np.clip(random.beta(2, 3, rows) - 0.12 * women, 0.01, 0.99)
    labels = (random.random(rows) < score) * 1
    classes: tuple[object, ...] = (0, 1)
    shares = np.column_stack([1 - score, score])
    kind = "classification"
    if task == "multiclass":
        classes, kind = ("a", "b", "c"), "classification"
        shares = random.dirichlet([1, 1, 1], rows)
        labels = np.array(classes)[random.integers(0, 3, rows)]
    said: Any = np.array(classes)[shares.argmax(axis=1)]
    now, before = Answers(said, shares, classes), Answers(said, shares, classes)
    if task == "binary":
        fairer = np.clip(score + 0.12 * women, 0, 1)
        both = np.column_stack([1 - fairer, fairer])
        before = Answers(both.argmax(axis=1), both, classes)
    if task == "regression":
        kind, labels = "regression", random.normal(100, 15, rows)
        now = before = Answers(labels + random.normal(0, 5, rows) - 2 * women)
    found = Evaluation(sensitive, labels, None, None, sensitive, "d" * 64)
    settings = Fairness(max=0.1 if task != "regression" else 1.0)
    told = fairness(found, labels, now, task=kind, settings=settings, label="paid").report
    moved = change.compare(found, before, now, told, champion=3, settings=settings)
    return json.dumps({**told, "change": moved})


def keep(home: House, text: str) -> None:
    place = home.control.home / "runs" / "1" / "reports"
    place.mkdir(parents=True, exist_ok=True)
    (place / "fairness.json").write_text(text)


@pytest.fixture
def home(tmp_path: Path) -> House:
    found = house(tmp_path)
    found.push()
    keep(found, report())
    return found


def test_the_page_has_every_part_and_no_style_of_its_own(home: House) -> None:
    page = get(home, AT).text

    for part in (
        "By sex",
        "By sex and age",
        "Gets a yes",
        "False alarms",
        "Probabilities held against the truth",
        "Every difference",
        "How it was measured",
        "Compared with v3, in use, the gap by sex grew",
        "A yes is the answer 1 to paid.",
    ):
        assert part in page
    assert not re.search(r"\sstyle=|<style|<script>", page)
    assert "<b>other</b>" not in page
    assert "&lt;b&gt;other&lt;/b&gt;" in page


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks_have_a_page_too(home: House, task: str) -> None:
    keep(home, report(task))

    page = get(home, AT)

    assert page.status_code == 200
    assert ("Found: a" in page.text) == (task == "multiclass")
    assert ("Mean size of errors" in page.text) == (task == "regression")


def test_nothing_is_drawn_beyond_the_edges_and_values_lie_in_their_intervals() -> None:
    for task in ("binary", "multiclass", "regression"):
        for one in json.loads(report(task))["columns"]:
            for chart in charts_of(one):
                for mark in chart.marks:
                    if mark.at is not None:
                        value, low, high = mark.at
                        assert -0.01 <= low <= value <= high <= 100.01
            placed = limit_of(one)
            assert placed is None or placed["low"] <= placed["value"] <= placed["high"] <= 100


def test_a_version_without_a_report_says_how_it_would_get_one(home: House) -> None:
    keep(home, '{"columns": []}')

    told = get(home, f"/api{AT}")

    assert told.status_code == 404
    assert told.json()["error"]["code"] == "PS353"


def test_the_file_to_keep_needs_nothing_from_elsewhere(home: House) -> None:
    file = get(home, f"{AT}.html")

    assert file.headers["content-disposition"].startswith("attachment")
    assert "--d-challenger" in file.text
    assert not re.search(r"(?:src|href)=[\"'](?!#)", file.text)


@pytest.fixture
def command(
    home: House,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    monkeypatch.chdir(tmp_path)
    with listening(home) as url:
        monkeypatch.setenv("PENSTOCK_SERVER", url)

        def call(*arguments: str) -> tuple[int, str, str]:
            code = penstock(list(arguments))
            seen = capsys.readouterr()
            return code, seen.out, seen.err

        yield call


def test_the_command_prints_sentences_and_groups_or_writes_the_file(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, _ = command("fairness", "credit-default@1")
    assert code == 0
    assert re.search(r"By sex\. Of 100 people with sex Female, \d+ get a yes;", out)
    assert re.search(r"^Female +[\d,]+ +[\d.]+% \(", out, re.MULTILINE)
    assert "not judged: needs" in out

    code, out, _ = command("--json", "fairness", "credit-default@1")
    columns: Sequence[Any] = json.loads(out)["data"]["columns"]
    assert [one["column"] for one in columns] == ["sex", "age", "sex + age"]

    code, _, _ = command("fairness", "credit-default@1", "--html", str(tmp_path / "out.html"))
    assert code == 0
    assert "How credit-default v1 treats groups" in (tmp_path / "out.html").read_text()

    assert command("fairness", "credit-default")[0] == 2
    assert command("fairness", "credit-default@9")[0] == 3
