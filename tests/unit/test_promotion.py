"""Who is asked about a version that nothing stops."""

from __future__ import annotations

import pytest

from penstock.config import parse, resolve
from penstock.deploy.promotion import promotion
from penstock.domain import CheckResult, Verdict
from penstock.errors import ConfigurationError

BETTER, NOT_WORSE, FIRST = "better", "not worse", None


def asked(settings: str, reading: str | None, verdict: Verdict = Verdict.PASSED) -> int:
    text = f'[model]\nname = "credit"\n{settings}'
    config = resolve(parse(text + '\n[evaluate]\ndata = "d.csv"\nlabel = "y"\n'), None)
    results = [CheckResult("smoke.loads", Verdict.PASSED, "")]
    if reading is not None:
        results.append(CheckResult("quality.not_worse", Verdict.PASSED, "", {"reading": reading}))
    found = promotion(config, results, verdict)
    assert found.reason
    return found.people


@pytest.mark.parametrize(
    ("settings", "better", "not_worse", "first"),
    [
        ('risk = "low"', 0, 0, 0),
        ('risk = "medium"', 1, 1, 1),
        ('risk = "high"', 2, 2, 2),
        ('risk = "low"\n[quality]\npromote = "ask"', 1, 1, 1),
        ('risk = "low"\n[quality]\npromote = "better"', 0, 1, 1),
        ('risk = "medium"\n[quality]\npromote = "better"', 0, 1, 1),
        ('risk = "medium"\n[quality]\npromote = "not_worse"', 0, 0, 0),
        ('[quality]\npromote = "better"\n[approval]\npeople = 3', 0, 3, 3),
        ("[approval]\npeople = 0", 0, 0, 0),
        ('risk = "high"\n[approval]\npeople = 0', 1, 1, 1),
    ],
)
def test_the_policy_says_how_many_people_are_asked(
    settings: str, better: int, not_worse: int, first: int
) -> None:
    found = [asked(settings, reading) for reading in (BETTER, NOT_WORSE, FIRST)]

    assert found == [better, not_worse, first]


@pytest.mark.parametrize("promote", ["better", "not_worse"])
def test_what_is_undecided_is_never_let_on_without_a_person(promote: str) -> None:
    settings = f'risk = "low"\n[quality]\npromote = "{promote}"'

    assert asked(settings, BETTER, Verdict.UNDECIDED) == 1


def test_a_version_of_an_older_release_without_the_setting_is_treated_as_before() -> None:
    config = resolve(parse('[model]\nname = "credit"\nrisk = "low"\n'), None)
    older = config.model_copy(
        update={"quality": config.quality.model_copy(update={"promote": None})}
    )

    assert promotion(older, [], Verdict.PASSED).people == 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ('risk = "high"\n[quality]\npromote = "better"', "the risk is high"),
        ('[quality]\npromote = "ask"\n[approval]\npeople = 0', "people = 0 asks none"),
        ('[quality]\nprimary = "cost"', "what mistakes cost is not said"),
        ("[quality]\nguardrails = { cost = 0.1 }", "what mistakes cost is not said"),
        ("[quality]\ncost = { fp = 0, fn = 0 }", "no mistake costs anything"),
        ('[quality]\nprimary = "ndcg"', "which rows are one list"),
        ("[quality]\nguardrails = { ndcg = 0.1 }", "which rows are one list"),
        ("[quality]\nguardrails = { auk = 0.1 }", "no measure of quality"),
        ("[quality]\nguardrails = { mae = -0.1 }", "guardrails.mae"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: str, reason: str) -> None:
    text = f'[model]\nname = "credit"\n{settings}\n[evaluate]\ndata = "d.csv"\nlabel = "y"\n'

    with pytest.raises(ConfigurationError) as refused:
        parse(text)

    told = " ".join(f"{one.key} {one.reason}" for one in refused.value.faults)
    assert reason in told
