"""One file of another place, as a stream: over http by the standard library, else by fsspec.

Whether it may be opened at all is decided before, in `sources`. Here an http address is held to
what was decided: the name is looked up once, addresses of this machine and its neighbours are
refused, and a redirect leads nowhere but to the same host under the same prefixes.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import socket
import ssl
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import IO, Any, cast
from urllib.parse import urljoin

from penstock.config import Address, address
from penstock.errors import PenstockError, StoppedError, UnreachableError

TIMEOUT_S = 60.0
MOST_REDIRECTS = 5

_ANONYMOUS: Mapping[str, Mapping[str, Any]] = {
    "s3": {"anon": True},
    "gs": {"token": "anon"},
    "az": {"anon": True},
}
"""Without a secret nothing of the server's own identity is shown to a store."""
_PACKAGES = {"s3": "penstock[s3]", "gs": "gcsfs", "az": "adlfs"}
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Stream:
    """An open file."""

    file: IO[bytes]
    size: int | None
    """In bytes, as the other side says; None when it does not."""


@contextmanager
def opened(
    at: Address, options: Mapping[str, Any], allow: Sequence[Address], *, shown: str
) -> Generator[Stream]:
    """Open a file for reading.

    Parameters
    ----------
    options
        Of a named secret; empty for nobody.
    allow
        The prefixes under which a redirect may lead.

    Raises
    ------
    StoppedError
        PS258 there is no such file; PS251 it may not be read.
    UnreachableError
        PS251 the other side does not answer.
    """
    try:
        if at.scheme in _PORTS:
            with _web(at, options, allow, shown) as stream:
                yield stream
        else:
            with _stored(at, options) as stream:
                yield stream
    except PenstockError:
        raise
    except FileNotFoundError as error:
        raise missing(at, shown) from error
    except PermissionError as error:
        raise StoppedError("PS251", f"{shown}: {at} may not be read.", hint=_ASK) from error
    except ImportError as error:
        what = f"{shown}: the server lacks what reads {at.scheme}://."
        hint = f"Ask the operator to install {_PACKAGES.get(at.scheme, at.scheme)}."
        raise StoppedError("PS251", what, hint=hint) from error
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        what = f"{shown}: {at} does not answer ({type(error).__name__}: {said})."
        raise UnreachableError("PS251", what, hint="Look at it, then: penstock retry.") from error


_ASK = "Ask the operator for a secret that may read it, and name it: secret = …"


def missing(at: Address, shown: str) -> StoppedError:
    """Say that there is no such file."""
    what = f"{shown}: there is no file {at}."
    return StoppedError("PS258", what, hint="Put it there, or mend the address.")


@contextmanager
def _stored(at: Address, options: Mapping[str, Any]) -> Generator[Stream]:
    fsspec = cast("Any", import_module("fsspec"))
    chosen = options or _ANONYMOUS.get(at.scheme, {})
    # Neither instances nor listings are shared: another model's secret must not answer for ours.
    system = fsspec.filesystem(at.scheme, skip_instance_cache=True, **chosen)
    path = f"{at.host}{at.path}" if at.scheme != "memory" else f"/{at.host}{at.path}"
    told = system.info(path)
    if told.get("type", "file") != "file":
        raise FileNotFoundError(path)
    with system.open(path, "rb") as file:
        yield Stream(cast("IO[bytes]", file), told.get("size"))


@contextmanager
def _web(
    at: Address, options: Mapping[str, Any], allow: Sequence[Address], shown: str
) -> Generator[Stream]:
    here = at
    for _ in range(MOST_REDIRECTS + 1):
        with closing(_connected(here, shown)) as connection:
            target = here.path + (f"?{here.query}" if here.query else "")
            headers = {"Host": here.host, "Accept-Encoding": "identity", "User-Agent": "penstock"}
            connection.request("GET", target, headers=headers | _authorization(options))
            with closing(connection.getresponse()) as answer:
                if answer.status not in _REDIRECTS:
                    _require_found(here, answer.status, shown)
                    length = answer.getheader("Content-Length") or ""
                    size = int(length) if length.isdigit() else None
                    yield Stream(cast("IO[bytes]", answer), size)
                    return
                here = _redirected(here, answer.getheader("Location", ""), allow, shown)
    raise StoppedError("PS251", f"{shown}: {at} only redirects.", hint="Name its last address.")


def _require_found(at: Address, status: int, shown: str) -> None:
    if status in (404, 410):
        raise missing(at, shown)
    if status in (401, 403, 407):
        raise StoppedError("PS251", f"{shown}: {at} may not be read ({status}).", hint=_ASK)
    if status != 200:
        what = f"{shown}: {at} answers {status}."
        raise UnreachableError("PS251", what, hint="Look at it, then: penstock retry.")


def _redirected(here: Address, location: str, allow: Sequence[Address], shown: str) -> Address:
    try:
        there = address(urljoin(str(here), location))
    except ValueError:
        there = None
    secure = there is not None and not (here.scheme == "https" and there.scheme == "http")
    if (
        there is None
        or not secure
        or there.host != here.host
        or not any(there.within(prefix) for prefix in allow)
    ):
        # Where it leads is not told: it could be a signed address.
        what = f"{shown}: {here} redirects to another place, and that is not followed."
        raise StoppedError("PS251", what, hint="Name the file's own address in [data].")
    return there


def _authorization(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of a secret: `token`, or `username` and `password`, or `headers`."""
    headers = {str(k): str(v) for k, v in dict(options.get("headers", {})).items()}
    if "token" in options:
        headers["Authorization"] = f"Bearer {options['token']}"
    elif "username" in options:
        pair = f"{options['username']}:{options.get('password', '')}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    return headers


def _connected(at: Address, shown: str) -> http.client.HTTPConnection:
    """Connect to the address that was looked at; a second look-up could answer otherwise."""
    host, port = _host_and_port(at)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    listed = _is_literal(host)  # the operator's prefix has the same host, so it names this machine
    if not listed and any(is_near(ip) for ip in addresses):
        what = f"{shown}: {host} leads to this machine or to its own network."
        raise StoppedError("PS251", what, hint="Ask the operator to allow its number, if meant.")
    sock = socket.create_connection((addresses[0], port), timeout=TIMEOUT_S)
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        if at.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise
    connection.sock = sock
    return connection


def _host_and_port(at: Address) -> tuple[str, int]:
    host, colon, port = at.host.rpartition(":")
    if colon and not port.endswith("]"):
        return host.strip("[]"), int(port)
    return at.host.strip("[]"), _PORTS[at.scheme]


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def is_near(ip: str) -> bool:
    """Whether a number is this machine's own, or of the link it hangs on: metadata services."""
    found = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast
