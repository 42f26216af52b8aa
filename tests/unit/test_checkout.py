"""Checking out: what is committed comes out as bytes, and nothing of it acts."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from penstock.build.checkout import FILE_TIME_S, authors, checkout, commit_facts, read_file
from penstock.errors import NotFoundError, StoppedError, UnreachableError, UsageError


class Repository:
    """A bare repository, written by git's own plumbing, hostile trees included."""

    def __init__(self, path: Path) -> None:
        self.path = path
        subprocess.run(["git", "init", "--quiet", "--bare", str(path)], check=True)

    def git(self, *arguments: str, told: bytes = b"") -> str:
        who = {
            "NAME": "Mia Muster",
            "EMAIL": "mia@example.org",
            "DATE": "2026-11-24T10:00:00+0100",
        }
        variables = {
            f"GIT_{role}_{k}": v for role in ("AUTHOR", "COMMITTER") for k, v in who.items()
        }
        line = ["git", "--git-dir", str(self.path), *arguments]
        environment = {**os.environ, **variables}
        done = subprocess.run(line, input=told, env=environment, check=True, capture_output=True)
        return done.stdout.decode().strip()

    def blob(self, content: bytes) -> str:
        return self.git("hash-object", "-w", "--stdin", told=content)

    def tree(self, *entries: tuple[str, str, str]) -> str:
        lines = [
            f"{mode} {'tree' if mode == '040000' else 'commit' if mode == '160000' else 'blob'} "
            f"{digest}\t{name}\n"
            for mode, digest, name in entries
        ]
        return self.git("mktree", "--missing", told="".join(lines).encode())

    def commit(self, *entries: tuple[str, str, str], message: str = "first") -> str:
        return self.git("commit-tree", self.tree(*entries), "-m", message)

    def files(self, **files: bytes) -> str:
        return self.commit(*[("100644", self.blob(text), name) for name, text in files.items()])


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "credit-default.git")


def test_the_files_of_the_commit_and_nothing_else_are_there(
    repository: Repository, tmp_path: Path
) -> None:
    inner = repository.tree(("100755", repository.blob(b"code\n"), "train.py"))
    commit = repository.commit(
        ("040000", inner, "src"), ("100644", repository.blob(b"\x00\r\n"), "data.bin")
    )

    checkout(repository.path, commit, tmp_path / "out" / "checkout")

    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")}
    assert found == {
        "checkout",
        "checkout/src",
        "checkout/src/train.py",
        "checkout/data.bin",
    }
    assert (tmp_path / "out" / "checkout" / "data.bin").read_bytes() == b"\x00\r\n"
    assert os.access(tmp_path / "out" / "checkout" / "src" / "train.py", os.X_OK)


def test_every_file_has_the_same_old_time(repository: Repository, tmp_path: Path) -> None:
    checkout(repository.path, repository.files(a=b"1", b=b"2"), tmp_path / "checkout")

    times = {path.stat().st_mtime for path in (tmp_path / "checkout").iterdir()}

    assert times == {float(FILE_TIME_S)}
    assert datetime.fromtimestamp(FILE_TIME_S, UTC).isoformat() == "1980-01-01T00:00:00+00:00"


def test_checking_out_again_undoes_what_a_build_did(
    repository: Repository, tmp_path: Path
) -> None:
    commit = repository.files(a=b"committed")
    checkout(repository.path, commit, tmp_path / "checkout")
    (tmp_path / "checkout" / "a").write_text("trampled")
    (tmp_path / "checkout" / "new").write_text("left")

    checkout(repository.path, commit, tmp_path / "checkout")

    assert [path.name for path in (tmp_path / "checkout").iterdir()] == ["a"]
    assert (tmp_path / "checkout" / "a").read_bytes() == b"committed"
    assert {path.name for path in tmp_path.iterdir()} == {"checkout", "credit-default.git"}


def test_an_ending_takes_only_such_files(repository: Repository, tmp_path: Path) -> None:
    inner = repository.tree(("100644", repository.blob(b"b"), "b.py"))
    commit = repository.commit(
        ("100644", repository.blob(b"a"), "a.py"),
        ("100644", repository.blob(b"c"), "c.csv"),
        ("040000", inner, "src"),
    )

    checkout(repository.path, commit, tmp_path / "code", ending=".py")

    files = [path for path in (tmp_path / "code").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["a.py", "b.py"]


def test_a_commit_without_files_is_an_empty_folder(repository: Repository, tmp_path: Path) -> None:
    checkout(repository.path, repository.commit(), tmp_path / "checkout")

    assert list((tmp_path / "checkout").iterdir()) == []


def test_a_link_becomes_a_text_file(repository: Repository, tmp_path: Path) -> None:
    commit = repository.commit(("120000", repository.blob(b"/etc/passwd"), "data.csv"))

    checkout(repository.path, commit, tmp_path / "checkout")

    assert not (tmp_path / "checkout" / "data.csv").is_symlink()
    assert (tmp_path / "checkout" / "data.csv").read_bytes() == b"/etc/passwd"


def test_a_submodule_is_at_most_an_empty_folder(repository: Repository, tmp_path: Path) -> None:
    modules = repository.blob(b'[submodule "x"]\n path = x\n url = ext::sh -c "touch ran"\n')
    commit = repository.commit(("160000", "a" * 40, "x"), ("100644", modules, ".gitmodules"))

    checkout(repository.path, commit, tmp_path / "checkout")

    assert not list((tmp_path / "checkout").glob("x/*"))
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("name", [".git", "..", ".GIT", "git~1"])
def test_a_tree_that_reaches_outside_or_into_git_is_refused_and_leaves_nothing(
    repository: Repository, tmp_path: Path, name: str
) -> None:
    raw = bytes.fromhex(repository.blob(b"[core]\n"))
    inner = b"100644 config\0" + raw
    digest = repository.git(
        "hash-object", "-t", "tree", "-w", "--stdin", "--literally", told=inner
    )
    outer = f"40000 {name}\0".encode() + bytes.fromhex(digest)
    tree = repository.git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", told=outer)
    commit = repository.git("commit-tree", tree, "-m", "evil")

    with pytest.raises(UnreachableError, match="PS203"):
        checkout(repository.path, commit, tmp_path / "checkout")

    assert {path.name for path in tmp_path.iterdir()} == {"credit-default.git"}


def test_a_filter_that_the_server_knows_does_not_run(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "gitconfig"
    settings.write_text(f'[filter "lfs"]\n smudge = touch {tmp_path}/ran\n required = true\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    commit = repository.files(**{".gitattributes": b"*.bin filter=lfs\n", "a.bin": b"pointer"})

    checkout(repository.path, commit, tmp_path / "checkout")

    assert (tmp_path / "checkout" / "a.bin").read_bytes() == b"pointer"
    assert not (tmp_path / "ran").exists()


def test_a_hook_in_the_repository_does_not_run(repository: Repository, tmp_path: Path) -> None:
    hook = repository.path / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)

    checkout(repository.path, repository.files(a=b"1"), tmp_path / "checkout")

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "commit", ["HEAD", "--help", "../x", "abc", "A" * 40, "a" * 40 + "\n", ""]
)
def test_only_a_whole_commit_id_is_taken(
    repository: Repository, tmp_path: Path, commit: str
) -> None:
    with pytest.raises(UsageError, match="PS201"):
        checkout(repository.path, commit, tmp_path / "checkout")


def test_a_commit_that_is_not_there_is_named(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(
        NotFoundError, match=r"PS202 The repository credit-default.git has no commit"
    ):
        checkout(repository.path, "a" * 40, tmp_path / "checkout")


def test_a_commit_tells_its_author_time_and_first_line(repository: Repository) -> None:
    commit = repository.commit(message="train: deeper trees\n\nBecause.")

    facts = commit_facts(repository.path, commit)

    assert facts.author == "Mia Muster <mia@example.org>"
    assert facts.at == datetime(2026, 11, 24, 9, tzinfo=UTC)
    assert facts.message == "train: deeper trees"


def test_one_file_can_be_read_without_a_checkout(repository: Repository) -> None:
    inner = repository.tree(("100644", repository.blob(b"inner\xff"), "file"))
    commit = repository.commit(("040000", inner, "folder"))

    assert read_file(repository.path, commit, "folder/file") == b"inner\xff"
    for absent in ("file", "folder", "folder/*", ":(glob)**", "--help"):
        assert read_file(repository.path, commit, absent) is None


def test_a_file_too_large_to_read_is_refused_with_its_size(repository: Repository) -> None:
    commit = repository.files(big=b"12345")

    with pytest.raises(StoppedError, match="big has 5 bytes; at most 4 are read"):
        read_file(repository.path, commit, "big", limit=4)


def test_everybody_who_wrote_a_commit_since_another_is_an_author(repository: Repository) -> None:
    tree = repository.tree(("100644", repository.blob(b"1"), "a.txt"))
    first = repository.git("commit-tree", tree, "-m", "first")
    joint = "second\n\nCo-authored-by: Ben Berg <ben@example.org>"
    second = repository.git("commit-tree", tree, "-p", first, "-m", joint)
    third = repository.git("commit-tree", tree, "-p", second, "-m", "third")

    assert authors(repository.path, third, second) == ("Mia Muster", "mia@example.org")
    both = ("Ben Berg", "Mia Muster", "ben@example.org", "mia@example.org")
    assert authors(repository.path, third, first) == both
    assert authors(repository.path, third) == both
    assert authors(repository.path, third, "f" * 40) == both
