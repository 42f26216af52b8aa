"""Harmful model files, made on the spot: each one's payload touches a file, and nothing else.

`executable` ones run when a plain loader opens them; a test proves that. The others break a
rule that some loader somewhere does not keep.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast


@dataclass(frozen=True)
class Sample:
    name: str
    content: bytes
    executable: bool
    ending: str = ".pkl"


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def argument(value: Any) -> bytes:
    """A pickled argument: text, bytes, a number, a list, None, or opcodes given as they are."""
    if isinstance(value, Ops):
        return value.code
    if isinstance(value, str):
        return text(value)
    if isinstance(value, (list, tuple)):
        parts = b"".join(argument(one) for one in cast("list[Any]", value))
        return b"(" + parts + (b"l" if isinstance(value, list) else b"t")
    return pickle.dumps(value, 2)[2:-1]


@dataclass(frozen=True)
class Ops:
    code: bytes


def named(module: str, name: str) -> Ops:
    return Ops(b"c" + module.encode() + b"\n" + name.encode() + b"\n")


def stacked(module: str, name: str) -> Ops:
    return Ops(text(module) + text(name) + b"\x93")


def called(function: Ops, *arguments: Any) -> Ops:
    return Ops(function.code + b"(" + b"".join(map(argument, arguments)) + b"tR")


def whole(ops: Ops, protocol: int = 2) -> bytes:
    head = b"" if protocol < 2 else b"\x80" + bytes([protocol])
    return head + ops.code + b"."


def samples(canary: Path) -> list[Sample]:
    """Every sample; payloads touch `canary`."""
    return [*_calls(canary), *_tricks(canary), *_containers(canary)]


@cache
def bomb() -> bytes:
    return zlib.compress(b"\x00" * (80 << 20), 1)


def _calls(canary: Path) -> Iterator[Sample]:
    shell = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w').close()"
    script = canary.with_name("payload.py")
    script.write_text(code)
    nested = canary.with_name("nested.bin")
    nested.write_bytes(whole(called(named("os", "system"), shell)))
    runs: dict[str, Ops] = {
        "os.system": called(named("os", "system"), shell),
        "posix.system": called(named("posix", "system"), shell),
        "os.popen": called(named("os", "popen"), shell),
        "subprocess.call": called(named("subprocess", "call"), ["touch", str(canary)]),
        "subprocess.run": called(named("subprocess", "run"), ["touch", str(canary)]),
        "subprocess.check_output": called(
            named("subprocess", "check_output"), ["touch", str(canary)]
        ),
        "subprocess.getoutput": called(named("subprocess", "getoutput"), shell),
        "builtins.eval": called(named("builtins", "eval"), code),
        "builtins.exec": called(named("builtins", "exec"), code),
        "__builtin__.eval": called(named("__builtin__", "eval"), code),
        "builtins.open": called(named("builtins", "open"), str(canary), "w"),
        "io.open": called(named("io", "open"), str(canary), "w"),
        "pathlib and a method": called(
            stacked("pathlib", "Path.touch"), called(named("pathlib", "Path"), str(canary))
        ),
        "getattr chain": called(
            called(
                named("builtins", "getattr"),
                called(named("builtins", "__import__"), "os"),
                "system",
            ),
            shell,
        ),
        "importlib": called(
            called(
                named("builtins", "getattr"),
                called(named("importlib", "import_module"), "os"),
                "system",
            ),
            shell,
        ),
        "runpy.run_path": called(named("runpy", "run_path"), str(script)),
        "cProfile.run": called(named("cProfile", "run"), code),
        "profile.run": called(named("profile", "run"), code),
        "pdb.run": called(named("bdb", "Bdb.run"), called(named("bdb", "Bdb")), code),
        "timeit.timeit": called(named("timeit", "timeit"), "pass", code),
        "trace": called(
            stacked("trace", "Trace.run"), called(named("trace", "Trace"), 0, 0), code
        ),
        "pydoc.pipepager": called(named("pydoc", "tempfilepager"), "x", f"touch {canary} #"),
        "imaplib.IMAP4_stream": called(named("imaplib", "IMAP4_stream"), shell),
        "numpy runstring": called(
            named("numpy.testing._private.utils", "runstring"), code, Ops(b"}")
        ),
        "pandas.read_pickle": called(named("pandas.io.pickle", "read_pickle"), str(nested)),
        "joblib.load": called(named("joblib.numpy_pickle", "load"), str(nested)),
        "pickle.loads": called(named("pickle", "loads"), nested.read_bytes()),
        "_pickle.loads": called(named("_pickle", "loads"), nested.read_bytes()),
        "sklearn dotted": called(stacked("sklearn.datasets._base", "os.system"), shell),
        "joblib dotted": called(stacked("joblib.numpy_pickle", "os.system"), shell),
        "partial of os.system": called(
            called(named("functools", "partial"), named("os", "system"), shell)
        ),
        "methodcaller": called(
            called(named("operator", "methodcaller"), "system", shell),
            called(named("importlib", "import_module"), "os"),
        ),
        "attrgetter": called(
            called(
                called(named("operator", "attrgetter"), "system"),
                called(named("importlib", "import_module"), "os"),
            ),
            shell,
        ),
        "map of eval": called(
            named("builtins", "list"),
            called(named("builtins", "map"), named("os", "system"), [shell]),
        ),
        "starmap": called(
            named("builtins", "list"),
            called(named("itertools", "starmap"), named("os", "system"), [(shell,)]),
        ),
        "reduce of functools": called(
            named("functools", "reduce"), named("builtins", "eval"), [{}], code
        ),
        "code interpreter": called(
            stacked("code", "InteractiveInterpreter.runsource"),
            called(named("code", "InteractiveInterpreter")),
            code,
        ),
        "ctypes": called(
            called(
                named("builtins", "getattr"),
                called(named("ctypes", "CDLL"), None),
                "system",
            ),
            shell.encode(),
        ),
        "ufunc by name": called(
            called(named("numpy.core", "_ufunc_reconstruct"), "os", "system"), shell
        ),
        "shutil": called(named("shutil", "copyfile"), str(script), str(canary)),
        "multiprocessing spawn": called(
            named("multiprocessing.util", "spawnv_passfds"),
            b"/usr/bin/touch",
            [b"touch", str(canary).encode()],
            Ops(b")"),
        ),
        "doctest": called(named("doctest", "debug_script"), code, False, {}),
    }
    quiet = {"multiprocessing spawn", "doctest", "trace", "ctypes", "pydoc.pipepager",
             "ufunc by name", "reduce of functools", "imaplib.IMAP4_stream", "code interpreter",
             "numpy runstring", "pdb.run", "map of eval"}  # fmt: skip
    for name, ops in runs.items():
        yield Sample(name, whole(ops, 2 if name == "__builtin__.eval" else 4), name not in quiet)
    for protocol in (0, 1, 3, 4, 5):
        ops = called(named("os", "system"), shell)
        yield Sample(f"os.system in protocol {protocol}", whole(ops, protocol), protocol > 0)


def _tricks(canary: Path) -> Iterator[Sample]:
    shell = f"touch {canary}"
    system = named("os", "system")
    call = called(system, shell)
    inst = b"(" + text(shell) + b"ios\nsystem\n."
    yield Sample("INST", b"\x80\x02" + inst, True)
    yield Sample("OBJ", b"\x80\x02(" + system.code + text(shell) + b"o.", True)
    yield Sample(
        "names made of parts",
        whole(Ops(stacked("posix", "system").code + b"(" + text(shell) + b"tR"), 4),
        True,
    )
    memo = Ops(system.code + b"q\x000h\x00(" + text(shell) + b"tR")
    yield Sample("out of the memo", whole(memo), True)
    yield Sample(
        "hidden behind a model",
        whole(Ops(call.code + b"0" + named("builtins", "dict").code)),
        True,
    )
    yield Sample("in a key of a dict", whole(Ops(b"}(" + call.code + b"K\x01u")), True)
    state = Ops(named("sklearn.utils._bunch", "Bunch").code + b")\x81}" + text("x") + call.code
                + b"sb")  # fmt: skip
    yield Sample("in the state of a model", whole(state), True)
    yield Sample("extension registry", b"\x80\x02\x82\x01.", False)
    yield Sample("persistent id", b"\x80\x02" + text("os") + b"Q.", False)
    yield Sample("data after STOP", whole(Ops(b"}")) + whole(call), False)
    yield Sample("cut short", whole(call)[:-4], False)
    yield Sample("a length beyond the file", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62), False)
    yield Sample("empty", b"", False)
    for target, name in (
        (named("sklearn.base", "BaseEstimator"), "BUILD on a class"),
        (named("numpy", "mean"), "BUILD on a function"),
    ):
        ops = Ops(target.code + b"}" + text("predict") + b"NsN\x86b")
        yield Sample(name, whole(ops), False)
    yield Sample("a module of a family", whole(named("sklearn.base", "warnings")), False)
    yield Sample("numpy by a family", whole(named("pandas.core.frame", "np")), False)
    yield Sample("a function of a family", whole(called(named("sklearn.base", "clone"), 1)), False)
    yield Sample("an import of a family", whole(named("sklearn.pipeline", "Bunch.keys")), False)
    yield Sample(
        "a stranger of a family", whole(named("sklearn.utils.validation", "Integral")), False
    )
    yield Sample("a helper of tests", whole(named("sklearn.utils._testing", "TempMemmap")), False)
    yield Sample("a fetcher", whole(named("sklearn.datasets._base", "RemoteFileMetadata")), False)
    yield Sample(
        "codec that unpacks", whole(called(named("_codecs", "encode"), "a", "zip")), False
    )
    yield Sample("odd letters", whole(stacked("os", "ſystem"), 4), False)
    yield Sample("a call of what it made",
                 whole(Ops(named("builtins", "dict").code + b")R" + b"(tR")), False)  # fmt: skip
    yield Sample(
        "type", whole(called(named("builtins", "type"), "x", Ops(b")"), Ops(b"}"))), False
    )
    yield Sample("super", whole(called(named("builtins", "super"))), False)


def _containers(canary: Path) -> Iterator[Sample]:
    import joblib
    import numpy as np

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return getattr(os, "system"), (f"touch {canary}",)  # noqa: B009  by its name: it is deprecated

    bad = pickle.dumps(Payload())
    for name, content in (
        ("zlib", zlib.compress(bad)),
        ("gzip", gzip.compress(bad)),
        ("bz2", bz2.compress(bad)),
        ("xz", lzma.compress(bad)),
        ("lzma", lzma.compress(bad, format=lzma.FORMAT_ALONE)),
    ):
        yield Sample(f"joblib in {name}", content, True, ".joblib")
    objects = np.array([Payload(), 1], dtype=object)
    file = io.BytesIO()
    joblib.dump(objects, file)
    yield Sample("joblib's array of objects", file.getvalue(), True, ".joblib")
    file = io.BytesIO()
    np.save(file, objects, allow_pickle=True)
    yield Sample("array file of objects", file.getvalue(), False, ".npy")
    for ending in (".txt", ".skops", ".onnx", ".ubj", ".json", ".cbm", ".safetensors", ".bin", ""):
        yield Sample(f"a pickle that is called {ending or 'nothing'}", bad, True, ending)
    yield Sample("a bomb", bomb(), False, ".joblib")
    yield Sample("a stream cut short", zlib.compress(bad)[:-6], False, ".joblib")
    yield Sample("data after the stream", gzip.compress(pickle.dumps({})) + bad, False, ".joblib")
    yield Sample("HDF5", b"\x89HDF\r\n\x1a\n" + bytes(64), False, ".h5")
    yield Sample("7z", b"7z\xbc\xaf'\x1c" + bytes(64), False, ".pkl")
    yield Sample("a program", b"\x7fELF" + bytes(64), False, ".pkl")
    yield Sample("a script", b"#!/bin/sh\ntrue\n", False, ".pkl")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("../../x")
        entry.size = len(bad)
        archive.addfile(entry, io.BytesIO(bad))
    yield Sample("tar", file.getvalue(), False, ".pkl")
    for name, entries in {
        "any zip": {"model.pkl": bad},
        "keras": {"config.json": b"{}", "model.weights.h5": b""},
        "torch": {"archive/data.pkl": bad, "archive/version": b"3"},
        "skops with a pickle": {"schema.json": b"{}", "model.pkl": bad},
        "skops of strangers": {
            "schema.json": b'{"__class__":"system","__module__":"os","__loader__":"TypeNode",'
            b'"__id__":1,"protocol":2,"_skops_version":"0.16.0"}'
        },
    }.items():
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for entry_name, content in entries.items():
                archive.writestr(entry_name, content)
        yield Sample(name, file.getvalue(), False, ".skops")
