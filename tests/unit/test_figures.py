"""The project's own figures, and which file is a model: by what stands in files, not by names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.build.checkout import FILE_TIME_S
from penstock.build.project.model_files import flavours, format_of, may_be_model
from penstock.build.results.figures import figures, printed

XGBOOST = b'{"learner":{"attributes":{},"feature_names":[]},"version":[3,0,0]}'
XGBOOST_OLD = b'{"version":[1,7,0],"learner":{}}'
UBJSON = b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{L"
LIGHTGBM = b"tree\nversion=v4\nnum_class=1\n"
CATBOOST = b"CBM1\x00\x01"
ONNX = b"\x08\x0a\x12\x08skl2onnx"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout"


def written(path: Path, content: object, *, committed: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    if committed:
        os.utime(path, (FILE_TIME_S, FILE_TIME_S))
    return path


def of(project: Path, log: str = "", **tracked: float) -> tuple[dict[str, float], dict[str, str]]:
    file = project.parent / "log"
    file.write_text(log)
    return figures(tracked, project, file)


# ---- figures ----


def test_new_files_of_metrics_are_read_nested_names_joined_by_dots(project: Path) -> None:
    written(project / "metrics.json", {"auc": 0.91, "cv": {"mean": 0.9, "std": {"a": 1}}})
    written(project / "reports" / "test_scores.yaml", "f1: 0.8\nnote: good\nok: true\nrows: [1]\n")
    written(project / "old_metrics.json", {"auc": 0.5}, committed=True)
    written(project / "params.json", {"depth": 3})

    found, sources = of(project)

    assert found == {"auc": 0.91, "cv.mean": 0.9, "cv.std.a": 1, "f1": 0.8}
    assert sources == {
        "auc": "metrics.json",
        "cv.mean": "metrics.json",
        "cv.std.a": "metrics.json",
        "f1": "reports/test_scores.yaml",
    }


def test_a_file_that_dvc_names_is_read_whatever_its_name(project: Path) -> None:
    stages = "stages:\n  train:\n    cmd: x\n    metrics:\n    - out/summary.json:\n        a: b\n"
    written(project / "dvc.yaml", stages, committed=True)
    written(project / "out" / "summary.json", {"auc": 0.7})

    assert of(project)[0] == {"auc": 0.7}


def test_what_mlflow_has_comes_first(project: Path) -> None:
    written(project / "metrics.json", {"auc": 0.5, "f1": 0.4})

    found, sources = of(project, "accuracy: 0.3\n", auc=0.9)

    assert found == {"auc": 0.9, "f1": 0.4}
    assert sources == {"auc": "MLflow", "f1": "metrics.json"}


def test_output_is_the_last_resort(project: Path) -> None:
    log = "2026-11-30 10:00:00 INFO epoch 3\naccuracy: 0.7\nTest accuracy = 0.91\naccuracy: 0.9\n"

    found, sources = of(project, log)

    assert found == {"accuracy": 0.9, "Test accuracy": 0.91}
    assert set(sources.values()) == {"output"}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("loss=0.31 val_loss=0.35", {"loss": 0.31, "val_loss": 0.35}),
        ("Train accuracy: 91.5 %", {"Train accuracy (%)": 91.5}),
        ("ROC AUC: 1e-1", {"ROC AUC": 0.1}),
        ("R^2: -0.2", {"R^2": -0.2}),
        ("epoch: 3", {}),
        ("rows: 1000, seed: 7", {}),
        ("score file: 3.json", {}),
        ("time 10:30:05 loss at 12:00", {}),
        ("error: 404 not found", {"error": 404}),
        ("accuracy: high", {}),
    ],
)
def test_only_numbers_of_quality_are_taken_from_output(line: str, found: dict[str, float]) -> None:
    assert printed([line]) == found


@given(st.lists(st.text(max_size=80), max_size=20))
def test_any_output_can_be_read(lines: list[str]) -> None:
    assert all(isinstance(value, float) for value in printed(lines).values())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1, 2]",
        "{",
        '{"auc": NaN, "b": Infinity}',
        '{"n": ' + "9" * 5000 + "}",
        '{"n": 1' + "0" * 400 + "}",
        "[" * 50_000,
        '{"a": "' + "x" * 300_000 + '"}',
    ],
)
def test_a_file_that_makes_no_sense_gives_no_figures(project: Path, content: str) -> None:
    written(project / "metrics.json", content)

    assert of(project)[0] == {}


@pytest.mark.parametrize("content", ["a: [", "!!python/object/apply:os.system [id]", "- 1\n", "5"])
def test_a_yaml_file_that_makes_no_sense_gives_none_and_does_nothing(
    project: Path, content: str
) -> None:
    written(project / "metrics.yaml", content)

    assert of(project)[0] == {}


def test_aliases_that_stand_for_very_much_are_not_walked(project: Path) -> None:
    keys = [chr(97 + n) for n in range(26)]
    lines = ["l0: &l0 {" + ", ".join(f"{k}: 1" for k in keys) + "}"]
    lines += [
        f"l{depth}: &l{depth} {{" + ", ".join(f"{k}: *l{depth - 1}" for k in keys) + "}"
        for depth in range(1, 5)
    ]
    written(project / "metrics.yaml", "\n".join(lines))

    assert len(of(project)[0]) == 200


def test_a_link_is_not_followed(project: Path, tmp_path: Path) -> None:
    secret = written(tmp_path / "secret.json", {"pin": 1234})
    (project / "metrics.json").symlink_to(secret)
    (project / "reports").symlink_to(tmp_path)

    assert of(project)[0] == {}


# ---- model files ----


@pytest.mark.parametrize(
    ("name", "content", "format_"),
    [
        ("m.joblib", b"\x80", "joblib"),
        ("m.PKL", b"\x80", "joblib"),
        ("m.skops", b"PK", "skops"),
        ("m.json", XGBOOST, "xgboost"),
        ("m.json", XGBOOST_OLD, "xgboost"),
        ("m.ubj", UBJSON, "xgboost"),
        ("m.model", UBJSON, "xgboost"),
        ("m.model", LIGHTGBM, "lightgbm"),
        ("m.txt", LIGHTGBM, "lightgbm"),
        ("m.cbm", CATBOOST, "catboost"),
        ("m.onnx", ONNX, "onnx"),
        ("metrics.json", b'{"auc": 0.9, "learner": "xgb"}', None),
        ("metrics.json", b'{"version": 3}', None),
        ("requirements.txt", b"tree-sitter==0.1\n", None),
        ("notes.txt", b"", None),
        ("m.onnx", b"version https://git-lfs.github.com/spec/v1\n", None),
        ("m.cbm", b"a,b\n", None),
        ("net.pt", b"PK", None),
        ("data.csv", b"a,b\n", None),
    ],
)
def test_the_format_follows_from_ending_and_first_bytes(
    tmp_path: Path, name: str, content: bytes, format_: str | None
) -> None:
    (tmp_path / name).write_bytes(content)

    assert format_of(tmp_path / name) == format_


def test_files_that_only_an_adapter_can_read_may_be_models(tmp_path: Path) -> None:
    for name in ("net.pt", "net.h5", "plot.png", "metrics.json"):
        (tmp_path / name).write_bytes(b"{}")

    found = {path.name for path in tmp_path.iterdir() if may_be_model(path)}

    assert found == {"net.pt", "net.h5"}


def test_a_folder_is_a_model_by_its_mlmodel_which_names_its_flavours(tmp_path: Path) -> None:
    text = "artifact_path: model\nflavors:\n  python_function:\n    env:\n      conda: c\n"
    (tmp_path / "MLmodel").write_text(f"{text}  xgboost:\n    data: m.xgb\nmlflow_version: 3\n")

    assert format_of(tmp_path) == "mlflow"
    assert flavours(tmp_path) == ["python_function", "xgboost"]
    (tmp_path / "MLmodel").write_text("- 1")
    assert flavours(tmp_path) == []
