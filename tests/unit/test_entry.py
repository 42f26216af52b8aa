"""What trains: each kind of project with the command that its files stand for."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.build.project.entry import run_command
from penstock.build.train import RUNNER, interpreter_folders, training_command
from penstock.config import ModelConfig, parse
from penstock.errors import StoppedError
from tests.unit.test_train import plan_for

FITS = 'model.fit(x)\nif __name__ == "__main__":\n    pass\n'


def project(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def config(build: str = "") -> ModelConfig:
    return parse(f'[model]\nname = "m"\n{build}')


def run(root: Path, files: dict[str, str], build: str = "") -> str:
    return run_command(project(root, files), config(build)).value


def refused(root: Path, files: dict[str, str], build: str = "") -> StoppedError:
    with pytest.raises(StoppedError) as caught:
        run(root, files, build)
    return caught.value


MLPROJECT = """\
name: wine
entry_points:
  main:
    parameters:
      alpha: {type: float, default: 0.5}
      data: {type: path, default: data/red wine.csv}
    command: "python fit.py --alpha {alpha} --data {data}"
"""
DVC = """\
stages:
  train:
    cmd: python src/train.py
    deps: [data/prepared, src/train.py]
    outs: [models/model.pkl]
    metrics:
      - metrics.json: {cache: false}
  prepare:
    cmd: python src/prepare.py --seed ${prepare.seed}
    outs: [data/prepared/train.csv]
"""


@pytest.mark.parametrize(
    ("files", "command"),
    [
        (
            {"MLproject": MLPROJECT, "train.py": ""},
            "python fit.py --alpha 0.5 --data 'data/red wine.csv'",
        ),
        ({"MLproject": "entry_points:\n  fit:\n    command: make fit\n"}, "make fit"),
        ({"MLproject": "name: only\n", "train.py": ""}, "python train.py"),
        (
            {"dvc.yaml": DVC, "params.yaml": "prepare:\n  seed: 7\n", "train.py": ""},
            "python src/prepare.py --seed 7 && python src/train.py",
        ),
        (
            {"dvc.yaml": DVC, "requirements.txt": "dvc[s3]>=3\n"},
            "dvc config --local core.no_scm true && dvc repro --force",
        ),
        ({"pyproject.toml": '[tool.kedro]\npackage_name = "x"\n', "train.py": ""}, "kedro run"),
        ({"src/train.py": "from .features import make\n"}, "python -m src.train"),
        ({"scoring/fit.py": f"from scoring import x\n{FITS}"}, "python -m scoring.fit"),
        ({"main.py": "import fastapi\n", "fit.py": FITS}, "python fit.py"),
        ({"main.py": "import flask\nmodel.fit(x)\n", "fit.py": FITS}, "python main.py"),
        ({"fit.py": FITS, "tests/test_fit.py": FITS, "venv/lib/x.py": FITS}, "python fit.py"),
    ],
)
def test_each_kind_of_project_has_its_command(
    tmp_path: Path, files: dict[str, str], command: str
) -> None:
    assert run(tmp_path, files) == command


def test_stages_in_a_folder_run_there_and_a_list_of_commands_in_its_order(tmp_path: Path) -> None:
    text = "stages:\n  a:\n    wdir: sub dir\n    cmd:\n      - make x\n      - make y\n"

    assert run(tmp_path, {"dvc.yaml": text}) == "(cd 'sub dir' && make x && make y)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stages:\n  a:\n    foreach: [1]\n    do: {cmd: x}\n", "it has foreach"),
        ("stages:\n  a:\n    cmd: run ${seed}\n", r"no value for ${seed}"),
        ("stages:\n  a:\n    wdir: ../up\n    cmd: x\n", "outside the project"),
        ("stages:\n  a:\n    deps: [x]\n", "no command"),
        (
            "stages:\n  a: {cmd: x, deps: [p], outs: [q]}\n  b: {cmd: x, deps: [q], outs: [p]}\n",
            "a, b wait for one another",
        ),
    ],
)
def test_stages_that_are_more_than_commands_need_dvc(
    tmp_path: Path, text: str, words: str
) -> None:
    error = refused(tmp_path, {"dvc.yaml": text})

    assert (error.code, words in error.what) == ("PS036", True), error.what
    assert "[build] run" in error.hint


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ("alpha: float", "alpha of entry point main has no default"),
        ("alpha: {type: float}", "alpha of entry point main has no default"),
        ("alpha: {type: float, default: high}", "'high' of the parameter alpha is no number"),
        ("alpha: {type: uri, default: s3://x/y}", "builds fetch nothing"),
        ("beta: {default: 1}", "alpha of entry point main has no default"),
    ],
)
def test_a_parameter_without_a_usable_default_is_named(
    tmp_path: Path, parameter: str, words: str
) -> None:
    text = f"entry_points:\n  main:\n    parameters: {{{parameter}}}\n    command: fit {{alpha}}\n"

    error = refused(tmp_path, {"MLproject": text})

    assert (error.code, words in error.what) == ("PS035", True), error.what


@pytest.mark.parametrize("text", ["a: [", "- one\n", "\x00", "a: " + "[" * 2000])
def test_a_file_that_is_not_the_yaml_it_should_be_is_said(tmp_path: Path, text: str) -> None:
    error = refused(tmp_path, {"dvc.yaml": text, "train.py": ""})

    assert error.code == "PS034"
    assert error.what.startswith("dvc.yaml cannot be read")


def test_a_file_that_is_not_used_is_not_read(tmp_path: Path) -> None:
    assert run(tmp_path, {"dvc.yaml": "a: ["}, '[build]\nrun = "make"') == "make"


def test_two_files_that_could_be_meant_are_both_named(tmp_path: Path) -> None:
    error = refused(tmp_path, {"fit_a.py": FITS, "fit_b.py": FITS})

    assert error.code == "PS032"
    assert "fit_a.py and fit_b.py" in error.what
    assert 'run = "python fit_a.py" or run = "python fit_b.py"' in error.hint


def test_a_notebook_alone_gets_a_way_out(tmp_path: Path) -> None:
    error = refused(tmp_path, {"look.ipynb": "{}", "train.ipynb": "{}"})

    assert error.code == "PS033"
    assert error.what.startswith("train.ipynb is a notebook")
    assert "nbconvert --to script train.ipynb" in error.hint


# ---- module:function ----


def test_a_function_in_the_project_is_taken(tmp_path: Path) -> None:
    files = {"src/scoring/fit.py": "def train(): ...\n"}

    assert run(tmp_path, files, '[build]\nrun = "scoring.fit:train"') == "scoring.fit:train"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("scoring.fit:trian", 'Did you mean "scoring.fit:train"?'),
        ("scoring.fit:other", "Write def other():"),
        ("scoring.gone:train", "Commit the file"),
    ],
)
def test_a_function_that_is_not_there_is_told_before_anything_runs(
    tmp_path: Path, target: str, words: str
) -> None:
    error = refused(
        tmp_path, {"scoring/fit.py": "def train(): ...\n"}, f'[build]\nrun = "{target}"'
    )

    assert (error.code, words in error.hint) == ("PS037", True)


def test_a_function_runs_by_our_program_in_the_projects_python(tmp_path: Path) -> None:
    from dataclasses import replace

    plan = replace(plan_for(tmp_path), run="scoring.fit:train")

    command = training_command(plan)

    assert list(command.argv) == [sys.executable, str(RUNNER), "scoring.fit:train"]
    assert RUNNER in command.read
    assert set(interpreter_folders(plan.python)) < set(command.read)


SCORED = """\
import train as project_file
import pandas as pd

class Model:
    def predict(self, rows):
        return rows["a"] > 1
    def predict_proba(self, rows):
        return [[1 - a / 4, a / 4] for a in rows["a"]]

def fit():
    return Model(), pd.DataFrame({"a": [0.5, 2.0, 3.0], "b, c": ["x", None, 'q"']})
"""
PLAIN = """\
class Model:
    def predict(self, rows):
        return [row * 2 for row in rows]

def alone():
    return Model()

def unnamed():
    return Model(), [1, 2]

def figures():
    return {"accuracy": 1.0}
"""


def called(root: Path, function: str, text: str = PLAIN) -> str:
    # data.py and train.py are names of our own files beside the program: they must not win.
    files = {"data.py": text, "train.py": "", "plan.py": "raise SystemExit(3)\n"}
    done = subprocess.run(
        [sys.executable, str(RUNNER), f"data:{function}"],
        cwd=project(root, files),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_a_function_returns_is_saved_with_golden_rows(tmp_path: Path) -> None:
    printed = called(tmp_path, "fit", SCORED)

    assert "saved Model as models/model.joblib" in printed
    assert (tmp_path / "models/model.joblib").stat().st_size > 0
    assert list(csv.reader((tmp_path / "golden.csv").read_text().splitlines())) == [
        ["a", "b, c", "prediction", "probability"],
        ["0.5", "x", "False", "0.125"],
        ["2.0", "", "True", "0.5"],
        ["3.0", 'q"', "True", "0.75"],
    ]


@pytest.mark.parametrize("function", ["alone", "unnamed"])
def test_a_model_without_a_table_of_rows_is_saved_without_golden_rows(
    tmp_path: Path, function: str
) -> None:
    called(tmp_path, function)

    assert (tmp_path / "models/model.joblib").is_file()
    assert not (tmp_path / "golden.csv").exists()


def test_a_function_that_returns_no_model_saved_it_itself(tmp_path: Path) -> None:
    told = called(tmp_path, "figures")

    assert "returned dict: no fitted model" in told
    assert not (tmp_path / "models").exists()


def test_without_joblib_the_model_is_pickled(tmp_path: Path) -> None:
    text = "class M:\n    def predict(self, x): return x\n\ndef fit():\n    return M()\n"
    project(tmp_path, {"own.py": text, "joblib.py": "raise ImportError\n"})

    subprocess.run([sys.executable, str(RUNNER), "own:fit"], cwd=tmp_path, check=True)

    assert (tmp_path / "models/model.pkl").read_bytes().startswith(b"\x80")
