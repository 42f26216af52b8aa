"""What is suggested for [evaluate], and the task that the label speaks of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.build.project.detect import look
from penstock.build.project.starter import init
from penstock.build.project.suggest import MOST_CLASSES, candidates, task_of
from penstock.check import evaluation
from penstock.config import parse, read

SMALL = '[model]\nname = "m"\n'


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("code", "label", "why"),
    [
        ('X = df.drop(columns=["late"])', "late", "train.py"),
        ("y = df.pop('late')", "late", "train.py"),
        ('TARGET = "late"', "late", "train.py"),
        ("y_train = frame['late']", "late", "train.py"),
        ("df.drop(columns='other')", "y", "its name"),
    ],
)
def test_a_likely_label_comes_from_the_code_or_from_its_name(
    tmp_path: Path, code: str, label: str, why: str
) -> None:
    write(tmp_path / "train.py", code)
    write(tmp_path / "data" / "loans_test.csv", "a,late,y\n1,0,1\n")

    (found,) = candidates(tmp_path)

    assert (found.path, found.label, found.why) == ("data/loans_test.csv", label, why)


def test_files_of_other_names_and_of_other_kinds_are_not_suggested(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.csv", "a,y\n1,0\n")
    write(tmp_path / "data" / "latest.csv", "a,y\n1,0\n")
    write(tmp_path / "data" / "test.json", "{}")
    write(tmp_path / "tests" / "test.csv", "a,y\n1,0\n")
    write(tmp_path / "data" / "holdout.parquet", "no table")

    assert candidates(tmp_path) == ()


def test_a_suggestion_is_shown_and_never_used(tmp_path: Path) -> None:
    write(tmp_path / "train.py", 'df.pop("late")')
    pq.write_table(pa.table({"a": [1], "late": [0]}), tmp_path / "eval.parquet")

    facts, errors = look(tmp_path, parse(SMALL))

    (told,) = [fact for fact in facts if fact.name == "evaluate"]
    assert told.value == "perhaps eval.parquet, label late (train.py)"
    assert "Not used by itself" in told.overrule
    assert errors == ()


def test_the_task_comes_from_the_label_unless_it_is_set(tmp_path: Path) -> None:
    write(tmp_path / "h.csv", "a,y\n1,0.5\n2,1.5\n3,2.5\n")
    spec = '[evaluate]\ndata = "h.csv"\nlabel = "y"\n'

    found = {f.name: f for f in look(tmp_path, parse(SMALL + spec))[0]}
    stated = {
        f.name: f for f in look(tmp_path, parse(f'{SMALL}task = "classification"\n{spec}'))[0]
    }

    assert (found["task"].value, found["task"].source) == ("regression", "h.csv")
    assert (stated["task"].value, stated["task"].source) == ("classification", "penstock.toml")


@given(
    st.one_of(
        st.lists(st.integers(-50, 50), min_size=1),
        st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1),
        st.lists(st.sampled_from(["a", "b"]), min_size=1),
        st.lists(st.booleans(), min_size=1),
    )
)
def test_the_task_is_the_one_that_the_checks_will_find(values: list[object]) -> None:
    assert MOST_CLASSES == evaluation._MOST_CLASSES  # pyright: ignore[reportPrivateUsage]

    assert task_of(pa.chunked_array([values])) == evaluation.label_task(np.array(values))


# ---- penstock init in a project that is there ----


def settings(folder: Path) -> list[str]:
    lines = (folder / "penstock.toml").read_text().splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize(
    "files",
    [
        {"MLproject": "entry_points:\n  main:\n    command: python x.py\n"},
        {"dvc.yaml": "stages:\n  a:\n    cmd: python x.py\n"},
        {"pyproject.toml": "[tool.kedro]\n"},
        {"fit_a.py": 'm.fit(x)\nif __name__ == "__main__":\n    a()\n'},
        {"train.ipynb": "{}"},
        {"src/deep/code.py": "print()\n"},
    ],
)
def test_init_in_any_kind_of_project_adds_settings_and_no_sample(
    tmp_path: Path, files: dict[str, str]
) -> None:
    for name, text in files.items():
        write(tmp_path / name, text)
    write(tmp_path / "data" / "test.csv", "a,target\n1,0\n")

    made = [one.file for one in init(tmp_path, "m") if one.made]

    assert made == ["penstock.toml", "CARD.md", ".gitignore"]
    assert len(settings(tmp_path)) <= 10
    assert read(tmp_path / "penstock.toml").evaluate is None
    text = (tmp_path / "penstock.toml").read_text()
    assert '# data = "data/test.csv"' in text
    assert '# label = "target"' in text


def test_init_leaves_the_choice_between_two_commands_to_a_person(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        write(tmp_path / name, 'm.fit(x)\nif __name__ == "__main__":\n    go()\n')

    init(tmp_path, "m")

    text = (tmp_path / "penstock.toml").read_text()
    assert "# TODO: a.py and b.py could each be what trains." in text
    assert '# run = "python a.py"' in text
