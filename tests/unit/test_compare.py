"""Two versions beside each other: the comparison, its page and file, the API and the command."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.build.checkout import changes
from penstock.cli.running import run as penstock
from penstock.config import parse, resolve
from penstock.domain import JSON, CheckResult, Verdict
from penstock.pipeline import comparing
from penstock.records import runs
from penstock.records.runs import Push, Seal
from tests.unit.web_rig import SIGNATURE, House, get, house, listening

NAME = "credit-default"
CONFIG = f"""\
[model]
name = "{NAME}"
[build]
seed = {{seed}}
[evaluate]
data = "holdout.csv"
label = "default"
rows_are = "loans"
positives_are = "defaults"
[quality]
slices = ["region"]
guardrails = {{{{ log_loss = 0.05 }}}}
cost = {{{{ fp = 1, fn = 5 }}}}
"""
ROWS = 1500
DRAW = np.random.default_rng(7)
AGE = DRAW.integers(18, 80, ROWS)
REGION = DRAW.choice(["north", "south"], ROWS)
TRUE_SCORE = DRAW.beta(2, 4, ROWS)
LABEL = (DRAW.random(ROWS) < TRUE_SCORE) * 1
FILES = ({"train.py": "depth = 3\n", "old.sql": "-- one\n"}, {"train.py": "depth = 4\n"})
LOCK = "numpy=={numpy} \\\n    --hash=sha256:" + "0" * 64 + "\n"


def told(score: Any) -> str:
    score = np.clip(score, 0.001, 0.999)
    probability = np.column_stack([1 - score, score])
    return json.dumps(
        {
            "prediction": (score > 0.3).astype(int).tolist(),
            "probability": probability.tolist(),
            "classes": [0, 1],
        }
    )


def committed(home: Path) -> tuple[str, str]:
    """Make the model's repository with a commit for each version; return their ids."""
    work = home / "work"
    repository = home / "repositories" / f"{NAME}.git"
    work.mkdir()

    def git(*arguments: str, at: Path = work) -> str:
        who = ("-c", "user.name=Ines", "-c", "user.email=ines@example.org")
        line = ["git", *who, "-c", "init.defaultBranch=main", *arguments]
        return subprocess.run(
            line, cwd=at, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet")
    found: list[str] = []
    for number, files in enumerate(FILES):
        for old in (path for path in work.iterdir() if path.is_file()):
            old.unlink()
        for name, text in files.items():
            (work / name).write_text(text)
        git("add", "--all")
        git("commit", "--quiet", "--message", f"Version {number + 1} <b>")
        found.append(git("rev-parse", "HEAD"))
    repository.parent.mkdir(parents=True, exist_ok=True)
    git("clone", "--quiet", "--bare", str(work), str(repository))
    return found[0], found[1]


def ran(at: House, commit: str, score: Any, *, seed: int, numpy: str, data: str = "d") -> None:
    """Keep what a run of one version leaves."""
    config = resolve(parse(CONFIG.format(seed=seed)), "classification")
    at.control.acts.register_model("ines", NAME)
    pushed = Push(NAME, "main", commit, "Deeper trees", "ines", config.model_dump(mode="json"), "")
    run = at.control.acts.start_run("ines", pushed)
    digest = f"{run.id:064x}"
    named = (("age", "INT64"), ("region", "BYTES"))
    columns = [{"name": n, "datatype": kind, "optional": False} for n, kind in named]
    signature: JSON = {**SIGNATURE, "columns": columns}
    with at.database.change("penstock") as change:
        version = runs.version_of(change.connection, NAME, run.number)
        runs.seal(change, version, Seal(digest, digest, data * 64, signature, "full"))
    folder = at.control.home / "runs" / str(run.id)
    (folder / "reports").mkdir(parents=True, exist_ok=True)
    lines = ["age,region,default"]
    lines += [f"{a},{r},{y}" for a, r, y in zip(AGE, REGION, LABEL, strict=True)]
    (folder / "evaluation.csv").write_text("\n".join(lines))
    (folder / "reports" / "answers.json").write_text(told(score))
    tracked = {"runs": [{"id": "a", "parent": None, "params": {"depth": seed}}], "models": []}
    (folder / "reports" / "tracking.json").write_text(json.dumps(tracked))
    (folder / "requirements.lock").write_text(LOCK.format(numpy=numpy))
    speed = CheckResult(
        "speed.p95", Verdict.PASSED, f"p95 {seed} ms", {"value": float(seed), "unit": "ms"}
    )
    smoke = CheckResult("smoke.nulls", Verdict.PASSED if seed == 4 else Verdict.UNDECIDED, "nulls")
    at.found(run, speed, smoke)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Two versions, which tests only look at."""
    return two_versions(tmp_path_factory.mktemp("home"))


@pytest.fixture
def fresh(tmp_path: Path) -> House:
    """The same, to be changed."""
    return two_versions(tmp_path)


def two_versions(path: Path) -> House:
    found = house(path)
    first, second = committed(found.control.home)
    noise = np.random.default_rng(1).normal(0, 0.25, ROWS)
    ran(found, first, TRUE_SCORE + noise, seed=3, numpy="2.3.0")
    ran(found, second, TRUE_SCORE + noise / 5, seed=4, numpy="2.4.0")
    return found


def report(at: House, numbers: tuple[int, int] = (1, 2)) -> Any:
    return comparing.compared(at.database, at.control.home, NAME, numbers)


def test_the_same_rows_are_compared_by_the_rules_of_the_gate(home: House) -> None:
    found = report(home)

    quality = found["quality"]
    table = {one["metric"]: one for one in quality["table"]}
    assert (quality["verdict"], quality["reading"]) == ("passed", "better")
    assert quality["lay"]["text"].startswith("of 1,000 loans about ")
    assert "more defaults found, between" in quality["lay"]["text"]
    assert {"roc_auc", "log_loss", "cost", "ece", "f1"} <= set(table)
    assert table["roc_auc"]["difference"] == pytest.approx(quality["difference"])
    assert table["log_loss"]["challenger"] < table["log_loss"]["champion"]
    assert table["log_loss"]["reading"] == "better"
    assert {one["slice"] for one in quality["slices"]} == {"region = north", "region = south"}
    assert [one["check"] for one in quality["guardrails"]] == ["quality.guardrail.log_loss"]


def test_the_other_way_round_everything_has_the_other_sign(home: House) -> None:
    there, back = report(home)["quality"], report(home, (2, 1))["quality"]

    assert back["difference"] == pytest.approx(-there["difference"])
    assert back["low"] == pytest.approx(-there["high"])
    assert (back["verdict"], back["reading"]) == ("failed", "worse")


def test_what_is_other_is_named(home: House) -> None:
    found = report(home)

    assert {(one["name"], one["a"], one["b"]) for one in found["parameters"]} == {
        ("build.seed", 3, 4),
        ("depth", 3, 4),
    }
    assert found["environment"]["packages"] == [{"package": "numpy", "a": "2.3.0", "b": "2.4.0"}]
    assert {(one["path"], one["added"], one["removed"]) for one in found["code"]["files"]} == {
        ("train.py", 1, 1),
        ("old.sql", 0, 1),
    }
    assert [one["message"] for one in found["code"]["commits"]] == ["Version 2 <b>"]
    assert "+depth = 4" in found["code"]["patch"]
    assert [one["check"] for one in found["checks"]] == ["smoke.nulls"]
    assert [(one["check"], one["a"], one["b"]) for one in found["figures"]] == [
        ("speed.p95", 3.0, 4.0)
    ]


def test_versions_judged_on_other_rows_are_not_compared_row_by_row(fresh: House) -> None:
    ran(fresh, "f" * 40, TRUE_SCORE, seed=5, numpy="2.4.0", data="e")

    found = report(fresh, (2, 3))

    assert found["quality"] is None
    assert found["why"] == "they were judged on other evaluation data"
    assert "has no commit ffffffffffff" in found["code"]["why"]
    assert found["environment"]["packages"] == []


def test_answers_that_are_gone_leave_the_rest(fresh: House) -> None:
    (fresh.control.home / "runs" / "1" / "reports" / "answers.json").unlink()

    found = report(fresh)

    assert (found["quality"], found["why"]) == (None, "their answers are not kept any more")
    assert found["parameters"]


def test_a_version_against_itself_differs_in_nothing(home: House) -> None:
    found = report(home, (2, 2))

    assert found["quality"]["difference"] == 0
    assert found["quality"]["reading"] == "not worse"
    assert not any(found[part] for part in ("parameters", "checks"))
    assert (found["code"]["files"], found["code"]["commits"]) == ([], [])


def test_going_back_says_which_commits_are_left_behind(home: House) -> None:
    repository = home.control.home / "repositories" / f"{NAME}.git"
    commits = report(home)["a"]["commit"], report(home)["b"]["commit"]

    found = changes(repository, commits[1], commits[0], most_bytes=40)

    assert (found.back, found.commits, found.cut) == (1, (), True)


def test_the_page_draws_it_and_escapes_what_projects_write(home: House) -> None:
    page = get(home, f"/models/{NAME}/compare/1/2").text

    for part in ("v2 held against v1", "decides", "By slice", "Every changed line", "build.seed"):
        assert part in page
    assert "Version 2 &lt;b&gt;" in page
    assert "Version 2 <b>" not in page
    assert "style=" not in page
    assert '<span class="del">--- one</span>' in page


def test_the_file_needs_nothing_else(home: House) -> None:
    answer = get(home, f"/models/{NAME}/compare/1/2.html")

    assert "credit-default-2-compare.html" in answer.headers["content-disposition"]
    assert "<style>" in answer.text
    assert not re.search(r'(?:src|href)="/(?!models)', answer.text)


def test_words_name_versions_and_others_are_refused(home: House) -> None:
    latest = get(home, f"/api/models/{NAME}/compare/1/latest")
    wrong = get(home, f"/api/models/{NAME}/compare/1/newest")
    none = get(home, f"/api/models/{NAME}/compare/champion/2")

    assert latest.json()["data"]["b"]["number"] == 2
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "PS380")
    assert (none.status_code, none.json()["error"]["code"]) == (404, "PS381")


def test_the_command_tells_it_in_lines(
    home: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening(home) as url:
        penstock(["--server", url, "compare", NAME, "1", "2"])
        out = capsys.readouterr().out
        penstock(["--server", url, "compare", NAME, "1", "2", "--html", str(tmp_path / "c.html")])

    assert "that is: of 1,000 loans" in out
    assert re.search(r"^AUC \(decides\) +\S.*better$", out, re.MULTILINE)
    assert re.search(r"^package +numpy +2\.3\.0 +2\.4\.0$", out, re.MULTILINE)
    assert "held against" in (tmp_path / "c.html").read_text()
