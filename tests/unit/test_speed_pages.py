"""A version's page shows how fast it is beside its champion, and what it would have decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.check.answers import Answers
from penstock.check.replay import Replayed, replay_checks
from penstock.web.speed import measured
from tests.unit.test_version_pages import AT, built
from tests.unit.test_web_pages import EVIL, Markup
from tests.unit.web_rig import House, get, house

SHARES = [round(0.02 * place, 2) for place in range(1, 50)] + [0.99]


def report(*, champion: bool = True, load: bool = True) -> dict[str, Any]:
    def version(number: int, slower: float) -> dict[str, Any]:
        rates = (90.0, 330.0, 410.0, 400.0)
        levels = [
            {"connections": c, "rate": rate / slower, "p95_ms": 9.0}
            for c, rate in zip((1, 4, 16, 64), rates, strict=True)
        ]
        return {
            "number": number,
            "requests": 200,
            "latencies_ms": [slower * (4 + 3 * share**6) for share in SHARES],
            "levels": levels if load else [],
        }

    return {
        "shares": SHARES,
        "beside_production": {
            "guarded": 1,
            "paused_s": 12.5,
            "pauses": ["m@1 answered at p95 40 ms, 10 before"],
        },
        "versions": [version(2, 1.4), *([version(1, 1.0)] if champion else [])],
    }


def a_replay() -> Replayed:
    scores = np.linspace(0.3, 0.7, 100)
    before, after = np.round(scores, 2), np.round(scores + 0.06, 2)

    def answers(of: Any) -> Answers:
        words = np.array(["pay" if one < 0.5 else EVIL for one in of], dtype=object)
        return Answers(words, np.column_stack([1 - of, of]), ("pay", EVIL), EVIL)

    rows = pa.table({"age": list(range(100)), "name": [EVIL] * 100})
    ids = tuple(f"p{n}" for n in range(100))
    return Replayed(rows, ids, answers(before), answers(after), (), 30.0)


@pytest.fixture
def home(tmp_path: Path) -> House:
    return house(tmp_path)


def test_both_curves_and_the_other_decisions_are_shown_and_nothing_of_them_runs(
    home: House,
) -> None:
    run = built(home, speed=report())
    slices = {"name": np.array([EVIL] * 100, dtype=object)}
    home.found(run, *replay_checks(a_replay(), slices=slices))

    page = get(home, AT)
    seen = Markup(page.text)

    assert (page.status_code, seen.inline, seen.acting, seen.headings) == (200, [], [], 1)
    assert EVIL not in page.text
    for words in (
        "How fast it is",
        "Requests a second under load",
        "v1, the champion then",
        "It paused 12.5 s, since m@1 answered at p95 40 ms, 10 before.",
        "What production was asked, answered again",
        "of 100 decisions",
        "100 rows, 15 other decisions",
    ):
        assert words in page.text, words


def test_without_a_report_or_a_replay_the_page_says_nothing_of_them(home: House) -> None:
    built(home)

    page = get(home, AT).text

    assert "How fast it is" not in page
    assert "answered again" not in page


def test_a_first_version_without_load_has_one_line_in_one_plot() -> None:
    found = measured(report(champion=False, load=False))

    assert found is not None
    (curve,) = found.curves
    assert len(curve.lines) == 1
    assert (curve.left, curve.right) == ("2", "99 of 100")
    assert "v2" in curve.text


def test_a_version_that_answered_nothing_is_not_drawn() -> None:
    empty = report()
    empty["versions"][0]["latencies_ms"] = []
    empty["versions"][1]["latencies_ms"] = []

    assert measured(empty) is None
    assert measured(None) is None
