"""What a host may import before it forks a worker: what the files of a version name.

Nothing is opened as what it is: names of modules stand readable in pickles, in skops files, in
MLmodel and in source, and only those that begin as a known framework count. A wrong guess costs a
failed import in the sandbox, a missing one the time that the worker then takes itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

FRAMEWORKS = ("sklearn", "scipy", "pandas", "xgboost", "lightgbm", "catboost")
"""Those that a process may be forked with. onnxruntime and torch start threads on import."""
COMMON = ("sklearn.compose", "sklearn.ensemble", "sklearn.linear_model", "sklearn.pipeline")
"""For a pickle that names nothing: it is compressed."""
MAX_BYTES = 64 << 20
_NAME = re.compile(rb"(?:%s)(?:\.[A-Za-z_]\w*)*" % "|".join(FRAMEWORKS).encode())
_MOST_NAMES = 200


def worth_importing(folder: Path) -> list[str]:
    r"""Return the modules that a folder of code or of a version names, sorted.

    Reads at most `MAX_BYTES`, small files first.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     text = "from sklearn.linear_model import Ridge\nimport torch\n"
    ...     _ = Path(name, "train.py").write_text(text)
    ...     worth_importing(Path(name))
    ['pandas', 'sklearn.linear_model']
    """
    found: set[str] = set()
    left = MAX_BYTES
    pickled = False
    for path in _small_first(folder):
        with path.open("rb") as file:
            content = file.read(left)
        left -= len(content)
        found.update(name.decode() for name in _NAME.findall(content))
        pickled = pickled or path.suffix in (".pkl", ".pickle", ".joblib", ".skops")
        if left <= 0 or len(found) > _MOST_NAMES:
            break
    if pickled and not found:
        found.update(COMMON)
    if any(name.startswith("sklearn") for name in found):
        found.add("pandas")  # a model that was fitted on names is asked with a DataFrame
    return sorted(found)[:_MOST_NAMES]


def _small_first(folder: Path) -> Iterator[Path]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    yield from sorted(files, key=lambda path: path.stat().st_size)
