"""`penstock init` and `penstock check`: real files, real git, nothing of the project is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.build.project.starter import init, name_for, sample
from penstock.build.validate import Finding, check_project
from penstock.config import read
from penstock.errors import ConfigurationError, UsageError

CARD = "---\nbenefit: fewer losses\nwork: none\nrisks: few\n---\n"


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A fresh starter project with a filled card, committed."""
    init(tmp_path, "late-payers")
    (tmp_path / "CARD.md").write_text(CARD)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def commit(project: Path) -> None:
    git(project, "add", "-A")
    git(project, "commit", "-qm", "next")


def broken(project: Path) -> list[Finding]:
    return [finding for finding in check_project(project) if finding.level != "ok"]


def test_a_fresh_project_is_whole(project: Path) -> None:
    assert broken(project) == []
    assert {finding.subject for finding in check_project(project)} == {
        "penstock.toml",
        "environment",
        "run",
        "evaluate",
        "CARD.md",
        "git",
    }


def test_the_starter_trains_a_model_as_it_is(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=project, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert (project / "models/model.joblib").stat().st_size > 0


def test_the_sample_can_be_learnt_and_has_no_row_twice() -> None:
    train, holdout = sample(500, seed=1).splitlines(), sample(500, seed=2).splitlines()

    late = [row.endswith(",1") for row in train[1:]]
    assert 0.2 < sum(late) / len(late) < 0.8
    assert not set(train[1:]) & set(holdout[1:])


def test_nothing_that_was_there_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "CARD.md").write_text("mine")
    (tmp_path / "train.py").write_text("mine")

    written = init(tmp_path, "m")

    assert (tmp_path / "CARD.md").read_text() == "mine"
    assert (tmp_path / "train.py").read_text() == "mine"
    assert {one.file: one.made for one in written} == {
        "penstock.toml": True,
        "CARD.md": False,
        ".gitignore": True,
    }


def test_beside_training_code_the_evaluation_is_left_to_be_filled_in(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()

    init(tmp_path, "m")

    assert read(tmp_path / "penstock.toml").evaluate is None
    assert "TODO" in (tmp_path / "penstock.toml").read_text()


def test_a_second_init_makes_nothing(tmp_path: Path) -> None:
    init(tmp_path, "m")

    assert not any(one.made for one in init(tmp_path, "m"))


def test_a_bad_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        init(tmp_path, 'Bad "name"')

    assert list(tmp_path.iterdir()) == []


def test_an_owner_with_quotes_does_no_harm(tmp_path: Path) -> None:
    init(tmp_path, "m", owner='Ada "the\\first"')

    assert read(tmp_path / "penstock.toml").model.owner == 'Ada "the\\first"'


def test_a_file_in_place_of_a_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "data").touch()

    with pytest.raises(UsageError, match="PS050"):
        init(tmp_path, "m")


def test_a_name_is_made_from_a_folder() -> None:
    assert name_for(Path("/x/--_")) == "my-model"
    assert name_for(Path("/x/" + "a" * 80)) == "a" * 63


def test_faults_of_the_configuration_come_with_line_and_fix(project: Path) -> None:
    (project / "penstock.toml").write_text('[model]\nname = "m"\nrisk = "hihg"\n')

    errors = [finding for finding in broken(project) if finding.level == "error"]

    assert [(one.code, one.line, one.fix) for one in errors] == [
        ("PS015", 3, 'Did you mean "high"?')
    ]


def replace(project: Path, old: str, new: str) -> None:
    path = project / "penstock.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    commit(project)


@pytest.mark.parametrize(
    ("old", "new", "code", "fix"),
    [
        ('label = "late"', 'label = "lat"', "PS043", 'Did you mean "late"?'),
        ('label = "late"', 'label = "late"\nid = "loan"', "PS043", "There are age"),
        ('label = "late"', 'label = "late"\nsensitive = ["agee"]', "PS043", 'mean "age"'),
        ("positive = 1", 'positive = "yes"', "PS044", "Its values are"),
        ("data/holdout.csv", "data/gone.csv", "PS042", "Add the file"),
        ("[evaluate]", '[build]\nrun = "python fit.py"\n[evaluate]', "PS041", "Add the file"),
        ("[evaluate]", '[build]\npredict = "ad.py"\n[evaluate]', "PS041", "load(folder)"),
    ],
)
def test_what_the_settings_name_and_the_project_lacks_is_an_error(
    project: Path, old: str, new: str, code: str, fix: str
) -> None:
    replace(project, old, new)

    (found,) = broken(project)

    assert (found.level, found.code) == ("error", code)
    assert fix in found.fix


def test_evaluation_data_that_is_no_table_is_an_error(project: Path) -> None:
    (project / "data/holdout.parquet").write_bytes(b"not a table")
    replace(project, "holdout.csv", "holdout.parquet")

    (found,) = broken(project)

    assert (found.level, found.code, found.file) == ("error", "PS042", "data/holdout.parquet")


def test_evaluation_data_that_git_ignores_would_not_be_pushed(project: Path) -> None:
    git(project, "rm", "-q", "--cached", "data/holdout.csv")
    (project / ".gitignore").write_text("data/holdout.csv\n")
    commit(project)

    (found,) = broken(project)

    assert (found.level, found.code) == ("error", "PS045")
    assert found.fix == "git add -f data/holdout.csv"


def test_data_that_the_build_makes_need_not_be_there(project: Path) -> None:
    replace(project, "holdout.csv", "later.csv")
    replace(project, "positive = 1", "positive = 1\nmade_by_build = true")

    assert broken(project) == []


def test_few_rows_are_a_warning(project: Path) -> None:
    path = project / "data/holdout.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:40]))
    commit(project)

    (found,) = broken(project)

    assert found.level == "warning"
    assert "39 rows" in found.text


def test_no_evaluation_is_a_warning_that_says_what_follows(project: Path) -> None:
    text = (project / "penstock.toml").read_text()
    (project / "penstock.toml").write_text(text[: text.index("[evaluate]")])
    commit(project)

    (found,) = broken(project)

    assert found.level == "warning"
    assert "quality is undecided" in found.text


@pytest.mark.parametrize(
    ("risk", "words"), [("medium", "people who approve"), ("high", "nobody could approve")]
)
def test_an_empty_field_of_the_card_is_a_warning(project: Path, risk: str, words: str) -> None:
    (project / "CARD.md").write_text("---\nbenefit: much\nrisks:\n---\n## Work\nTwo hours.\n")
    replace(project, 'risk = "medium"', f'risk = "{risk}"')

    (found,) = broken(project)

    assert found.text.startswith('"risks" is empty')
    assert words in found.text


def test_a_committed_model_is_a_warning_since_no_build_takes_it(project: Path) -> None:
    (project / "model").mkdir()
    (project / "model/old.pkl").touch()
    commit(project)

    (found,) = broken(project)

    assert (found.level, found.file) == ("warning", "model/old.pkl")


def test_what_is_not_committed_is_a_warning(project: Path) -> None:
    (project / "new.py").touch()

    (found,) = broken(project)

    assert found.text == "1 file is not committed; a push sends the last commit without them."


def test_outside_git_nothing_can_be_pushed(tmp_path: Path) -> None:
    init(tmp_path, "m")

    assert "git" in [finding.subject for finding in broken(tmp_path)]


def test_a_dependency_file_that_cannot_be_read_is_an_error(project: Path) -> None:
    (project / "requirements.txt").rename(project / "Pipfile.lock")
    commit(project)

    (found,) = broken(project)

    assert (found.level, found.code) == ("error", "PS212")
