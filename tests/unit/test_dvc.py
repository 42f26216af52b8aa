"""What DVC keeps is fetched without DVC, from either layout, and verified."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from penstock.build.data import dvc
from penstock.build.data.bindings import Origin
from penstock.build.data.sources import Sources
from penstock.build.named_secrets import NamedSecrets
from penstock.build.project.declared import require_apart
from penstock.config import ModelConfig, address, parse
from penstock.errors import PenstockError, StoppedError

SMALL = '[model]\nname = "m"\n'
ROWS = b"a,b\r\n1,2\r\n"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Repository:
    """A project whose data a remote folder holds, as DVC leaves both."""

    def __init__(self, root: Path) -> None:
        self.folder, self.remote, self.home = root / "p", root / "remote", root / "home"
        self.folder.mkdir()
        self.config(
            f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {self.remote}\n"
        )

    def config(self, text: str) -> None:
        self.write(".dvc/config", text)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def push(self, content: bytes, *, layout: str = "files/md5/", name: str | None = None) -> str:
        digest = name or md5(content)
        path = self.remote / f"{layout}{digest[:2]}/{digest[2:]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return digest

    def track(self, path: str, digest: str, *, new: bool = True, more: str = "") -> None:
        parent, _, name = path.rpartition("/")
        hashed = "  hash: md5\n" if new else ""
        where = f"{parent}/" if parent else ""
        text = f"outs:\n- md5: {digest}\n{hashed}  path: {name}\n{more}"
        self.write(f"{where}{name}.dvc", text)

    def pull(
        self, *, config: str = "", allow: tuple[str, ...] | None = None, stages_run: bool = False
    ) -> dict[str, Origin]:
        listed = (str(self.remote),) if allow is None else allow
        return dvc.pull(
            self.folder,
            settings(config),
            Sources(self.home, tuple(address(one) for one in listed)),
            stages_run=stages_run,
            model="m",
            say=print,
        )

    def refused(self, **options: Any) -> PenstockError:
        with pytest.raises(PenstockError) as caught:
            self.pull(**options)
        return caught.value


def settings(text: str = "") -> ModelConfig:
    return parse(SMALL + text)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_a_file_of_dvc_3_is_fetched_from_its_layout(repository: Repository) -> None:
    digest = repository.push(ROWS)
    repository.track("data/raw.csv", digest)

    pulled = repository.pull()

    uri = f"{repository.remote}/files/md5/{digest[:2]}/{digest[2:]}"
    assert pulled == {"data/raw.csv": Origin("dvc", uri)}
    assert (repository.folder / "data/raw.csv").read_bytes() == ROWS


def test_a_file_of_dvc_2_has_the_digest_of_unix_line_ends(repository: Repository) -> None:
    digest = md5(ROWS.replace(b"\r\n", b"\n"))
    repository.push(ROWS, layout="", name=digest)
    repository.track("raw.csv", digest, new=False)

    repository.pull()

    assert (repository.folder / "raw.csv").read_bytes() == ROWS


def test_a_folder_is_fetched_file_by_file(repository: Repository) -> None:
    members = [
        {"md5": repository.push(text), "relpath": name}
        for name, text in (("a/1.png", b"one"), ("b/2.png", b"two"))
    ]
    manifest = json.dumps(members).encode()
    digest = repository.push(manifest, name=f"{md5(manifest)}.dir")
    repository.track("images", digest)

    pulled = repository.pull()

    assert set(pulled) == {"images/a/1.png", "images/b/2.png"}
    assert (repository.folder / "images/b/2.png").read_bytes() == b"two"


@pytest.mark.parametrize(
    "members",
    [
        [{"md5": "0" * 32, "relpath": "../../out"}],
        [{"md5": "0" * 32, "relpath": "/etc/passwd"}],
        [{"md5": "../../secret", "relpath": "a"}],
        {"not": "a list"},
        [1],
    ],
)
def test_a_folder_whose_list_leads_out_of_it_is_refused(
    repository: Repository, members: object
) -> None:
    manifest = json.dumps(members).encode()
    repository.track("images", repository.push(manifest, name=f"{md5(manifest)}.dir"))

    assert repository.refused().code == "PS255"


@pytest.mark.parametrize("path", ["../up.csv", "a/../../up.csv", "/abs.csv"])
def test_a_path_outside_the_project_is_refused(repository: Repository, path: str) -> None:
    repository.write("x.dvc", f"outs:\n- md5: {'0' * 32}\n  path: {path}\n")

    assert repository.refused().code == "PS255"


def test_other_bytes_than_dvc_says_are_refused(repository: Repository) -> None:
    repository.push(b"changed", name=md5(ROWS))
    repository.track("raw.csv", md5(ROWS))

    error = repository.refused()

    assert (error.code, "raw.csv has md5" in error.what) == ("PS256", True)
    assert not (repository.folder / "raw.csv").exists()


def test_a_file_that_was_never_pushed_is_told_with_its_remote(repository: Repository) -> None:
    repository.remote.mkdir()
    repository.track("data/raw.csv", md5(ROWS))

    error = repository.refused()

    assert error.code == "PS254"
    assert error.what == ('data/raw.csv is kept by DVC; its remote "storage" does not have it.')


def test_a_remote_that_does_not_answer_is_told(repository: Repository) -> None:
    url = "http://127.0.0.1:1/store"
    repository.config(f"['remote \"storage\"']\n    url = {url}\n")
    repository.track("data/raw.csv", md5(ROWS))

    error = repository.refused(allow=(url,))

    assert (error.code, error.exit_code) == ("PS254", 8)
    assert error.what.startswith(
        'data/raw.csv is kept by DVC; its remote "storage" does not answer.'
    )


def test_a_remote_that_is_not_allowed_names_the_prefix_to_ask_for(repository: Repository) -> None:
    repository.track("raw.csv", repository.push(ROWS))

    error = repository.refused(allow=())

    assert error.code == "PS250"
    assert f'Ask the operator to add "{repository.remote}/" to' in error.hint


def test_a_secret_that_fits_is_used_by_itself(repository: Repository) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    digest = md5(ROWS)
    system.pipe(f"/lake/dvc/files/md5/{digest[:2]}/{digest[2:]}", ROWS)
    repository.config("[core]\nremote = x\n['remote \"x\"']\nurl = memory://lake/dvc\n")
    repository.track("raw.csv", digest)
    secrets = NamedSecrets(repository.home)
    secrets.put("other", models=["n"], allow=["memory://lake/"], options={})
    assert repository.refused(allow=()).code == "PS250"

    secrets.put("lake", models=["m"], allow=["memory://lake/"], options={})

    assert set(repository.pull(allow=())) == {"raw.csv"}
    system.store.clear()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", "names no remote"),
        ("[core]\nremote = gone\n", 'no url for the remote "gone"'),
        ("['remote \"a\"']\nurl = ../store\n", "beside your copy of the project"),
        ("['remote \"a\"']\nurl = gdrive://x\n", "which is not fetched"),
        ("['remote \"a\"']\nurl = s3://key:secret@lake/x\n", "has a name or a password in it"),
        ("no section\n", ".dvc/config cannot be read"),
    ],
)
def test_a_remote_that_the_server_cannot_use_is_told(
    repository: Repository, config: str, words: str
) -> None:
    repository.config(config)
    repository.track("raw.csv", md5(ROWS))

    error = repository.refused()

    assert (error.code, words in error.what) == ("PS257", True), error.what


LOCK = """\
schema: '2.0'
stages:
  prepare:
    cmd: python prepare.py
    deps:
    - path: data/raw.csv
      md5: 00000000000000000000000000000000
    outs:
    - path: data/train.csv
      md5: TRAIN
      hash: md5
    - path: data/test.csv
      md5: TEST
      hash: md5
  train:
    cmd: python train.py
    deps:
    - path: data/train.csv
      md5: TRAIN
    outs:
    - path: model.pkl
      md5: 11111111111111111111111111111111
      hash: md5
"""
EVALUATE = '[evaluate]\ndata = "data/test.csv"\nlabel = "y"\n'


@pytest.mark.parametrize(
    ("stages_run", "config", "pulled"),
    [
        (False, "", {"data/train.csv"}),
        (False, EVALUATE, {"data/train.csv", "data/test.csv"}),
        (True, "", set[str]()),
        (True, EVALUATE, {"data/test.csv"}),
        (True, f"{EVALUATE}made_by_build = true\n", set[str]()),
    ],
)
def test_of_the_lock_comes_what_the_build_does_not_make_itself(
    repository: Repository, *, stages_run: bool, config: str, pulled: set[str]
) -> None:
    text = LOCK.replace("TRAIN", repository.push(b"train")).replace("TEST", repository.push(b"t"))
    repository.write("dvc.lock", text)

    assert set(repository.pull(config=config, stages_run=stages_run)) == pulled


def test_what_git_keeps_and_what_data_names_is_left_alone(repository: Repository) -> None:
    repository.track("plain.csv", md5(ROWS), more="  cache: false\n")
    repository.track("raw.csv", md5(ROWS))
    line = f'[data]\n"raw.csv" = {{ source = "/srv/raw.csv", sha256 = "{"0" * 64}" }}\n'

    assert repository.pull(config=line) == {}


def test_evaluation_data_that_a_stage_writes_cannot_be_hidden(repository: Repository) -> None:
    repository.write("dvc.yaml", "stages:\n  split:\n    cmd: x\n    outs: [data]\n")

    with pytest.raises(StoppedError, match=r"PS046.*data/test\.csv is written by the stage split"):
        require_apart(repository.folder, settings(EVALUATE))

    require_apart(repository.folder, settings(f"{EVALUATE}made_by_build = true\n"))
