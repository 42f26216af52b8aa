"""What a push would run: each rule with the files that it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.build.plan import Plan, plan
from penstock.build.project.detect import detect
from penstock.config import ModelConfig, parse
from penstock.errors import StoppedError

CONFIG = '[model]\nname = "m"\n'


def config(text: str = "") -> ModelConfig:
    return parse(CONFIG + text)


def project(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_train_py_is_run_before_main_py(tmp_path: Path) -> None:
    project(tmp_path, train_DOT_py="", main_DOT_py="")

    found = detect(tmp_path, config())

    assert (found.run.value, found.run.source) == ("python train.py", "train.py")
    assert "[build] run" in found.run.overrule


def test_a_file_that_imports_its_own_folder_runs_as_a_module(tmp_path: Path) -> None:
    project(tmp_path, src__train_DOT_py="from src.features import make\n")

    assert detect(tmp_path, config()).run.value == "python -m src.train"


def test_a_file_in_src_that_does_not_runs_as_a_script(tmp_path: Path) -> None:
    project(tmp_path, src__train_DOT_py="import pandas\n")

    assert detect(tmp_path, config()).run.value == "python src/train.py"


def test_what_the_configuration_says_wins(tmp_path: Path) -> None:
    project(tmp_path, train_DOT_py="")

    found = detect(tmp_path, config('[build]\nrun = "make model"\nmodel = "out/*.pkl"'))

    assert (found.run.value, found.run.source) == ("make model", "penstock.toml")
    assert found.model_globs == ("out/*.pkl",)


def test_no_command_is_an_error_that_names_what_looks_like_training(tmp_path: Path) -> None:
    project(tmp_path, fit_DOT_py="model.fit(x)", read_DOT_py="print()")

    with pytest.raises(StoppedError, match=r"PS030.*fit\.py") as caught:
        detect(tmp_path, config())

    assert "read.py" not in str(caught.value)
    assert 'run = "python fit.py"' in caught.value.hint


def test_models_are_looked_for_in_the_usual_folders_and_the_root(tmp_path: Path) -> None:
    project(tmp_path, train_DOT_py="")

    globs = detect(tmp_path, config()).model_globs

    assert globs[0] == "model/MLmodel"
    assert "model/*.joblib" in globs
    assert {"models/*.pkl", "artifacts/*.skops", "*.joblib"} <= set(globs)


def test_with_an_adapter_a_whole_folder_is_a_model(tmp_path: Path) -> None:
    project(tmp_path, train_DOT_py="")

    globs = detect(tmp_path, config('[build]\npredict = "adapter.py"')).model_globs

    assert globs[:3] == ("model", "models", "artifacts")


def planned(tmp_path: Path, text: str, champion: int | None, *, asked: bool = True) -> Plan:
    project(tmp_path, train_DOT_py="", requirements_DOT_txt="numpy")
    settings = config(text)
    found = detect(tmp_path, settings)
    number = None if champion is None else {"number": champion}
    return plan(settings, found, champion=number, asked=asked)


def words(result: Plan) -> dict[str, str]:
    return {step.step: f"{step.text} {step.note}".strip() for step in result.steps}


def test_the_plan_of_a_first_version_says_what_is_missing(tmp_path: Path) -> None:
    result = planned(tmp_path, "", None)

    assert words(result)["deploy"] == "alone: a first version"
    assert words(result)["approve"] == "1 person; closes after 14 d"
    assert result.off == ("evaluate", "quality", "fairness", "speed")
    assert result.next_block.startswith("[evaluate]")


def test_the_plan_beside_a_champion_names_it_and_every_limit(tmp_path: Path) -> None:
    text = """\
risk = "high"
[evaluate]
data = "h.csv"
label = "y"
sensitive = ["sex"]
[quality]
primary = "roc_auc"
limits = { roc_auc = { min = 0.8 }, log_loss = { max = 0.4 } }
margin = 0.01
[fairness]
max = 0.1
[speed]
p95_ms = 25
[canary]
steps = [5, 50]
"""

    result = planned(tmp_path, text, 41)

    found = words(result)
    assert found["deploy"] == "beside m@41 (@champion)"
    assert found["quality"] == (
        "roc_auc >= 0.8; log_loss <= 0.4; roc_auc not worse than @champion by more than 0.01"
        " undecided stops"
    )
    assert found["fairness"] == "difference between groups <= 0.1"
    assert found["speed"] == "p95 <= 25 ms"
    assert found["approve"] == "2 people; closes after 14 d"
    assert found["canary"] == "5, 50 % each after 100 requests and no harm"
    assert result.off == ()


def test_a_plan_made_offline_does_not_claim_that_there_is_no_champion(tmp_path: Path) -> None:
    result = planned(tmp_path, "", None, asked=False)

    assert words(result)["deploy"] == "beside the champion, if there is one"
    assert not any("first version" in note for note in result.notes)


def test_a_report_without_limits_is_called_a_report(tmp_path: Path) -> None:
    text = '[evaluate]\ndata = "h.csv"\nlabel = "y"\nsensitive = ["sex"]\n'

    found = words(planned(tmp_path, text, 3))

    assert found["fairness"] == "report on sex no gate: max is not set"
    assert found["speed"] == (
        "no limits; a person judges what takes over 1.5 times as long as @champion"
    )
