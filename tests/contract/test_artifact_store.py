"""What every ArtifactStore must do. A new adapter adds one line to `STORES`."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import penstock
from penstock.adapters.file_store import FileStore
from penstock.errors import IntegrityError, NotFoundError, UnreachableError
from penstock.ports import ArtifactStore
from tests.fakes import MemoryStore

STORES: dict[str, Callable[[Path], ArtifactStore]] = {
    "memory": lambda _: MemoryStore(),
    "file": FileStore,
}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return STORES[request.param](tmp_path / "store")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.joblib"
    path.write_bytes(b"\x00weights\xff")
    return path


def test_what_was_put_comes_back_byte_for_byte(
    store: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    digest = store.put(model)
    store.get(digest, tmp_path / "back")

    assert digest == hashlib.sha256(b"\x00weights\xff").hexdigest()
    assert (tmp_path / "back").read_bytes() == b"\x00weights\xff"


def test_an_empty_file_is_an_artifact_too(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    store.get(store.put(tmp_path / "empty"), tmp_path / "back")

    assert (tmp_path / "back").read_bytes() == b""


def test_the_same_bytes_have_one_digest(store: ArtifactStore, model: Path) -> None:
    assert store.put(model) == store.put(model)


@pytest.mark.parametrize("digest", ["abc" * 21 + "a", "../../etc/passwd", ""])
def test_a_missing_artifact_names_its_digest(
    store: ArtifactStore, tmp_path: Path, digest: str
) -> None:
    with pytest.raises(NotFoundError) as caught:
        store.get(digest, tmp_path / "back")

    assert digest in caught.value.what
    assert not (tmp_path / "back").exists()


def test_one_flipped_bit_on_the_disk_is_refused_and_named(model: Path, tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    digest = store.put(model)
    stored = tmp_path / "store" / digest[:2] / digest
    stored.chmod(0o644)
    stored.write_bytes(b"\x01weights\xff")

    with pytest.raises(IntegrityError) as caught:
        store.get(digest, tmp_path / "back")

    assert digest in caught.value.what
    assert str(stored) in caught.value.what
    assert not (tmp_path / "back").exists()


def test_putting_the_right_bytes_again_heals_a_damaged_artifact(
    model: Path, tmp_path: Path
) -> None:
    store = FileStore(tmp_path / "store")
    digest = store.put(model)
    stored = tmp_path / "store" / digest[:2] / digest
    stored.chmod(0o644)
    stored.write_bytes(b"rotten")

    store.put(model)
    store.get(digest, tmp_path / "back")

    assert (tmp_path / "back").read_bytes() == b"\x00weights\xff"


def test_stored_files_are_read_only_and_nothing_else_is_left(model: Path, tmp_path: Path) -> None:
    digest = FileStore(tmp_path / "store").put(model)

    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]

    assert [path.name for path in files] == [digest]
    assert files[0].stat().st_mode & 0o777 == 0o444


def test_a_target_that_cannot_be_written_says_so(model: Path, tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    digest = store.put(model)

    with pytest.raises(UnreachableError, match="could not be copied"):
        store.get(digest, tmp_path / "no such folder" / "back")


def test_a_full_disk_leaves_a_sentence_and_no_partial_file(tmp_path: Path) -> None:
    """A file system of one MiB, in namespaces of its own, takes an artifact of two."""
    program = (
        "import sys; from pathlib import Path\n"
        "from penstock.adapters.file_store import FileStore\n"
        "from penstock.errors import UnreachableError\n"
        "try: FileStore(Path(sys.argv[1])).put(Path(sys.argv[2]))\n"
        "except UnreachableError as error: print(error.code, error.what)\n"
        "print([str(path) for path in Path(sys.argv[1]).rglob('*') if path.is_file()])\n"
    )
    big, disk = tmp_path / "big", tmp_path / "disk"
    big.write_bytes(bytes(2 << 20))
    disk.mkdir()
    source = Path(penstock.__file__).parent.parent

    done = subprocess.run(
        [
            *("bwrap", "--ro-bind", "/", "/", "--size", str(1 << 20), "--tmpfs", str(disk)),
            *("--setenv", "PYTHONPATH", str(source), "--setenv", "PYTHONDONTWRITEBYTECODE", "1"),
            *(sys.executable, "-c", program, str(disk), str(big)),
        ],
        check=True,
        capture_output=True,
        text=True,
    )

    said, left = done.stdout.splitlines()
    assert said.startswith("PS110 big could not be stored")
    assert "No space left on device" in said
    assert left == "[]"


def test_a_sweep_takes_what_is_not_kept_and_was_not_put_lately(
    store: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").write_text("other")
    kept, other = store.put(model), store.put(tmp_path / "other")
    later = time.time() + 60

    young = list(store.sweep({kept}, later - 3600, dry_run=False))
    said = list(store.sweep({kept}, later, dry_run=True))
    swept = list(store.sweep({kept}, later, dry_run=False))

    assert young == []
    assert said == swept == [(other, 5)]
    store.get(kept, tmp_path / "back")
    with pytest.raises(NotFoundError):
        store.get(other, tmp_path / "back")


def test_what_is_put_again_is_young_again(tmp_path: Path, model: Path) -> None:
    store = FileStore(tmp_path / "store")
    digest = store.put(model)
    os.utime(store.root / digest[:2] / digest, (1000, 1000))
    store.put(model)

    assert list(store.sweep([], time.time() - 60, dry_run=False)) == []
