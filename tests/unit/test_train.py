"""Training: how the command runs, which model counts, and what is said when none does."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.sandbox import holder
from penstock.adapters.sandbox.local import LocalSandbox
from penstock.build.checkout import FILE_TIME_S
from penstock.build.data.bindings import bind_data
from penstock.build.data.sources import Sources
from penstock.build.project.detect import model_places
from penstock.build.results.outcome import collect
from penstock.build.train import Plan, interpreter_folders, training_command
from penstock.config import DataSource, ModelConfig
from penstock.errors import StoppedError
from penstock.ports import Finished

DONE = Finished(0)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "checkout"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "run" / "build-train.log"


def plan_for(project: Path, **blocks: Any) -> Plan:
    config = ModelConfig.model_validate({"model": {"name": "credit-default"}, **blocks})
    return Plan(
        config=config,
        commit="3f2a91c" + "0" * 33,
        checkout=project,
        scratch=project.parent / "scratch",
        python=Path(sys.executable),
        run="python train.py",
        model_globs=model_places(config)[0],
        dependency_file="requirements.txt",
    )


def committed(path: Path, content: str = "old") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (FILE_TIME_S, FILE_TIME_S))


def written(path: Path, content: str = "new", *, at: float | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if at is not None:
        os.utime(path, (at, at))


# ---- the command ----


def test_the_command_runs_in_the_project_with_the_locked_python_first(project: Path) -> None:
    command = training_command(plan_for(project))

    assert list(command.argv) == ["/bin/sh", "-c", "python train.py"]
    assert command.cwd == project
    assert command.env["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert command.env["PYTHONPATH"] == f"{project}:{project}/src"
    assert set(command.write) == {project, project.parent / "scratch"}
    assert command.limits.seconds == 3600
    assert not command.network


def test_evaluation_data_is_hidden_from_training(project: Path) -> None:
    evaluate = {"data": "data/holdout.csv", "label": "default"}

    hidden = training_command(plan_for(project, evaluate=evaluate))
    made = training_command(plan_for(project, evaluate={**evaluate, "made_by_build": True}))

    assert list(hidden.mask) == [project / "data" / "holdout.csv"]
    assert list(made.mask) == []


def test_the_projects_variables_win_but_for_the_tracking_store(project: Path) -> None:
    env = {"PYTHONHASHSEED": "7", "MLFLOW_TRACKING_URI": "http://x", "MLFLOW_RUN_ID": "1"}

    command = training_command(plan_for(project, build={"env": env, "network": True}))

    assert command.env["PYTHONHASHSEED"] == "7"
    assert command.env["MLFLOW_TRACKING_URI"].startswith(f"sqlite:///{project.parent}/scratch/")
    assert "MLFLOW_RUN_ID" not in command.env
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in command.env
    assert command.network


def test_an_interpreter_outside_usr_is_shown_with_its_environment() -> None:
    folders = interpreter_folders(Path(sys.executable))

    assert Path(sys.prefix) in folders
    assert all(not folder.is_relative_to("/usr") for folder in folders)
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        assert Path(sys.base_prefix) in folders


# ---- bound data ----


def test_bound_data_is_copied_where_the_project_reads_it_and_looks_old(
    project: Path, tmp_path: Path
) -> None:
    (tmp_path / "loans.csv").write_text("a,b\n")
    digest = hashlib.sha256(b"a,b\n").hexdigest()
    source = DataSource(source=str(tmp_path / "loans.csv"), sha256=digest)

    bind_data(
        {"data/loans.csv": source}, project, Sources(tmp_path / "home"), model="m", say=print
    )

    assert (project / "data" / "loans.csv").read_text() == "a,b\n"
    assert (project / "data" / "loans.csv").stat().st_mtime == FILE_TIME_S


def test_bound_data_with_another_digest_is_refused_without_telling_all_of_it(
    project: Path, tmp_path: Path
) -> None:
    (tmp_path / "loans.csv").write_text("changed\n")
    digest = hashlib.sha256(b"changed\n").hexdigest()
    source = DataSource(source=f"file://{tmp_path}/loans.csv", sha256="9c01" * 16)

    with pytest.raises(StoppedError) as caught:
        bind_data(
            {"data/loans.csv": source}, project, Sources(tmp_path / "home"), model="m", say=print
        )

    assert f"data/loans.csv has sha256 {digest[:8]}…" in caught.value.what
    assert "penstock.toml says 9c019c01…" in caught.value.what
    assert digest not in str(caught.value)


@pytest.mark.parametrize("name", ["absent.csv", "home/secrets/key", "way-in/secrets/key"])
def test_bound_data_that_is_not_there_or_is_penstocks_own_is_not_given(
    project: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "home" / "secrets").mkdir(parents=True)
    (tmp_path / "home" / "secrets" / "key").write_text("hush")
    (tmp_path / "way-in").symlink_to(tmp_path / "home")
    digest = hashlib.sha256(b"hush").hexdigest()
    source = DataSource(source=str(tmp_path / name), sha256=digest)

    with pytest.raises(StoppedError, match=r"PS229 data/x: the server has no file"):
        bind_data({"data/x": source}, project, Sources(tmp_path / "home"), model="m", say=print)

    assert not (project / "data" / "x").exists()


# ---- which model counts ----


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("model.joblib", "joblib"),
        ("model/m.pkl", "joblib"),
        ("models/m.skops", "skops"),
        ("artifacts/m.joblib", "joblib"),
    ],
)
def test_a_new_model_is_found_where_models_lie(
    project: Path, log: Path, name: str, format_: str
) -> None:
    written(project / name)

    built = collect(plan_for(project), DONE, log=log)

    assert built.path == project / name
    assert built.files == (project / name,)
    assert built.format == format_
    assert built.predict is None


def test_a_committed_model_beside_the_new_one_is_not_taken(project: Path, log: Path) -> None:
    committed(project / "models" / "old.joblib")
    written(project / "models" / "new.joblib")

    assert collect(plan_for(project), DONE, log=log).path.name == "new.joblib"


def test_a_committed_model_that_was_written_anew_counts(project: Path, log: Path) -> None:
    committed(project / "model.joblib", "same bytes")
    written(project / "model.joblib", "same bytes")

    assert collect(plan_for(project), DONE, log=log).path.name == "model.joblib"


def test_a_committed_model_alone_is_named_as_stale(project: Path, log: Path) -> None:
    committed(project / "models" / "model.pkl")

    with pytest.raises(StoppedError) as caught:
        collect(plan_for(project), DONE, log=log)

    assert caught.value.code == "PS224"
    assert "models/model.pkl comes from commit 3f2a91c; this build did not" in caught.value.what


def test_no_model_says_where_it_looked_and_what_was_printed(project: Path, log: Path) -> None:
    log.write_text("epoch 1\ncaught: out of luck\n")

    with pytest.raises(StoppedError) as caught:
        collect(plan_for(project), DONE, log=log)

    assert caught.value.code == "PS223"
    assert "`python train.py` ended with 0 but wrote no model" in caught.value.what
    assert "(looked in MLflow, model/, models/, artifacts/, output/, outputs/ and the root)" in (
        caught.value.what
    )
    assert "caught: out of luck" in caught.value.what
    assert "[build] model" in caught.value.hint


def test_several_new_models_need_a_word_from_the_author(project: Path, log: Path) -> None:
    written(project / "models" / "a.joblib")
    written(project / "models" / "b.pkl")

    with pytest.raises(StoppedError, match=r"PS225 .*2 models: models/a.joblib, models/b.pkl"):
        collect(plan_for(project), DONE, log=log)


def test_of_several_that_a_named_pattern_matches_the_newest_counts(
    project: Path, log: Path
) -> None:
    written(project / "out" / "1" / "m.joblib", at=2_000_000_000)
    written(project / "out" / "2" / "m.joblib", at=1_900_000_000)

    built = collect(plan_for(project, build={"model": "out/*/m.joblib"}), DONE, log=log)

    assert built.path == project / "out" / "1" / "m.joblib"


def test_a_named_folder_without_adapter_stands_for_the_model_file_in_it(
    project: Path, log: Path
) -> None:
    written(project / "model" / "readme.txt")
    written(project / "model" / "m.joblib")

    assert collect(plan_for(project, build={"model": "model/"}), DONE, log=log).format == "joblib"


def test_a_folder_with_an_adapter_is_one_model(project: Path, log: Path) -> None:
    committed(project / "adapter.py")
    committed(project / "model" / "vocabulary.txt")
    written(project / "model" / "weights.bin")
    build = {"model": "model/", "predict": "adapter.py"}

    built = collect(plan_for(project, build=build), DONE, log=log)

    assert built.format == "adapter"
    assert built.path == project / "model"
    assert [file.name for file in built.files] == ["vocabulary.txt", "weights.bin"]
    assert built.predict == "adapter.py"


def test_a_folder_with_an_adapter_is_found_without_being_named(project: Path, log: Path) -> None:
    committed(project / "adapter.py")
    written(project / "model" / "weights.joblib")

    built = collect(plan_for(project, build={"predict": "adapter.py"}), DONE, log=log)

    assert built.path == project / "model"


def test_bytecode_does_not_make_a_folder_new(project: Path, log: Path) -> None:
    committed(project / "adapter.py")
    committed(project / "model" / "net.py")
    written(project / "model" / "__pycache__" / "net.pyc")

    with pytest.raises(StoppedError, match="PS224"):
        collect(plan_for(project, build={"predict": "adapter.py"}), DONE, log=log)


def test_an_adapter_that_is_not_there_is_named(project: Path, log: Path) -> None:
    written(project / "model" / "weights.bin")
    build = {"model": "model", "predict": "adapter.py"}

    with pytest.raises(StoppedError, match=r"PS231 .*adapter.py"):
        collect(plan_for(project, build=build), DONE, log=log)


def test_a_format_that_nobody_can_read_is_named(project: Path, log: Path) -> None:
    written(project / "net.onnx")

    with pytest.raises(StoppedError, match=r"PS226 net.onnx is in no format"):
        collect(plan_for(project, build={"model": "net.onnx"}), DONE, log=log)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_is_never_followed_out_of_the_checkout(
    project: Path, log: Path, tmp_path: Path, what: str
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "model.joblib").write_text("of another model")
    if what == "file":
        (project / "model.joblib").symlink_to(tmp_path / "secret" / "model.joblib")
    else:
        (project / "models").symlink_to(tmp_path / "secret")

    with pytest.raises(StoppedError, match="PS230"):
        collect(plan_for(project), DONE, log=log)


def test_a_link_inside_an_adapters_folder_is_left_out(
    project: Path, log: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("hush")
    committed(project / "adapter.py")
    written(project / "model" / "weights.bin")
    (project / "model" / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(project / "model" / "pipe")

    built = collect(plan_for(project, build={"predict": "adapter.py"}), DONE, log=log)

    assert [file.name for file in built.files] == ["weights.bin"]


# ---- the whole, in the real sandbox ----

TRAIN = """
import os, pathlib, socket, tempfile
pathlib.Path("model").mkdir()
seen = [os.environ["PENSTOCK_SEED"]]
with tempfile.NamedTemporaryFile() as file:
    seen.append(pathlib.Path(file.name).parent.name)
try:
    seen.append(pathlib.Path("data/holdout.csv").read_text())
except OSError as error:
    seen.append(error.strerror)
try:
    socket.create_connection(("192.0.2.1", 80), 2)
except OSError as error:
    seen.append(error.strerror)
seen.append(pathlib.Path("data/train.csv").read_text())
pathlib.Path("model/model.pkl").write_text("\\n".join(seen))
"""


def test_training_sees_its_data_but_neither_the_holdout_nor_the_net(
    project: Path, log: Path, tmp_path: Path
) -> None:
    committed(project / "train.py", TRAIN)
    committed(project / "data" / "holdout.csv", "the answers")
    committed(project / "data" / "train.csv", "the questions")
    evaluate = {"data": "data/holdout.csv", "label": "default"}
    plan = plan_for(project, evaluate=evaluate)

    with log.open("wb") as file:
        process = LocalSandbox(tmp_path).start(training_command(plan), stdout=file, stderr=file)
    code = process.wait(timeout=60)

    assert code == 0, log.read_text()
    built = collect(plan, Finished(code), log=log)
    assert built.path.read_text().splitlines() == [
        "0",
        "scratch",
        "Permission denied",
        "Network is unreachable",
        "the questions",
    ]


# ---- what is said when it fails ----

TRACEBACK = """\
epoch 1
Traceback (most recent call last):
  File "{project}/train.py", line 41, in <module>
    main()
  File "{project}/src/features.py", line 7, in main
    frame.astype(float)
    ^^^^^^^^^^^^^^^^^^^
  File "/usr/lib/python3/dist-packages/pandas/core/frame.py", line 1, in astype
    raise
{error}
"""


def failing(project: Path, log: Path, error: str, text: str = TRACEBACK) -> StoppedError:
    committed(project / "train.py")
    committed(project / "src" / "features.py")
    log.write_text(text.format(project=project, error=error))
    with pytest.raises(StoppedError) as caught:
        collect(plan_for(project), Finished(1), log=log)
    return caught.value


def test_a_script_that_raises_is_told_by_its_own_line_and_error(project: Path, log: Path) -> None:
    error = failing(project, log, "ValueError: could not convert string to float: '?'")

    assert error.code == "PS220"
    assert error.what == (
        "src/features.py line 7: ValueError: could not convert string to float: '?'."
    )


def test_the_last_error_of_several_counts(project: Path, log: Path) -> None:
    twice = (
        TRACEBACK.replace("{error}", "KeyError: 'first'")
        + "\nDuring handling of the above exception, another exception occurred:\n\n"
        + 'Traceback (most recent call last):\n  File "{project}/train.py", line 3, in <module>\n'
        + "    run()\n{error}\n"
    )

    error = failing(project, log, "RuntimeError: second", twice)

    assert error.what == (
        "train.py line 3: RuntimeError: second "
        "(it came from src/features.py line 7: KeyError: 'first')."
    )


def test_a_syntax_error_is_told_with_its_line(project: Path, log: Path) -> None:
    text = '  File "{project}/train.py", line 2\n    def (\n        ^\n{error}\n'

    error = failing(project, log, "SyntaxError: invalid syntax", text)

    assert error.what == "train.py line 2: SyntaxError: invalid syntax."


def test_a_missing_module_names_its_package_and_the_file_that_lacks_it(
    project: Path, log: Path
) -> None:
    error = failing(project, log, "ModuleNotFoundError: No module named 'yaml'")

    assert error.code == "PS221"
    assert error.what == "src/features.py imports yaml, which requirements.txt lacks."
    assert "Add PyYAML to requirements.txt or to [environment] extra" in error.hint


def test_a_missing_module_of_the_projects_own_is_not_blamed_on_the_lock(
    project: Path, log: Path
) -> None:
    error = failing(project, log, "ModuleNotFoundError: No module named 'src.model'")

    assert "the project's own" in error.hint


def test_a_host_that_cannot_be_reached_is_explained(project: Path, log: Path) -> None:
    reason = (
        "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='data.example.org', "
        "port=443): Failed to resolve 'data.example.org'"
    )

    error = failing(project, log, reason)

    assert error.code == "PS227"
    assert "src/features.py line 7 tried to reach data.example.org" in error.what
    assert "builds have no network" in error.what


@pytest.mark.parametrize(
    ("code", "said"),
    [(3, "ended with 3"), (134, "ended by signal 6 (SIGABRT)"), (-15, "15")],
)
def test_without_a_python_error_the_code_and_the_last_lines_are_told(
    project: Path, log: Path, code: int, said: str
) -> None:
    log.write_text("cannot allocate\n")

    with pytest.raises(StoppedError, match="PS220") as caught:
        collect(plan_for(project), Finished(code), log=log)

    assert said in caught.value.what
    assert "cannot allocate" in caught.value.what


def test_a_command_that_the_sandbox_ended_for_its_memory_is_told_so(
    project: Path, log: Path
) -> None:
    log.write_text(f"epoch 1\n{holder.too_much(900 << 20, 800 << 20)}")

    with pytest.raises(StoppedError, match="PS209") as caught:
        collect(plan_for(project), Finished(137), log=log)

    assert "ended, for it used 900 MB of memory" in caught.value.what
    assert "800 MB are allowed" in caught.value.what


def test_a_command_that_takes_too_long_is_told_with_its_limit(project: Path, log: Path) -> None:
    plan = plan_for(project, build={"timeout_s": 60})
    written(project / "model.joblib")

    with pytest.raises(StoppedError, match=r"PS222 .* within 60 s\. It printed nothing"):
        collect(plan, Finished(-9, timed_out=True), log=log)


def test_without_a_dependency_file_the_sentence_says_so(project: Path, log: Path) -> None:
    committed(project / "train.py")
    log.write_text("ModuleNotFoundError: No module named 'numpy'\n")
    text = TRACEBACK.format(project=project, error="ModuleNotFoundError: No module named 'numpy'")
    log.write_text(text)
    plan = replace(plan_for(project), dependency_file=None)

    with pytest.raises(StoppedError, match="which the project without a dependency file lacks"):
        collect(plan, Finished(1), log=log)


# ---- several places and files ----


def mlmodel(folder: Path, *, at: float | None = None) -> Path:
    written(folder / "MLmodel", "flavors:\n  sklearn:\n    x: y\n", at=at)
    written(folder / "model.pkl", "weights", at=at)
    return folder


@pytest.mark.parametrize("name", ["model", "models/best", "exported", "outputs/best"])
def test_a_folder_that_was_saved_in_mlflows_format_is_one_model(
    project: Path, log: Path, name: str
) -> None:
    folder = mlmodel(project / name)

    built = collect(plan_for(project), DONE, log=log)

    assert (built.path, built.format) == (folder, "mlflow")
    assert [file.name for file in built.files] == ["MLmodel", "model.pkl"]


def test_of_folders_named_by_the_time_a_glob_takes_the_newest(project: Path, log: Path) -> None:
    mlmodel(project / "runs" / "2026-11-29", at=2_000_000_000)
    newest = mlmodel(project / "runs" / "2026-11-30", at=2_000_000_100)

    built = collect(plan_for(project, build={"model": "runs/*"}), DONE, log=log)

    assert built.path == newest
    assert built.why == "named by [build] model, the newest of 2"


def test_figures_and_requirements_are_no_models(project: Path, log: Path) -> None:
    written(project / "metrics.json", '{"auc": 0.9}')
    written(project / "requirements.txt", "numpy\n")
    written(project / "model.txt", "tree\nversion=v4\n")

    built = collect(plan_for(project), DONE, log=log)

    assert (built.path.name, built.format) == ("model.txt", "lightgbm")


def test_new_files_that_lie_together_are_one_model_for_an_adapter(
    project: Path, log: Path
) -> None:
    committed(project / "adapter.py")
    written(project / "artifacts" / "vectoriser.pkl")
    written(project / "artifacts" / "classifier.pkl")
    committed(project / "artifacts" / "old.pkl")
    build = {"predict": "adapter.py", "model": "artifacts/*.pkl"}

    built = collect(plan_for(project, build=build), DONE, log=log)

    assert (built.path, built.format) == (project / "artifacts", "adapter")
    assert [file.name for file in built.files] == ["classifier.pkl", "vectoriser.pkl"]


def test_two_new_files_at_the_top_are_one_model_for_an_adapter(project: Path, log: Path) -> None:
    committed(project / "adapter.py")
    written(project / "vectoriser.pkl")
    written(project / "net.pt")
    written(project / "metrics.json", "{}")

    built = collect(plan_for(project, build={"predict": "adapter.py"}), DONE, log=log)

    assert sorted(file.name for file in built.files) == ["net.pt", "vectoriser.pkl"]


def test_an_adapter_is_not_given_a_folder_of_plots(project: Path, log: Path) -> None:
    committed(project / "adapter.py")
    written(project / "model" / "net.pt")
    written(project / "outputs" / "roc.png")

    built = collect(plan_for(project, build={"predict": "adapter.py"}), DONE, log=log)

    assert built.path == project / "model"


def test_models_in_two_places_are_for_a_person_to_choose_adapter_or_not(
    project: Path, log: Path
) -> None:
    committed(project / "adapter.py")
    written(project / "model" / "net.pt")
    written(project / "outputs" / "net.pt")

    with pytest.raises(StoppedError, match=r"PS225 .*2 models: model, outputs"):
        collect(plan_for(project, build={"predict": "adapter.py"}), DONE, log=log)


def test_a_model_that_only_an_adapter_could_read_is_named_when_there_is_none(
    project: Path, log: Path
) -> None:
    written(project / "models" / "net.pth")

    with pytest.raises(StoppedError, match=r"PS226 net.pth .*\n.*\[build\] predict"):
        collect(plan_for(project), DONE, log=log)
