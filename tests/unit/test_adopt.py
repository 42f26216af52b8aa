"""Models from elsewhere: where MLflow keeps them, the repository around them, the gate's word."""

from __future__ import annotations

import hashlib
import json
import pickle
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import joblib
import pytest
from sklearn.tree import DecisionTreeClassifier

from penstock.build.adoption import adopt, registry
from penstock.build.adoption import repository as adoption
from penstock.build.train import Plan
from penstock.config import ModelConfig, parse
from penstock.domain import Verdict
from penstock.errors import (
    ConfigurationError,
    IntegrityError,
    NotFoundError,
    StoppedError,
    UnreachableError,
    UsageError,
)
from penstock.ports import Limits

LOGGED = "m-0123456789abcdef0123456789abcdef"
RUN = "0" * 31 + "a"


def mlmodel(folder: Path, word: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text(f"# {word}\nflavors: {{}}\n")
    (folder / "requirements.txt").write_text("scikit-learn==1.9.1\n\njoblib\n")
    return folder


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Path:
    old = mlmodel(tmp_path / "old", "second")
    new = mlmodel(tmp_path / "mlruns" / "1" / "models" / LOGGED / "artifacts", "third")
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            "CREATE TABLE model_versions (name, version INTEGER, source, storage_location);"
            "CREATE TABLE registered_model_aliases (name, alias, version INTEGER);"
            "CREATE TABLE logged_models (model_id, artifact_location);"
            "CREATE TABLE runs (run_uuid, artifact_uri);"
        )
        insert = "INSERT INTO model_versions VALUES (?, ?, ?, ?)"
        connection.execute(insert, ("loan", 2, old.as_uri(), None))
        connection.execute(insert, ("loan", 3, f"models:/{LOGGED}", None))
        connection.execute("INSERT INTO registered_model_aliases VALUES ('loan', 'champion', 2)")
        connection.execute("INSERT INTO logged_models VALUES (?, ?)", (LOGGED, str(new)))
        connection.execute("INSERT INTO runs VALUES (?, ?)", (RUN, str(tmp_path)))
    return path


@pytest.fixture
def folder_store(tmp_path: Path) -> Path:
    root = tmp_path / "mlruns"
    old = mlmodel(tmp_path / "old", "second")
    new = mlmodel(root / "1" / "models" / LOGGED / "artifacts", "third")
    (new.parent / "meta.yaml").write_text(f"artifact_location: {new.as_uri()}\n")
    for version, source in ((2, old.as_uri()), (3, f"models:/{LOGGED}")):
        folder = root / "models" / "loan" / f"version-{version}"
        folder.mkdir(parents=True)
        (folder / "meta.yaml").write_text(f"source: {source}\n")
    (root / "models" / "loan" / "aliases").mkdir()
    (root / "models" / "loan" / "aliases" / "champion").write_text("2")
    (root / "1" / RUN).mkdir(parents=True)
    (root / "1" / RUN / "meta.yaml").write_text(f"artifact_uri: {tmp_path}\n")
    return root


class _Server(BaseHTTPRequestHandler):
    """As much of a tracking server's interface as a client asks for."""

    files: ClassVar[dict[str, bytes]] = {
        "v2/MLmodel": b"# second",
        "v10/MLmodel": b"# tenth",
        "v10/data/model.skops": b"PK",
    }

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(place.query).items()}
        if self.headers.get("Authorization") != "Bearer t0ken":
            self._answer(401, b"{}")
            return
        base = "/api/2.0/mlflow-artifacts/artifacts"
        if place.path.startswith(f"{base}/"):
            self._answer(200, self.files[unquote(place.path.removeprefix(f"{base}/"))])
            return
        told = self._told(place.path.removeprefix("/api/2.0/"), query)
        self._answer(404 if told is None else 200, json.dumps(told).encode())

    def _told(self, path: str, query: dict[str, str]) -> object:
        if path == "mlflow/registered-models/alias" and query["alias"] == "champion":
            return {"model_version": {"name": "loan", "version": "2"}}
        if path == "mlflow/model-versions/get" and query["version"] == "2":
            return {"model_version": {"name": "loan", "version": "2"}}
        if path == "mlflow/model-versions/search":
            versions = [{"name": "loan", "version": "2"}, {"name": "loan", "version": "10"}]
            return {"model_versions": versions if query["filter"] == "name='loan'" else []}
        if path == "mlflow/model-versions/get-download-uri":
            return {"artifact_uri": f"mlflow-artifacts:/v{query['version']}"}
        if path == "mlflow/runs/get":
            return {"run": {"info": {"artifact_uri": "s3://bucket/run"}}}
        if path == "mlflow-artifacts/artifacts":
            under = query["path"].strip("/") + "/"
            inside = {name.removeprefix(under) for name in self.files if name.startswith(under)}
            parts = {name.split("/")[0]: "/" in name for name in inside}
            return {"files": [{"path": one, "is_dir": d} for one, d in sorted(parts.items())]}
        return None

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as inherited
        pass


@pytest.fixture
def tracking_server() -> Generator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["sqlite", "folder"])
@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("models:/loan/2", "second"),
        ("models:/loan/3", "third"),
        ("models:/loan/latest", "third"),
        ("models:/loan@champion", "second"),
        (f"runs:/{RUN}/old", "second"),
    ],
)
def test_the_files_of_a_registered_model_are_copied(
    kind: str, source: str, word: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(f"{kind}_store")
    uri = f"sqlite:///{path}" if kind == "sqlite" else path.as_uri()
    registry.fetch(source, registry.open_store(uri, {}), tmp_path / "out")
    assert (tmp_path / "out" / "MLmodel").read_text().startswith(f"# {word}")


@pytest.mark.parametrize("kind", ["sqlite", "folder"])
@pytest.mark.parametrize(
    "source", ["models:/other/1", "models:/loan/9", "models:/loan@none", f"runs:/{'f' * 32}/old"]
)
def test_a_model_that_the_store_lacks_is_said(
    kind: str, source: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = registry.open_store(str(request.getfixturevalue(f"{kind}_store")), {})
    with pytest.raises(NotFoundError, match="has no") as raised:
        registry.fetch(source, store, tmp_path / "out")
    assert raised.value.code == "PS295"


@pytest.mark.parametrize(
    "source", ["loan", "models:/loan", "models:/../1", f"runs:/{RUN}/../../etc", "runs:/x/y"]
)
def test_a_source_that_names_no_model_of_mlflow_is_refused(
    source: str, sqlite_store: Path, tmp_path: Path
) -> None:
    with pytest.raises((UsageError, NotFoundError)):
        registry.fetch(source, registry.open_store(str(sqlite_store), {}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tracking_server_hands_out_files_to_who_has_its_token(
    tracking_server: str, tmp_path: Path
) -> None:
    store = registry.open_store(tracking_server, {"MLFLOW_TRACKING_TOKEN": "t0ken"})
    registry.fetch("models:/loan@champion", store, tmp_path / "champion")
    registry.fetch("models:/loan/latest", store, tmp_path / "latest")
    assert (tmp_path / "champion" / "MLmodel").read_bytes() == b"# second"
    assert (tmp_path / "latest" / "data" / "model.skops").read_bytes() == b"PK"
    with pytest.raises(NotFoundError, match="keeps the model's files at s3"):
        registry.fetch(f"runs:/{RUN}/model", store, tmp_path / "run")
    with pytest.raises(NotFoundError):
        registry.fetch("models:/loan/7", store, tmp_path / "none")
    with pytest.raises(UnreachableError, match="answers 401"):
        registry.fetch("models:/loan/2", registry.open_store(tracking_server, {}), tmp_path / "x")


def test_a_file_that_is_no_store_is_said(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be looked at")
    with pytest.raises(UnreachableError, match="cannot be read"):
        registry.fetch(
            "models:/a/1", registry.open_store(str(tmp_path / "mlflow.db"), {}), tmp_path / "out"
        )
    with pytest.raises(NotFoundError, match="no MLflow store"):
        registry.open_store(str(tmp_path / "nothing"), {})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.joblib"
    joblib.dump(DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1]), path, compress=3)
    return path


def test_a_repository_is_written_that_says_where_the_model_is_from(
    model: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("x,y\n1,0\n")
    wish = adoption.Wish("loan", "y", rows, origin="models:/loan/3")
    made = adoption.prepare(model, tmp_path / "loan", wish)
    config = parse((made.folder / "penstock.toml").read_text())
    assert config.build.adopt == "adopted/model.joblib"
    assert config.evaluate is not None
    assert (made.folder / config.evaluate.data).read_text() == rows.read_text()
    assert (made.folder / "adopted/model.joblib").read_bytes() == model.read_bytes()
    assert made.guessed
    needs = (made.folder / "requirements.txt").read_text().splitlines()
    assert needs[0] == "joblib"
    assert needs[1].startswith("scikit-learn==1.")
    assert "models:/loan/3" in (made.folder / "CARD.md").read_text()


def test_an_mlflow_folder_brings_its_own_requirements(tmp_path: Path) -> None:
    source = mlmodel(tmp_path / "source", "x")
    made = adoption.prepare(source, tmp_path / "loan", adoption.Wish("loan"))
    assert made.requirements == ("scikit-learn==1.9.1", "joblib")
    assert not made.guessed
    assert (made.folder / "adopted" / "MLmodel").is_file()


def test_a_model_that_the_server_has_is_bound_by_its_digest(model: Path, tmp_path: Path) -> None:
    wish = adoption.Wish("loan", on_server="/srv/models/model.joblib")
    made = adoption.prepare(model, tmp_path / "loan", wish)
    config = parse((made.folder / "penstock.toml").read_text())
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert config.data["adopted/model.joblib"].sha256 == digest
    assert not (made.folder / "adopted").exists()


@pytest.mark.parametrize("fault", ["name", "missing", "full", "large"])
def test_what_cannot_be_adopted_is_said_before_anything_is_written(
    fault: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "loan"
    source, name = model, "loan"
    expected: type[Exception] = UsageError
    if fault == "name":
        name, expected = "Loan!", ConfigurationError
    elif fault == "missing":
        source, expected = tmp_path / "none.joblib", NotFoundError
    elif fault == "full":
        folder.mkdir()
        (folder / "mine").touch()
    else:
        monkeypatch.setattr(adoption, "MOST_BYTES", 10)
    with pytest.raises(expected):
        adoption.prepare(source, folder, adoption.Wish(name))
    assert not (folder / "penstock.toml").exists()


def plan(folder: Path, **build: str) -> Plan:
    config = ModelConfig.model_validate(
        {"model": {"name": "loan"}, "build": {"adopt": "model.joblib", **build}}
    )
    return Plan(
        config=config,
        commit="0" * 40,
        checkout=folder,
        scratch=folder,
        python=Path(sys.executable),
        run="adopt model.joblib",
        model_globs=(),
        limits=Limits(),
    )


def test_the_gate_s_word_becomes_a_check_and_a_model(model: Path, tmp_path: Path) -> None:
    argv = adopt.gate_command(plan(tmp_path), model, ["a.B"]).argv
    answered = subprocess.run(argv, check=True, capture_output=True)
    told = adopt.verdict_of(answered.stdout, 0, b"")
    found = adopt.result("model.joblib", told, ["a.B"], "")
    assert found.verdict is Verdict.PASSED
    assert found.evidence["kind"] == "DecisionTreeClassifier"
    assert found.evidence["let_in"] == ["a.B"]
    assert adopt.built(plan(tmp_path), model, told).format == "joblib"
    staged = tmp_path / "staged" / "model"
    staged.mkdir(parents=True)
    (staged / "model.joblib").write_bytes(model.read_bytes())
    adopt.require_unchanged(staged.parent, told)
    (staged / "model.joblib").write_bytes(pickle.dumps({}))
    with pytest.raises(IntegrityError, match="not what the gate checked"):
        adopt.require_unchanged(staged.parent, told)


@pytest.mark.parametrize(
    ("output", "code", "sentence"),
    [
        (b"", -9, "took too long or too much memory"),
        (b"[]", 0, "did not answer"),
        (b'{"ok": "yes"}', 0, "did not answer"),
        (b"Segmentation", 139, "took too long or too much memory"),
        (b'{"ok": false, "refused": "os.system"}', 0, "os.system"),
    ],
)
def test_a_gate_that_does_not_answer_lets_nothing_in(
    output: bytes, code: int, sentence: str
) -> None:
    told = adopt.verdict_of(output, code, b"last words")
    assert adopt.result("m", told, [], "").verdict is Verdict.FAILED
    assert sentence in str(adopt.refusal("m", told))


@pytest.mark.parametrize("loader", ["torch", "safetensors", "npy", "adapter"])
def test_weights_alone_need_an_adapter(loader: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="no model by themselves"):
        adopt.built(plan(tmp_path), model, {"ok": True, "loader": loader})
    (tmp_path / "adapter.py").touch()
    made = adopt.built(plan(tmp_path, predict="adapter.py"), model, {"loader": loader})
    assert made.format == "adapter"


def test_what_adopt_names_must_lie_in_the_project_as_a_plain_file(
    model: Path, tmp_path: Path
) -> None:
    assert adopt.model_path(plan(tmp_path)) == model
    model.rename(tmp_path / "elsewhere")
    with pytest.raises(StoppedError, match="not there"):
        adopt.model_path(plan(tmp_path))
    model.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoppedError, match="not there"):
        adopt.model_path(plan(tmp_path))


def test_an_adopted_model_is_not_trained_too() -> None:
    text = '[model]\nname = "loan"\n[build]\nadopt = "m.pkl"\nrun = "python train.py"\n'
    with pytest.raises(ConfigurationError, match="not trained, and run is set"):
        parse(text)


@pytest.mark.parametrize(
    ("output", "opinion"),
    [
        (b"Scanned files: 1\nInfected files: 0\nDangerous globals: 0\n", ""),
        (b"Infected files: 1\nDangerous globals: 2\n", "picklescan found 2 dangerous globals"),
    ],
)
def test_the_second_opinion_is_one_line(output: bytes, opinion: str) -> None:
    assert adopt.opinion_of(output, 1 if opinion else 0) == opinion
