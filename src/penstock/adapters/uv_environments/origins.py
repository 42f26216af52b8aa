"""Where packages come from: the operator's indexes. What a project says of it is judged here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from penstock.adapters.uv_environments.calls import operators_settings
from penstock.adapters.uv_environments.locks import pins
from penstock.errors import StoppedError
from penstock.ports import Requirements

PUBLIC = frozenset(
    (
        *("pypi.org", "pypi.python.org", "download.pytorch.org", "files.pythonhosted.org"),
        *("data.pyg.org", "storage.googleapis.com/jax-releases", "pypi.nvidia.com"),
    )
)
"""Public places whose packages have the same names on the public index."""


def judged(wanted: Requirements, index: Sequence[str]) -> Iterator[str]:
    """Give a sentence for each index that a project names and that does not count.

    A name that somebody keeps on an index of their own means another package on a public one.
    So an index that is neither public nor the operator's stops the build, unless a lock's
    digests say which files are meant.

    Raises
    ------
    StoppedError
        PS263.
    """
    settings = [*index, *operators_settings().values()]
    own = {word.rstrip("/") for one in settings for word in re.split(r"[\s,=]+", one)}
    pins_named = wanted.constraints or wanted.lines
    proved = wanted.complete and len(wanted.hashes) >= len(pins_named)
    for named in wanted.indexes:
        if proved or named.url.rstrip("/") in own:
            continue
        parts = _parts(named.url)
        if any(f"{parts}/".startswith(f"{place}/") for place in PUBLIC):
            yield f"{named.where} names the index {parts}; the server's own is used instead."
            continue
        raise StoppedError(
            "PS263",
            f"{named.where} takes packages from {parts or 'an address'}, which is no index of "
            "this server: the same names may be other packages elsewhere.",
            hint="Ask the operator to add the index (UV_INDEX for the server), then take the "
            "line out.",
        )


def remarks(lock: str) -> Iterator[str]:
    """Give sentences on a lock that an operator should know."""
    cuda = [line for line in pins(lock) if line.startswith("nvidia-")]
    if cuda:
        yield (
            f"torch comes with {len(cuda)} packages of CUDA, several GB. Without a GPU the "
            "operator can set UV_TORCH_BACKEND=cpu for the server."
        )


def _parts(url: str) -> str:
    """Return host and path of an address, without the password that may stand in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return f"{parts.hostname or ''}{parts.path}".rstrip("/")
