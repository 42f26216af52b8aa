"""Imports that the dependency file does not serve are found without running anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.build.project.dependency_files import read
from penstock.build.project.imports import missing, named


def project(path: Path, **files: str) -> Path:
    for name, text in files.items():
        file = path / name.replace("__", "/").replace("_DOT_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def lacks(path: Path, command: str = "python train.py") -> list[str]:
    return [one.distribution for one in missing(path, command, named(read(path)))]


def test_a_module_is_named_with_its_file_and_its_package(tmp_path: Path) -> None:
    code = "import features\n"
    project(
        tmp_path,
        train_DOT_py=code,
        features_DOT_py="import os\nimport yaml\n",
        requirements_DOT_txt="a",
    )

    (found,) = missing(tmp_path, "python train.py", named(read(tmp_path)))

    assert found.sentence("requirements.txt") == (
        "features.py imports yaml, which requirements.txt lacks."
    )
    assert found.fix("requirements.txt") == (
        "Add PyYAML to requirements.txt or to [environment] extra."
    )
    assert found.line == 2


@pytest.mark.parametrize(
    ("code", "needs"),
    [
        ("import numpy, scipy.stats\nfrom sklearn.svm import SVC\n", "scikit-learn"),
        ("import cv2\nimport PIL.Image", "opencv-python\npillow"),
        ("import psycopg2\nfrom bs4 import BeautifulSoup", "psycopg2-binary\nbeautifulsoup4"),
        ("try:\n    import ujson\nexcept ImportError:\n    import json", ""),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas", ""),
        ("from . import nothing", ""),
        ("import mlflow, pandas", "mlflow-skinny\npandas"),
        ("import google.cloud.bigquery", "google-cloud-bigquery"),
        ("def broken(:\n", ""),
    ],
)
def test_what_the_environment_serves_is_no_fault(tmp_path: Path, code: str, needs: str) -> None:
    project(tmp_path, train_DOT_py=code, requirements_DOT_txt=needs or "a")

    assert lacks(tmp_path) == []


def test_own_modules_are_followed_wherever_they_lie(tmp_path: Path) -> None:
    project(
        tmp_path,
        requirements_DOT_txt="a",
        src__train_DOT_py="from scoring.fit import go\nimport beside\nfrom lib import tool\n",
        src__scoring__fit_DOT_py="from .deep import x\nfrom . import other\n",
        src__scoring__deep_DOT_py="import polars",
        src__scoring__other_DOT_py="import shap",
        src__beside_DOT_py="import optuna",
        lib__tool_DOT_py="import xgboost",
    )

    assert sorted(lacks(tmp_path, "python src/train.py")) == [
        *("optuna", "polars", "shap", "xgboost"),
    ]
    assert sorted(lacks(tmp_path, "python -m scoring.fit --depth 6")) == ["polars", "shap"]
    assert sorted(lacks(tmp_path, "scoring.fit:go")) == ["polars", "shap"]


def test_files_that_training_does_not_reach_are_not_judged(tmp_path: Path) -> None:
    project(
        tmp_path,
        train_DOT_py="",
        app_DOT_py="import streamlit",
        tests__test_x_DOT_py="import pytest",
        requirements_DOT_txt="a",
    )

    assert lacks(tmp_path) == []


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    words=st.lists(
        st.sampled_from(
            ["import", "from", ".", "..", " ", "a", "train", "os", "*", "\n", "as", "try:\n ", "#"]
        ),
        max_size=12,
    )
)
def test_whatever_stands_in_a_file_nothing_falls_over(tmp_path: Path, words: list[str]) -> None:
    project(tmp_path, train_DOT_py="".join(words), a__b_DOT_py="from ..... import x")

    assert isinstance(missing(tmp_path, "python train.py a/b.py 'x", ["os"]), list)
    assert isinstance(missing(tmp_path, "python train.py a/b.py", []), list)
