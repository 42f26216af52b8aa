"""`penstock plan`: what a push would do, in the words of the pipeline's own steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.build.project.detect import Detected
from penstock.config import Canary, ModelConfig, resolve
from penstock.config.canary import ONLY_LASTS

UNDECIDED_BY_RISK = {"low": "asks a person", "medium": "asks a person", "high": "stops"}


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step and what it would do."""

    stage: str
    step: str
    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a push would do."""

    model: str
    steps: tuple[PlannedStep, ...]
    off: tuple[str, ...]
    """Blocks that are not set, each by its name in penstock.toml."""
    next_block: str
    """The block to add next and what it is for; empty when all are there."""
    notes: tuple[str, ...]


def plan(
    config: ModelConfig,
    detected: Detected,
    *,
    champion: Mapping[str, Any] | None,
    asked: bool = True,
) -> Plan:
    """Say what a push would do.

    Parameters
    ----------
    champion
        The version that serves now, with ``number``; None for a first version.
    asked
        False when no server answered, so that nobody knows whether there is a champion.
    """
    config = resolve(config, None)
    name = config.model.name
    beside = None if champion is None else f"{name}@{champion['number']} (@champion)"
    if not asked:
        beside = "the champion, if there is one"
    steps = (*_build(config, detected), *_test(config, beside), *_production(config, beside))
    off, next_block = _missing_blocks(config)
    notes = detected.notes
    if beside is None:
        notes = (*notes, "A first version has no champion to be compared with or to fall back to.")
    return Plan(name, steps, off, next_block, notes)


def _build(config: ModelConfig, detected: Detected) -> list[PlannedStep]:
    network = "network" if config.build.network else "no network"
    fetched = ""
    if config.data:
        files = f"{len(config.data)} file{'s' if len(config.data) > 1 else ''}"
        fetched = f"; {files} of [data] fetched before, verified"
    train = f"{detected.run.value}, {network}, at most {_minutes(config.build.timeout_s)}"
    packages = detected.dependencies.value if detected.dependencies else "no packages"
    evaluate = config.evaluate
    if evaluate is None or not evaluate.sensitive:
        fairness, gate = "off", "[evaluate] sensitive is not set"
    else:
        fairness, gate = _fairness(config, evaluate.sensitive)
    return [
        PlannedStep("build", "train", train, f"environment from {packages}{fetched}"),
        PlannedStep("build", "store", "model, code, lock and data by digest"),
        PlannedStep("build", "check", _checks(config)),
        PlannedStep("build", "fairness", fairness, gate),
        PlannedStep("build", "explain", _explain(config)),
    ]


def _fairness(config: ModelConfig, sensitive: Sequence[str]) -> tuple[str, str]:
    asked = config.fairness
    words = (asked.metric or "difference between groups").replace("_", " ")
    told = [f"{words} <= {asked.max:g}"] if asked.max is not None else []
    if asked.min_ratio is not None:
        told.append(f"ratio >= {asked.min_ratio:g}")
    if asked.limits:
        told.append(f"own limits for {', '.join(asked.limits)}")
    if not told:
        return f"report on {', '.join(sensitive)}", "no gate: max is not set"
    return ", ".join(told), ""


def _explain(config: ModelConfig) -> str:
    if config.evaluate is None or config.explain.off:
        return "off"
    which = ", ".join(config.explain.columns) or "which columns matter"
    return f"{which}, within {config.explain.budget_s:g} s"


def _checks(config: ModelConfig) -> str:
    if config.evaluate is None:
        return "smoke checks only: there is no [evaluate]"
    made = config.evaluate.made_by_build
    hidden = "made by training, so not hidden from it" if made else "hidden from training"
    built_in = f"smoke, sanity and supply checks on {config.evaluate.data}, {hidden}"
    own = ", ".join(f"{one.name}{'' if one.gate else ' (report)'}" for one in config.check)
    return built_in + (f"; your own: {own}" if own else "")


def _test(config: ModelConfig, beside: str | None) -> list[PlannedStep]:
    where = f"beside {beside}" if beside else "alone: a first version"
    people = max(config.approval.people or 0, 1)
    who = f"{people} {'person' if people == 1 else 'people'}"
    approve = {
        "better": f"nobody is asked when it is provably better than the champion, else {who}",
        "not_worse": f"nobody is asked, unless something is undecided: then {who}",
    }.get(config.quality.promote or "", f"{who}; closes after {config.approval.expires}")
    undecided = f"undecided {UNDECIDED_BY_RISK[config.model.risk]}"
    return [
        PlannedStep("test", "deploy", where),
        PlannedStep("test", "quality", _quality(config, beside), undecided),
        PlannedStep("test", "speed", _speed(config, beside)),
        PlannedStep("test", "approve", approve),
    ]


def _quality(config: ModelConfig, beside: str | None) -> str:
    if config.evaluate is None:
        return "undecided: there is no [evaluate]"
    limits: list[str] = []
    for name, limit in config.quality.limits.items():
        limits += [f"{name} >= {limit.min:g}"] if limit.min is not None else []
        limits += [f"{name} <= {limit.max:g}"] if limit.max is not None else []
    parts = limits or ["no limits"]
    if beside is not None:
        primary = config.quality.primary or "the main measure"
        margin = config.quality.margin
        by = "by more than the margin" if margin is None else f"by more than {margin:g}"
        parts.append(f"{primary} not worse than @champion {by}")
    return "; ".join(parts)


def _speed(config: ModelConfig, beside: str | None) -> str:
    speed = config.speed
    limits = (
        ("p50", speed.p50_ms, "ms"),
        ("p95", speed.p95_ms, "ms"),
        ("memory", speed.max_memory_mb, "MB"),
        ("cold start", speed.cold_start_s, "s"),
    )
    parts = [f"{name} <= {value:g} {unit}" for name, value, unit in limits if value is not None]
    if speed.min_rps is not None:
        parts.append(f"throughput >= {speed.min_rps:g} requests/s")
    if beside is not None and speed.margin is not None:
        parts.append(f"at most {speed.margin:g} times as long as @champion")
    elif beside is not None and speed.p50_ms is None and speed.p95_ms is None:
        parts = parts or ["no limits"]
        parts.append("a person judges what takes over 1.5 times as long as @champion")
    return "; ".join(parts) or "report, no limits"


def _production(config: ModelConfig, beside: str | None) -> list[PlannedStep]:
    canary, note, release = "off: nothing to compare with", "", "takes all of the traffic"
    if beside is not None:
        canary, note = _canary(config.canary)
        release = f"{beside} stays warm"
        if config.canary.only is not None:
            release = "when a person says so"
    periods = ", ".join(f"each {monitor.every}" for monitor in config.monitor) or "off"
    return [
        PlannedStep("production", "canary", canary, note),
        PlannedStep("production", "release", release),
        PlannedStep("production", "monitor", periods),
    ]


def _canary(canary: Canary) -> tuple[str, str]:
    """Say how it takes over, and what a share waits for."""
    person = f"for {canary.lasts or ONLY_LASTS}, then a person decides"
    if canary.only == "shadow":
        return f"copies of the requests {person}", ""
    steps = canary.steps
    first = f"copies for {canary.shadow_first}, then " if canary.shadow_first else ""
    if canary.only == "ab":
        share = steps[0] if steps else 50
        return f"{first}{share} % {person}", ""
    if steps is not None and not steps:
        return f"{first}all requests at once", ""
    shares = f"{', '.join(map(str, steps))} %" if steps else "shares by the last 7 days' traffic"
    wants = [f"{canary.min_requests:,} requests"]
    wants += [f"{canary.min_labels:,} labels"] if canary.min_labels else []
    wants += [canary.min_time] if canary.min_time is not None else []
    return f"{first}{shares}", f"each after {', '.join(wants)} and no harm"


def _missing_blocks(config: ModelConfig) -> tuple[tuple[str, ...], str]:
    evaluate = config.evaluate
    wanted = (
        ("evaluate", evaluate is not None, "so that versions can be judged and compared"),
        ("quality", bool(config.quality.limits), "so that a bad version stops: limits"),
        ("fairness", bool(evaluate and evaluate.sensitive), "[evaluate] sensitive, then max"),
        ("speed", config.speed.p95_ms is not None, "so that a slow version stops: p95_ms"),
    )
    missing = [(name, why) for name, there, why in wanted if not there]
    next_block = f"[{missing[0][0]}], {missing[0][1]}" if missing else ""
    return tuple(name for name, _ in missing), next_block


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
