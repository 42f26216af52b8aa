"""A replay: which production decisions the challenger would have made otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from penstock.check.answers import Answers
from penstock.check.replay import EXAMPLES, Replayed, replay_checks, wilson
from penstock.domain import CheckResult, Verdict


def classes(scores: list[float]) -> Answers:
    probability = np.column_stack([1 - np.array(scores), scores])
    words = np.array(["yes" if score >= 0.5 else "no" for score in scores], dtype=object)
    return Answers(words, probability, ("no", "yes"), "yes")


def replayed(
    before: Answers, after: Answers, *, left_out: tuple[str, ...] = (), span_h: float = 0.0
) -> Replayed:
    count = len(before)
    rows = pa.table(
        {"age": list(range(count)), "region": ["n" if n % 2 else "s" for n in range(count)]}
    )
    return Replayed(rows, tuple(f"id-{n}" for n in range(count)), before, after, left_out, span_h)


def one(of: Replayed, **slices: Sequence[object]) -> CheckResult:
    (found,) = replay_checks(
        of, slices={name: np.array(values, dtype=object) for name, values in slices.items()}
    )
    return found


def test_it_says_how_many_decisions_would_have_been_others() -> None:
    before = [0.2] * 90 + [0.6] * 10
    after = [0.2] * 87 + [0.7] * 3 + [0.6] * 10

    found = one(replayed(classes(before), classes(after), span_h=50.0))

    assert found.verdict is Verdict.PASSED
    assert found.summary == (
        "would have changed 3 % of 100 decisions (1 to 8.5 %) of the last 2 days"
    )
    assert found.evidence["moves"] == [{"from": "no", "to": "yes", "rows": 3}]
    assert found.evidence["gate"] is False


def test_the_examples_are_those_that_moved_farthest_with_what_was_asked() -> None:
    before = [0.4] * 60
    after = [0.4] * 20 + [0.55 + n / 100 for n in range(40)]

    examples = one(replayed(classes(before), classes(after))).evidence["examples"]

    assert len(examples) == EXAMPLES
    assert examples[0]["id"] == "id-59"
    assert examples[0]["inputs"] == {"age": 59, "region": "n"}
    assert (examples[0]["champion"], examples[0]["challenger"]) == ("no", "yes")
    assert examples[0]["challenger_score"] == pytest.approx(0.94)


def test_slices_say_where_most_changes() -> None:
    before, after = [0.2] * 100, [0.8 if n % 4 == 0 else 0.2 for n in range(100)]

    found = one(
        replayed(classes(before), classes(after)),
        region=["s" if n % 2 == 0 else "n" for n in range(100)],
        rare=["x"] * 5 + ["y"] * 95,
    )

    slices = found.evidence["slices"]
    assert [(one["column"], one["value"], one["changed"]) for one in slices[:1]] == [
        ("region", "s", 25)
    ]
    assert all(one["value"] != "x" for one in slices)  # five rows say nothing


def test_of_numbers_only_what_is_more_than_a_tenth_of_their_spread_is_changed() -> None:
    before = np.linspace(0, 100, 200)
    spread = float(before.std())
    after = before + np.where(np.arange(200) < 20, 0.2 * spread, 0.05 * spread)

    found = one(replayed(Answers(before), Answers(after)))

    assert found.evidence["changed"] == 20
    assert found.evidence["moves"] == [{"from": "a number", "to": "more", "rows": 20}]


def test_one_class_spelled_in_two_ways_is_no_change() -> None:
    before = Answers(np.array([0, 1] * 40), None, (0, 1))
    after = Answers(np.array(["0", "1"] * 40, dtype=object), None, ("0", "1"))

    assert one(replayed(before, after)).evidence["changed"] == 0


def test_few_rows_are_undecided_and_left_out_columns_are_told() -> None:
    few = one(replayed(classes([0.2] * 10), classes([0.8] * 10)))
    told = one(replayed(classes([0.2] * 60), classes([0.2] * 60), left_out=("name",)))

    assert few.verdict is Verdict.UNDECIDED
    assert "without name, which the log does not hold" in told.summary


def test_the_interval_is_wilsons() -> None:
    # E. B. Wilson 1927; the values of R's binom.confint(3, 100, methods = "wilson").
    assert wilson(3, 100) == pytest.approx((0.01025, 0.08452), abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)
