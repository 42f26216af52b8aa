"""An export arrives whole and inside its folder, or nothing is written."""

from __future__ import annotations

import hashlib
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from penstock.cli.trust import named, unpack
from penstock.errors import IntegrityError, UsageError

FILES = {"README.md": b"read me", "version/model/m.joblib": b"\x80weights"}


def archive(files: dict[str, bytes], *, sums: dict[str, bytes] | None = None) -> bytes:
    stated = FILES if sums is None else sums
    lines = (f"{hashlib.sha256(c).hexdigest()}  {n}\n" for n, c in stated.items())
    whole = {**files, "SHA256SUMS": "".join(lines).encode()}
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in whole.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return made.getvalue()


def linked() -> bytes:
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        info = tarfile.TarInfo("version")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(info)
    return made.getvalue()


def test_a_whole_export_is_written_with_its_files(tmp_path: Path) -> None:
    count = unpack(BytesIO(archive(FILES)), tmp_path / "out")

    assert count == 2
    assert (tmp_path / "out" / "version/model/m.joblib").read_bytes() == b"\x80weights"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        archive(FILES)[:600],
        archive(FILES)[:1024],
        archive({"README.md": b"read me"}),
        archive({**FILES, "README.md": b"read it"}),
        archive({**FILES, "added": b""}),
        archive({**FILES, "../outside": b"x"}, sums={**FILES, "../outside": b"x"}),
        archive({**FILES, "/etc/outside": b"x"}),
        linked(),
    ],
)
def test_an_export_that_is_not_whole_or_not_ours_leaves_nothing(
    content: bytes, tmp_path: Path
) -> None:
    with pytest.raises(IntegrityError) as refused:
        unpack(BytesIO(content), tmp_path / "here" / "out")

    assert refused.value.code == "PS147"
    assert list((tmp_path / "here").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]


@pytest.mark.parametrize("name", ["credit@", "credit@x", "credit@-1", "credit@١", "credit@1@2"])
def test_a_version_is_named_by_a_number(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        named(name)

    assert refused.value.code == "PS145"
