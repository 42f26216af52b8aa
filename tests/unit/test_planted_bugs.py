"""One sound model with sound data passes everything; each planted bug is found by its own check.

The table at the end is the promise: exactly the named checks speak up, and no other does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.check import parity, sanity, smoke, supply, training_rows
from penstock.check.answers import Answers, Ask, AskError
from penstock.check.evaluation import read_evaluation
from penstock.check.supply import Package
from penstock.check.training_rows import DataFile
from penstock.config import Evaluate
from penstock.domain import JSON, CheckResult, Verdict

ROWS, TRAINING_ROWS = 600, 1500
CLASSES = ("no", "yes")
CITIES = ("Bonn", "Kiel", "Ulm")
NUMBERS = ("x0", "x1", "x2", "x3")
LOCK = "six==1.17.0 \\\n    --hash=sha256:" + "0" * 64 + "\n"
Change = Callable[["World"], "World"]


def table(rows: int, seed: int, first_day: int, noise: float = 1.0) -> pa.Table:
    """Four numbers and a town, of which no one tells much alone, and who said yes."""
    draw = np.random.default_rng(seed)
    x = np.round(draw.normal(size=(rows, 4)), 6)
    town = draw.integers(0, 3, rows)
    law = x.sum(axis=1) + 0.5 * town
    return pa.table(
        {
            **{name: x[:, place] for place, name in enumerate(NUMBERS)},
            "town": np.array(CITIES)[town],
            "spare": [None, *np.round(draw.normal(size=rows - 1), 6).tolist()],
            "day": first_day + np.arange(rows) // 10,
            "answer": np.where(law + noise * draw.logistic(size=rows) > 0.5, "yes", "no"),
        }
    )


def columns(rows: pa.Table, names: tuple[str, ...] = NUMBERS) -> np.ndarray[Any, Any]:
    found: list[list[float]] = []
    for name in names:
        values = rows.column(name).to_pylist()
        if None in values:
            raise AskError(422, f'column "{name}" must not be null')
        found.append(values)
    return np.array(found, dtype=np.float64)


def told(law: np.ndarray[Any, Any]) -> Answers:
    yes = 1 / (1 + np.exp(-(law - 0.5)))
    shares = np.stack([1 - yes, yes], axis=1)
    return Answers(np.array(CLASSES)[(yes > 0.5).astype(int)], shares, CLASSES, "yes")


def law(rows: pa.Table) -> np.ndarray[Any, Any]:
    towns = rows.column("town").to_pylist()
    if None in towns:
        raise AskError(422, 'column "town" must not be null')
    known = np.array([CITIES.index(town) if town in CITIES else 0 for town in towns])
    return columns(rows).sum(axis=0) + 0.5 * known


def sound(rows: pa.Table) -> Answers:
    return told(law(rows))


SIGNATURE: JSON = {
    "columns": [
        *({"name": name, "datatype": "FP64", "optional": False} for name in NUMBERS),
        {"name": "town", "datatype": "BYTES", "optional": False},
        {"name": "spare", "datatype": "FP64", "optional": True},
    ],
    "task": "classification",
    "classes": list(CLASSES),
    "positive": "yes",
}


@dataclass(frozen=True)
class World:
    """A version and all that its checks look at."""

    holdout: pa.Table = field(default_factory=lambda: table(ROWS, 1, 1000))
    training: pa.Table | None = field(default_factory=lambda: table(TRAINING_ROWS, 2, 0))
    training_name: str = "data/train.parquet"
    ask: Ask = sound
    again: Ask = sound
    signature: JSON = field(default_factory=lambda: SIGNATURE)
    champion_signature: JSON | None = field(default_factory=lambda: SIGNATURE)
    champion_digest: str | None = None
    golden: pa.Table | None = None
    changed: Mapping[str, str] = field(default_factory=dict[str, str])
    bytes: int = 2_000_000
    champion_bytes: int | None = 1_900_000
    lock: str = LOCK
    packages: tuple[Package, ...] = (Package("six", "1.17.0", "MIT"),)

    def extra(self, name: str, values: Any, datatype: str = "FP64") -> World:
        """Give the model one more column, of evaluation and training data."""
        added = {"name": name, "datatype": datatype, "optional": True}
        signature = {**self.signature, "columns": [*self.signature["columns"], added]}
        of_training = self.training
        if of_training is not None:
            filler = np.random.default_rng(5).normal(size=of_training.num_rows)
            plain = filler if datatype == "FP64" else np.arange(of_training.num_rows) + 10_000
            of_training = of_training.append_column(name, pa.array(plain))
        return replace(
            self,
            holdout=self.holdout.append_column(name, pa.array(values)),
            training=of_training,
            signature=signature,
            champion_signature=signature,
        )


def results(world: World, folder: Path) -> list[CheckResult]:
    """Run all checks that the step runs, but for those of the project."""
    holdout = folder / "holdout.parquet"
    pq.write_table(world.holdout, holdout)
    spec = Evaluate(data="holdout.parquet", label="answer", time="day")
    evaluation = read_evaluation(holdout, spec)
    names = [str(column["name"]) for column in world.signature["columns"]]
    training: Any = "no table was found"
    if world.training is not None:
        file = folder / "training.parquet"
        pq.write_table(world.training, file)
        training = training_rows.find(
            [DataFile(file, world.training_name)],
            evaluation,
            names,
            {"label": "answer", "time": "day"},
            declared=False,
        )
    found = smoke.smoke_checks(world.ask, evaluation, world.signature, world.champion_signature)
    rows = evaluation.for_columns(names)
    material = sanity.Material(
        evaluation=evaluation,
        answers=world.ask(rows),
        signature=world.signature,
        training=training,
        metric="accuracy" if world.signature["task"] == "classification" else "mae",
        margin=0.05,
        champion_data=("m@1", world.champion_digest or evaluation.digest),
    )
    found += sanity.sanity_checks(material)
    few = rows.slice(0, parity.RELOAD_ROWS)
    found.append(parity.reloads(world.ask(few), world.again(few)))
    if world.golden is not None:
        found.append(parity.golden(world.ask, world.golden, world.signature))
    else:
        found.append(parity.unchanged(world.changed))
    found.append(supply.size(world.bytes, world.champion_bytes))
    found.append(supply.pins(world.lock)[0])
    found.append(supply.licences(world.packages, asks=True))
    return found


def spoke_up(world: World, folder: Path) -> dict[str, str]:
    found = results(world, folder)
    return {one.check: one.verdict.value for one in found if one.verdict is not Verdict.PASSED}


def test_a_sound_version_passes_every_check_and_each_has_a_question(tmp_path: Path) -> None:
    found = results(World(), tmp_path)

    assert {one.check: one.summary for one in found if one.verdict is not Verdict.PASSED} == {}
    questions = {**smoke.QUESTIONS, **sanity.QUESTIONS, **parity.QUESTIONS, **supply.QUESTIONS}
    assert sorted(one.check for one in found) == sorted(set(questions) - {"smoke.loads"})
    assert {one.check: one.evidence["question"] for one in found}.items() <= questions.items()


# ---- bugs of the model -----------------------------------------------------------------------


def hiccup() -> Ask:
    """Answers the fourth time otherwise."""
    asked: dict[int, int] = {}

    def ask(rows: pa.Table) -> Answers:
        asked[rows.num_rows] = asked.get(rows.num_rows, 0) + 1
        fourth = rows.num_rows == 200 and asked[200] == 4
        return told(law(rows) + (0.01 if fourth else 0))

    return ask


def scales_by_batch(rows: pa.Table) -> Answers:
    found = law(rows)
    return told(found - found.mean() + 1)


def looks_at_the_row_before(rows: pa.Table) -> Answers:
    found = law(rows)
    before = np.concatenate([[0.0], found[:-1]])
    return told(found + (1e-3 * before if rows.num_rows > 50 else 0))


def swallows_null(rows: pa.Table) -> Answers:
    filled = [0.0 if one is None else one for one in rows.column("x0").to_pylist()]
    return sound(rows.set_column(0, "x0", pa.array(filled)))


def answers_null_by_nan(rows: pa.Table) -> Answers:
    shares = sound(rows)
    known = rows.column("town")[0].as_py() in CITIES
    if rows.num_rows == 3 and known and rows.column("spare")[0].as_py() is None:
        return Answers(shares.prediction, np.full((3, 2), np.nan), CLASSES, "yes")
    return shares


def knows_its_words(rows: pa.Table) -> Answers:
    if set(rows.column("town").to_pylist()) - {*CITIES, None}:
        raise AskError(500, "ValueError: Found unknown categories in column town")
    return sound(rows)


def refuses_new_words(rows: pa.Table) -> Answers:
    if set(rows.column("town").to_pylist()) - {*CITIES, None}:
        raise AskError(422, "an unknown town")
    return sound(rows)


def nan_far_down(rows: pa.Table) -> Answers:
    answers = sound(rows)
    assert answers.probability is not None
    if rows.num_rows > 250:
        answers.probability[250] = np.nan
    return answers


def strange_class(rows: pa.Table) -> Answers:
    answers = sound(rows)
    prediction = answers.prediction.astype(object)
    prediction[columns(rows)[0] > 2] = "maybe"
    return Answers(prediction, answers.probability, CLASSES, "yes")


def always_the_same(rows: pa.Table) -> Answers:
    law(rows)
    return told(np.zeros(rows.num_rows))


def otherwise_after_loading(rows: pa.Table) -> Answers:
    return told(law(rows) + 1e-6)


# ---- bugs of the data ------------------------------------------------------------------------


def yes(world: World) -> np.ndarray[Any, Any]:
    return np.array(world.holdout.column("answer").to_pylist()) == "yes"


def code_of_the_label(world: World) -> World:
    return world.extra("status", np.where(yes(world), 7.0, 3.0))


def almost_the_label(world: World, right: float) -> World:
    draw = np.random.default_rng(3)
    wrong = draw.random(ROWS) > right
    return world.extra("outcome", (yes(world) ^ wrong) + draw.uniform(0, 0.1, ROWS))


def far_ahead(world: World) -> World:
    return world.extra("talked_s", yes(world) * 2.4 + np.random.default_rng(3).normal(size=ROWS))


def counter(world: World) -> World:
    return world.extra("row", np.random.default_rng(3).permutation(ROWS) + 1, "INT64")


def holdout_in_training(world: World, share: float = 1.0, name: str = "train.csv") -> World:
    assert world.training is not None
    rows = world.holdout.slice(0, int(share * ROWS)).set_column(
        6, "day", pa.array(np.zeros(int(share * ROWS), dtype=np.int64))
    )
    both = pa.concat_tables([world.training, rows])
    return replace(world, training=both, training_name=name)


def mixed_in_time(world: World) -> World:
    days = pa.array(np.random.default_rng(3).integers(900, 1100, TRAINING_ROWS))
    assert world.training is not None
    return replace(world, training=world.training.set_column(6, "day", days))


def written_twice(world: World) -> World:
    """A tenth of the rows stand in the source twice; then it was split at random."""
    assert world.training is not None
    source = pa.concat_tables([world.training, world.holdout])
    source = pa.concat_tables([source, source.slice(0, 250)])
    mixed = source.take(np.random.default_rng(3).permutation(source.num_rows))
    day = pa.array(np.full(mixed.num_rows, 1000))
    mixed = mixed.set_column(6, "day", day)
    return replace(world, holdout=mixed.slice(0, ROWS), training=mixed.slice(ROWS))


def coarse(world: World) -> World:
    """Numbers cut to signs: many rows are equal, by chance."""

    def cut(of: pa.Table) -> pa.Table:
        for place, name in enumerate(NUMBERS):
            signs = np.sign(of.column(name).to_numpy()) * 0.9
            of = of.set_column(place, name, pa.array(signs))
        return of.set_column(5, "spare", pa.array([None, *[0.5] * (of.num_rows - 1)]))

    assert world.training is not None
    return replace(world, holdout=cut(world.holdout), training=cut(world.training))


def three_classes(rows: pa.Table) -> Answers:
    answers = sound(rows)
    assert answers.probability is not None
    shares = np.column_stack([answers.probability, np.zeros(rows.num_rows)])
    return Answers(answers.prediction, shares, (*CLASSES, "never"), None)


def few(world: World) -> World:
    return replace(world, holdout=table(45, 1, 1000, noise=0.2))


GOLDEN = table(50, 1, 1000)
GOLDEN_YES = told(law(GOLDEN)).score
assert GOLDEN_YES is not None
SAME = GOLDEN.append_column("prediction", pa.array(told(law(GOLDEN)).prediction))
SHIFTED = SAME.append_column("probability", pa.array(np.round(GOLDEN_YES + 0.01, 6)))
RENAMED = {**SIGNATURE, "columns": [*SIGNATURE["columns"][1:]]}

PLANTED: dict[str, tuple[Change, dict[str, str]]] = {
    "a hiccup": (lambda w: replace(w, ask=hiccup()), {"smoke.deterministic": "failed"}),
    "scales by its batch": (
        lambda w: replace(w, ask=scales_by_batch, again=scales_by_batch),
        {"smoke.batch": "failed"},
    ),
    "looks at the row before": (
        lambda w: replace(w, ask=looks_at_the_row_before, again=looks_at_the_row_before),
        {"smoke.row_order": "failed"},
    ),
    "swallows null": (lambda w: replace(w, ask=swallows_null), {"smoke.missing": "failed"}),
    "answers null by NaN": (
        lambda w: replace(w, ask=answers_null_by_nan),
        {"smoke.missing": "failed"},
    ),
    "breaks on a new word": (
        lambda w: replace(w, ask=knows_its_words),
        {"smoke.unseen": "failed"},
    ),
    "refuses a new word clearly": (lambda w: replace(w, ask=refuses_new_words), {}),
    "NaN far down": (lambda w: replace(w, ask=nan_far_down), {"smoke.finite": "failed"}),
    "a class of its own": (
        lambda w: replace(w, ask=strange_class, again=strange_class),
        {"smoke.signature": "failed"},
    ),
    "always the same": (
        lambda w: replace(w, ask=always_the_same, again=always_the_same),
        {"smoke.beats_dummy": "failed"},
    ),
    "a column is new to callers": (
        lambda w: replace(w, champion_signature=RENAMED),
        {"smoke.compatible": "failed"},
    ),
    "state that is not saved": (
        lambda w: replace(w, again=otherwise_after_loading),
        {"smoke.reload": "failed"},
    ),
    "golden rows as trained": (lambda w: replace(w, golden=SAME), {}),
    "golden rows answered otherwise": (
        lambda w: replace(w, golden=SHIFTED),
        {"smoke.golden": "failed"},
    ),
    "golden rows without an input": (
        lambda w: replace(w, golden=SAME.drop_columns(["x1"])),
        {"smoke.golden": "undecided"},
    ),
    "code written by training": (
        lambda w: replace(w, changed={"features.py": "changed"}),
        {"smoke.golden": "undecided"},
    ),
    "the label under another name": (code_of_the_label, {"sanity.label_leak": "failed"}),
    "one column knows it all": (
        lambda w: almost_the_label(w, 0.9999),
        {"sanity.label_leak": "passed", "sanity.single_feature": "failed"},
    ),
    "one column knows nearly all": (
        lambda w: almost_the_label(w, 0.992),
        {"sanity.single_feature": "undecided"},
    ),
    "one column far ahead": (far_ahead, {"sanity.single_feature": "undecided"}),
    "a row number": (counter, {"sanity.row_numbers": "undecided"}),
    "all of the evaluation data in training": (
        holdout_in_training,
        {"sanity.overlap": "failed"},
    ),
    "a tenth of the evaluation data in training": (
        lambda w: holdout_in_training(w, 0.1),
        {"sanity.overlap": "failed"},
    ),
    "a twentieth of the evaluation data in training": (
        lambda w: holdout_in_training(w, 0.05),
        {"sanity.overlap": "undecided"},
    ),
    "the evaluation data in a file that may be its source": (
        lambda w: holdout_in_training(w, name="data/all.csv"),
        {"sanity.overlap": "undecided"},
    ),
    "rows written twice": (written_twice, {"sanity.overlap": "undecided"}),
    "equal rows by chance": (coarse, {}),
    "training from the future": (mixed_in_time, {"sanity.time": "failed"}),
    "training data unknown": (
        lambda w: replace(w, training=None),
        {"sanity.overlap": "undecided", "sanity.time": "undecided"},
    ),
    "few rows": (few, {"sanity.size": "undecided"}),
    "a class without a row": (
        lambda w: replace(
            w,
            ask=three_classes,
            again=three_classes,
            signature=(three := {**SIGNATURE, "classes": [*CLASSES, "never"], "positive": None}),
            champion_signature=three,
        ),
        {"sanity.size": "undecided"},
    ),
    "other evaluation data": (
        lambda w: replace(w, champion_digest="e" * 64),
        {"sanity.data": "undecided"},
    ),
    "huge": (lambda w: replace(w, bytes=2_000_000_000), {"supply.size": "undecided"}),
    "grew": (lambda w: replace(w, bytes=20_000_000), {"supply.size": "undecided"}),
    "a loose package": (
        lambda w: replace(w, lock=LOCK + "attrs>=22\n"),
        {"supply.pins": "failed"},
    ),
    "copyleft": (
        lambda w: replace(w, packages=(Package("pandoc", "1", "GPL-2.0-or-later"),)),
        {"supply.licences": "undecided"},
    ),
    "licence unknown": (
        lambda w: replace(w, packages=(Package("odd", "1"),)),
        {"supply.licences": "undecided"},
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_each_planted_bug_is_found_by_its_own_check_and_no_other(bug: str, tmp_path: Path) -> None:
    change, expected = PLANTED[bug]
    wanted = {name: verdict for name, verdict in expected.items() if verdict != "passed"}

    assert spoke_up(change(World()), tmp_path) == wanted


def test_every_check_but_those_on_answering_at_all_has_a_planted_bug() -> None:
    questions = {*smoke.QUESTIONS, *sanity.QUESTIONS, *parity.QUESTIONS, *supply.QUESTIONS}
    planted = {name for _, expected in PLANTED.values() for name in expected}

    assert questions - planted == {"smoke.loads", "smoke.predicts"}  # in test_smoke.py
