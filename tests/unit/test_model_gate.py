"""The gate refuses what is harmful or unknown and lets ordinary models in."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import (
    calibration,
    compose,
    discriminant_analysis,
    ensemble,
    feature_extraction,
    gaussian_process,
    impute,
    isotonic,
    linear_model,
    model_selection,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

from penstock.build.adoption.model_gate import examine
from penstock.build.adoption.model_unpickler import GatedUnpickler, Seen, allowed
from tests.malicious import Sample, samples

NOTHING: frozenset[str] = frozenset()

PLAIN_LOADER = """
import os, sys, warnings
warnings.simplefilter("ignore")
import joblib
for path in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            joblib.load(path)
        except BaseException:
            pass
        os._exit(0)
    os.waitpid(child, 0)
"""


def written(sample: Sample, folder: Path) -> Path:
    path = folder / f"model{sample.ending}"
    path.write_bytes(sample.content)
    return path


def names() -> list[str]:
    with tempfile.TemporaryDirectory() as place:
        return [sample.name for sample in samples(Path(place) / "canary")]


NAMES = names()


def sample_of(name: str, canary: Path) -> Sample:
    return next(one for one in samples(canary) if one.name == name)


def test_there_are_at_least_sixty_samples() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 60


@pytest.mark.parametrize("name", NAMES)
def test_a_harmful_file_is_refused_and_nothing_of_it_runs(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    told = examine(written(sample_of(name, canary), tmp_path), NOTHING)
    assert not told["ok"], told
    assert told["refused"]
    assert not canary.exists()


def test_the_payloads_would_run_under_a_plain_loader(tmp_path: Path) -> None:
    canaries: dict[str, Path] = {}
    paths: list[str] = []
    for number, name in enumerate(NAMES):
        folder = tmp_path / str(number)
        folder.mkdir()
        sample = sample_of(name, folder / "canary")
        if sample.executable:
            canaries[name] = folder / "canary"
            paths.append(str(written(sample, folder)))
    subprocess.run([sys.executable, "-c", PLAIN_LOADER, *paths], check=True, capture_output=True)
    assert len(canaries) >= 36
    assert [name for name, canary in canaries.items() if not canary.exists()] == []


def table() -> tuple[pd.DataFrame, Any, Any]:
    random = np.random.default_rng(0)
    one, two, noise = random.normal(size=(3, 60))
    frame = pd.DataFrame({"a": one, "b": two, "c": list("xyz") * 20})
    return frame, np.where(one + noise > 0, "yes", "no"), one * 2 + two


def mixed(last: Any) -> Any:
    columns = compose.ColumnTransformer(
        [
            ("numbers", pipeline.make_pipeline(impute.SimpleImputer(),
                                               preprocessing.StandardScaler()), ["a", "b"]),
            ("words", preprocessing.OneHotEncoder(handle_unknown="ignore"), ["c"]),
        ]
    )  # fmt: skip
    return pipeline.make_pipeline(columns, last)


CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "logistic": linear_model.LogisticRegression,
    "forest": lambda: ensemble.RandomForestClassifier(5),
    "extra trees": lambda: ensemble.ExtraTreesClassifier(5),
    "boosting": lambda: ensemble.GradientBoostingClassifier(n_estimators=3),
    "histogram boosting": lambda: ensemble.HistGradientBoostingClassifier(max_iter=3),
    "tree": lambda: tree.DecisionTreeClassifier(max_depth=3),
    "neighbours": lambda: neighbors.KNeighborsClassifier(3, algorithm="kd_tree"),
    "bayes": naive_bayes.GaussianNB,
    "svc": svm.SVC,
    "network": lambda: neural_network.MLPClassifier((4,), solver="lbfgs", max_iter=400),
    "sgd": lambda: linear_model.SGDClassifier(loss="log_loss", max_iter=2000),
    "discriminant": discriminant_analysis.LinearDiscriminantAnalysis,
    "calibrated": lambda: calibration.CalibratedClassifierCV(tree.DecisionTreeClassifier(), cv=2),
    "bagging": lambda: ensemble.BaggingClassifier(n_estimators=3),
    "ada": lambda: ensemble.AdaBoostClassifier(n_estimators=3),
    "voting": lambda: ensemble.VotingClassifier([("a", tree.DecisionTreeClassifier())]),
    "stacking": lambda: ensemble.StackingClassifier([("a", naive_bayes.GaussianNB())], cv=2),
    "search": lambda: model_selection.GridSearchCV(
        tree.DecisionTreeClassifier(), {"max_depth": [1, 2]}, scoring="accuracy", cv=2
    ),
    "gaussian process": gaussian_process.GaussianProcessClassifier,
    "logarithms": lambda: pipeline.make_pipeline(
        preprocessing.FunctionTransformer(np.square), linear_model.LogisticRegression()
    ),
}


def good_files(folder: Path) -> list[Path]:
    frame, label, amount = table()
    made: list[Path] = []

    def keep(name: str, model: Any, ways: tuple[str, ...]) -> None:
        for way in ways:
            path = folder / f"{name}.{way}".replace(" ", "-")
            if way == "skops":
                skops.io.dump(model, path)
            elif way == "pickle":
                path.write_bytes(pickle.dumps(model))
            else:
                joblib.dump(model, path, compress=cast("Any", 0 if way == "joblib" else (way, 3)))
            made.append(path)

    for name, make in CLASSIFIERS.items():
        last = make()
        shaped = mixed(last) if name != "logarithms" else last
        model = shaped.fit(frame if name != "logarithms" else frame[["a", "b"]], label)
        keep(name, model, ("joblib", "pickle", "skops"))
    for way in ("zlib", "gzip", "bz2", "xz", "lzma"):
        keep("compressed", mixed(linear_model.Ridge()).fit(frame, amount), (way,))
    keep("isotonic", isotonic.IsotonicRegression().fit(frame["a"], amount), ("joblib",))
    words = feature_extraction.text.TfidfVectorizer()
    texts = pipeline.make_pipeline(words, linear_model.LogisticRegression())
    keep("texts", texts.fit(["a win now", "see you then"] * 10, [1, 0] * 10), ("joblib", "skops"))
    keep("pair", (words, {"threshold": np.float64(0.4)}), ("pickle",))
    return made


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_ordinary_models_pass(tmp_path: Path) -> None:
    files = good_files(tmp_path)
    assert len(files) >= 60
    refused = {path.name: told["refused"] for path in files
               if not (told := examine(path, NOTHING))["ok"]}  # fmt: skip
    assert refused == {}


def test_the_loader_is_the_content_s_and_not_the_name_s(tmp_path: Path) -> None:
    model = tree.DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
    skops.io.dump(model, tmp_path / "model.pkl")
    joblib.dump(model, tmp_path / "model.skops")
    assert examine(tmp_path / "model.pkl", NOTHING)["loader"] == "skops"
    told = examine(tmp_path / "model.skops", NOTHING)
    assert told["loader"] == "joblib"
    assert told["kind"] == "DecisionTreeClassifier"
    assert told["packages"] == ["joblib", "numpy", "scikit-learn"]
    assert list(told["files"]) == ["model.skops"]
    assert told["versions"]["scikit-learn"]


def test_an_operator_may_let_a_name_in(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"kind": pytest.Module}))
    refused = examine(path, NOTHING)
    assert refused["refused"] == "_pytest.python.Module"
    assert examine(path, frozenset({"_pytest.python.Module"}))["ok"]


def test_a_folder_passes_only_when_each_of_its_files_does(tmp_path: Path) -> None:
    folder = tmp_path / "pair"
    folder.mkdir()
    joblib.dump(preprocessing.StandardScaler().fit([[0.0], [1.0]]), folder / "scaler.joblib")
    (folder / "model.txt").write_bytes(pickle.dumps(tree.DecisionTreeClassifier()))
    assert examine(folder, NOTHING)["loader"] == "adapter"
    (folder / "extra.bin").write_bytes(b"cos\nsystem\n(X\x04\x00\x00\x00truetR.")
    assert examine(folder, NOTHING)["refused"] == "os.system"
    (folder / "extra.bin").unlink()
    (folder / "link").symlink_to("/etc/passwd")
    assert "a link" in examine(folder, NOTHING)["refused"]


@pytest.mark.parametrize(
    ("loader", "code", "passes"),
    [
        ("mlflow.sklearn", "", True),
        ("mlflow.pyfunc.model", "", False),
        ("my_loader", "", False),
        ("mlflow.sklearn", "    code: code\n", False),
    ],
)
def test_an_mlflow_folder_needs_a_known_loader_and_no_code(
    loader: str, code: str, passes: bool, tmp_path: Path
) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(tree.DecisionTreeClassifier()))
    flavors = f"flavors:\n  python_function:\n    loader_module: {loader}\n{code}"
    (tmp_path / "MLmodel").write_text(flavors)
    (tmp_path / "conda.yaml").write_text("dependencies: []\n")
    told = examine(tmp_path, NOTHING)
    assert told["ok"] is passes, told
    assert told["loader"] == ("mlflow" if passes else None)


def seed_bytes() -> bytes:
    frame, label, _ = table()
    return pickle.dumps(tree.DecisionTreeClassifier().fit(frame[["a", "b"]], label))


SEED = seed_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_mutation_of_a_model_names_what_is_not_allowed(data: st.DataObject) -> None:
    raw = bytearray(SEED)
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(raw) - 1))
        what = data.draw(st.sampled_from(["byte", "cut", "system"]))
        if what == "byte":
            raw[place] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del raw[place : place + data.draw(st.integers(1, 5))]
        else:
            raw[place:place] = b"cos\nabort\n)R"
    seen = Seen()
    with contextlib.suppress(Exception):  # whatever a broken stream raises is no pass either
        GatedUnpickler(io.BytesIO(bytes(raw)), NOTHING, seen).load()
    for name in seen.names:
        module, _, last = name.rpartition(".")
        assert allowed(module, last)


def test_the_program_answers_one_line_of_json_whatever_the_file_prints(tmp_path: Path) -> None:
    program = Path(examine.__code__.co_filename)
    joblib.dump(tree.DecisionTreeClassifier(), tmp_path / "model.joblib")
    argv = [sys.executable, "-I", str(program), str(tmp_path / "model.joblib")]
    answered = subprocess.run(argv, check=True, capture_output=True, text=True)
    told = json.loads(answered.stdout)
    assert told["ok"]
    assert told["loader"] == "joblib"
