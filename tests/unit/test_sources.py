"""What the server reads for a project: by leave only, verified, once; and secrets stay secret."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.build.data import remote
from penstock.build.data.bindings import Origin, bind_data
from penstock.build.data.sources import Digest, Hashing, Sources
from penstock.build.named_secrets import NamedSecrets
from penstock.config import DataSource, address
from penstock.errors import (
    ConfigurationError,
    NotFoundError,
    PenstockError,
    StoppedError,
    UnreachableError,
    UsageError,
)

ROWS = b"a,b\n1,2\n"
SHA = hashlib.sha256(ROWS).hexdigest()


@pytest.fixture
def memory() -> Generator[Any]:
    """The store of `memory://`, empty before and after."""
    import fsspec

    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def bound(
    tmp_path: Path,
    source: str,
    *,
    allow: tuple[str, ...] = (),
    secret: str | None = None,
    sha256: str = SHA,
    model: str = "loans",
    **settings: Any,
) -> dict[str, Origin]:
    sources = Sources(tmp_path / "home", tuple(address(one) for one in allow), **settings)
    data = {"data/x.csv": DataSource(source=source, sha256=sha256, secret=secret)}
    return bind_data(data, tmp_path / "checkout", sources, model=model, say=print)


def refused(tmp_path: Path, source: str, **options: Any) -> PenstockError:
    with pytest.raises(PenstockError) as caught:
        bound(tmp_path, source, **options)
    assert not (tmp_path / "checkout/data/x.csv").exists()
    return caught.value


# ---- prefixes ----


@pytest.mark.parametrize(
    ("place", "prefix"),
    [
        ("s3://lake/loans/x.csv", "s3://lake/loans/"),
        ("s3://lake/loans/x.csv", "s3://lake/loans"),
        ("s3a://lake/loans/x.csv", "s3://lake"),
        ("s3://lake/red wine.csv", "s3://lake/"),
        ("https://EXAMPLE.org:443/a/x.csv", "https://example.org/a/"),
        ("https://example.org/%61/x.csv", "https://example.org/a/"),
        ("/srv//data/./x.csv", "/srv/data/"),
        ("file:///srv/data/x.csv", "/srv/data"),
    ],
)
def test_what_lies_below_a_prefix_is_within_it_however_it_is_spelled(
    place: str, prefix: str
) -> None:
    assert address(place).within(address(prefix))


@pytest.mark.parametrize(
    ("place", "prefix"),
    [
        ("s3://lake/loans-secret/x.csv", "s3://lake/loans"),
        ("s3://lake2/loans/x.csv", "s3://lake/loans/"),
        ("gs://lake/loans/x.csv", "s3://lake/loans/"),
        ("http://example.org/a/x.csv", "https://example.org/a/"),
        ("https://example.org:8443/a/x.csv", "https://example.org/a/"),
        ("https://example.org.evil.net/a/x.csv", "https://example.org/"),
        ("/srv/database/x.csv", "/srv/data"),
    ],
)
def test_a_neighbour_of_a_prefix_is_not_within_it(place: str, prefix: str) -> None:
    assert not address(place).within(address(prefix))


@pytest.mark.parametrize(
    "text",
    [
        "s3://lake/loans/../secret/x.csv",
        "https://example.org/a/%2e%2e/b",
        "https://example.org/a/%252e%252e/b",
        "https://example.org/a%2fb",
        "https://user:pass@example.org/x",
        "https://example.org@evil.net/x",
        "https://example.org/x?X-Amz-Signature=1",
        "https://example.org/x?token=1",
        "https://example.org\\@evil.net/x",
        "https://example.org/x#y",
        "https://exa mple.org/x",
        "s3://key:secret@lake/x",
        "s3://lake//x",
        "s3:///x",
        "zip://x.csv::s3://lake/a.zip",
        "simplecache::s3://lake/x",
        "ftp://example.org/x",
        "/srv/../etc/shadow",
        "data/x.csv",
        "file://host/x",
        "https://example.org/\n",
        "",
    ],
)
def test_an_address_that_could_mean_another_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        address(text)


@given(st.text(max_size=40), st.sampled_from(["", "/", "s3://", "https://", "http://a/", "az://"]))
def test_reading_an_address_gives_it_back_or_refuses_it(rest: str, start: str) -> None:
    try:
        found = address(start + rest)
    except ValueError:
        return

    assert address(str(found)) == found
    assert ".." not in found.parts


@pytest.mark.parametrize("source", ["s3://lake/x", "memory://lake/x.csv", "https://example.org/x"])
def test_what_no_prefix_allows_is_refused_with_the_prefix_to_ask_for(
    tmp_path: Path, source: str
) -> None:
    error = refused(tmp_path, source, allow=("s3://lake/loans/",))

    folder = source.rpartition("/")[0]
    assert (error.code, error.exit_code) == ("PS250", 5)
    assert f'Ask the operator to add "{folder}/" to [data] allow' in error.hint


# ---- fetching ----


def test_an_allowed_file_is_fetched_once_for_many_builds(tmp_path: Path, memory: Any) -> None:
    memory.pipe("/lake/x.csv", ROWS)

    first = bound(tmp_path, "memory://lake/x.csv", allow=("memory://lake/",))
    memory.store.clear()
    second = bound(tmp_path, "memory://lake/x.csv", allow=("memory://lake/",))

    assert first == second == {"data/x.csv": Origin("data", "memory://lake/x.csv")}
    assert (tmp_path / "checkout/data/x.csv").read_bytes() == ROWS


def test_who_knows_only_the_digest_gets_nothing_from_the_cache(
    tmp_path: Path, memory: Any
) -> None:
    memory.pipe("/lake/x.csv", ROWS)
    bound(tmp_path, "memory://lake/x.csv", allow=("memory://lake/",))
    (tmp_path / "checkout/data/x.csv").unlink()

    other = refused(tmp_path, "memory://mine/x.csv", allow=("memory://mine/",))
    forbidden = refused(tmp_path, "memory://lake/x.csv", allow=("memory://mine/",))

    assert (other.code, forbidden.code) == ("PS258", "PS250")


def test_a_copy_that_was_changed_in_the_cache_is_not_given(tmp_path: Path, memory: Any) -> None:
    memory.pipe("/lake/x.csv", ROWS)
    bound(tmp_path, "memory://lake/x.csv", allow=("memory://lake/",))
    (tmp_path / "checkout/data/x.csv").unlink()
    (kept,) = (tmp_path / "home/cache/data").glob("sha256-*[0-9a-f]")
    kept.write_bytes(b"other")

    assert refused(tmp_path, "memory://lake/x.csv", allow=("memory://lake/",)).code == "PS228"


def test_another_file_than_meant_is_refused_and_not_kept(tmp_path: Path, memory: Any) -> None:
    memory.pipe("/lake/x.csv", b"changed\n")

    error = refused(tmp_path, "memory://lake/x.csv", allow=("memory://lake/",))

    assert error.code == "PS228"
    assert f"penstock.toml says {SHA[:8]}…" in error.what
    assert [p.suffix for p in (tmp_path / "home/cache/data").iterdir()] == [".lock"]


def test_a_file_above_the_limit_is_not_taken(tmp_path: Path, memory: Any) -> None:
    memory.pipe("/lake/x.csv", ROWS)

    error = refused(tmp_path, "memory://lake/x.csv", allow=("memory://lake/",), max_bytes=7)

    assert (error.code, "max_mb" in error.hint) == ("PS252", True)


def test_a_missing_package_for_a_store_is_said(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")

    error = refused(tmp_path, "gs://lake/x.csv", allow=("gs://lake/",))

    assert (error.code, "install gcsfs" in error.hint) == ("PS251", True)


@pytest.mark.parametrize(
    ("listed", "code"),
    [((), None), (("DIR/",), None), (("DIR/sub/",), "PS250"), (("/srv/x/", "s3://a/"), "PS250")],
)
def test_files_of_the_server_are_held_to_the_paths_that_are_listed_if_any_is(
    tmp_path: Path, listed: tuple[str, ...], code: str | None
) -> None:
    (tmp_path / "x.csv").write_bytes(ROWS)
    allow = tuple(one.replace("DIR", str(tmp_path)) for one in listed)

    if code is None:
        assert bound(tmp_path, str(tmp_path / "x.csv"), allow=allow)
    else:
        assert refused(tmp_path, str(tmp_path / "x.csv"), allow=allow).code == code


def test_a_link_leads_out_of_no_listed_folder(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_bytes(ROWS)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.csv").symlink_to(tmp_path / "out.csv")

    error = refused(tmp_path, str(tmp_path / "in/x.csv"), allow=(f"{tmp_path}/in/",))

    assert error.code == "PS250"


@pytest.mark.parametrize("path", ["/proc/self/environ", "/dev/null", "/sys/kernel/mm"])
def test_what_the_system_shows_is_no_file_to_give(tmp_path: Path, path: str) -> None:
    assert refused(tmp_path, path).code == "PS229"


# ---- http ----


class Site(http.server.BaseHTTPRequestHandler):
    seen: dict[str, str]

    def do_GET(self) -> None:
        self.server.seen[self.path] = self.headers.get("Authorization", "")  # type: ignore[attr-defined]
        status, headers, body = {
            "/d/x.csv": (200, {"Content-Length": str(len(ROWS))}, ROWS),
            "/d/moved": (302, {"Location": "/d/x.csv"}, b""),
            "/d/out": (302, {"Location": "/other/x.csv"}, b""),
            "/d/away": (302, {"Location": "http://169.254.169.254/latest/"}, b""),
            "/d/round": (302, {"Location": "/d/round"}, b""),
            "/d/short": (200, {"Content-Length": "100"}, ROWS),
            "/d/shut": (403, {}, b""),
            "/d/broken": (500, {}, b""),
        }.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        return


@pytest.fixture
def site() -> Generator[Any]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.seen = {}  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("x.csv", None),
        ("moved", None),
        ("gone", "PS258"),
        ("out", "PS251"),
        ("away", "PS251"),
        ("round", "PS251"),
        ("short", "PS251"),
        ("shut", "PS251"),
        ("broken", "PS251"),
    ],
)
def test_a_web_file_comes_whole_and_from_no_other_place(
    tmp_path: Path, site: Any, path: str, code: str | None
) -> None:
    root = f"http://127.0.0.1:{site.server_port}/d/"

    if code is None:
        assert bound(tmp_path, root + path, allow=(root,))
    else:
        assert refused(tmp_path, root + path, allow=(root,)).code == code
    assert "/other/x.csv" not in site.seen


def test_a_name_that_leads_to_this_machine_is_refused(
    tmp_path: Path, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"http://data.example.org:{site.server_port}/d/"

    def found(*_: Any, **__: Any) -> list[Any]:
        return [(2, 1, 6, "", ("127.0.0.1", site.server_port))]

    monkeypatch.setattr(remote.socket, "getaddrinfo", found)

    error = refused(tmp_path, f"{root}x.csv", allow=(root,))

    assert (error.code, "leads to this machine" in error.what) == ("PS251", True)
    assert site.seen == {}


@pytest.mark.parametrize(
    ("ip", "near"),
    [
        ("127.0.0.1", True),
        ("169.254.169.254", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("fe80::1%eth0", True),
        ("0.0.0.0", True),
        ("10.0.0.8", False),
        ("93.184.216.34", False),
    ],
)
def test_addresses_of_this_machine_and_its_link_are_near(ip: str, *, near: bool) -> None:
    assert remote.is_near(ip) is near


def test_nobody_answers_is_said_and_can_be_tried_again(tmp_path: Path) -> None:
    error = refused(tmp_path, "http://127.0.0.1:1/x", allow=("http://127.0.0.1:1/",))

    assert isinstance(error, UnreachableError)
    assert "does not answer (ConnectionRefusedError" in error.what


# ---- secrets ----


def kept(tmp_path: Path, **options: Any) -> NamedSecrets:
    secrets = NamedSecrets(tmp_path / "home")
    secrets.put("lake", models=["loans", "credit-*"], allow=["memory://lake/"], options=options)
    return secrets


def test_a_secret_lets_its_models_read_at_its_prefixes(tmp_path: Path, memory: Any) -> None:
    memory.pipe("/lake/x.csv", ROWS)
    secrets = kept(tmp_path)

    assert bound(tmp_path, "memory://lake/x.csv", secret="lake", model="credit-card")
    assert (secrets.folder / "lake.toml").stat().st_mode & 0o777 == 0o600
    assert secrets.names() == ["lake"]


@pytest.mark.parametrize(
    ("secret", "model", "source"),
    [
        ("lake", "house-price", "memory://lake/x.csv"),
        ("lake", "loans", "memory://other/x.csv"),
        ("gone", "loans", "memory://lake/x.csv"),
    ],
)
def test_a_secret_that_may_not_be_used_is_told_like_one_that_is_not_there(
    tmp_path: Path, secret: str, model: str, source: str
) -> None:
    kept(tmp_path)

    error = refused(
        tmp_path, source, secret=secret, model=model, allow=("memory://lake/", "memory://other/")
    )

    assert error.code == "PS253"
    assert error.what == (
        f'data/x.csv: the model {model} may not use a secret "{secret}" for {source}.'
    )


def test_a_secret_goes_to_the_web_as_its_header_and_to_nobody_else(
    tmp_path: Path, site: Any
) -> None:
    root = f"http://127.0.0.1:{site.server_port}/d/"
    NamedSecrets(tmp_path / "home").put(
        "web", models=["*"], allow=[root], options={"token": "hush-hush"}
    )

    bound(tmp_path, f"{root}moved", secret="web")
    bound(tmp_path, f"{root}x.csv", allow=(root,))

    assert site.seen == {"/d/moved": "Bearer hush-hush", "/d/x.csv": ""}


@pytest.mark.parametrize(
    "written",
    [
        "plain hush/hush+1 in text",
        "https://x/?k=hush%2Fhush%2B1",
        'json {"k": "hush/hush+1"}',
        "two hush/hush+1 hush/hush+1",
    ],
)
def test_the_value_of_a_secret_is_taken_out_of_every_text(tmp_path: Path, written: str) -> None:
    secrets = kept(tmp_path, key="hush/hush+1", endpoint_url="https://s3.example.org", anon=False)

    told = secrets.redact(f"{written}, at https://s3.example.org")

    assert "hush" not in told
    assert "***" in told
    assert "https://s3.example.org" in told


def test_an_error_of_a_store_does_not_tell_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path, key="hush-hush-hush")

    def speaks(*_: object, **options: Any) -> None:
        raise RuntimeError(f"bad key {options['key']}")

    import fsspec

    monkeypatch.setattr(fsspec, "filesystem", speaks)

    error = refused(tmp_path, "memory://lake/x.csv", secret="lake")

    assert "bad key ***" in error.what
    assert "hush" not in repr(error.__cause__)


def test_a_changed_secret_is_redacted_at_once(tmp_path: Path) -> None:
    secrets = kept(tmp_path, key="first-value")
    assert secrets.redact("first-value") == "***"

    kept(tmp_path, key="other-value")
    os.utime(secrets.folder / "lake.toml", (1, 1))

    assert secrets.redact("first-value other-value") == "first-value ***"


def test_a_secret_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    secrets = kept(tmp_path)
    (secrets.folder / "lake.toml").chmod(0o644)

    error = refused(tmp_path, "memory://lake/x.csv", secret="lake")

    assert (error.code, "others may read it" in error.what) == ("PS259", True)


def test_a_damaged_secret_is_named_without_its_contents(tmp_path: Path) -> None:
    secrets = kept(tmp_path)
    (secrets.folder / "lake.toml").write_text('key = "hush-hush')

    error = refused(tmp_path, "memory://lake/x.csv", secret="lake")

    assert error.code == "PS259"
    assert "hush" not in str(error)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../up"},
        {"name": "Lake"},
        {"models": ["Bad name"]},
        {"allow": ["nowhere"]},
        {"allow": ["/srv/data/"]},
        {"options": {"a b": "x"}},
    ],
)
def test_a_secret_with_a_fault_is_not_written(tmp_path: Path, wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"models": ["*"], "allow": ["s3://a/"], "options": {}, **wrong}
    name = given.pop("name", "lake")

    with pytest.raises(UsageError, match="PS047"):
        NamedSecrets(tmp_path).put(name, **given)

    assert NamedSecrets(tmp_path).names() == []


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(min_size=1)))
def test_options_come_back_as_they_were_given(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, str]
) -> None:
    options = {k: v.encode("utf-8", "replace").decode() for k, v in options.items()}
    taken = {k: v for k, v in options.items() if k not in ("models", "allow")}
    secrets = NamedSecrets(tmp_path_factory.mktemp("home"))

    secrets.put("lake", models=["m"], allow=["s3://a/"], options=taken)

    found = secrets.usable("lake", "m", address("s3://a/x"), shown="x")
    assert found.options == taken


def test_nested_options_are_written_by_dotted_keys(tmp_path: Path) -> None:
    secrets = NamedSecrets(tmp_path)

    secrets.put(
        "lake", models=["m"], allow=["s3://a/"], options={"client_kwargs.region_name": "eu"}
    )

    found = secrets.usable("lake", "m", address("s3://a/x"), shown="x")
    assert found.options == {"client_kwargs": {"region_name": "eu"}}
    assert "eu" not in repr(found)


def test_a_secret_is_removed_once(tmp_path: Path) -> None:
    secrets = kept(tmp_path)

    secrets.remove("lake")

    assert secrets.names() == []
    with pytest.raises(NotFoundError, match="PS048"):
        secrets.remove("lake")


# ---- digests of DVC before 3 ----


@given(st.lists(st.binary(max_size=5) | st.sampled_from([b"\r", b"\n", b"\r\n"]), max_size=12))
def test_a_legacy_digest_is_that_of_unix_line_ends_however_the_bytes_come(
    chunks: list[bytes],
) -> None:
    whole = b"".join(chunks).replace(b"\r\n", b"\n")
    hashing = Hashing(Digest("md5", hashlib.md5(whole).hexdigest(), legacy=True))

    for chunk in chunks:
        hashing.update(chunk)

    hashing.require("x")


def test_a_legacy_digest_of_other_bytes_is_refused() -> None:
    hashing = Hashing(Digest("md5", hashlib.md5(b"a").hexdigest(), legacy=True))
    hashing.update(b"b")

    with pytest.raises(StoppedError, match="PS256"):
        hashing.require("x")


def test_a_source_that_needs_no_secret_is_told_so_at_once() -> None:
    from penstock.config import parse

    line = f'"x" = {{ source = "/a", sha256 = "{SHA}", secret = "s" }}'
    text = f'[model]\nname = "m"\n[data]\n{line}'

    with pytest.raises(ConfigurationError) as caught:
        parse(text)

    assert "needs no secret" in str(caught.value)
