"""What a version brings along of the import system, so that several can share a process.

Two projects may both have a ``features.py``. Each version's modules, search path, working folder
and scikit-learn settings are in place only while that version is loaded or asked: `enter` puts
them there, `leave` takes them away. What the environment holds is shared. Standard library of
Python 3.9.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_LIBRARY = str(Path(os.__file__).parent) + os.sep


class _Outside(NamedTuple):
    """What there was before a version was entered."""

    path: list[str]
    hidden: dict[str, Any]
    """Modules of others that have a name of the version's own."""
    settings: dict[str, Any] | None
    modules: int
    """How many there are once it is entered."""


class OwnModules:
    """One version's part of the import system.

    Parameters
    ----------
    folder
        The version's, with links resolved; its modules lie in ``code/src`` and ``code``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder) + os.sep
        self._working = str(folder)
        self._path = [str(folder / "code" / "src"), str(folder / "code")]
        self._tops = set(self._offered())
        self._modules: dict[str, Any] = {}
        self._settings: dict[str, Any] | None = None
        self._outside: _Outside | None = None

    def enter(self) -> None:
        """Put what is the version's own in place."""
        assert self._outside is None, "entered already"
        hidden = self._of_own_names()
        hidden.update({name: sys.modules[name] for name in self._modules if name in sys.modules})
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(self._modules)
        self._outside = _Outside(list(sys.path), hidden, _settings(), len(sys.modules))
        sys.path[:0] = self._path
        os.chdir(self._working)
        _set(self._settings)

    def leave(self) -> None:
        """Take it away again, with what came since."""
        assert self._outside is not None, "not entered"
        outside, self._outside = self._outside, None
        if len(sys.modules) != outside.modules:
            self._find_more()
        for name in self._modules:
            sys.modules.pop(name, None)
        sys.modules.update(outside.hidden)
        self._path = [place for place in sys.path if place not in outside.path]
        sys.path[:] = outside.path
        self._working = str(Path.cwd())
        self._settings = _settings()
        _set(outside.settings)

    def forget(self) -> None:
        """Drop the modules, and what the import system remembers of the folder."""
        for module in self._modules.values():
            with contextlib.suppress(Exception):
                vars(module).clear()  # functions hold it and it holds them; nobody else does
        self._modules.clear()
        for place in list(sys.path_importer_cache):
            if (place + os.sep).startswith(self._folder):
                del sys.path_importer_cache[place]

    def _offered(self) -> Iterator[str]:
        """Find the names that mean the version's own files, whatever is imported already."""
        search = [*self._path, *sys.path]
        for place in self._path:
            for found in Path(place).iterdir() if Path(place).is_dir() else ():
                top = found.stem if found.suffix == ".py" else found.name
                if top.isidentifier() and not _is_standard(top):
                    spec = importlib.machinery.PathFinder.find_spec(top, search)
                    if spec is not None and self._is_own(spec):
                        yield top

    def _find_more(self) -> None:
        single: dict[str, Any] = {}
        for name, module in list(sys.modules.items()):
            spec = getattr(module, "__spec__", None)
            if self._is_in(getattr(module, "__file__", None)) or self._is_own(spec):
                single[name] = module
                if "." not in name:
                    self._tops.add(name)
        self._modules = {**single, **self._of_own_names()}

    def _of_own_names(self) -> dict[str, Any]:
        if not any(top in sys.modules for top in self._tops):
            return {}
        return {
            name: module
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] in self._tops
        }

    def _is_own(self, spec: Any) -> bool:
        if spec is None:
            return False
        places = spec.submodule_search_locations
        if spec.loader is None and places is not None:  # a folder without __init__.py
            return all(map(self._is_in, places))
        return self._is_in(spec.origin)

    def _is_in(self, place: Any) -> bool:
        return isinstance(place, str) and place.startswith(self._folder)


def _is_standard(top: str) -> bool:
    """Say whether a module of the standard library is there already: nothing replaces it."""
    module = sys.modules.get(top)
    file = getattr(module, "__file__", None)
    if file is None:
        return top in sys.builtin_module_names
    return file.startswith(_LIBRARY) and "-packages" not in file


def _settings() -> dict[str, Any] | None:
    sklearn = sys.modules.get("sklearn")
    return None if sklearn is None or not hasattr(sklearn, "get_config") else sklearn.get_config()


def _set(settings: dict[str, Any] | None) -> None:
    if settings is not None:
        sys.modules["sklearn"].set_config(**settings)
