"""What goes wrong ends in a sentence, and the champion keeps serving."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.journey.server import PENSTOCK, Project, Server, Traffic, toy_row

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with Server() as started:
        yield started


@pytest.fixture(scope="module")
def live(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose first version is in production."""
    project = Project.toy(tmp_path_factory.mktemp("live") / "project")
    project.push(server)
    assert server.ended(1).state == "succeeded"
    return project


@pytest.fixture
def project(live: Project) -> Generator[Project]:
    """The live project, put back to its first commit afterwards."""
    yield live
    first = live.git("rev-list", "--max-parents=0", "HEAD").split()[0]
    live.git("rm", "-r", "--quiet", "--force", ".")
    live.git("checkout", "--quiet", first, "--", ".")


def pushed(server: Server, project: Project, message: str) -> Any:
    """Commit and push; wait for the end of the run that this made."""
    number = server.runs()[0].number + 1
    project.commit(message)
    told = project.push(server)
    run = server.ended(number)
    assert {role: d.number for role, d in server.serving().items()}["champion"] == 1
    return run, told


def test_a_broken_penstock_toml_is_refused_with_every_fault_and_its_line(
    server: Server, project: Project
) -> None:
    before = len(server.runs())
    project.change("penstock.toml", 'risk = "low"', 'risc = "low"')
    project.change("penstock.toml", "batch_s = 1", "batch_s = -1")
    project.commit("broken")

    told = project.push(server)

    assert "penstock.toml:3" in told, told
    assert 'Did you mean "risk"?' in told
    assert "canary.batch_s" in told
    assert "rejected" in told
    assert len(server.runs()) == before
    project.git("reset", "--quiet", "--hard", "HEAD~1")


def test_a_repository_without_penstock_toml_is_refused_and_told_how_to_begin(
    server: Server, tmp_path: Path
) -> None:
    project = Project.toy(tmp_path / "project")
    (project.folder / "penstock.toml").unlink()
    project.commit("none")

    told = project.push(server, "bare")

    assert "penstock init" in told
    assert "rejected" in told


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ("raise ValueError('no such column')\n", "train.py line 1: ValueError: no such column"),
        ("import time\ntime.sleep(600)\n", "did not end within 2 s"),
        ("print('done')\n", "ended with 0 but wrote no model"),
        ("import yaml\n", "imports yaml"),
    ],
    ids=["raises", "hangs", "writes nothing", "lacks a package"],
)
def test_training_that_goes_wrong_fails_with_its_own_error_first(
    server: Server, project: Project, train: str, sentence: str
) -> None:
    project.write({"train.py": train})
    project.change("penstock.toml", "timeout_s = 20", "timeout_s = 2")

    run, _ = pushed(server, project, "training goes wrong")

    assert run.state == "failed"
    assert sentence in run.reason, run.reason


def test_a_model_that_cannot_be_loaded_fails_the_check_that_loads_it(
    server: Server, project: Project
) -> None:
    project.change("adapter.py", "def load(folder):", "import yaml\ndef load(folder):")

    run, _ = pushed(server, project, "cannot be loaded")

    assert (run.state, run.ended_by) == ("failed", "check")
    assert "yaml" in run.reason


def test_requirements_that_cannot_be_resolved_name_the_file_and_the_package(
    server: Server, project: Project
) -> None:
    project.write({"requirements.txt": "penstock-has-no-such-package==1.0\n"})

    run, _ = pushed(server, project, "cannot be resolved")

    assert run.state == "failed"
    assert "requirements.txt" in run.reason
    assert "penstock-has-no-such-package" in run.reason


def test_evaluation_data_without_the_label_column_names_the_column(
    server: Server, project: Project
) -> None:
    project.change("holdout.csv", "x,y\n", "x,z\n")

    run, _ = pushed(server, project, "no label")

    assert run.state == "failed"
    assert '"y"' in run.reason or "'y'" in run.reason or " y" in run.reason


def test_a_worse_version_is_stopped_at_the_quality_gate(server: Server, project: Project) -> None:
    project.change("train.py", '"weight": 1.0', '"weight": -1.0')

    run, _ = pushed(server, project, "worse")

    assert (run.state, run.ended_by) == ("failed", "check")


def infer(server: Server, body: Any) -> tuple[int, Any]:
    return server.request("POST", "/v2/models/toy/infer", body, predict=True)


def column(name: str, value: Any, datatype: str = "FP64") -> Any:
    return {"inputs": [{"name": name, "shape": [1], "datatype": datatype, "data": [value]}]}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (column("z", 1.0), 400, "z"),
        (column("x", "seven", "BYTES"), 400, "x"),
        (column("x", None), 400, "x"),
        ({"inputs": []}, 400, "no rows"),
        ("a text", 400, ""),
    ],
    ids=["unknown column", "wrong type", "missing value", "no column", "no object"],
)
def test_a_bad_request_is_answered_with_the_column_that_is_wrong(
    server: Server, live: Project, body: Any, status: int, said: str
) -> None:
    found, told = infer(server, body)

    assert (found // 100, status // 100) == (4, 4), told
    assert said in told["error"]


def test_a_request_with_nan_is_refused(server: Server, live: Project) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.predict_port)
    text = '{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[NaN]}]}'
    connection.request("POST", "/v2/models/toy/infer", text, {"Content-Type": "application/json"})
    response = connection.getresponse()
    told = response.read().decode()
    connection.close()

    assert response.status == 400, told


def test_a_body_that_is_too_large_is_refused(server: Server, live: Project) -> None:
    status, told = infer(server, column("x", "0" * 2_000_000, "BYTES"))

    assert status == 413
    assert told["code"].startswith("PS5")


def test_an_unknown_model_is_not_found(server: Server, live: Project) -> None:
    status, told = server.request(
        "POST", "/v2/models/nobody/infer", column("x", 1.0), predict=True
    )

    assert status == 404
    assert "nobody" in told["error"]


def test_a_port_in_use_is_said_before_anything_starts(server: Server, tmp_path: Path) -> None:
    done = subprocess.run(
        [*PENSTOCK, "serve", "--port", str(server.port), "--predict-port", "0"],
        env={**server.environ(), "PENSTOCK_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 8, done
    assert f"127.0.0.1:{server.port} cannot be listened on" in done.stderr
    assert "penstock serve --port" in done.stderr


def test_a_home_that_cannot_be_written_is_said_with_the_way_out() -> None:
    done = subprocess.run(
        [*PENSTOCK, "serve"],
        env={"PATH": "/usr/bin:/bin", "PENSTOCK_HOME": "/proc/penstock"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 8, done
    assert "PENSTOCK_HOME /proc/penstock cannot be used" in done.stderr


def test_pushes_at_once_are_all_recorded_and_a_push_during_a_canary_waits(
    tmp_path: Path,
) -> None:
    with Server() as server:
        project = Project.toy(tmp_path / "project")
        project.push(server)
        server.ended(1)
        project.change("penstock.toml", "batch_s = 1", 'batch_s = 1\nhorizon = "1 h"')
        project.change("train.py", "1.0", "1.02")
        project.commit("second")
        project.push(server)
        # Without traffic the canary cannot be judged, so it goes on.
        server.until(
            lambda: (r := server.rollout(2)) is not None and r.state == "canary", "the canary"
        )
        project.change("train.py", "1.02", "1.03")
        project.commit("third")

        told = project.push(server)

        third = server.until(
            lambda: (r := server.run(3)) is not None and "Waits until" in r.reason and r,
            "the third to wait",
        )
        assert third.state == "queued"
        assert "toy@2" in third.reason
        assert "Waits until the rollout of toy@2" in told, told
        with Traffic(server, toy_row):
            assert server.ended(2).state == "succeeded"
            assert server.ended(3).state == "succeeded"
        champion = server.serving()["champion"]
        assert champion.number == 3
