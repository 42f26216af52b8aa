"""A model that cannot be loaded says why, in a sentence for the data scientist."""

import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from penstock.check.smoke import loads
from penstock.domain import Verdict
from tests.unit.packed_versions import described, pack, start

NUMPY_NEW = b"cnumpy._other.multiarray\n_reconstruct\n."
OF_MAIN = b"c__main__\nFeatureMaker\n."
OF_PROJECT = b"cfeatures\nMaker\n."


def packed(folder: Path, name: str, content: bytes, kind: str) -> Path:
    pack(folder, signature=None, format=kind, path=f"model/{name}", predict=None)
    (folder / "model" / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "content", "code", "words"),
    [
        ("m.onnx", "onnx", b"", "PS570", "m.onnx needs onnxruntime, which the environment lacks."),
        ("m.cbm", "catboost", b"", "PS570", "m.cbm needs catboost"),
        ("m.pkl", "joblib", b"cgone.away\nThing\n.", "PS571", "needs the module gone"),
        ("m.pkl", "joblib", OF_MAIN, "PS571", "FeatureMaker, which was defined in the script"),
        ("m.pkl", "joblib", OF_PROJECT, "PS571", "Maker of the module features, which has none"),
        ("m.pkl", "joblib", NUMPY_NEW, "PS574", "written by another version of numpy"),
        ("m.pkl", "joblib", b"not a pickle", "PS572", "m.pkl cannot be read as joblib"),
        ("m.skops", "skops", b"not a zip", "PS572", "m.skops cannot be read as skops"),
        ("m.pkl", "joblib", pickle.dumps((1, 2)), "PS573", "holds a tuple without predict"),
        ("m.h5", "keras", b"", "PS572", "The format keras is not known."),
    ],
)
def test_a_model_that_does_not_load_says_why(
    tmp_path: Path, name: str, kind: str, content: bytes, code: str, words: str
) -> None:
    folder = packed(tmp_path / "v", name, content, kind)
    (folder / "code" / "features.py").write_text("x = 1\n")

    told = described(folder, packages=True)

    assert (told["ok"], told["code"]) == (False, code)
    assert words in told["error"]
    assert told["hint"]


@pytest.mark.parametrize(
    ("code", "number", "words"),
    [
        ("def predict(model, frame): ...\n", "PS575", "adapter.py has no function load."),
        ("def load(folder): ...\n", "PS575", "adapter.py has no function predict."),
        ("def load(): ...\ndef predict(m, f): ...\n", "PS575", "failed while loading: TypeError"),
        ("1 +\n", "PS575", "failed while loading: SyntaxError"),
        ("import gone_away\n", "PS571", "needs the module gone_away"),
    ],
)
def test_an_adapter_that_is_none_says_why(
    tmp_path: Path, code: str, number: str, words: str
) -> None:
    told = described(pack(tmp_path / "v", code), packages=True)

    assert (told["ok"], told["code"]) == (False, number)
    assert words in told["error"]


def test_an_adapter_finds_the_modules_beside_it(tmp_path: Path) -> None:
    folder = pack(tmp_path / "v", "", predict="code/serving/adapter.py")
    (folder / "code" / "serving").mkdir()
    (folder / "code" / "serving" / "rule.py").write_text("FACTOR = 2\n")
    (folder / "code" / "serving" / "adapter.py").write_text(
        "import rule\ndef load(folder): return rule.FACTOR\ndef predict(m, f): ...\n"
    )

    assert described(folder)["ok"] is True


def test_several_answers_a_row_are_refused(tmp_path: Path) -> None:
    from sklearn.tree import DecisionTreeClassifier

    both: Any = DecisionTreeClassifier()
    both.fit(np.arange(8.0).reshape(4, 2), [[0, 1], [1, 0], [0, 1], [1, 1]])
    folder = packed(tmp_path / "v", "m.joblib", b"", "joblib")
    joblib.dump(both, folder / "model" / "m.joblib")

    assert described(folder, packages=True)["code"] == "PS576"


def test_another_version_of_scikit_learn_is_left_to_a_person(tmp_path: Path) -> None:
    folder = packed(tmp_path / "v", "m.joblib", b"", "joblib")
    model: Any = LinearRegression()
    model.fit([[1.0], [2.0]], [1, 2])
    state = model.__getstate__()
    old = {**state, "_sklearn_version": "1.2.2"}
    content = pickle.dumps(_Old(old))
    (folder / "model" / "m.joblib").write_bytes(content)

    told = described(folder, packages=True)
    judged = loads(told)

    assert (told["ok"], told["framework"]) == (True, "scikit-learn")
    assert judged.verdict is Verdict.UNDECIDED
    assert "trained with scikit-learn 1.2.2, served with" in judged.summary


class _Old:
    """Pickles as a regression of an older scikit-learn."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return (LinearRegression, (), self.state)


def test_a_worker_that_cannot_load_says_so_in_its_last_line(tmp_path: Path) -> None:
    folder = packed(tmp_path / "v", "m.onnx", b"", "onnx")
    with start(folder, "--socket", str(tmp_path / "s"), packages=True) as process:
        _, complaints = process.communicate(timeout=60)

    assert process.returncode == 1
    assert complaints.decode().splitlines() == [
        (
            "PS570 m.onnx needs onnxruntime, which the environment lacks. "
            "Add onnxruntime to [environment] extra."
        )
    ]
