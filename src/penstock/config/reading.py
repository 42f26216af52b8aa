"""Read penstock.toml: text in, one frozen value out, or all its faults at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from penstock.config.faults import read_as, toml
from penstock.config.rules import Broken, clash
from penstock.config.schema import HOLD_BY_RISK, PEOPLE_BY_RISK, ModelConfig
from penstock.errors import ConfigurationError, Fault

MAX_BYTES = 256 * 1024


def parse(text: str, *, file: str = "penstock.toml") -> ModelConfig:
    """Read the text of a penstock.toml.

    Raises
    ------
    ConfigurationError
        With every fault, in the order of the file.
    """
    return read_as(ModelConfig, text, file, rules=_across_blocks(toml(text, file)))


def read(path: Path) -> ModelConfig:
    """Read a penstock.toml; a missing or unreadable file is a fault like any other."""
    return parse(text_of(path), file=path.name)


def text_of(path: Path) -> str:
    """Return a configuration file's text."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        _refuse(path, "there is no such file.", "Make one with: penstock init")
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror}.", "Make the file readable.")
    if len(content) > MAX_BYTES:
        _refuse(path, f"is {len(content):,} bytes long.", f"Keep it below {MAX_BYTES:,} bytes.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        _refuse(path, "is not UTF-8 text.", "Save the file as UTF-8.", line=line)


def resolve(config: ModelConfig, task: str | None) -> ModelConfig:
    """Fill in what depends on the risk, and the task that was found where none is declared."""
    risk = config.model.risk
    model = config.model
    if model.task is None and task is not None:
        model = model.model_copy(update={"task": task})
    approval = config.approval
    if approval.people is None:
        approval = approval.model_copy(update={"people": PEOPLE_BY_RISK[risk]})
    canary = config.canary
    if canary.hold is None:
        canary = canary.model_copy(update={"hold": HOLD_BY_RISK[risk]})
    quality = config.quality
    if quality.promote is None:
        promote = "ask" if approval.people else "not_worse"
        quality = quality.model_copy(update={"promote": promote})
    filled = {"model": model, "approval": approval, "canary": canary, "quality": quality}
    return config.model_copy(update=filled)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of penstock.toml, for editors."""
    schema = ModelConfig.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _refuse(path: Path, reason: str, fix: str, *, line: int | None = None) -> NoReturn:
    raise ConfigurationError([Fault("PS018", path.name, line, "file", reason, fix)])


def _across_blocks(document: Mapping[str, Any]) -> Iterator[Broken]:
    """Find settings that need one another; on the raw document, so that other faults show too."""
    evaluate = _table(document, "evaluate")
    quality = _table(document, "quality")
    add = 'Add [evaluate] with data = "…" and label = "…".'
    if not evaluate:
        of_quality = ("limits", "slices", "guardrails", "cost")
        for block, key in (*(("quality", key) for key in of_quality), ("fairness", "max")):
            if key in _table(document, block):
                yield clash("there is no [evaluate] to measure it on.", add, block, key)
    else:
        yield from _fairness(_table(document, "fairness"), _list(evaluate.get("sensitive")))
    if evaluate.get("positive") is not None and _table(document, "model").get("task") == (
        "regression"
    ):
        fix = 'Take it out, or set task = "classification".'
        yield clash("a regression has no positive class.", fix, "evaluate", "positive")
    roles = {evaluate.get(role) for role in ("label", "id", "time", "group")} - {None}
    for number, column in enumerate(_list(quality.get("slices"))):
        if column in roles:
            fix = f'Take "{column}" out of slices.'
            reason = f'"{column}" has another role in [evaluate].'
            yield clash(reason, fix, "quality", "slices", number)
    yield from _promotion(document)
    yield from _lists(evaluate, quality)
    if document.get("check") and not evaluate:
        yield clash("there is no [evaluate] whose rows a check could be asked.", add, "check")
    yield from _training(evaluate)
    masked = evaluate.get("data")
    if evaluate.get("made_by_build") and masked in _table(document, "data"):
        fix = "Take made_by_build out, or the entry in [data]."
        reason = "the file is fetched by [data], so training does not make it."
        yield clash(reason, fix, "evaluate", "made_by_build")


def _lists(evaluate: Mapping[str, Any], quality: Mapping[str, Any]) -> Iterator[Broken]:
    """Find a measure of lists where no column says which rows are one list."""
    where: list[tuple[str, ...]] = [("primary",)] if quality.get("primary") == "ndcg" else []
    where += [(key, "ndcg") for key in ("limits", "guardrails") if "ndcg" in _table(quality, key)]
    for keys in where if evaluate and not evaluate.get("group") else ():
        fix = 'Add group = "…" to [evaluate].'
        yield clash("no column says which rows are one list.", fix, "quality", *keys)


def _promotion(document: Mapping[str, Any]) -> Iterator[Broken]:
    """Find rules for going on without a person that other settings forbid."""
    promote = _table(document, "quality").get("promote")
    if promote in {"better", "not_worse"} and _table(document, "model").get("risk") == "high":
        reason = f'"{promote}" lets versions go on without a person, and the risk is high.'
        yield clash(reason, 'Write "ask", or take it out.', "quality", "promote")
    if promote == "ask" and _table(document, "approval").get("people") == 0:
        reason = "a person is asked, and [approval] people = 0 asks none."
        yield clash(reason, "Set people to 1 or more, or take promote out.", "quality", "promote")


def _training(evaluate: Mapping[str, Any]) -> Iterator[Broken]:
    declared = evaluate.get("training")
    files = [declared] if isinstance(declared, str) else _list(declared)
    if evaluate.get("data") in files:
        fix = "Keep rows away from training, and name the two files."
        reason = f'"{evaluate["data"]}" is the evaluation data too.'
        yield clash(reason, fix, "evaluate", "training")


def _fairness(block: Mapping[str, Any], sensitive: Sequence[Any]) -> Iterator[Broken]:
    """Find limits on columns that are not sensitive."""
    limits = [key for key in ("max", "min_ratio") if key in block]
    if limits and not sensitive:
        fix = 'Add sensitive = ["…"] to [evaluate].'
        yield clash("[evaluate] names no sensitive column.", fix, "fairness", limits[0])
    named: list[tuple[Any, tuple[str | int, ...]]] = [
        (column, (key, column)) for key in ("limits", "bands") for column in _table(block, key)
    ]
    crossed = block.get("intersections")
    for number, columns in enumerate(
        cast("list[object]", crossed) if isinstance(crossed, list) else []
    ):
        named += [(column, ("intersections", number)) for column in _list(columns)]
    for column, where in named:
        if column not in sensitive:
            fix = f'Add "{column}" to [evaluate] sensitive, or take it out here.'
            reason = f'"{column}" is no sensitive column of [evaluate].'
            yield clash(reason, fix, "fairness", *where)


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[str]:
    if not isinstance(value, list):
        return []
    return [one for one in cast("list[object]", value) if isinstance(one, str)]
