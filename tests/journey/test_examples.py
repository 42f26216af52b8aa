"""Projects of every kind as data scientists have them: from a real push to answers, or to the
sentence that says what is wrong.

Each is a folder of tests/projects; its data are made here. An environment is made once for all
projects whose files lead to the same lock.
"""

from __future__ import annotations

import hashlib
import pickle
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from penstock.domain import Run
from tests.journey import tables
from tests.journey.server import Project, Server
from tests.journey.tables import Table, as_csv, as_parquet, part

pytestmark = [pytest.mark.journey, pytest.mark.timeout(900)]

PROJECTS = Path(__file__).parents[1] / "projects"
LOANS, LATER_LOANS = tables.loans(3000), tables.loans(1200, seed=11)
HOURS = tables.hours(4200)
MESSAGES = tables.messages(3000)
ASKED = 200
TORCH = (PROJECTS / "torch" / "requirements.txt").read_text().split()[:1]
Right = Callable[[list[Any], list[Any]], bool]


def agree(least: float) -> Right:
    """So large a share of the answers is the label."""

    def right(labels: list[Any], answers: list[Any]) -> bool:
        same = [a == b for a, b in zip(labels, answers, strict=True)]
        return sum(same) / len(same) >= least

    return right


def near(most: float) -> Right:
    """On average the answers are not further than this from the label."""

    def right(labels: list[Any], answers: list[Any]) -> bool:
        off = [abs(a - b) for a, b in zip(labels, answers, strict=True)]
        return sum(off) / len(off) <= most

    return right


@dataclass(frozen=True)
class Example:
    """A folder of tests/projects, its data, and what becomes of it."""

    folder: str
    files: dict[str, bytes]
    rows: Table
    """What is asked through the gateway, the label among the columns."""
    right: Right
    """Whether labels and answers agree so well that it is no chance."""
    log: tuple[str, ...] = ()
    """What the log of step train must say."""
    checks: tuple[str, ...] = ()
    """Of the summaries of checks."""
    committed: str = ""
    """The day of the commit; empty: today."""
    prepare: Callable[[Project, Path], None] = lambda project, storage: None
    """What else is done to the project; `storage` is a folder that the server may read."""


def loans(folder: str, **more: Any) -> Example:
    files = {"data/train.csv": as_csv(LOANS), "data/holdout.csv": as_csv(LATER_LOANS)}
    # The share of the larger class is .63; the law itself is right in about .73 of the rows.
    return Example(folder, files, part(LATER_LOANS, 0, ASKED), agree(0.66), **more)


def hours(folder: str, where: str, ending: str, **more: Any) -> Example:
    write = as_csv if ending == "csv" else as_parquet
    files = {
        f"{where}/train.{ending}": write(part(HOURS, 0, 3400)),
        f"{where}/holdout.{ending}": write(part(HOURS, 3400)),
    }
    return Example(folder, files, part(HOURS, 3400, 3400 + ASKED), near(40), **more)


def kept_by_dvc(project: Project, storage: Path) -> None:
    """Put the training data where DVC's remote is, and only their digest into git."""
    data = project.folder / "data" / "train.csv"
    content = data.read_bytes()
    data.unlink()
    digest = hashlib.md5(content).hexdigest()
    cached = storage / "files" / "md5" / digest[:2] / digest[2:]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    out = f"outs:\n- md5: {digest}\n  size: {len(content)}\n  hash: md5\n  path: train.csv\n"
    project.write(
        {
            "data/train.csv.dvc": out,
            "data/.gitignore": "/train.csv\n",
            ".dvc/config": (
                f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {storage}\n"
            ),
        }
    )


def a_model_of_last_year(project: Project, storage: Path) -> None:
    project.write({"models/late.pkl": pickle.dumps({"a model": "of last year"})})


GOOD = (
    loans("autolog"),
    loans("loose", committed="2024-02-01T12:00:00Z", log=("as of 2024-02-01", "pandas==2.2.0")),
    loans("boosted"),
    loans("onnx"),
    Example(
        "messages",
        {
            "data/train.csv": as_csv(part(MESSAGES, 0, 2200)),
            "data/holdout.csv": as_csv(part(MESSAGES, 2200)),
        },
        part(MESSAGES, 2200, 2200 + ASKED),
        agree(0.9),
    ),
    hours("bikes", "data", "parquet"),
    hours(
        "layout",
        "data/05_model_input",
        "csv",
        log=("$ forecasting.pipeline:train",),
        checks=("40 rows answered as in training",),
    ),
    loans("pipenv", log=("Pipfile wishes Python 3.8; installed here: 3.11",)),
    loans("mlproject", log=("$ python churn/fit.py",)),
    loans("stages", prepare=kept_by_dvc),
    loans("function", checks=("50 rows answered as in training",)),
    loans("mlruns"),
    loans("poetry", checks=("3 columns in", "30 rows answered as in training")),
    Example(
        "conda",
        {
            "data/train.csv": as_csv(tables.digits(1200)),
            "data/holdout.csv": as_csv(tables.digits(597, first=1200)),
        },
        tables.digits(ASKED, first=1200),
        agree(0.95),
        log=("environment.yml wishes Python 3.10; installed here: 3.11",),
    ),
)
IMAGES = Example(
    "torch",
    {
        "data/train.parquet": as_parquet(tables.images(1200)),
        "data/holdout.parquet": as_parquet(tables.images(597, first=1200)),
    },
    tables.images(ASKED, first=1200),
    agree(0.93),
)
BAD = (
    (loans("swallows"), "PS281", "KeyError"),
    (loans("stale", prepare=a_model_of_last_year), "PS224", "this build did not write it"),
    (loans("lacks"), "PS221", "features.py imports yaml, which requirements.txt lacks"),
    (loans("remote"), "PS227", "tried to reach data.example.org; builds have no network"),
    (
        loans("dead_server"),
        "PS280",
        "train.py line 5 sets the tracking server http://mlflow.example.org:5000, which does not",
    ),
)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def server(storage: Path) -> Generator[Server]:
    started = Server()
    (started.home / "server.toml").write_text(f'[data]\nallow = ["{storage}/"]\n')
    with started:
        yield started


def made(example: Example, folder: Path, storage: Path) -> Project:
    """Make the example's repository, without a commit."""
    project = Project(folder / example.folder)
    shutil.copytree(PROJECTS / example.folder, project.folder)
    assert len((project.folder / "penstock.toml").read_text().splitlines()) <= 10
    project.write(example.files)
    example.prepare(project, storage)
    project.git("init", "--quiet", "--initial-branch", "main")
    return project


def pushed(server: Server, example: Example, folder: Path, storage: Path) -> Run:
    """Push the example as it is, and wait until its run ends."""
    project = made(example, folder, storage)
    project.commit("As it is", at=example.committed)
    return run_of(server, project, name_of(example.folder))


def run_of(server: Server, project: Project, name: str) -> Run:
    told = project.push(server, name)
    assert f"{name}@1" in told, told
    return server.ended(1, name, seconds=600)


def name_of(folder: str) -> str:
    return str(settings(folder)["model"]["name"])


def settings(folder: str) -> dict[str, Any]:
    return tomllib.loads((PROJECTS / folder / "penstock.toml").read_text())


def log_of(server: Server, run: Run) -> str:
    return (server.home / f"runs/{run.id}/build-train-1.log").read_text()


def verdicts(server: Server, name: str) -> dict[str, tuple[str, str]]:
    rows = server.rows(
        f"SELECT check_name, verdict, summary FROM check_result WHERE model = '{name}'"
    )
    return {row.check_name: (row.verdict, row.summary) for row in rows}


def ask(server: Server, path: str, rows: Table) -> list[Any]:
    """Ask as a caller does who knows nothing but what the endpoint tells of itself."""
    status, described = server.request("GET", path, predict=True)
    assert status == 200, described
    inputs = [
        {
            "name": one["name"],
            "datatype": one["datatype"],
            "shape": [len(rows[one["name"]]), *one["shape"][1:]],
            "data": flat(rows[one["name"]]),
        }
        for one in described["inputs"]
    ]
    status, told = server.request("POST", f"{path}/infer", {"inputs": inputs}, predict=True)
    assert status == 200, told
    return next(one["data"] for one in told["outputs"] if one["name"] == "prediction")


def flat(values: list[Any]) -> list[Any]:
    out = list[Any]()
    for one in values:
        out.extend(flat(cast("list[Any]", one)) if isinstance(one, list) else [one])
    return out


def assert_serves(server: Server, example: Example, folder: Path, storage: Path) -> None:
    run = pushed(server, example, folder, storage)
    name, log = name_of(example.folder), log_of(server, run)
    found = verdicts(server, name)
    assert {check for check, (verdict, _) in found.items() if verdict != "passed"} == set(), found
    assert run.state == "succeeded", (run, log[-3000:])
    answers = ask(server, f"/v2/models/{name}/versions/1", example.rows)
    label = settings(example.folder)["evaluate"]["label"]
    assert example.right(example.rows[label], answers), answers
    for said in example.log:
        assert said in log, log
    for said in example.checks:
        assert any(said in summary for _, summary in found.values()), found


@pytest.mark.parametrize("example", GOOD, ids=lambda one: one.folder)
def test_a_project_as_it_is_passes_every_check_and_answers_rightly(
    server: Server, example: Example, tmp_path: Path, storage: Path
) -> None:
    assert_serves(server, example, tmp_path, storage)


@pytest.fixture
def links(tmp_path: Path) -> Generator[str]:
    """Offer the build of torch without CUDA that this machine's pip knows, as an operator would.

    The public index has only builds with gigabytes of CUDA: they are never fetched here.
    """
    wheels = tmp_path / "wheels"
    pip = [shutil.which("python3") or sys.executable, "-m", "pip", "download", "--quiet"]
    told = [*pip, "--no-index", "--no-deps", "--dest", str(wheels), *TORCH]
    if subprocess.run(told, check=False, capture_output=True, timeout=120).returncode:
        pytest.skip(f"NOT RUN: pip's find-links offer no {TORCH[0]} without CUDA")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(wheels)))
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{served.server_port}/"
    finally:
        served.shutdown()
        thread.join()
        served.server_close()


def test_a_network_of_pytorch_answers_images(links: str, tmp_path: Path, storage: Path) -> None:
    with Server({"UV_FIND_LINKS": links}) as server:
        assert_serves(server, IMAGES, tmp_path, storage)


@pytest.mark.parametrize(
    ("example", "code", "sentence"), BAD, ids=[example.folder for example, *_ in BAD]
)
def test_a_project_that_cannot_be_built_ends_in_the_sentence_that_says_why(
    server: Server, example: Example, code: str, sentence: str, tmp_path: Path, storage: Path
) -> None:
    run = pushed(server, example, tmp_path, storage)

    assert run.state == "failed", run
    assert run.reason.startswith(code), run.reason
    assert sentence in run.reason, run.reason
    assert "Traceback" not in run.reason


def the_answer_is_among_the_columns(project: Project) -> None:
    """The reminders that were sent are known only once somebody paid late."""
    for name, table in (("train", LOANS), ("holdout", LATER_LOANS)):
        reminded = [2 * late for late in table["late"]]
        project.write({f"data/{name}.csv": as_csv({"reminders": reminded, **table})})


def the_judged_rows_were_learned(project: Project) -> None:
    both = {name: [*values, *LATER_LOANS[name]] for name, values in LOANS.items()}
    project.write({"data/train.csv": as_csv(both)})


def the_future_was_learned(project: Project) -> None:
    """Hours drawn at random instead of the last ones."""
    chosen = [place % 5 == 0 for place in range(len(HOURS["at"]))]
    for name, judged in (("train", False), ("holdout", True)):
        rows = {
            column: [v for v, one in zip(values, chosen, strict=True) if one is judged]
            for column, values in HOURS.items()
        }
        project.write({f"data/{name}.parquet": as_parquet(rows)})


def a_root_of_what_may_be_negative(project: Project) -> None:
    most = max(LATER_LOANS["amount"][:ASKED]) + 1
    assert any(amount > most for amount in LATER_LOANS["amount"])
    project.change(
        "adapter.py",
        "return booster.predict(prepare(frame, purposes))",
        "risk = booster.predict(prepare(frame, purposes))\n"
        f'    return risk * (1 - frame["amount"] / {most}) ** 0.1',
    )


PLANTED = (
    (loans("function"), the_answer_is_among_the_columns, "sanity.label_leak"),
    (loans("function"), the_judged_rows_were_learned, "sanity.overlap"),
    (hours("bikes", "data", "parquet"), the_future_was_learned, "sanity.time"),
    (loans("boosted"), a_root_of_what_may_be_negative, "smoke.finite"),
)


@pytest.mark.parametrize(
    ("example", "plant", "check"), PLANTED, ids=[check for *_, check in PLANTED]
)
def test_a_planted_bug_is_found_by_its_own_check_and_by_no_other(
    server: Server,
    example: Example,
    plant: Callable[[Project], None],
    check: str,
    tmp_path: Path,
    storage: Path,
) -> None:
    project = made(example, tmp_path, storage)
    plant(project)
    name = check.replace(".", "-").replace("_", "-")
    project.change("penstock.toml", f'"{name_of(example.folder)}"', f'"{name}"')
    project.commit("With a bug")

    run = run_of(server, project, name)

    assert (run.state, run.ended_by) == ("failed", "check"), (run, log_of(server, run)[-3000:])
    found = verdicts(server, name)
    assert {one for one, (verdict, _) in found.items() if verdict == "failed"} == {check}, found
    doubts = {one: said for one, (verdict, said) in found.items() if verdict == "undecided"}
    assert all(said.startswith("not asked") for said in doubts.values()), doubts
