"""Addresses of data, and the prefixes under which the operator lets them be read.

Both are read by the same rules into the same parts, so that what is compared is what is opened:
no credentials, no ``..``, no second spelling of the same place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

SCHEMES = ("s3", "gs", "az", "http", "https", "memory")
"""What is fetched; ``memory`` is for tests and holds nothing in a server."""

_ALIASES = {"s3a": "s3", "gcs": "gs", "abfs": "az"}
_DEFAULT_PORTS = {"http": 80, "https": 443}
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_CREDENTIAL = re.compile(r"(?i)(sig|token|secret|password|passwd|key|credential|auth)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a file or a tree of files lies; normal, so that equal places are equal values."""

    scheme: str
    """One of `SCHEMES`, or ``file``."""
    host: str
    """Host with its port where that is not the usual one; a bucket or container; empty for files
    of the server."""
    parts: tuple[str, ...]
    """Of the path, decoded."""
    path: str
    """As it is asked for: encoded for http, with a slash in front."""
    query: str = ""

    def __str__(self) -> str:
        """Write it as people do."""
        if self.scheme == "file":
            return self.path
        return f"{self.scheme}://{self.host}{self.path}{'?' if self.query else ''}{self.query}"

    def within(self, prefix: Address) -> bool:
        """Whether this place is `prefix` itself or lies below it.

        Examples
        --------
        >>> lake = address("s3://lake/loans/")
        >>> address("s3://lake/loans/x.csv").within(lake), address("s3://lake/loans2").within(lake)
        (True, False)
        """
        same = (self.scheme, self.host) == (prefix.scheme, prefix.host)
        return same and self.parts[: len(prefix.parts)] == prefix.parts

    @property
    def folder(self) -> str:
        """The folder that holds it, as a prefix that an operator could allow."""
        whole = str(self).partition("?")[0]
        return whole.rstrip("/").rpartition("/")[0] + "/"


def address(text: str) -> Address:
    """Read an address, or an absolute path of the server.

    Raises
    ------
    ValueError
        Why it cannot be one, as the end of a sentence: ``has a name or a password in it``.
    """
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("has a control character in it")
    if text.startswith(("/", "file:///")):
        return _local(text.removeprefix("file://"))
    scheme, found, rest = text.partition("://")
    scheme = _ALIASES.get(scheme.lower(), scheme.lower())
    if not found:
        raise ValueError("is neither an absolute path of the server nor an address")
    if scheme not in SCHEMES:
        raise ValueError(f"begins with {scheme}://, which is not fetched")
    return _web(scheme, text) if scheme in _DEFAULT_PORTS else _bucket(scheme, rest)


def _local(path: str) -> Address:
    if ".." in path.split("/"):
        raise ValueError("leads upwards (..)")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    return Address("file", "", parts, "/" + "/".join(parts) + ("/" if path[-1:] == "/" else ""))


def _bucket(scheme: str, rest: str) -> Address:
    bucket, _, key = rest.partition("/")
    if "@" in bucket or ":" in bucket:
        raise ValueError("has a name or a password in it")
    if _BUCKET.fullmatch(bucket) is None:
        raise ValueError(f"names no bucket: {bucket!r}")
    if "?" in key or "#" in key or "::" in key:
        raise ValueError("has a question mark, a hash or :: in it")
    return Address(scheme, bucket, _parts(key), f"/{key}")


def _web(scheme: str, text: str) -> Address:
    try:
        split = urlsplit(text)
        port = split.port
    except ValueError:
        raise ValueError("is no address") from None
    if split.username is not None or split.password is not None or "@" in split.netloc:
        raise ValueError("has a name or a password in it")
    host = (split.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    if _HOST.fullmatch(host) is None:
        raise ValueError("names no host")
    if split.fragment or re.search(r"[ \\]", text):
        raise ValueError("has a hash, a blank or a backslash in it")
    if any(_CREDENTIAL.search(part.partition("=")[0]) for part in split.query.split("&")):
        raise ValueError("has a key or a signature in its query")
    if re.search(r"(?i)%(2f|5c|00)", split.path) or re.search(
        r"%[0-9A-Fa-f]{2}", unquote(split.path)
    ):
        raise ValueError("hides a slash or a percent sign by encoding it")
    if port is not None and port != _DEFAULT_PORTS[scheme]:
        host = f"{host}:{port}"
    return Address(
        scheme, host, _parts(unquote(split.path.lstrip("/"))), split.path or "/", split.query
    )


def _parts(path: str) -> tuple[str, ...]:
    parts = path.split("/")
    if ".." in parts or "." in parts:
        raise ValueError("leads upwards (..)")
    if "" in parts[:-1]:
        raise ValueError("has an empty folder (//) in it")
    return tuple(part for part in parts if part)
