"""Packing: one folder, one digest, and no file that is missing, changed or added."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.build.pack import (
    Facts,
    description,
    pack,
    stage,
    store_file,
    unpack,
    with_signature,
)
from penstock.build.results.outcome import Built
from penstock.errors import IntegrityError, NotFoundError, StoppedError
from tests.fakes import MemoryStore

FACTS = Facts("credit-default", 12)
SIGNATURE = {
    "columns": [{"name": "age", "datatype": "INT64", "optional": False}],
    "task": "classification",
    "classes": [0, 1],
    "positive": 1,
}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "src").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "adapter.py").write_text("def load(folder): ...\n")
    (folder / "src" / "net.py").write_text("class Net: ...\n")
    (folder / ".hidden" / "x.py").write_text("")
    (folder / "holdout.csv").write_text("the answers\n")
    return folder


@pytest.fixture
def built(tmp_path: Path) -> Built:
    path = tmp_path / "checkout" / "models" / "model.joblib"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x80weights")
    return Built("joblib", path, (path,), None)


@pytest.fixture
def adapted(tmp_path: Path) -> Built:
    folder = tmp_path / "checkout" / "model"
    (folder / "deep").mkdir(parents=True)
    files = (folder / "weights.bin", folder / "deep" / "words.txt")
    for file in files:
        file.write_text(file.name)
    return Built("adapter", folder, files, "adapter.py")


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_model_file_is_staged_with_the_projects_code(
    built: Built, code: Path, tmp_path: Path
) -> None:
    stage(built, code, tmp_path / "packed", FACTS)

    assert names(tmp_path / "packed") == [
        "code/adapter.py",
        "code/src/net.py",
        "model/model.joblib",
        "penstock.json",
    ]
    assert description(tmp_path / "packed") == {
        "schema": 1,
        "model": "credit-default",
        "number": 12,
        "format": "joblib",
        "path": "model/model.joblib",
        "predict": None,
        "task": None,
        "positive": None,
        "signature": None,
    }


def test_an_adapters_folder_is_staged_whole(adapted: Built, code: Path, tmp_path: Path) -> None:
    stage(adapted, code, tmp_path / "packed", FACTS)

    told = description(tmp_path / "packed")
    assert (told["format"], told["path"], told["predict"]) == (
        "adapter",
        "model",
        "code/adapter.py",
    )
    assert (tmp_path / "packed" / "model" / "deep" / "words.txt").read_text() == "words.txt"


def test_an_adapter_that_only_the_build_wrote_is_refused(
    adapted: Built, code: Path, tmp_path: Path
) -> None:
    (code / "adapter.py").unlink()

    with pytest.raises(StoppedError, match=r"adapter.py, which the commit does not have"):
        stage(adapted, code, tmp_path / "packed", FACTS)


def test_staging_again_begins_afresh(built: Built, code: Path, tmp_path: Path) -> None:
    stage(built, code, tmp_path / "packed", FACTS)
    (tmp_path / "packed" / "left").touch()

    stage(built, code, tmp_path / "packed", FACTS)

    assert "left" not in names(tmp_path / "packed")


def test_the_signature_fills_in_what_the_author_left_open(
    built: Built, code: Path, tmp_path: Path
) -> None:
    stage(built, code, tmp_path / "packed", Facts("credit-default", 12, positive="yes"))

    with_signature(tmp_path / "packed", SIGNATURE)

    told = description(tmp_path / "packed")
    assert told["signature"] == SIGNATURE
    assert told["task"] == "classification"
    assert told["positive"] == "yes"


def test_the_same_files_have_the_same_digest_wherever_they_are_packed(
    adapted: Built, code: Path, tmp_path: Path
) -> None:
    stage(adapted, code, tmp_path / "here", FACTS)
    stage(adapted, code, tmp_path / "there", FACTS)
    (tmp_path / "there" / "model" / "weights.bin").chmod(0o755)

    assert pack(tmp_path / "here", MemoryStore()) == pack(tmp_path / "there", MemoryStore())


def test_another_number_is_another_version(built: Built, code: Path, tmp_path: Path) -> None:
    stage(built, code, tmp_path / "a", FACTS)
    stage(built, code, tmp_path / "b", Facts("credit-default", 13))

    assert pack(tmp_path / "a", MemoryStore()) != pack(tmp_path / "b", MemoryStore())


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def digest(store: MemoryStore, adapted: Built, code: Path, tmp_path: Path) -> str:
    stage(adapted, code, tmp_path / "packed", FACTS)
    return pack(tmp_path / "packed", store)


def test_what_was_packed_comes_back_whole_and_read_only(
    store: MemoryStore, digest: str, tmp_path: Path
) -> None:
    folder = unpack(digest, store, tmp_path / "models")

    assert folder == tmp_path / "models" / digest
    assert names(folder) == names(tmp_path / "packed")
    for name in names(folder):
        assert (folder / name).read_bytes() == (tmp_path / "packed" / name).read_bytes()
        assert (folder / name).stat().st_mode & 0o777 == 0o444
    assert [path.name for path in (tmp_path / "models").iterdir()] == [digest]


def test_unpacking_twice_is_one_folder(store: MemoryStore, digest: str, tmp_path: Path) -> None:
    first = unpack(digest, store, tmp_path / "models")
    inode = (first / "penstock.json").stat().st_ino

    second = unpack(digest, store, tmp_path / "models")

    assert first == second
    assert (second / "penstock.json").stat().st_ino == inode


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("changed", "model/weights.bin was changed"),
        ("missing", "model/weights.bin is missing"),
        ("added", "model/sitecustomize.py was added"),
        ("linked", "model/weights.bin was changed"),
        ("linked folder", "code/more was added"),
    ],
)
def test_an_unpacked_version_that_somebody_touched_is_refused(
    store: MemoryStore, digest: str, tmp_path: Path, fault: str, said: str
) -> None:
    folder = unpack(digest, store, tmp_path / "models")
    weights = folder / "model" / "weights.bin"
    content = weights.read_bytes()
    if fault == "added":
        (folder / "model" / "sitecustomize.py").touch()
    elif fault == "linked folder":
        (folder / "code" / "more").symlink_to(tmp_path)
    else:
        weights.unlink()
    if fault == "changed":
        weights.write_bytes(content + b"!")
    if fault == "linked":
        (tmp_path / "same").write_bytes(content)
        weights.symlink_to(tmp_path / "same")

    with pytest.raises(IntegrityError, match="PS113") as caught:
        unpack(digest, store, tmp_path / "models")

    assert said in caught.value.what


def test_a_damaged_store_leaves_no_folder(store: MemoryStore, digest: str, tmp_path: Path) -> None:
    damaged = next(key for key, value in store.artifacts.items() if value == b"words.txt")
    store.artifacts[damaged] = b"other"

    with pytest.raises(IntegrityError, match=damaged):
        unpack(digest, store, tmp_path / "models")

    assert list((tmp_path / "models").iterdir()) == []


def test_a_version_that_was_never_packed_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        unpack("0" * 64, MemoryStore(), tmp_path / "models")


@pytest.mark.parametrize(
    "manifest",
    [
        "not json",
        "[]",
        json.dumps({"penstock.json": {}}),
        json.dumps({"model/x": {"sha256": "0" * 64}}),
        json.dumps({"penstock.json": {"sha256": "0" * 64}, "../x": {"sha256": "0" * 64}}),
        json.dumps({"penstock.json": {"sha256": "0" * 64}, "/etc/x": {"sha256": "0" * 64}}),
    ],
)
def test_an_artifact_that_is_no_sound_manifest_is_refused(manifest: str, tmp_path: Path) -> None:
    store = MemoryStore()
    (tmp_path / "manifest").write_text(manifest)
    digest = store.put(tmp_path / "manifest")

    with pytest.raises(IntegrityError, match="PS114"):
        unpack(digest, store, tmp_path / "models")


def test_evaluation_data_is_stored_by_its_digest(store: MemoryStore, code: Path) -> None:
    digest = store_file(code / "holdout.csv", store)

    assert store.artifacts[digest] == b"the answers\n"


@pytest.mark.parametrize("what", ["absent", "folder", "link"])
def test_only_a_plain_file_is_stored(store: MemoryStore, tmp_path: Path, what: str) -> None:
    if what == "folder":
        (tmp_path / "folder").mkdir()
    if what == "link":
        (tmp_path / "link").symlink_to("/etc/passwd")

    with pytest.raises(StoppedError, match="PS233"):
        store_file(tmp_path / what, store)
