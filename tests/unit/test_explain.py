"""The whole report, on models whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.check.answers import Answers, AskError
from penstock.check.evaluation import Evaluation
from penstock.check.explanation.asking import BATCH_S
from penstock.check.explanation.report import Plan, Subject, explain, result
from penstock.domain import JSON, CheckResult, Verdict

ROWS = 400
COLUMNS = ["strong", "weak", "unused"]


class Clock:
    """Time that passes only when a model is asked."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Model:
    """Adds up two of its three columns; costs time by the row."""

    def __init__(self, clock: Clock, *, row_s: float = 0.0, fail_after: int | None = None) -> None:
        self.clock, self.row_s, self.fail_after = clock, row_s, fail_after
        self.asked: list[pa.Table] = []

    def __call__(self, rows: pa.Table) -> Answers:
        self.asked.append(rows)
        self.clock.now_s += self.row_s * rows.num_rows
        if self.fail_after is not None and len(self.asked) > self.fail_after:
            raise AskError(500, "MemoryError")
        return Answers(numbers(rows, "strong") + 0.2 * numbers(rows, "weak"))


def numbers(rows: pa.Table, name: str) -> Any:
    return rows.column(name).to_numpy()


def evaluation(rows: int = ROWS) -> Evaluation:
    random = np.random.default_rng(0)
    features = pa.table({name: random.normal(size=rows) for name in [*COLUMNS, "other"]})
    label = numbers(features, "strong") + 0.2 * numbers(features, "weak")
    return Evaluation(features, label, None, None, features.select([]), "d" * 64)


def explained(model: Model, *, budget_s: float = 60.0, **plan: Any) -> tuple[JSON, CheckResult]:
    subject = Subject(model, evaluation(), columns=COLUMNS, task="regression")
    report = explain(subject, budget_s=budget_s, plan=Plan(clock=model.clock, **plan))
    return report, result(report)


def small(**plan: Any) -> JSON:
    return explained(Model(Clock()), explained=20, background=10, pairs=4, **plan)[0]


def test_columns_stand_in_the_order_of_their_worth() -> None:
    report, result = explained(Model(Clock()))

    strong, weak, unused = report["columns"]
    assert [one["column"] for one in report["columns"]] == ["strong", "weak", "unused"]
    assert strong["mean"] > weak["mean"] > 0
    assert strong["low"] < strong["mean"] < strong["high"]
    assert (unused["mean"], unused["low"], unused["high"], unused["repeats"]) == (0, 0, 0, 5)
    assert (report["metric"], report["value"]) == ("mae", 0.0)
    assert report["skipped"] == []
    assert result.check == "explain.importance"
    assert result.verdict is Verdict.PASSED
    assert "strong, weak" in result.summary
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_effects_have_a_size_an_interval_a_rank_and_a_direction() -> None:
    report, _ = explained(Model(Clock()))

    strong, weak, unused = (one["shap"] for one in report["columns"])
    # Of a normal column with factor w the mean size of the effect is w times 0.798.
    assert strong["low"] < 0.798 < strong["high"]
    assert weak["low"] < 0.2 * 0.798 < weak["high"]
    assert unused["mean"] == 0
    assert [one["rank"] for one in (strong, weak, unused)] == [1, 2, 3]
    assert [one["direction"] for one in (strong, weak, unused)] == ["up", "up", None]
    assert "A higher strong mostly raises the answer." in report["text"]


def test_the_same_seed_gives_the_same_report_and_another_does_not() -> None:
    first, again, other = small(), small(), small(seed=1)

    assert first == again
    assert first["columns"][0]["mean"] != other["columns"][0]["mean"]


def test_a_shuffle_moves_one_column_and_changes_no_value() -> None:
    model = Model(Clock())

    explained(model, repeats=1)

    plain = pa.concat_tables(model.asked[:2])
    for index, shuffled in enumerate(model.asked[2:5]):
        for name in COLUMNS:
            before, after = plain.column(name).to_pylist(), shuffled.column(name).to_pylist()
            assert (before != after) == (name == COLUMNS[index])
            assert sorted(before) == sorted(after)


@pytest.mark.parametrize("budget_s", [0.5, 2.0, 8.0, 30.0])
@pytest.mark.parametrize("row_s", [1e-3, 2e-2])
def test_a_budget_is_kept_to_within_one_batch_and_what_it_bought_is_told(
    budget_s: float, row_s: float
) -> None:
    model = Model(Clock(), row_s=row_s)

    report, _ = explained(model, budget_s=budget_s)

    assert model.clock.now_s <= budget_s + max(BATCH_S, 50 * row_s) + 1e-9
    assert sum(one["seconds"] for one in report["spent"]) == pytest.approx(
        model.clock.now_s, abs=0.01
    )
    assert sum(one["rows"] for one in report["spent"]) == sum(t.num_rows for t in model.asked)


def test_a_short_budget_costs_rows_and_repeats_before_columns() -> None:
    model = Model(Clock(), row_s=1 / ROWS)

    report, result = explained(model, budget_s=6.5)

    repeats = [one["repeats"] for one in report["columns"]]
    assert len(repeats) == 3
    assert max(repeats) - min(repeats) <= 1
    assert {"what": "200 of 400 rows", "why": "the budget of time"} in report["skipped"]
    assert result.verdict is Verdict.PASSED
    assert "skipped 200 of 400 rows: the budget of time" in result.summary


def test_a_budget_for_nothing_names_the_columns_that_it_skipped() -> None:
    report, result = explained(Model(Clock(), row_s=0.01), budget_s=2.0)

    assert report["columns"] == []
    assert report["skipped"][-1]["why"] == "the budget of time"
    assert result.verdict is Verdict.UNDECIDED
    assert "the budget of time" in result.summary
    assert report["text"] == "What it looks at could not be measured."


def test_no_more_rows_than_planned_are_taken() -> None:
    report, _ = explained(Model(Clock()), max_rows=50, repeats=1)

    assert (report["rows"], report["shap"]["rows"]) == (50, 50)
    assert report["skipped"] == [{"what": "350 of 400 rows", "why": "the limit of rows"}]


def test_a_model_that_does_not_answer_is_undecided_and_never_failed() -> None:
    report, result = explained(Model(Clock(), fail_after=0))

    assert report["columns"] == []
    assert result.verdict is Verdict.UNDECIDED
    assert "500: MemoryError" in result.summary


def test_an_error_on_the_way_keeps_what_was_measured() -> None:
    report, result = explained(Model(Clock(), fail_after=3))

    assert [one["column"] for one in report["columns"]] == ["strong"]
    skipped = {one["what"]: one["why"] for one in report["skipped"]}
    assert skipped['column "weak"'] == "it answered 500: MemoryError"
    assert skipped["what each column adds to the answers"] == "it answered 500: MemoryError"
    assert result.verdict is Verdict.PASSED


def test_progress_is_told_and_never_goes_back() -> None:
    told: list[float] = []
    model = Model(Clock(), row_s=1e-4)
    subject = Subject(
        model,
        evaluation(),
        columns=COLUMNS,
        task="regression",
        told=lambda share, left_s: told.append(share),
    )

    explain(subject, budget_s=5.0, plan=Plan(clock=model.clock))

    assert told == sorted(told)
    assert 0 < told[0] < told[-1] <= 1


def twins(rows: int = 2000) -> tuple[Evaluation, Callable[[pa.Table], Answers]]:
    random = np.random.default_rng(3)
    income = random.normal(size=rows)
    names = np.array(["low", "middle", "high"])[np.digitize(income, [-0.5, 0.5])]
    features = pa.table(
        {"income": income, "band": names, "age": random.normal(size=rows), "flag": income > 9}
    )

    def ask(table: pa.Table) -> Answers:
        steps = {"low": -1.0, "middle": 0.0, "high": 1.0}
        band = np.array([steps[name] for name in table.column("band").to_pylist()])
        score = numbers(table, "income") + band + 0.3 * numbers(table, "age")
        yes = 1 / (1 + np.exp(-2 * score))
        return Answers((yes > 0.5).astype(int), np.stack([1 - yes, yes], axis=1), (0, 1), 1)

    shares = ask(features).score
    assert shares is not None
    label = (random.random(rows) < shares).astype(int)
    return Evaluation(features, label, None, None, features.select(["age"]), "e" * 64), ask


def report_of_twins(**plan: Any) -> JSON:
    found, ask = twins()
    subject = Subject(ask, found, found.features.column_names, "classification")
    return explain(subject, plan=Plan(explained=60, pairs=8, **plan))


def test_a_number_and_its_bands_are_found_alike_and_matter_more_together_than_alone() -> None:
    report = report_of_twins()

    (group,) = report["groups"]
    alone = {one["column"]: one for one in report["columns"]}
    assert group["columns"] == ["income", "band"]
    assert group["correlation"] > 0.8
    assert group["low"] > alone["income"]["high"] > alone["band"]["mean"] > 0
    assert [alone[name]["group"] for name in ("income", "band", "age")] == [0, 0, None]
    assert "income and band tell much the same" in report["text"]


def test_alike_numbers_are_drawn_by_local_effects_and_others_by_partial_dependence() -> None:
    curves = {one["column"]: one for one in report_of_twins()["curves"]}

    methods = {name: one["method"] for name, one in curves.items()}
    assert methods["income"] == "accumulated local effects"
    assert methods["age"] == methods["band"] == "partial dependence"
    for one in curves.values():
        lengths = {len(one[key]) for key in ("x", "y", "low", "high", "counts")}
        assert lengths == {len(one["x"])}
        assert all(a <= b <= c for a, b, c in zip(one["low"], one["y"], one["high"], strict=True))


def test_rows_are_shown_one_by_one_without_sensitive_values_and_sum_to_the_answer() -> None:
    shown = report_of_twins()["examples"]

    assert [one["why"] for one in shown] == [
        "highest answer",
        "lowest answer",
        "most uncertain",
        "surely wrong",
    ]
    assert shown[3]["prediction"] != shown[3]["truth"]
    for one in shown:
        assert one["base"] + sum(e["effect"] for e in one["effects"]) == pytest.approx(
            one["answer"], abs=1e-6
        )
        values = {e["column"]: e["value"] for e in one["effects"]}
        assert values["age"] == "not shown: sensitive"
        assert values["band"] in {"low", "middle", "high"}
    assert report_of_twins(shown=False)["examples"] == []


def classifier(shares: bool) -> Callable[[pa.Table], Answers]:
    def ask(rows: pa.Table) -> Answers:
        x = numbers(rows, "strong")
        yes = 1 / (1 + np.exp(-x))
        probability = np.stack([1 - yes, yes], axis=1) if shares else None
        return Answers((x > 0).astype(int), probability, (0, 1), 1)

    return ask


@pytest.mark.parametrize(
    ("shares", "metric", "unit"),
    [(True, "roc_auc", "probability"), (False, "accuracy", "class")],
)
def test_classes_are_measured_by_what_the_model_offers(
    shares: bool, metric: str, unit: str
) -> None:
    plain = evaluation()
    label = (numbers(plain.features, "strong") > 0).astype(int)
    found = Evaluation(plain.features, label, None, None, plain.features.select([]), plain.digest)

    report = explain(
        Subject(classifier(shares), found, COLUMNS, "classification"),
        plan=Plan(explained=40, pairs=4),
    )

    assert (report["metric"], report["value"]) == (metric, 1.0)
    assert report["target"] == {"unit": unit, "classes": ["1"]}
    assert report["columns"][0]["column"] == "strong"
    assert report["columns"][0]["mean"] == pytest.approx(0.5, abs=0.05)


def test_of_several_classes_the_curve_tells_the_one_that_moves_most() -> None:
    plain = evaluation()

    def ask(rows: pa.Table) -> Answers:
        x, y = numbers(rows, "strong"), numbers(rows, "weak")
        odds = np.exp(np.stack([2 * x, np.zeros_like(x), 0.1 * y], axis=1))
        shares = odds / odds.sum(axis=1, keepdims=True)
        names = ("a", "b", "c")
        return Answers(np.array(names, dtype=object)[shares.argmax(axis=1)], shares, names)

    label = ask(plain.features).prediction
    found = Evaluation(plain.features, label, None, None, plain.features.select([]), "f" * 64)
    report = explain(
        Subject(ask, found, COLUMNS, "classification"), plan=Plan(explained=40, pairs=4)
    )

    curve = next(one for one in report["curves"] if one["column"] == "strong")
    assert curve["of"] == "a"
    assert curve["y"][-1] - curve["y"][0] > 0.7
    strong, weak, unused = (
        next(one["shap"] for one in report["columns"] if one["column"] == name) for name in COLUMNS
    )
    assert strong["mean"] > weak["mean"] > unused["mean"] == 0
    assert strong["mean"] <= 1  # a share of the probability, whatever the number of classes
    assert strong["direction"] is None


def test_tensors_and_free_text_are_taken_as_a_whole_and_that_is_said() -> None:
    random = np.random.default_rng(5)
    pixels = random.normal(size=(300, 4))
    kind = pa.list_(pa.float64(), 4)
    features = pa.table(
        {
            "image": pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), type=kind),
            "note": [f"a note of its own, {number}" for number in range(300)],
            "size": random.normal(size=300),
        }
    )

    def ask(rows: pa.Table) -> Answers:
        sums = np.array([sum(one) for one in rows.column("image").to_pylist()])
        words = np.array([float(one[-1]) for one in rows.column("note").to_pylist()])
        return Answers(sums + words / 9 + numbers(rows, "size"))

    label = ask(features).prediction
    found = Evaluation(features, label, None, None, features.select([]), "f" * 64)
    report = explain(
        Subject(ask, found, features.column_names, "regression"),
        plan=Plan(explained=30, pairs=4),
    )

    assert {one["column"] for one in report["columns"]} == set(features.column_names)
    assert all(one["mean"] > 0 and one["shap"]["mean"] > 0 for one in report["columns"])
    assert [one["column"] for one in report["curves"]] == ["size"]
    told = {one["what"]: one["why"] for one in report["skipped"]}
    assert told["curves of image, note"] == "text and tensors are taken as a whole"
    effects = [effect for one in report["examples"] for effect in one["effects"]]
    assert {e["value"] for e in effects if e["column"] == "image"} == {"4 numbers"}


def test_a_wide_model_tells_the_columns_that_matter_apart_and_the_rest_as_one() -> None:
    random = np.random.default_rng(6)
    names = [f"c{number:03}" for number in range(120)]
    features = pa.table({name: random.normal(size=300) for name in names})

    def ask(rows: pa.Table) -> Answers:
        parts = [numbers(rows, name) / (n + 1) for n, name in enumerate(names)]
        return Answers(np.sum(parts, axis=0))

    label = ask(features).prediction
    found = Evaluation(features, label, None, None, features.select([]), "f" * 64)
    report = explain(
        Subject(ask, found, names, "regression"),
        plan=Plan(explained=20, pairs=4, repeats=1, players=10),
    )

    apart = [one for one in report["columns"] if one["shap"]]
    (others,) = report["shap"]["others"]
    assert len(apart) == 10
    assert "c000" in {one["column"] for one in apart}
    assert others["column"] == "the other 110 columns"
    for one in report["examples"]:
        assert one["base"] + sum(e["effect"] for e in one["effects"]) == pytest.approx(
            one["answer"], abs=1e-6
        )


def test_columns_that_are_named_are_the_only_ones_that_are_explained() -> None:
    model = Model(Clock())
    subject = Subject(
        model, evaluation(), columns=COLUMNS, task="regression", only=("weak", "unkown")
    )

    report = explain(subject, plan=Plan(clock=model.clock, explained=20, pairs=4))

    assert [one["column"] for one in report["columns"]] == ["weak"]
    assert [one["column"] for one in report["curves"]] == ["weak"]
    assert [one["column"] for one in report["shap"]["others"]] == ["the other 2 columns"]
    assert report["skipped"][0] == {
        "what": 'column "unkown"',
        "why": "[explain] columns names it, and the model has none",
    }
