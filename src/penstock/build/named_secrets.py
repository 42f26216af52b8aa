"""Secrets that the operator gives names, and the models that may have the server use them.

``$PENSTOCK_HOME/secrets/named/<name>.toml``, mode 0600: `models` (patterns), `allow` (prefixes),
and storage options as fsspec takes them. The server uses them to fetch data before a build; no
build ever sees one. `redact` takes their values out of whatever is written down.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, quote_plus

from penstock.config import Address, address
from penstock.errors import NotFoundError, StoppedError, UnreachableError, UsageError

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
LEAST_CHARACTERS = 4
"""Shorter values are not taken out of texts: it would only mangle them."""

_PLAIN = frozenset(
    {"endpoint_url", "region", "region_name", "account_name", "project", "connect_timeout"}
)
"""Options that are no secret: an address or a region may be read in an error."""
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z_][A-Za-z0-9_-]*)*")
_HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class NamedSecret:
    """One secret; `options` never leave the server."""

    name: str
    models: tuple[str, ...]
    """Patterns of models that may have it used, ``credit-*``."""
    allow: tuple[Address, ...]
    """Prefixes at which it may be shown, and nowhere else."""
    options: Mapping[str, Any]

    def __repr__(self) -> str:
        """Show no value."""
        return f"NamedSecret({self.name!r})"

    def serves(self, model: str, at: Address) -> bool:
        """Whether the operator lets it be used for a model at an address."""
        named = any(fnmatchcase(model, pattern) for pattern in self.models)
        return named and any(at.within(prefix) for prefix in self.allow)


@dataclass(frozen=True, slots=True)
class NamedSecrets:
    """The secrets of one home."""

    home: Path

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.home / "secrets" / "named"

    def names(self) -> list[str]:
        """Return the names, in order."""
        return [path.stem for path in self._files()]

    def usable(self, name: str, model: str, at: Address, *, shown: str) -> NamedSecret:
        """Return a secret that a model may have used at an address.

        Raises
        ------
        StoppedError
            PS253, it may not, or there is none: the two are told alike.
        """
        path = self.folder / f"{name}.toml"
        found = self._read(path) if NAME.fullmatch(name) and path.is_file() else None
        if found is None or not found.serves(model, at):
            what = f'{shown}: the model {model} may not use a secret "{name}" for {at}.'
            hint = f"Ask the operator for it: penstock secret set {name} --models {model} "
            raise StoppedError("PS253", what, hint=f"{hint}--allow {at.folder} …")
        return found

    def fitting(self, model: str, at: Address) -> NamedSecret | None:
        """Return the first secret that may be used; for what cannot name one, such as DVC."""
        read = (self._read(path) for path in self._files())
        return next((secret for secret in read if secret.serves(model, at)), None)

    def put(
        self, name: str, *, models: Sequence[str], allow: Sequence[str], options: Mapping[str, Any]
    ) -> None:
        """Write a secret, in place of one of the same name.

        Raises
        ------
        UsageError
            PS047: the name, a model, a prefix or a key is not allowed.
        """
        _require(NAME.fullmatch(name), f'"{name}" cannot name a secret', "lake-reader")
        for model in models:
            fits = re.fullmatch(r"[a-z0-9*?-]+", model)
            _require(fits, f'"{model}" is no model or pattern', "--models 'credit-*'")
        for prefix in allow:
            try:
                local = address(prefix).scheme == "file"
            except ValueError as error:
                _require(None, f'"{prefix}" {error}', "--allow s3://lake/loans/")
            else:
                _require(not local, f"{prefix} needs no secret", "--allow s3://lake/loans/")
        for key in options:
            _require(_KEY.fullmatch(key), f'"{key}" is no option', "key=- or client_kwargs.x=-")
        lines = [f"models = {json.dumps(list(models))}", f"allow = {json.dumps(list(allow))}"]
        lines += [f"{key} = {_toml(value)}" for key, value in options.items()]
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / f"{name}.toml"
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        fresh.replace(path)

    def remove(self, name: str) -> None:
        """Remove a secret; NotFoundError if there is none."""
        path = self.folder / f"{name}.toml"
        if not NAME.fullmatch(name) or not path.is_file():
            raise NotFoundError(
                "PS048", f'There is no secret "{name}".', hint="penstock secret list"
            )
        path.unlink()

    def redact(self, text: str) -> str:
        """Return a text without the value of any secret, in any usual spelling."""
        for spelling in self._spellings():
            text = text.replace(spelling, _HIDDEN)
        return text

    def _spellings(self) -> tuple[str, ...]:
        try:
            paths = self._files()
            return _values(tuple((str(path), path.stat().st_mtime_ns) for path in paths))
        except FileNotFoundError:  # removed this moment
            return ()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.toml")) if self.folder.is_dir() else []

    def _read(self, path: Path) -> NamedSecret:
        try:
            if path.stat().st_mode & 0o077:
                raise _damaged(path, "others may read it", f"chmod 600 {path}")
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            models, allow = (tuple(map(str, table.pop(key, ()))) for key in ("models", "allow"))
            prefixes = tuple(address(one) for one in allow)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError, TypeError) as error:
            # The parser's own message can hold a piece of the file.
            raise _damaged(path, type(error).__name__, "penstock secret set") from None
        except OSError as error:
            raise _damaged(path, str(error.strerror), "penstock secret set") from None
        return NamedSecret(path.stem, models, prefixes, table)


def _damaged(path: Path, why: str, fix: str) -> UnreachableError:
    what = f"The operator's file {path.name} cannot be used: {why}."
    return UnreachableError("PS259", what, hint=f"Ask the operator to mend it: {fix}.")


def _require(holds: object, what: str, example: str) -> None:
    if not holds:
        raise UsageError("PS047", f"{what}.", hint=f"For example {example}.")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


@lru_cache(maxsize=8)
def _values(files: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """Return each spelling of each value, the longest first; read again when a file changed."""
    found: set[str] = set()
    for name, _ in files:
        try:
            table = tomllib.loads(Path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        for value in _leaves({k: v for k, v in table.items() if k not in ("models", "allow")}):
            escaped = json.dumps(value)[1:-1]
            found |= {value, escaped, repr(value)[1:-1], quote(value, safe=""), quote_plus(value)}
    return tuple(sorted((v for v in found if len(v) >= LEAST_CHARACTERS), key=len, reverse=True))


def _leaves(value: object, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in cast("dict[str, object]", value).items():
            yield from _leaves(inner, name)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _leaves(inner, key)
    elif isinstance(value, str) and key not in _PLAIN:
        yield from (value, *value.splitlines())
