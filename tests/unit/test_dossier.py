from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from penstock.check.dossier import Subject, digest, dossier, markdown
from penstock.config.card import read_card
from penstock.domain import JSON, CheckResult, Verdict

SUBJECT = Subject(
    model="credit-default",
    number=42,
    commit="9f3c1ae",
    risk="medium",
    artifact_digest="a" * 64,
    lock_digest="b" * 64,
    data_digest="c" * 64,
    sandbox_level="full",
    champion=41,
)
CARD = """---
license: apache-2.0
benefit: "41 more defaults caught per 10,000 loans"
risks:
  - under-25s are few
  - labels come late
---
# Credit default
## Work
About 2 h a month.
"""


def result(
    check: str, verdict: Verdict = Verdict.PASSED, summary: str = "fine", **evidence: Any
) -> CheckResult:
    return CheckResult(check, verdict, summary, evidence)


BETTER = result("quality.not_worse", reading="better", value=0.842, champion=0.829)
CLOSE = result(
    "quality.roc_auc",
    Verdict.UNDECIDED,
    "AUC 0.801 >= 0.800, but on 40 rows of 50",
    question="Is it good for every group?",
)
SMOKE = result("smoke.predicts")


def written(*results: CheckResult, card: str = CARD, **changes: Any) -> JSON:
    return dossier(replace(SUBJECT, **changes), results, card=card)


def test_the_title_is_the_question() -> None:
    assert written()["title"] == "Put credit-default v42 into production?"


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        ("better", "v42 is better than v41, the version in use."),
        ("not worse", "v42 is not worse than v41, the version in use."),
        ("worse", "v42 is worse than v41, the version in use."),
    ],
)
def test_the_lead_begins_with_the_comparison(reading: str, words: str) -> None:
    verdict = Verdict.FAILED if reading == "worse" else Verdict.PASSED

    lead = written(result("quality.not_worse", verdict, reading=reading))["lead"]

    assert lead.startswith(words)


def test_the_lead_says_when_there_is_nothing_to_compare_with() -> None:
    assert "is the first version" in written(champion=None)["lead"]


def test_the_lead_claims_nothing_that_is_undecided() -> None:
    undecided = result("quality.not_worse", Verdict.UNDECIDED, "too close", reading="better")

    lead = written(undecided, result("speed.p95", Verdict.UNDECIDED, "12 requests"))["lead"]

    assert "is better than v41, the version in use, is not known" in lead
    assert "fast enough" not in lead.partition("2 points need")[0]
    assert "2 points need your judgement" in lead
    assert "12 requests" in lead


def test_the_lead_names_what_failed() -> None:
    lead = written(BETTER, result("speed.p95", Verdict.FAILED, "p95 41 ms > 30 ms"))["lead"]

    assert "over a limit of speed or memory: p95 41 ms > 30 ms." in lead


def test_a_report_without_a_limit_is_not_called_within_the_limit() -> None:
    reported = written(result("fairness.demographic_parity.sex", limit=None))["lead"]
    held = written(result("fairness.demographic_parity.sex", limit=0.1))["lead"]

    assert "no limit is set" in reported
    assert "No difference between groups is over its limit." in held


def test_weak_isolation_and_data_that_training_saw_are_said_in_words() -> None:
    document = written(sandbox_level="none", data_made_by_build=True)

    assert "without isolation" in document["lead"]
    assert "data that its own build made" in document["lead"]
    assert "training could see it" in document["identity"]["data_digest"]


def test_what_only_people_know_comes_from_the_card() -> None:
    benefit, work, risks = written()["meaning"]

    assert benefit["text"] == "41 more defaults caught per 10,000 loans"
    assert work["text"] == "About 2 h a month."
    assert risks["text"] == "- under-25s are few\n- labels come late"
    assert written()["gaps"] == []


@pytest.mark.parametrize(("risk", "blocked"), [("low", False), ("medium", False), ("high", True)])
def test_a_gap_is_shown_and_blocks_at_risk_high_only(risk: str, blocked: bool) -> None:
    document = written(card="## Work\nNone.\n", risk=risk)

    assert document["gaps"] == ["What you gain", "What could go wrong"]
    assert document["meaning"][0]["text"] is None
    assert "add `benefit`" in document["meaning"][0]["missing"]
    assert (document["blocked"] is not None) == blocked


def test_a_full_card_does_not_block_at_risk_high() -> None:
    assert written(risk="high")["blocked"] is None


def test_evidence_is_questions_with_the_comparison_first() -> None:
    document = written(SMOKE, CLOSE, result("speed.p95"), BETTER)

    checks = [one["check"] for one in document["evidence"]]
    first = document["evidence"][0]
    assert checks == ["quality.not_worse", "quality.roc_auc", "speed.p95", "smoke.predicts"]
    assert (first["verdict"], first["reading"]) == ("passed", "better")
    assert (first["value"], first["champion"]) == (0.842, 0.829)
    assert document["evidence"][1]["question"] == "Is it good for every group?"
    assert all(one["question"].endswith("?") for one in document["evidence"])
    assert [one["folded"] for one in document["evidence"]] == [False, False, False, True]


def test_undecided_is_a_point_for_judgement_and_not_counted_as_passed() -> None:
    document = written(SMOKE, CLOSE, BETTER)

    assert document["counts"] == {"passed": 2, "failed": 0, "undecided": 1}
    assert document["counts_text"] == "2 of 3 checks passed, 1 undecided"
    assert [point["check"] for point in document["judgement"]] == ["quality.roc_auc"]


def test_identity_names_exactly_what_is_approved() -> None:
    identity = written()["identity"]

    assert identity["model"] == "credit-default@42"
    assert identity["artifact_digest"] == "a" * 64
    assert identity["sandbox_level"] == "full"


def test_the_digest_changes_with_any_fact_and_survives_a_round_trip() -> None:
    document = written(SMOKE, BETTER)

    assert digest(json.loads(json.dumps(document))) == digest(document)
    assert digest(written(SMOKE, BETTER, artifact_digest="e" * 64)) != digest(document)
    assert digest(written(SMOKE, CLOSE)) != digest(document)
    assert digest(written(SMOKE, BETTER, card="")) != digest(document)


def test_a_bound_without_end_is_written_as_none() -> None:
    document = written(result("quality.not_worse", Verdict.UNDECIDED, low=-float("inf"), high=0.2))

    assert document["evidence"][0]["low"] is None
    assert document["evidence"][0]["high"] == 0.2
    assert len(digest(document)) == 64


def test_a_number_that_is_none_has_no_digest() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"value": float("nan")})


def test_markdown_holds_the_same_facts() -> None:
    rate = {"value": 0.41, "low": 0.38, "high": 0.44}
    groups = {
        "columns": [
            {
                "column": "sex",
                "groups": [
                    {"group": "f", "rows": 900, "judged": True, "selection_rate": rate},
                    {"group": "x", "rows": 12, "judged": False, "selection_rate": None},
                ],
            }
        ]
    }
    importance = {
        "metric": "roc_auc",
        "columns": [{"column": "income", "mean": 0.12}],
        "skipped": [{"what": "repeats after 2 of 5", "why": "the budget of time"}],
    }

    text = markdown(
        dossier(
            replace(SUBJECT, risk="high"),
            [BETTER, CLOSE, result("speed.p95", summary="a | b")],
            card="",
            groups=groups,
            importance=importance,
        )
    )

    for words in (
        "# Put credit-default v42 into production?",
        "It cannot be approved:",
        "CARD.md says nothing here",
        "2 of 3 checks passed, 1 undecided",
        "| **undecided** | Is it good for every group?",
        "| 0.829 |",
        "a \\| b",
        "| f | 900 | 0.41 (0.38 to 0.44) |",
        "| x (too few to judge) | 12 | – |",
        "- income: 0.12",
        "- skipped repeats after 2 of 5: the budget of time",
        f"- artifact digest: {'a' * 64}",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("text", "head", "sections"),
    [
        ("", {}, {}),
        ("no head\n", {}, {}),
        ("---\nbenefit: x # why\n", {}, {}),
        ("\ufeff---\r\nbenefit: x # why\r\n---\r\n", {"benefit": "x"}, {}),
        ("---\nrisks: |\n  one\n  two\n---\n", {"risks": "one\ntwo"}, {}),
        ("---\nUrl: http://x/y#z\n# remark\n---\n", {"url": "http://x/y#z"}, {}),
        ("## Benefit ##\ntext\n### part\nmore\n", {}, {"benefit": "text\n### part\nmore"}),
        ("## Work\n```\n# no heading\n```\n", {}, {"work": "```\n# no heading\n```"}),
    ],
)
def test_a_card_is_read_as_far_as_it_is_understood(
    text: str, head: dict[str, str], sections: dict[str, str]
) -> None:
    card = read_card(text)

    assert dict(card.head) == head
    assert dict(card.sections) == sections
