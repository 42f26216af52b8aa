"""The gate for models that were not built here: a dry load that lets in nothing unknown.

    python -I model_gate.py PATH [--allow module.name ...]     one line of JSON

Runs in the sandbox, in the environment that the model will have, with the standard library of
Python 3.9 and the frameworks found there. What a file is, its first bytes say, never its name.
A pickle is loaded for real, but by an unpickler that knows which names a model may contain:
every other name, every trick to reach one, and everything that it does not understand is
refused. The file is then used with the very loader that was checked here, by its digest.

Sources: the pickle protocol (PEP 307, 3154, 574) and CPython's ``pickle._Unpickler``, whose
pure Python form asks `find_class` for every name; joblib's array wrapper.
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import importlib
import importlib.util
import io
import json
import lzma
import os
import re
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from penstock.build.adoption.model_unpickler import GatedUnpickler, RefusedError, Seen, allowed
else:
    _spec = importlib.util.spec_from_file_location(
        "penstock_model_unpickler", Path(__file__).with_name("model_unpickler.py")
    )
    _neighbour = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_neighbour)
    GatedUnpickler, RefusedError = _neighbour.GatedUnpickler, _neighbour.RefusedError
    Seen, allowed = _neighbour.Seen, _neighbour.allowed

MAX_INFLATED_BYTES = 8 << 30
MAX_INFLATION = 1000
"""A compressed file may grow by this factor; ordinary models grow by less than 100."""
_MAX_HEADER = 100 << 20
_STANDARD = (
    *("builtins", "__builtin__", "collections", "copyreg", "copy_reg", "_codecs", "datetime"),
    *("decimal", "fractions", "uuid", "functools"),
)
_PYPI_NAMES = {"sklearn": "scikit-learn"}


# ---- reading a file --------------------------------------------------------------------------


class _Inflated(io.RawIOBase):
    """Reads a compressed file, up to a limit."""

    def __init__(self, file: IO[bytes], kind: str, packed_bytes: int) -> None:
        self._file = file
        self._kind = kind
        self._left = min(MAX_INFLATED_BYTES, max(64 << 20, packed_bytes * MAX_INFLATION))
        self._engine = self._fresh()
        self._rest = b""
        self._ended = False

    def _fresh(self) -> Any:
        if self._kind in ("zlib", "gzip"):
            return zlib.decompressobj(31 if self._kind == "gzip" else 15)
        if self._kind == "bz2":
            return bz2.BZ2Decompressor()
        return lzma.LZMADecompressor()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, target: Any) -> int:
        """Fill a buffer; 0 at the end."""
        while not self._ended:
            data = self._rest
            if not data and getattr(self._engine, "needs_input", True):
                data = self._file.read(1 << 16)
                if not data:
                    raise RefusedError(f"{self._kind} data that are cut short")
            part = self._engine.decompress(data, len(target))
            self._rest = getattr(self._engine, "unconsumed_tail", b"") or b""
            if self._engine.eof:
                self._ended = True
                if self._engine.unused_data or self._file.read(1):
                    raise RefusedError(f"data after the end of its {self._kind} stream")
            self._left -= len(part)
            if self._left < 0:
                raise RefusedError(f"{self._kind} data that grow beyond every model")
            if part:
                target[: len(part)] = part
                return len(part)
        return 0


_PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x5d\x00\x00", "lzma"),
)
_MAGIC = (
    *((magic, "zlib") for magic in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")),
    (b"PK\x03\x04", "zip"),
    (b"\x93NUMPY", "npy"),
    (b"tree\n", "lightgbm"),
    (b"CBM1", "catboost"),
    (b"{L", "xgboost"),
)
_NEVER = (
    (b"\x89HDF", "HDF5 (Keras): it can hold code, and there is no loader for it that cannot run"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"#!", "a script"),
    (b"\x28\xb5\x2f\xfd", "zstandard data"),
    (b"\x04\x22\x4d\x18", "LZ4 data"),
)


def kind_of(head: bytes) -> str:
    r"""Tell a file's kind by its first 512 bytes; RefusedError for what no model is.

    Examples
    --------
    >>> kind_of(b"\x80\x05\x95"), kind_of(b"tree\nversion=v4"), kind_of(b"CBM1\x00")
    ('pickle', 'lightgbm', 'catboost')
    """
    if head[257:262] == b"ustar":
        raise RefusedError("a tar archive")
    for magic, name in _NEVER:
        if head.startswith(magic):
            raise RefusedError(name)
    for magic, name in (*_PACKED, *_MAGIC):
        if head.startswith(magic):
            return name
    if re.match(rb'\s*\{\s*"(learner|version)"', head):
        return "xgboost"
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_HEADER:
        return "safetensors"
    if head[:1] == b"\x08" and len(head) > 2 and head[1] < 32:
        return "onnx"
    return "pickle"  # protocols 0 and 1 have no mark; what is none will not load


def _pickle(file: IO[bytes], extra: frozenset[str], seen: Seen) -> Any:
    """Load one pickle that ends where the file ends."""
    loaded = GatedUnpickler(file, extra, seen).load()
    if file.read(1):
        raise RefusedError("data after the end of the pickle")
    return loaded


class Gate:
    """Checks files; knows afterwards which names it saw.

    Parameters
    ----------
    extra
        Names that the operator lets in besides.
    """

    def __init__(self, extra: frozenset[str] = frozenset()) -> None:
        self.extra = extra
        self.seen = Seen()

    def file(self, path: Path) -> str:
        """Load a file dry and return its loader: ``joblib``, ``skops``, ``onnx``, …

        Raises
        ------
        RefusedError
            It holds what no model needs, cannot be read, or needs a framework that is not here.
        """
        try:
            with path.open("rb") as file:
                kind = kind_of(file.read(512))
            return self._loaders()[kind](path)
        except RefusedError:
            raise
        except ModuleNotFoundError as error:
            raise RefusedError(f"a part of {error.name}, which the environment lacks") from error
        except Exception as error:
            # A loader that stumbles has not understood the file: that is no pass.
            raise RefusedError(f"what cannot be read ({type(error).__name__}: {error})") from error

    def _loaders(self) -> dict[str, Callable[[Path], str]]:
        packed = dict.fromkeys((*(name for _, name in _PACKED), "zlib"), self._joblib)
        return {
            **packed,
            "pickle": self._joblib,
            "zip": self._zip,
            "npy": self._npy,
            "lightgbm": self._lightgbm,
            "catboost": self._catboost,
            "xgboost": self._xgboost,
            "safetensors": self._safetensors,
            "onnx": self._onnx,
        }

    def _joblib(self, path: Path) -> str:
        with path.open("rb") as file:
            kind = kind_of(file.read(512))
            file.seek(0)
            stream: IO[bytes] = file
            if kind != "pickle":
                kind = "xz" if kind == "lzma" else kind
                raw = _Inflated(file, kind, path.stat().st_size)
                stream = cast("IO[bytes]", io.BufferedReader(raw))
            self.seen.kind = type(_pickle(stream, self.extra, self.seen)).__name__
        return "joblib"

    def _zip(self, path: Path) -> str:
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
            if archive.testzip() is not None:
                raise RefusedError("a zip archive with a damaged entry")
            grown = sum(entry.file_size for entry in archive.infolist())
            if grown > min(MAX_INFLATED_BYTES, max(64 << 20, path.stat().st_size * MAX_INFLATION)):
                raise RefusedError("a zip archive that grows beyond every model")
        if len(set(entries)) != len(entries):
            raise RefusedError("a zip archive that holds a name twice")
        if "schema.json" in entries:
            return self._skops(path, entries)
        if any(name.endswith("/data.pkl") for name in entries):
            torch = importlib.import_module("torch")
            torch.load(str(path), weights_only=True, map_location="cpu")
            return "torch"
        raise RefusedError("a zip archive that is neither skops nor the weights of torch")

    def _skops(self, path: Path, entries: Sequence[str]) -> str:
        strange = [
            name for name in entries if not re.fullmatch(r"schema\.json|\w+\.(npy|npz)", name)
        ]
        if strange:
            raise RefusedError(f"{strange[0]!r} in a skops file")
        skops = importlib.import_module("skops.io")
        wanted = cast("list[str]", skops.get_untrusted_types(file=str(path)))
        for full in wanted:
            module, _, name = full.rpartition(".")
            if not allowed(module, name, self.extra):
                raise RefusedError(full)
        self.seen.names.update(wanted)
        self.seen.kind = type(skops.load(str(path), trusted=wanted)).__name__
        with zipfile.ZipFile(path) as archive:
            told = archive.read("schema.json").decode("utf-8", "replace")
        version = re.search(r'"_sklearn_version"[^.]{0,400}?(\d+(?:\.\d+)+)', told)
        if version is not None:
            self.seen.versions["scikit-learn"] = version[1]
        return "skops"

    def _npy(self, path: Path) -> str:
        importlib.import_module("numpy").load(str(path), allow_pickle=False)
        return "npy"

    def _lightgbm(self, path: Path) -> str:
        importlib.import_module("lightgbm").Booster(model_file=str(path))
        return "lightgbm"

    def _catboost(self, path: Path) -> str:
        importlib.import_module("catboost").CatBoost().load_model(str(path))
        return "catboost"

    def _xgboost(self, path: Path) -> str:
        # Its reader chooses between JSON and UBJ by the name; here the first bytes have chosen.
        importlib.import_module("xgboost").Booster().load_model(bytearray(path.read_bytes()))
        return "xgboost"

    def _onnx(self, path: Path) -> str:
        runtime = importlib.import_module("onnxruntime")
        runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        return "onnx"

    def _safetensors(self, path: Path) -> str:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            head = cast("dict[str, Any]", json.loads(file.read(size)))
        data_bytes = path.stat().st_size - 8 - size
        for name, entry in head.items():
            begin, end = (0, 0) if name == "__metadata__" else entry["data_offsets"]
            if not 0 <= begin <= end <= data_bytes:
                raise RefusedError(f"tensor {name!r} outside of the file")
        return "safetensors"

    # ---- folders ----

    def folder(self, path: Path) -> str:
        """Check a folder: an MLflow model of a known loader, or files that each pass."""
        files = list(_files(path))
        model = path / "MLmodel"
        if model.is_file():
            self._mlmodel(model)
        loaders = {self.file(file) for file in files if not _is_text(file.relative_to(path))}
        if not loaders:
            raise RefusedError("no model: the folder holds none")
        return "mlflow" if model.is_file() else "adapter"

    def _mlmodel(self, path: Path) -> None:
        text = path.read_text("utf-8")
        told = importlib.import_module("yaml").safe_load(text)
        flavors = cast("dict[str, dict[str, Any]]", told.get("flavors", {}))
        python = flavors.get("python_function", {})
        module = str(python.get("loader_module", ""))
        if re.fullmatch(r"mlflow\.(sklearn|xgboost|lightgbm|catboost|onnx)", module) is None:
            raise RefusedError(f"loader module {module!r} of an MLflow model")
        for name, flavor in flavors.items():
            if flavor.get("code"):
                raise RefusedError(f"code of its own in flavour {name!r} of an MLflow model")


_TEXT = re.compile(
    r"MLmodel|conda\.yaml|python_env\.yaml|requirements\.txt|README\.md"
    r"|(serving_)?input_example\.json|input_example_?\w*\.json|registered_model_meta"
    r"|metadata/(MLmodel|conda\.yaml|python_env\.yaml|requirements\.txt)"
    r"|model\.onnx\.data"
)


def _is_text(relative: Path) -> bool:
    """Say whether a file of a model's folder is only read as text, by fixed name."""
    return _TEXT.fullmatch(relative.as_posix()) is not None


def _files(path: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(path):
        for name in sorted((*folders, *files)):
            one = Path(parent, name)
            if one.is_symlink():
                raise RefusedError(f"a link, {one.relative_to(path)}")
            if one.is_file():
                yield one


def digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a model, by its path below it."""
    files = [path] if path.is_file() else list(_files(path))
    root = path.parent if path.is_file() else path
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def examine(path: Path, extra: frozenset[str]) -> dict[str, Any]:
    """Check a model and say what was found, as plain JSON."""
    began = time.monotonic()
    gate = Gate(extra)
    told: dict[str, Any] = {"ok": False, "loader": None, "refused": None}
    try:
        before = digests(path)
        told["loader"] = gate.file(path) if path.is_file() else gate.folder(path)
        told["ok"] = True
        told["files"] = before
    except RefusedError as error:
        told["refused"] = str(error)
    except RecursionError:
        told["refused"] = "objects nested deeper than any model"
    except MemoryError:
        told["refused"] = "more memory than a model may take"
    packages = sorted({name.split(".")[0] for name in gate.seen.names} - set(_STANDARD))
    told |= {
        "globals": sorted(gate.seen.names)[:500],
        "packages": [_PYPI_NAMES.get(name, name) for name in packages],
        "versions": gate.seen.versions,
        "kind": gate.seen.kind,
        "seconds": round(time.monotonic() - began, 3),
    }
    return told


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Check a model that was not built here.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--allow", action="append", default=[], metavar="MODULE.NAME")
    options = parser.parse_args()
    answer = os.dup(1)
    os.dup2(2, 1)  # what a framework prints must not spoil the line
    told = examine(options.path, frozenset(options.allow))
    os.write(answer, (json.dumps(told) + "\n").encode())
    sys.exit(0)


if __name__ == "__main__":
    main()
