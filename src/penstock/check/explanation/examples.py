"""Which rows are shown one by one: the ends, the doubtful one, and one that it gets wrong."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from penstock.check.answers import Answers, class_texts
from penstock.check.explanation.asking import Floats, Target

Chosen = list[tuple[str, int]]
"""Why a row is shown, and its number."""


def choose(target: Target, answers: Answers, labels: NDArray[Any]) -> Chosen:
    """Choose up to four rows, no row twice; the order is the order of the page.

    Parameters
    ----------
    labels
        The right answers, shape ``(n,)``.
    """
    score = target.numbers(answers)[:, : target.width]
    if target.unit == "number":
        return _distinct(_of_numbers(score[:, 0], labels))
    if target.width == 1 and target.unit == "probability":
        return _distinct(_of_probability(score[:, 0], answers, labels))
    return _distinct(_of_classes(score, answers, labels))


def _of_numbers(score: Floats, labels: NDArray[Any]) -> Chosen:
    missed = np.abs(labels.astype(np.float64) - score)
    return [
        ("highest answer", int(score.argmax())),
        ("lowest answer", int(score.argmin())),
        ("typical answer", int(np.abs(score - np.median(score)).argmin())),
        ("furthest from the truth", int(missed.argmax())),
    ]


def _of_probability(score: Floats, answers: Answers, labels: NDArray[Any]) -> Chosen:
    found = [
        ("highest answer", int(score.argmax())),
        ("lowest answer", int(score.argmin())),
        ("most uncertain", int(np.abs(score - 0.5).argmin())),
    ]
    wrong = _wrong(answers, labels)
    if wrong.any():
        found.append(("surely wrong", int(np.where(wrong, np.abs(score - 0.5), -1.0).argmax())))
    return found


def _of_classes(score: Floats, answers: Answers, labels: NDArray[Any]) -> Chosen:
    best = score.max(axis=1)
    found = [("surest answer", int(best.argmax())), ("most uncertain", int(best.argmin()))]
    wrong = _wrong(answers, labels)
    if wrong.any():
        found.append(("surely wrong", int(np.where(wrong, best, -1.0).argmax())))
    return found


def _wrong(answers: Answers, labels: NDArray[Any]) -> NDArray[np.bool_]:
    said, truth = class_texts(answers.prediction.tolist()), class_texts(labels.tolist())
    return cast("NDArray[np.bool_]", np.array(said, dtype=object) != np.array(truth, dtype=object))


def _distinct(found: Chosen) -> Chosen:
    kept: Chosen = []
    for why, row in found:
        if all(row != other for _, other in kept):
            kept.append((why, row))
    return kept
