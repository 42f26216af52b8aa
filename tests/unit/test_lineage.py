"""The data that training could read: found, digested, hidden, and seen to be read."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.build.checkout import FILE_TIME_S
from penstock.build.data.bindings import Origin
from penstock.build.data.lineage import (
    Input,
    copies,
    inputs,
    keeps_access_times,
    mark_unread,
    read_back,
    with_reads,
    written,
)


def committed(root: Path, name: str, content: bytes = b"x") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (FILE_TIME_S, FILE_TIME_S))
    return path


def test_data_files_are_found_with_digest_and_source(tmp_path: Path) -> None:
    committed(tmp_path, "data/train.csv", b"rows")
    committed(tmp_path, "data/strange.bin")
    for name in ("train.py", "requirements.txt", ".dvc/tmp.csv", "data/holdout.csv", "README.md"):
        committed(tmp_path, name)
    bound = {"data/strange.bin": Origin("data", "s3://lake/x")}

    found = inputs(tmp_path, bound, hidden=["data/holdout.csv"])

    assert found == [
        Input(
            "data/strange.bin", hashlib.sha256(b"x").hexdigest(), 1, "data", "s3://lake/x", None
        ),
        Input("data/train.csv", hashlib.sha256(b"rows").hexdigest(), 4, "git", None, None),
    ]
    assert read_back(written(found)) == found


def test_a_folder_of_pictures_is_one_input_whose_digest_follows_each_of_them(
    tmp_path: Path,
) -> None:
    committed(tmp_path, "data/img/cat/1.png", b"cat")
    two = committed(tmp_path, "data/img/dog/2.JPG", b"dog")
    committed(tmp_path, "data/labels.csv")

    before = inputs(tmp_path, {})
    two.write_bytes(b"cow")
    after = inputs(tmp_path, {})

    assert [one.path for one in before] == ["data/img/", "data/labels.csv"]
    assert before[0].bytes == 6
    assert before[0].sha256 != after[0].sha256


def test_what_a_program_read_is_told_from_what_it_did_not(tmp_path: Path) -> None:
    if not keeps_access_times(tmp_path):
        pytest.skip("this file system keeps no access times")
    for name in ("read.csv", "unread.csv", "rewritten.csv", "gone.csv", "img/1.png", "img/2.png"):
        committed(tmp_path, name)
    found = inputs(tmp_path, {})
    mark_unread(tmp_path, found)
    program = (
        "import os; open('read.csv').read(); open('img/2.png').read();"
        "open('rewritten.csv', 'w').write('new'); os.remove('gone.csv')"
    )

    subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=True)

    assert {one.path: one.read for one in with_reads(tmp_path, found, observed=True)} == {
        "read.csv": True,
        "unread.csv": False,
        "rewritten.csv": None,
        "gone.csv": None,
        "img/": True,
    }
    assert {one.read for one in with_reads(tmp_path, found, observed=False)} == {None}


def test_the_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    keeps_access_times(tmp_path)

    assert list(tmp_path.iterdir()) == []
    assert not keeps_access_times(tmp_path / "absent")


def test_copies_of_the_evaluation_data_are_found_under_any_name(tmp_path: Path) -> None:
    source = committed(tmp_path, "data/holdout.csv", b"secret rows")
    committed(tmp_path, "backup/old.bak", b"secret rows")
    committed(tmp_path, "data/other.csv", b"other! rows")
    (tmp_path / "link.csv").symlink_to(source)

    assert copies(tmp_path, source) == ["backup/old.bak"]
