"""What training tracked with MLflow: read by a program of our own, and which model counts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.sandbox.local import LocalSandbox
from penstock.build.checkout import FILE_TIME_S
from penstock.build.project.detect import model_places
from penstock.build.results import tracking
from penstock.build.results.outcome import collect
from penstock.build.results.tracking import NOTHING, Tracked, reading, understood
from penstock.build.train import Plan, training_command
from penstock.config import ModelConfig
from penstock.errors import StoppedError
from penstock.ports import Finished
from tests.unit.tracking_stores import BEGAN_MS, SqliteStore, file_store, model_files

DONE = Finished(0)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_for(tmp_path)


def plan_for(folder: Path, **blocks: Any) -> Plan:
    config = ModelConfig.model_validate({"model": {"name": "credit-default"}, **blocks})
    (folder / "checkout").mkdir(exist_ok=True)
    (folder / "scratch").mkdir(exist_ok=True)
    return Plan(
        config=config,
        commit="3f2a91c" + "0" * 33,
        checkout=folder / "checkout",
        scratch=folder / "scratch",
        python=Path(sys.executable),
        run="python train.py",
        model_globs=model_places(config)[0],
        dependency_file="requirements.txt",
        began_ms=BEGAN_MS,
    )


@pytest.fixture
def store(plan: Plan) -> Callable[..., SqliteStore]:
    """The private store that training got."""

    def make(*, three: bool = True) -> SqliteStore:
        return SqliteStore(plan.scratch / "mlflow.db", plan.checkout, three=three)

    return make


def read(plan: Plan) -> Tracked:
    """Run the reader as it is run, but for the sandbox."""
    folder = plan.checkout.parent
    shutil.rmtree(folder / "copies", ignore_errors=True)
    command = reading(plan, folder / "copies")
    answer = folder / "answer.json"
    with answer.open("wb") as output:
        subprocess.run(list(command.argv), cwd=command.cwd, stdout=output, check=True)
    return understood(answer, plan)


def built(plan: Plan, tracked: Tracked) -> tuple[str, str, str]:
    """What the build left, as path, format and reason."""
    found = collect(plan, DONE, log=plan.checkout.parent / "log", tracked=tracked)
    return found.path.relative_to(plan.checkout).as_posix(), found.format, found.why


def stopped(plan: Plan, tracked: Tracked) -> StoppedError:
    with pytest.raises(StoppedError) as caught:
        collect(plan, DONE, log=plan.checkout.parent / "log", tracked=tracked)
    return caught.value


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- what is read ----


@pytest.mark.parametrize("three", [True, False])
def test_runs_are_read_with_all_that_they_logged_nested_ones_too(
    plan: Plan, store: Callable[..., SqliteStore], three: bool
) -> None:
    made = store(three=three)
    outer = made.run(
        "outer", params={"C": 1.0}, metrics={"loss": [1.0, 0.5, 0.25]}, tags={"team": "x"}
    )
    child = made.run("child", parent=outer, metrics={"acc": [0.9], "lost": [None]})
    made.run("broken", status="FAILED", experiment=2)
    made.experiment(2, "other")
    notes = made.artifact(outer, "docs/notes.txt", "hi")
    folder = made.log_model(child)
    made.register("churn", 1, folder, child)
    made.close()

    tracked = read(plan)
    told = tracking.report(tracked, hold=digest_of, but=None)

    assert [(r["name"], r["parent"], r["experiment"], r["status"]) for r in told["runs"]] == [
        ("outer", None, "credit", "FINISHED"),
        ("child", outer, "credit", "FINISHED"),
        ("broken", None, "other", "FAILED"),
    ]
    first, second = told["runs"][:2]
    assert first["params"] == {"C": "1.0"}
    assert first["metrics"] == {"loss": 0.25}
    assert first["history"] == {"loss": 3}
    assert first["tags"] == {"team": "x"}
    assert first["began"] == "2026-11-30T19:04:26+00:00"
    assert first["artifacts"] == [
        {"path": "docs/notes.txt", "sha256": digest_of(notes), "bytes": 2, "kept": True}
    ]
    assert second["metrics"] == {"acc": 0.9}
    assert second["not_numbers"] == ["lost"]
    assert second["artifacts"] == []
    assert [(m["name"], m["flavors"], m["registered"]) for m in told["models"]] == [
        ("model", ["python_function", "sklearn"], [{"name": "churn", "version": "1"}])
    ]
    assert [a["path"] for a in told["models"][0]["artifacts"]] == [
        "MLmodel",
        "model.pkl",
        "requirements.txt",
    ]
    assert tracked.summary == "MLflow: 3 runs in 2 experiments, 1 model logged, 1 registered"
    assert json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("three", [True, False])
@pytest.mark.parametrize("where", ["mlruns", "experiments/tracking"])
def test_a_file_store_that_the_project_chose_is_read_as_well(
    plan: Plan, three: bool, where: str
) -> None:
    file_store(plan.checkout / where, three=three)

    told = tracking.report(read(plan), hold=digest_of, but=None)

    assert told["stores"] == [where]
    assert [(r["name"], r["parent"], r["experiment"]) for r in told["runs"]] == [
        ("outer", None, "other"),
        ("child", "aa", "other"),
    ]
    outer, child = told["runs"]
    assert child["params"] == {"C": "2.0", "tree/depth": "6"}
    assert child["history"] == {"acc": 1}  # the point is written twice
    assert (outer["metrics"], outer["history"]) == ({"loss": 0.25}, {"loss": 3})
    assert [(m["name"], m["run"]) for m in told["models"]] == [("model", "bb")]
    assert told["models"][0]["registered"] == [{"name": "churn", "version": "1"}]


def test_what_was_committed_is_not_of_this_build(plan: Plan) -> None:
    file_store(plan.checkout / "mlruns")
    old = SqliteStore(plan.checkout / "old.db", plan.checkout)
    old.log_model(old.run("old"))
    old.close()
    for path in plan.checkout.rglob("*"):
        os.utime(path, (FILE_TIME_S, FILE_TIME_S))

    tracked = read(plan)

    assert (tracked.runs, tracked.models) == ((), ())


def test_of_a_committed_database_only_runs_since_the_build_began_count(plan: Plan) -> None:
    made = SqliteStore(plan.checkout / "mlflow.db", plan.checkout)
    made.run("of last year", began=BEGAN_MS - 1)
    made.run("of now", began=BEGAN_MS)
    made.close()

    assert [run["name"] for run in read(plan).runs] == ["of now"]


def test_deleted_runs_are_left_out(plan: Plan, store: Callable[..., SqliteStore]) -> None:
    made = store()
    made.run("kept")
    made.run("thrown away", stage="deleted")
    made.close()

    assert [run["name"] for run in read(plan).runs] == ["kept"]


def test_a_store_that_is_still_in_its_write_ahead_log_is_read_whole(
    plan: Plan, store: Callable[..., SqliteStore]
) -> None:
    made = store()
    made.connection.commit()
    made.connection.execute("PRAGMA journal_mode = WAL")
    made.run("late")
    made.connection.commit()  # and no close, which would write it all back

    assert [run["name"] for run in read(plan).runs] == ["late"]
    made.close()


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"\xff" * 5000, b"{}"])
def test_a_broken_store_is_a_note_and_no_failure(plan: Plan, content: bytes) -> None:
    (plan.scratch / "mlflow.db").write_bytes(content)

    tracked = read(plan)

    assert tracked.runs == ()
    assert content == b"" or "The tracking store mlflow.db cannot be read" in tracked.notes[0]


@pytest.mark.parametrize(
    "answer", ["", "[]", "{}", '{"runs": 1}', "[" * 100_000, '{"runs": [{"id": 1}]}']
)
def test_an_answer_that_makes_no_sense_is_a_note(plan: Plan, answer: str) -> None:
    file = plan.checkout.parent / "answer.json"
    file.write_text(answer)

    tracked = understood(file, plan)

    assert tracked.runs == ()
    assert "cannot be read" in tracked.notes[0]


def test_a_run_with_very_much_in_it_is_cut(plan: Plan, store: Callable[..., SqliteStore]) -> None:
    made = store()
    made.run("large", params={f"p{n:04}": "x" * 9000 for n in range(500)})
    made.close()

    params = read(plan).runs[0]["params"]

    assert len(params) == 200
    assert {len(value) for value in params.values()} == {500}


def test_the_reader_runs_in_the_sandbox(
    plan: Plan, store: Callable[..., SqliteStore], tmp_path: Path
) -> None:
    made = store()
    made.log_model(made.run("one"))
    made.close()
    answer = tmp_path / "answer.json"

    with answer.open("wb") as output:
        command = reading(plan, tmp_path / "copies")
        process = LocalSandbox(tmp_path).start(command, stdout=output)
        code = process.wait(60)

    assert code == 0
    assert [model.name for model in understood(answer, plan).models] == ["model"]


def test_each_attempt_of_training_gets_an_empty_store(
    plan: Plan, store: Callable[..., SqliteStore]
) -> None:
    store().close()

    training_command(plan)

    assert list(plan.scratch.iterdir()) == []


# ---- what foreign addresses may mean ----


def test_artifacts_outside_of_the_build_are_never_read(
    plan: Plan, store: Callable[..., SqliteStore], tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("hush")
    model_files(tmp_path / "secret" / "model")
    (plan.checkout / "way").symlink_to(tmp_path / "secret")
    made = store()
    for name, uri in enumerate(
        [f"{tmp_path}/secret", f"file://{tmp_path}/secret", "../secret", "way", "way/model"]
    ):
        made.run(f"run {name}", artifact_uri=uri)
    made.close()

    tracked = read(plan)
    told = tracking.report(tracked, hold=digest_of, but=None)

    assert len(told["runs"]) == 5
    assert all(run["artifacts"] == [] for run in told["runs"])
    assert told["models"] == []


def test_a_link_among_artifacts_is_left_out(
    plan: Plan, store: Callable[..., SqliteStore], tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("hush")
    made = store()
    run = made.run("one")
    made.artifact(run, "plain.txt", "x").with_name("link.txt").symlink_to(tmp_path / "key")
    made.close()

    told = tracking.report(read(plan), hold=digest_of, but=None)

    assert [file["path"] for file in told["runs"][0]["artifacts"]] == ["plain.txt"]


def test_relative_and_file_addresses_of_artifacts_are_understood(
    plan: Plan, store: Callable[..., SqliteStore]
) -> None:
    made = store()
    for name, uri in [("a", "./my%20runs/a"), ("b", f"file://{plan.checkout}/my%20runs/b")]:
        made.run(name, artifact_uri=uri)
    made.close()
    for name in ("my%20runs/a", "my runs/b"):
        (plan.checkout / name).mkdir(parents=True)
        (plan.checkout / name / "x.txt").write_text("x")

    told = tracking.report(read(plan), hold=digest_of, but=None)

    assert [[file["path"] for file in run["artifacts"]] for run in told["runs"]] == [
        ["x.txt"],
        ["x.txt"],
    ]


def test_artifacts_are_stored_up_to_a_limit_and_the_rest_is_said(
    plan: Plan, store: Callable[..., SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MAX_KEPT_BYTES", 10)
    made = store()
    run = made.run("one")
    made.artifact(run, "a.txt", "12345678")
    made.artifact(run, "b.txt", "12345678")
    made.close()
    held: list[Path] = []

    def hold(path: Path) -> str:
        held.append(path)
        return digest_of(path)

    told = tracking.report(read(plan), hold=hold, but=None)

    assert [path.name for path in held] == ["a.txt"]
    assert [file["kept"] for file in told["runs"][0]["artifacts"]] == [True, False]
    assert all(len(file["sha256"]) == 64 for file in told["runs"][0]["artifacts"])
    assert "1 artifact of 8 bytes not stored" in told["notes"][0]


# ---- which model counts ----


@pytest.mark.parametrize("three", [True, False])
def test_the_newest_version_registered_counts(
    plan: Plan, store: Callable[..., SqliteStore], three: bool
) -> None:
    made = store(three=three)
    run = made.run("one")
    first, second, last = (made.log_model(run, name) for name in ("a", "b", "c"))
    made.register("churn", 1, last, run)
    made.register("churn", 2, second, run)
    made.close()
    assert first.is_dir()

    path, format_, why = built(plan, read(plan))

    assert plan.checkout / path == second
    assert format_ == "mlflow"
    assert why == "registered in this build as churn version 2, the newest of 2"


@pytest.mark.parametrize("three", [True, False])
def test_the_only_model_logged_counts(
    plan: Plan, store: Callable[..., SqliteStore], three: bool
) -> None:
    made = store(three=three)
    folder = made.log_model(made.run("one"))
    made.close()

    found = collect(plan, DONE, log=plan.checkout / "log", tracked=read(plan))

    assert found.path == folder
    assert [file.name for file in found.files] == ["MLmodel", "model.pkl", "requirements.txt"]
    assert found.logged is not None
    assert found.why == "the only model logged in this build"


def test_among_several_that_were_only_logged_a_person_is_asked(
    plan: Plan, store: Callable[..., SqliteStore]
) -> None:
    made = store()
    for number in range(6):
        made.log_model(made.run(f"trial {number}"))
    made.log_model(made.run("final"), "best")
    made.close()

    error = stopped(plan, read(plan))

    assert error.code == "PS282"
    assert error.what == "7 models logged, none registered. Register one or set [build] model."
    assert '"mlflow:NAME"' in error.hint
    assert "trial 0/model, trial 1/model" in error.hint
    assert error.hint.endswith("best.")


@pytest.mark.parametrize(
    ("wanted", "index"),
    [("mlflow:best", 2), ("mlflow:trial 1/model", 1), ("mlflow:model", 1), ("mlflow:churn", 0)],
)
def test_build_model_can_name_a_model_of_mlflows(tmp_path: Path, wanted: str, index: int) -> None:
    plan = plan_for(tmp_path, build={"model": wanted})
    made = SqliteStore(plan.scratch / "mlflow.db", plan.checkout)
    folders = [made.log_model(made.run(f"trial {number}")) for number in range(2)]
    folders.append(made.log_model(made.run("last"), "best"))
    made.register("churn", 3, folders[0], "")
    made.close()

    path, _, why = built(plan, read(plan))

    assert plan.checkout / path == folders[index]
    assert "named by [build] model" in why


def test_a_name_that_no_model_has_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, build={"model": "mlflow:bset"})
    made = SqliteStore(plan.scratch / "mlflow.db", plan.checkout)
    made.log_model(made.run("one"), "best")
    made.close()

    error = stopped(plan, read(plan))

    assert error.code == "PS287"
    assert error.hint == "It logged best."
    assert stopped(plan, NOTHING).hint == "It logged none at all."


def test_a_path_in_build_model_beats_what_was_registered(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, build={"model": "final.joblib"})
    made = SqliteStore(plan.scratch / "mlflow.db", plan.checkout)
    run = made.run("one")
    made.register("churn", 1, made.log_model(run), run)
    made.close()
    (plan.checkout / "final.joblib").write_text("new")

    assert built(plan, read(plan))[:2] == ("final.joblib", "joblib")


def test_a_logged_model_beats_a_file_where_models_lie(
    plan: Plan, store: Callable[..., SqliteStore]
) -> None:
    made = store()
    folder = made.log_model(made.run("one"))
    made.close()
    (plan.checkout / "model.joblib").write_text("new")

    assert plan.checkout / built(plan, read(plan))[0] == folder


def test_an_adapter_gets_the_projects_own_files_before_a_logged_model(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, build={"predict": "adapter.py"})
    (plan.checkout / "adapter.py").write_text("")
    made = SqliteStore(plan.scratch / "mlflow.db", plan.checkout)
    folder = made.log_model(made.run("one"))
    made.close()

    alone = built(plan, read(plan))
    (plan.checkout / "model").mkdir()
    (plan.checkout / "model" / "net.pt").write_text("weights")
    beside = built(plan, read(plan))

    assert (plan.checkout / alone[0], alone[1]) == (folder, "adapter")
    assert beside[:2] == ("model", "adapter")


def test_a_model_logged_on_another_machine_is_told_as_such(
    plan: Plan, store: Callable[..., SqliteStore]
) -> None:
    made = store()
    run = made.run("one")
    made.insert("logged_models", "m-1", 1, "model", "s3://lake/m-1", 1, 2, "active", run)
    made.close()

    error = stopped(plan, read(plan))

    assert error.code == "PS289"
    assert "Model model was logged to s3://lake/m-1" in error.what


def test_a_model_that_was_noted_but_never_written_does_not_count(
    plan: Plan, store: Callable[..., SqliteStore]
) -> None:
    made = store()
    run = made.run("one")
    folder = made.log_model(run, "whole")
    (plan.checkout / "mlruns" / "empty").mkdir(parents=True)
    uri = str(plan.checkout / "mlruns" / "empty")
    made.insert("logged_models", "m-1", 1, "half", uri, 1, 1, "active", run)
    made.close()

    assert plan.checkout / built(plan, read(plan))[0] == folder


def test_a_version_registered_from_a_plain_folder_counts(
    plan: Plan, store: Callable[..., SqliteStore]
) -> None:
    folder = model_files(plan.checkout / "exported")
    made = store()
    made.register("churn", 4, folder, "")
    made.close()

    path, format_, why = built(plan, read(plan))

    assert (path, format_) == ("exported", "mlflow")
    assert "churn version 4" in why


def test_metrics_are_those_of_the_run_that_made_the_model_or_of_the_one_around_it(
    plan: Plan, store: Callable[..., SqliteStore]
) -> None:
    made = store()
    outer = made.run("outer", metrics={"auc": [0.8]})
    made.log_model(made.run("inner", parent=outer))
    made.run("later", metrics={"auc": [0.1]})
    made.close()

    tracked = read(plan)

    assert tracking.metrics_of(tracked, tracked.models[0]) == {"auc": 0.8}
    assert tracking.metrics_of(tracked, None) == {"auc": 0.1}
    assert tracking.metrics_of(NOTHING, None) == {}
    loose = replace(tracked.models[0], run="gone")
    assert tracking.metrics_of(tracked, loose) == {}
