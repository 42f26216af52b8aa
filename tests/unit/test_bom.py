"""The bill of materials: valid, complete, and read without loading anything."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import pickletools
import sys
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.build.trust import bom, pickle_listing
from penstock.build.trust.bom import Bill, ModelFile
from penstock.build.trust.pickle_listing import listed
from penstock.build.trust.provenance import Claim, Source

AT = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
CLAIM = Claim("credit-default", 12, "a" * 64, "b" * 64, None)
LOCK = """# python 3.11.7
joblib==1.6.0 \\
    --hash=sha256:{0} \\
    --hash=sha256:{1}
Not.There==1.0 ; python_version >= "3.11" \\
    --hash=sha256:{0}
""".format("1" * 64, "2" * 64)
CARD = """---
license: apache-2.0
intended_use: Decides which loans a person looks at.
limitations: [Trained on 2024, Only for adults]
risks: A wrong no costs a person a loan.
---
# Credit default
"""
DESCRIPTION = {
    "format": "joblib",
    "path": "model/model.joblib",
    "task": "classification",
    "signature": {
        "columns": [
            {"name": "age", "datatype": "INT64", "optional": False},
            {"name": "pixels", "datatype": "FP64", "optional": False, "shape": [28, 28]},
        ]
    },
}


def bill(**changes: Any) -> Bill:
    facts: dict[str, Any] = {
        "claim": CLAIM,
        "description": DESCRIPTION,
        "python": "3.11.7",
        "packages": bom.packages(LOCK, Path(sys.executable)),
        "files": [ModelFile("model/model.joblib", "3" * 64, ["sklearn.pipeline.Pipeline"])],
        "data": [Source("data/train.csv", "4" * 64, "s3://lake/t.csv", {"read": True})],
        "card": CARD,
        "own_metrics": {"val_auc": 0.91},
        "at": AT,
    }
    return Bill(**{**facts, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"packages": [], "files": [], "data": [], "card": "", "own_metrics": {}},
        {"description": {"format": "onnx", "path": "model/m.onnx", "signature": None}},
        {"card": "---\nlicense: [1]\nrisks: {a: b}\nlimitations: 7\n---\n"},
        {"card": "---\n: : :\n---\n"},
        {"card": "---\nno end"},
    ],
)
def test_a_bill_of_materials_is_valid_cyclonedx_1_6(changes: dict[str, Any]) -> None:
    written = bom.write(bill(**changes), code=True).decode()

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written) is None


def test_the_same_bill_gives_the_same_bytes() -> None:
    assert bom.write(bill(), code=True) == bom.write(bill(), code=True)


def test_a_bill_names_the_model_its_files_its_data_and_every_package() -> None:
    told = json.loads(bom.write(bill(), code=True))

    model = told["metadata"]["component"]
    parts = {one["bom-ref"]: one for one in told["components"]}
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert model["modelCard"]["considerations"] == {
        "useCases": ["Decides which loans a person looks at."],
        "technicalLimitations": ["Trained on 2024", "Only for adults"],
        "ethicalConsiderations": [{"name": "A wrong no costs a person a loan."}],
    }
    assert model["modelCard"]["modelParameters"]["inputs"] == [
        {"format": "age: INT64"},
        {"format": "pixels: FP64[28][28]"},
    ]
    metric = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]
    assert metric == {"type": "val_auc (as the training reported it)", "value": "0.91"}
    joblib_ = parts["pkg:pypi/joblib@1.6.0"]
    assert [h["content"] for h in joblib_["hashes"]] == ["1" * 64, "2" * 64]
    assert "BSD" in json.dumps(joblib_["licenses"])
    assert parts["pkg:pypi/not-there@1.0"].get("licenses") is None
    assert parts["data:data/train.csv"]["type"] == "data"
    assert {"name": "penstock:pickle:global", "value": "sklearn.pipeline.Pipeline"} in parts[
        "file:model/model.joblib"
    ]["properties"]


def test_licences_are_read_from_metadata_files_and_say_where_they_stand(tmp_path: Path) -> None:
    stated = {
        "one": "License-Expression: MIT OR Apache-2.0",
        "two": "Classifier: License :: OSI Approved :: BSD License",
        "three": "License: The Long Licence\n        and its whole text",
        "four": "License: UNKNOWN",
    }
    for name, line in stated.items():
        folder = tmp_path / "lib" / "python3.11" / "site-packages" / f"{name}-1.dist-info"
        folder.mkdir(parents=True)
        head = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1\n{line}\n"
        (folder / "METADATA").write_text(head)
    lock = "".join(f"{name}==1\n" for name in [*stated, "five"])

    found = bom.packages(lock, tmp_path / "bin" / "python")

    assert bom.licences(found)["packages"] == [
        {"name": name, "version": "1", "licence": licence, "source": source}
        for name, licence, source in [
            ("one", "MIT OR Apache-2.0", "License-Expression"),
            ("two", "BSD License", "Classifier"),
            ("three", "The Long Licence", "License"),
            ("four", None, "not stated"),
            ("five", None, "not installed"),
        ]
    ]
    written = bom.write(bill(packages=found), code=False).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written) is None


# ---- formats -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "files", "code"),
    [
        ("joblib", {"m.joblib": pickle.dumps(1)}, True),
        ("skops", {"m.skops": b"PK\x03\x04"}, False),
        ("xgboost", {"m.ubj": b"{L"}, False),
        ("adapter", {"weights.npy": b"\x93NUMPY"}, True),
        ("skops", {"m.skops": b"PK", "beside.bin": pickle.dumps(print)}, True),
        ("unheard-of", {"m": b""}, True),
    ],
)
def test_a_format_is_safe_only_when_nothing_in_it_is_code(
    kind: str, files: dict[str, bytes], code: bool, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    for name, content in files.items():
        (tmp_path / "model" / name).write_bytes(content)
    found = bom.model_files(tmp_path, {f"model/{name}": "0" * 64 for name in files})

    assert bom.runs_code(tmp_path, {"format": kind, "path": "model"}, found) is code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("flavors: {python_function: {loader_module: mlflow.xgboost}}", False),
        ("flavors: {python_function: {loader_module: mlflow.xgboost, code: code}}", True),
        ("flavors: {python_function: {loader_module: my.loader}}", True),
        ("flavors: {}", True),
        ("[", True),
    ],
)
def test_an_mlflow_model_is_safe_when_mlflow_alone_loads_it(
    text: str, code: bool, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text(text)

    assert bom.runs_code(tmp_path, {"format": "mlflow", "path": "model"}, []) is code


# ---- pickles -------------------------------------------------------------------------------


class Trap:
    """Runs when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.canary,)


def model() -> Any:
    return {
        "arrays": [np.arange(1000.0), np.arange(7, dtype="int32"), np.array(["ab", "c"])],
        "objects": np.array([1, complex(1, 2), None], dtype=object),
        "made": np.random.default_rng(0),
        "many": ["text"] * 40,
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_lists_what_the_unpickler_would_import(
    protocol: int, tmp_path: Path
) -> None:
    path = tmp_path / "m.pkl"
    content = pickle.dumps(model(), protocol=protocol, fix_imports=False)
    path.write_bytes(content)
    imported: set[str] = set()

    class Watching(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            imported.add(f"{module}.{name}")
            return super().find_class(module, name)

    Watching(BytesIO(content), fix_imports=False).load()
    found = listed(path)

    assert found is not None
    assert found.whole
    assert found.names == imported
    assert len(imported) > 5


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_joblib_files_are_listed_through_their_arrays(compress: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.joblib"
    joblib.dump([model(), complex(1)], path, compress=compress)

    found = listed(path)

    assert found is not None
    assert found.whole
    # The last comes behind every array.
    assert {"joblib.numpy_pickle.NumpyArrayWrapper", "builtins.complex"} <= found.names


def test_listing_a_hostile_pickle_runs_nothing_and_names_what_it_would_run(
    tmp_path: Path,
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "m.joblib"
    joblib.dump([np.arange(5), Trap(canary)], path)

    found = listed(path)

    assert found is not None
    assert "pathlib.Path" in " ".join(found.names)
    assert not canary.exists()
    joblib.load(path)
    assert canary.exists(), "the trap is a real one"


def test_a_name_that_is_computed_shows_as_a_question_mark(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    # The module's name is taken out of a call, not written down.
    path.write_bytes(b"\x80\x04cbuiltins\nstr\n(\x8c\x02ostR\x8c\x06system\x93.")

    found = listed(path)

    assert found is not None
    assert found.names == {"builtins.str", "?.system"}


def endless(wrap: Callable[[bytes], bytes]) -> bytes:
    return wrap(b"\x80\x04" + b"]0" * 200_000)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"\x80\x04",
        b"\x80\x04N.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc",
        b"\x80\x04\x8e" + (3 << 30).to_bytes(8, "little") + b"abc",
        b"\x80\x04R",
        b"\x80\x04h\x07",
        b"\x80\x04" + b"(" * 100_000 + b".",
        pickle.dumps(model())[:-40],
        endless(lambda content: content),
        endless(gzip.compress),
        endless(zlib.compress),
        endless(bz2.compress),
        endless(lzma.compress),
        gzip.compress(b"\x80\x04", mtime=0)[:-9],
        b"BZh9" + b"\0" * 50,
        b"\xfd7zXZ\0" + b"\0" * 50,
        b"\x5d\0\0" + b"\0" * 50,
        b"PK\x05\x06" + b"\0" * 18,
    ],
)
def test_odd_files_end_the_listing_and_never_raise(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle_listing, "MOST_OPCODES", 150_000)
    path = tmp_path / "m.joblib"
    path.write_bytes(content)

    found = listed(path)

    assert found is None or found.whole is content.endswith(b".")


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # pickletools'
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    at=st.integers(0, 10_000),
    piece=st.binary(min_size=1, max_size=4),
    through_joblib=st.booleans(),
)
def test_no_mutation_of_a_pickle_makes_the_listing_raise(
    at: int, piece: bytes, through_joblib: bool, tmp_path: Path
) -> None:
    path = tmp_path / "m.pkl"
    whole = BytesIO()
    if through_joblib:
        joblib.dump(model(), whole)
    else:
        pickle.dump(model(), whole)
    content = whole.getvalue()
    at %= len(content)
    path.write_bytes(content[:at] + piece + content[at + len(piece) :])

    listed(path)


def test_every_opcode_of_python_is_known_to_the_listing() -> None:
    unknown = {o.name for o in pickletools.opcodes} - {
        "MARK", "STOP", "POP", "POP_MARK", "DUP", "FLOAT", "INT", "BININT", "BININT1", "LONG",
        "BININT2", "NONE", "PERSID", "BINPERSID", "REDUCE", "STRING", "BINSTRING",
        "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "APPEND", "BUILD", "GLOBAL", "DICT",
        "EMPTY_DICT", "APPENDS", "GET", "BINGET", "INST", "LONG_BINGET", "LIST", "EMPTY_LIST",
        "OBJ", "PUT", "BINPUT", "LONG_BINPUT", "SETITEM", "TUPLE", "EMPTY_TUPLE", "SETITEMS",
        "BINFLOAT", "PROTO", "NEWOBJ", "EXT1", "EXT2", "EXT4", "TUPLE1", "TUPLE2", "TUPLE3",
        "NEWTRUE", "NEWFALSE", "LONG1", "LONG4", "BINBYTES", "SHORT_BINBYTES",
        "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES8", "EMPTY_SET", "ADDITEMS", "FROZENSET",
        "NEWOBJ_EX", "STACK_GLOBAL", "MEMOIZE", "FRAME", "BYTEARRAY8", "NEXT_BUFFER",
        "READONLY_BUFFER",
    }  # fmt: skip

    assert unknown == set()
