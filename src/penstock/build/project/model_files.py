"""Which file is a model, and in which format: by its ending and its first bytes.

Nothing here opens a model as one. A ``metrics.json`` is no XGBoost model and a
``requirements.txt`` no LightGBM model, and their first bytes say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

MLMODEL = "MLmodel"
"""The file that makes a folder an MLflow model."""

_FIRST_BYTES = 4096


def _xgboost(head: bytes) -> bool:
    # JSON or UBJSON, either with the object "learner" before anything large.
    json = re.match(rb'\s*\{\s*"(learner|version)"', head) is not None
    json = json and re.search(rb'"learner"\s*:\s*\{', head) is not None
    return json or re.match(rb"\{[iUIlL].{1,8}learner", head, re.DOTALL) is not None


def _lightgbm(head: bytes) -> bool:
    return re.match(rb"tree\r?\n", head) is not None


def _catboost(head: bytes) -> bool:
    return head.startswith(b"CBM1")


def _onnx(head: bytes) -> bool:
    # A protocol buffer whose first field is the version of the format, a small number.
    return head[:1] == b"\x08"


_BY_ENDING: Mapping[str, str] = {
    ".joblib": "joblib",
    ".pkl": "joblib",
    ".pickle": "joblib",
    ".skops": "skops",
}
"""A pickle is read as joblib reads it."""

_SNIFFED: Mapping[str, Callable[[bytes], bool]] = {
    "onnx": _onnx,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "catboost": _catboost,
}

_ENDINGS: Mapping[str, tuple[str, ...]] = {
    ".onnx": ("onnx",),
    ".cbm": ("catboost",),
    ".ubj": ("xgboost",),
    ".json": ("xgboost",),
    ".bst": ("xgboost",),
    ".txt": ("lightgbm",),
    ".lgb": ("lightgbm",),
    ".model": ("xgboost", "lightgbm"),
    ".bin": ("xgboost",),
}
"""What may stand in a file of an ending that says too little."""

OPAQUE = (".pt", ".pth", ".ckpt", ".h5", ".keras", ".safetensors", ".npz", ".bin", ".pb")
"""Endings of models that only the project's own adapter can read."""

CERTAIN_ENDINGS = ("joblib", "pkl", "pickle", "skops", "onnx", "cbm", "ubj")
"""Endings that nothing but models have."""
ENDINGS = tuple(
    dict.fromkeys(
        [*CERTAIN_ENDINGS, *(e[1:] for e in _ENDINGS), *(ending[1:] for ending in OPAQUE)]
    )
)
"""Endings that models may have."""


def format_of(path: Path) -> str | None:
    """Return the format of a model file, ``mlflow`` for a folder with an MLmodel; None if none.

    Parameters
    ----------
    path
        A plain file or a folder; links were refused before.
    """
    if path.is_dir():
        return "mlflow" if (path / MLMODEL).is_file() else None
    if known := _BY_ENDING.get(path.suffix.lower()):
        return known
    possible = _ENDINGS.get(path.suffix.lower(), ())
    if not possible:
        return None
    with path.open("rb") as file:
        head = file.read(_FIRST_BYTES)
    return next((name for name in possible if _SNIFFED[name](head)), None)


def may_be_model(path: Path) -> bool:
    """Whether a file is a model, or could be one to an adapter."""
    return format_of(path) is not None or path.suffix.lower() in OPAQUE


def flavours(folder: Path) -> list[str]:
    """Return the flavours that an MLmodel names, such as ``sklearn``."""
    with (folder / MLMODEL).open("rb") as file:
        lines = file.read(1 << 20).decode("utf-8", "replace").splitlines()
    if "flavors:" not in lines:
        return []
    found: list[str] = []
    for line in lines[lines.index("flavors:") + 1 :]:
        if not line.startswith(" "):
            break
        if match := re.match(r"  (\w+):", line):
            found.append(match[1])
    return found
