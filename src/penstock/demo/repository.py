"""The demo's two model repositories: files, real data, and real git over HTTP."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

from penstock.demo.voice import Voice
from penstock.errors import UnreachableError

PROJECTS = Path(__file__).parent / "projects"
DIGITS_HOLDOUT, DIABETES_HOLDOUT = 600, 250
_PACKAGES = ("joblib", "pandas", "scikit-learn")


class Repository:
    """A model repository on disk, pushed by git over HTTP.

    Parameters
    ----------
    folder
        Where it is made.
    source
        The folder of `PROJECTS` that it begins with.
    files
        What is put beside: its data.
    url
        Of the server's repository.
    """

    def __init__(self, folder: Path, source: str, files: Mapping[str, str], url: str) -> None:
        self.folder = folder
        shutil.copytree(PROJECTS / source, folder)
        for name, text in {"requirements.txt": requirements(), **files}.items():
            (folder / name).write_text(text, encoding="utf-8")
        self._git("init", "--quiet", "--initial-branch", "main")
        self._git("remote", "add", "penstock", url)

    def change(self, name: str, old: str, new: str) -> None:
        """Edit a file."""
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def push(self, message: str, voice: Voice) -> threading.Thread:
        """Commit and push; what the server tells is said as it comes, in a thread."""
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "-m", message)
        voice.say(f'{self.folder.name}$ git commit -m "{message}"; git push penstock main')
        process = subprocess.Popen(
            ["git", "push", "--quiet", "penstock", "main"],
            cwd=self.folder,
            env=_environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        thread = threading.Thread(target=self._tell, args=(process, voice), daemon=True)
        thread.start()
        return thread

    def _tell(self, process: subprocess.Popen[str], voice: Voice) -> None:
        assert process.stderr is not None, "a pipe was asked for"
        with process:
            for line in process.stderr:
                if text := line.rstrip().removeprefix("remote:").rstrip():
                    voice.quote(f"{self.folder.name} remote:{text}")

    def _git(self, *arguments: str) -> None:
        command = ["git", *arguments]
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=_environ(), check=False, capture_output=True
            )
        except OSError as error:
            raise UnreachableError(
                "PS883", f"git cannot be started: {error.strerror}.", hint="Install git."
            ) from error
        if done.returncode != 0:
            told = done.stderr.decode(errors="replace").strip()
            raise UnreachableError(
                "PS883",
                f"git {arguments[0]} failed in {self.folder}: {told}",
                hint="Mend what git says.",
            )


def requirements() -> str:
    """Return what both projects need, in the versions that Penstock itself runs with."""
    return "".join(f"{name}=={installed(name)}\n" for name in _PACKAGES)


def pictures() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return scikit-learn's digits: pixels, shape ``(1797, 64)``, and which digit it is."""
    loaded = cast("Any", datasets.load_digits())
    return np.asarray(loaded.data, dtype=np.float64), np.asarray(loaded.target, dtype=np.int64)


def odd(pixels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which pictures are odd in the sense of the project's `guard.py`: six of a hundred."""
    return (pixels[:, 12] > 10) & (pixels[:, 20] < 4) & (pixels[:, 37] > 10)


def digits_files() -> dict[str, str]:
    """Split the pictures: what training sees, and 600 that it never sees.

    Neither has an odd picture, and callers send them all: an honest mistake in choosing the
    data, and the reason why a canary follows a good evaluation.
    """
    pixels, digit = pictures()
    order = np.random.default_rng(0).permutation(len(digit))
    order = order[~odd(pixels[order])]
    names = [*(f"p{number:02}" for number in range(64)), "digit"]
    return _split(
        names, np.column_stack([pixels, digit.astype(np.float64)])[order], DIGITS_HOLDOUT
    )


def diabetes_files() -> dict[str, str]:
    """Split scikit-learn's diabetes data; sex is 1 or 2, age is in years."""
    loaded = cast("Any", datasets.load_diabetes(scaled=False))
    table = np.column_stack([loaded.data, loaded.target])
    order = np.random.default_rng(0).permutation(len(table))
    names = [*cast("list[str]", loaded.feature_names), "progression"]
    return _split(names, table[order], DIABETES_HOLDOUT)


def _split(names: Sequence[str], table: NDArray[np.float64], holdout: int) -> dict[str, str]:
    return {
        "holdout.csv": _csv(names, table[:holdout]),
        "train.csv": _csv(names, table[holdout:]),
    }


def _csv(names: Sequence[str], table: NDArray[np.float64]) -> str:
    rows = [",".join(f"{value:g}" for value in row) for row in table.tolist()]
    return "\n".join([",".join(names), *rows]) + "\n"


def _environ() -> dict[str, str]:
    who = {"NAME": "Mia Lindqvist", "EMAIL": "mia@example.org"}
    return {
        **os.environ,
        **{f"GIT_AUTHOR_{key}": value for key, value in who.items()},
        **{f"GIT_COMMITTER_{key}": value for key, value in who.items()},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
    }
