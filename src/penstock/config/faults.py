"""Turn what pydantic found into faults that a person can mend: line, reason, fix."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from penstock.config.lines import Key, dotted, line_index, line_of
from penstock.config.rules import BROKEN, Broken, did_you_mean
from penstock.errors import ConfigurationError, Fault

M = TypeVar("M", bound=BaseModel)

NOT_YET: Mapping[Key, str] = {
    ("retrain",): "a push is the only way to start a run as yet",
}
"""Words that the full schema has and this version has not, and why."""

_WANTED = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def read_as(
    kind: type[M],
    text: str,
    file: str,
    *,
    rules: Iterable[Broken] = (),
    options: Mapping[str, Any] | None = None,
) -> M:
    """Return `text` as a `kind`, or raise every fault of it in the order of the file.

    `rules` are what the caller found wrong between the blocks; `options` win over the text.
    """
    document = {**toml(text, file), **(options or {})}
    broken = list(rules)
    value: M | None = None
    try:
        value = kind.model_validate(document)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            broken += _explain(kind, details)
    if broken or value is None:
        index = line_index(text)
        faults = [
            Fault(one.code, file, line_of(index, one.key), dotted(one.key), one.reason, one.fix)
            for one in broken
        ]
        raise ConfigurationError(sorted(faults, key=lambda fault: fault.line or 10**9))
    return value


def toml(text: str, file: str) -> dict[str, Any]:
    """Parse TOML; a mistake in its syntax hides all others and is a fault of its own."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = int(place[1]) if place else max(1, len(text.splitlines()))
        reason = re.sub(r"\s*\(at [^)]*\)$", "", str(error)).rstrip(".")
        fix = 'Mend the line; text stands in quotes: name = "credit-default".'
        fault = Fault("PS011", file, line, "TOML", f"{reason}.", fix)
        raise ConfigurationError([fault]) from None


def shown(value: object) -> str:
    """Write a value as it stands in TOML, cut to a readable length."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _explain(kind: type[BaseModel], details: ErrorDetails) -> list[Broken]:
    # Pydantic marks a fault in a table's key by a part of its own.
    key, type_ = tuple(part for part in details["loc"] if part != "[key]"), details["type"]
    if type_ == BROKEN:
        inner = cast("Sequence[Broken]", details.get("ctx", {})["broken"])
        return [one._replace(key=(*key, *one.key)) for one in inner]
    if type_ == "extra_forbidden":
        return [_unknown(kind, key)]
    if type_ == "missing":
        return [_missing(key)]
    return [_value(details)]


def _value(details: ErrorDetails) -> Broken:
    """Explain a value of a wrong type, of a wrong word or out of its bounds."""
    key, type_, context = details["loc"], details["type"], details.get("ctx", {})
    value = shown(cast("object", details["input"]))
    if type_ in _WANTED:
        wanted = _WANTED[type_]
        return Broken("PS014", key, f"{value} is not {wanted}.", f"Write {wanted}.")
    if type_ == "literal_error":
        known = re.findall(r"'([^']*)'", str(context["expected"]))
        near = did_you_mean(str(details["input"]), known)
        fix = f'Did you mean "{near}"?' if near else f"Write one of {', '.join(known)}."
        return Broken("PS015", key, f"{value} is not one of {', '.join(known)}.", fix)
    if type_ in _BOUNDS:
        field, words = _BOUNDS[type_]
        wanted = f"{words} {context[field]:g}"
        return Broken("PS015", key, f"{value} is not {wanted}.", f"Write a number {wanted}.")
    return Broken("PS015", key, f"{value}: {details['msg']}.", "Mend the value.")


def _missing(key: Key) -> Broken:
    if len(key) == 1:
        example = {"model": '[model] and below it name = "credit-default"'}
        fix = f"Add {example.get(str(key[0]), f'[{key[0]}]')}."
        return Broken("PS013", key, "is missing.", fix)
    around = dotted(key[:-1])
    return Broken("PS013", key, f"is missing in [{around}].", f'Add {key[-1]} = "…" there.')


def _unknown(kind: type[BaseModel], key: Key) -> Broken:
    if key in NOT_YET:
        reason = f"not available yet: {NOT_YET[key]}."
        return Broken("PS017", key, reason, "Take it out; it comes in a later version.")
    word, around = str(key[-1]), key[:-1]
    known = _words(kind, around)
    where = f"[{dotted(around)}]" if around else "the file"
    if near := did_you_mean(word, known):
        return Broken("PS012", key, f"{where} has no such key.", f'Did you mean "{near}"?')
    homes = [block for block in _words(kind, ()) if word in _words(kind, (block,))]
    if homes and (not around or homes != [around[0]]):
        fix = f"It belongs in {' or '.join(f'[{home}]' for home in homes)}."
        return Broken("PS012", key, f"{where} has no such key.", fix)
    fix = f"Known there: {', '.join(known)}."
    return Broken("PS012", key, f"{where} has no such key.", fix)


def _words(kind: type[BaseModel], around: Key) -> tuple[str, ...]:
    """List the keys that may stand in the table at `around`."""
    parts = list(around)
    while parts:
        field = kind.model_fields.get(str(parts.pop(0)))
        inner = None if field is None else _block_in(field.annotation)
        if field is None or inner is None:
            return ()
        if parts and get_origin(field.annotation) in (dict, tuple):
            parts.pop(0)
        kind = inner
    return tuple(kind.model_fields)


def _block_in(annotation: Any) -> type[BaseModel] | None:
    """Return the block that an annotation holds: itself, or in a list, a table or an option."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(
        (found for inner in get_args(annotation) if (found := _block_in(inner)) is not None), None
    )
