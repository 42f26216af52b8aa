"""Measures that must not suffer, lists that are ranked, rows that belong together."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from sklearn import metrics

from penstock.check.answers import Answers
from penstock.check.comparison import Matched, compare, guardrails
from penstock.check.quality import interval, value
from penstock.check.rows import Cost, Terms
from penstock.domain import Verdict
from penstock.errors import UsageError

DRAW = np.random.default_rng(11)
ROWS = 2000
TRUE = DRAW.beta(2, 4, ROWS)
LABELS = (DRAW.random(ROWS) < TRUE) * 1
GROUP = np.arange(ROWS) // 10


def scored(score: Any, cut: float = 0.5) -> Answers:
    score = np.clip(score, 0.001, 0.999)
    return Answers((score > cut) * 1, np.column_stack([1 - score, score]), (0, 1))


def test_a_better_order_does_not_hide_probabilities_that_went_wrong() -> None:
    before = scored(TRUE + DRAW.normal(0, 0.1, ROWS))
    now = scored(TRUE**4)  # a better order, and far too low

    of = Matched(LABELS, before, now)
    loss, area = guardrails({"log_loss": 0.02, "roc_auc": 0.01}, of)

    assert compare("roc_auc", of, margin=0.005).evidence["reading"] == "better"
    assert (loss.check, loss.verdict) == ("quality.guardrail.log_loss", Verdict.FAILED)
    assert area.verdict is Verdict.PASSED


def test_a_guardrail_that_the_rows_cannot_tell_is_undecided() -> None:
    before, now = (scored(TRUE + DRAW.normal(0, 0.2, ROWS)) for _ in range(2))

    (found,) = guardrails({"recall": 0.0}, Matched(LABELS, before, now))

    assert found.verdict is Verdict.UNDECIDED


def test_lists_are_ranked_as_scikit_learn_ranks_them() -> None:
    relevance = DRAW.integers(0, 4, 300).astype(np.float64)
    score = np.round(relevance + DRAW.normal(0, 1.5, 300), 1)  # some are equal
    lists = np.arange(300) // 12
    expected: list[float] = [
        cast("Any", metrics).ndcg_score(
            relevance[None, lists == one], score[None, lists == one], ignore_ties=False
        )
        for one in range(25)
    ]

    found = value("ndcg", relevance, Answers(score), Terms(group=lists))

    assert found == pytest.approx(float(np.mean(expected)), abs=1e-12)


def test_ten_equal_rows_of_a_customer_say_no_more_than_one() -> None:
    once, often = np.arange(0, ROWS, 10), np.repeat(np.arange(0, ROWS, 10), 10)
    scores = [TRUE + DRAW.normal(0, 0.2, ROWS) for _ in range(2)]

    def bounds(rows: Any, terms: Terms) -> tuple[float, float]:
        before, now = (scored(one[rows]) for one in scores)
        of = Matched(LABELS[rows], before, now, terms)
        told = compare("log_loss", of, margin=0.01).evidence
        return told["low"], told["high"]

    single = bounds(once, Terms())
    assert bounds(often, Terms(group=GROUP)) == pytest.approx(single)
    assert bounds(often, Terms())[0] > single[0]


def test_few_groups_say_nothing() -> None:
    terms = Terms(group=np.arange(ROWS) // 100)
    answers = scored(TRUE)

    result = compare("roc_auc", Matched(LABELS, answers, answers, terms), margin=0.01)

    assert result.verdict is Verdict.UNDECIDED
    assert "in 20 groups of 30" in result.summary
    assert interval("roc_auc", LABELS, answers, terms=terms) is None


def test_what_mistakes_cost_may_turn_the_verdict() -> None:
    terms = Terms(cost=Cost(fp=1, fn=20), rows_are="loans", positives_are="defaults")
    careful, bold = scored(TRUE, cut=0.2), scored(TRUE, cut=0.5)

    of = Matched(LABELS, bold, careful, terms)

    assert compare("accuracy", of, margin=0.005).evidence["reading"] == "worse"
    by_cost = compare("cost", of, margin=0.01)
    assert by_cost.evidence["reading"] == "better"
    assert by_cost.evidence["lay"]["text"].startswith("the mistakes in 1,000 loans cost about ")


def test_versions_that_never_say_yes_are_told_so() -> None:
    quiet = scored(TRUE / 10)

    told = compare("roc_auc", Matched(LABELS, quiet, quiet), margin=0.01).evidence["lay"]

    assert told["text"] == "neither says yes to any of 2,000 rows"


@pytest.mark.parametrize(
    ("metric", "lacking"), [("cost", "[quality] cost"), ("ndcg", "[evaluate] group")]
)
def test_a_measure_without_what_it_needs_is_refused(metric: str, lacking: str) -> None:
    with pytest.raises(UsageError, match="PS302") as refused:
        value(metric, LABELS, scored(TRUE))

    assert lacking in refused.value.what
