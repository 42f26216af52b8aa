"""The model card: what people wrote is kept apart from what was measured, and can do nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from penstock.build.card import Measured, written
from penstock.check.dossier import Subject, dossier
from penstock.config.card import read_card
from penstock.domain import CheckResult, Verdict, Version
from penstock.web.markdown import html
from tests.unit.test_web_pages import Markup

VERSION = Version(
    model="credit-default",
    number=3,
    run_id=7,
    commit="9f3c1ae" + "0" * 33,
    config={"model": {"risk": "high"}},
    artifact_digest="a" * 64,
    lock_digest="b" * 64,
    data_digest="c" * 64,
    signature=None,
    sandbox_level="full",
    attestation_digest="d" * 64,
    sealed_at=None,
    card="---\nlicense: mit\nbenefit: 41 more\n---\n# Mine\nOf 2019.\n## Intended use\nLoans.\n",
    created_at=datetime(2026, 3, 1, tzinfo=UTC),
)
REPORTS: dict[str, Any] = {
    "inputs": {
        "files": [
            {
                "path": "data/train.csv",
                "sha256": "e" * 64,
                "bytes": 4096,
                "source": "data",
                "uri": "s3://lake/train.csv",
                "read": True,
            }
        ]
    },
    "tracking": {"metrics": {"auc": 0.91234567, "a|b": 2}},
    "explain": {
        "metric": "roc_auc",
        "text": "It looks at income.",
        "columns": [
            {"column": "age", "mean": 0.01},
            {"column": "income", "mean": 0.2},
            {"column": "name", "mean": None},
        ],
    },
    "environment": {
        "python": "3.11.7",
        "packages": 12,
        "files": ["uv.lock"],
        "as_of": "2026-03-01T00:00:00+00:00",
    },
    "format": {"format": "joblib", "code": True},
}
RESULTS = [
    CheckResult(
        "quality.measured",
        Verdict.PASSED,
        "roc_auc 0.84 on 900 rows",
        {"rows": 900, "low": 0.82, "high": 0.86, "champion": 0.829, "question": "How good?"},
    ),
    CheckResult("fairness.sex", Verdict.UNDECIDED, "few cases", {}),
    CheckResult("smoke.loads", Verdict.PASSED, "loads", {}),
    CheckResult("speed.p95", Verdict.FAILED, "p95 80 ms > 25 ms", {}),
    CheckResult("speed.p50", Verdict.PASSED, "p50 9 ms, no limit", {"reading": "no limit"}),
]


def test_measured_and_written_stand_apart_under_headings_of_their_own() -> None:
    text = written(Measured(VERSION, RESULTS, "high", REPORTS))

    said, measured = text.split("## Measured by Penstock")
    for words in (
        "## Intended use\n\nLoans.",
        "## Benefit\n\n41 more",
        "## Work\n\n*CARD.md",
    ):
        assert words in said
    for words in (
        "Judged on 900 rows",
        "| data/train.csv | 4,096 | `eeeeeeeeeeee` | s3://lake/train.csv | yes |",
        "| How good? | roc_auc 0.84 on 900 rows | passed | 0.82 to 0.86 | 0.829 |",
        "- **undecided**: few cases",
        "- **failed**: p95 80 ms",
        "- measured: p50 9 ms",
        "| income | 0.2 |\n| age | 0.01 |",
        "1 of 1 passed.",
        "- Python: 3.11.7",
        "- loading it: can run code",
        f"- artifact: `{'a' * 64}`",
        "| auc | 0.9123 |",
        "| a\\|b | 2 |",
        "## In the author's words\n\n### Mine\n\nOf 2019.",
    ):
        assert words in measured, words
    assert "name" not in re.findall(r"^\| (\w+) \|", measured, re.MULTILINE)
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["license"], head["version"], head["risk"]) == ("mit", 3, "high")


def test_a_version_of_which_little_is_known_has_a_card_all_the_same() -> None:
    bare = replace(VERSION, card="", artifact_digest=None, data_digest=None)

    text = written(Measured(bare, []))

    assert text.count("*CARD.md says nothing here.*") == 5
    assert "### Quality" not in text


@pytest.mark.parametrize(
    "words",
    [
        "```\nopen fence\n# x",
        "````\n```\nopen fence",
        "~~~ python\n```\nopen fence",
        "# Measured by Penstock\n\n   ## Measured by Penstock\nAll good.",
        "Measured by Penstock\n---\nAll good.",
        "Measured by Penstock\n===\nAll good.",
    ],
)
def test_an_author_cannot_write_under_our_headings_nor_hide_them(words: str) -> None:
    text = written(Measured(replace(VERSION, card=f"## Benefit\n{words}\n"), RESULTS))

    drawn = html(text.split("\n---\n", 1)[1])

    assert drawn.count("<h3>Measured by Penstock</h3>") == 1
    assert "<h4>Quality</h4>" in drawn


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![x](http://elsewhere.example/pixel.png)",
        "[x](javascript:alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        '[x](http://a.example "title\\" onmouseover=alert(1)")',
        "<a href='javascript:alert(1)'>x</a>",
        "<!-- --><iframe src=//elsewhere.example></iframe>",
        "> " * 5000 + "deep",
        "[" * 20000,
    ],
)
def test_markdown_can_do_nothing(evil: str) -> None:
    drawn = html(evil)

    tags = {tag.lower() for tag in re.findall(r"<(\w+)", drawn)}
    assert tags <= {"p", "a", "blockquote", "h2"}
    assert Markup(drawn).acting == []
    assert not re.search(r'href="(?!https?:)', drawn)


@pytest.mark.parametrize(
    ("text", "gaps"),
    [
        ("", ["benefit", "work", "risks"]),
        ("---\nbenefit: a\nwork: b\nrisks: [c]\n---\n", []),
        ("---\nbenefit: TODO\nwork: ...\nrisks: null\n---\n", ["benefit", "work", "risks"]),
        ("## Benefit\n<!-- write here -->\n## Work\nw\n## Risks\nr\n", ["benefit"]),
        ("---\nbenefit: saves: 10 %\nwork: b\nrisks: c\n---\n", []),
        ("---\nbenefit: &a x\nwork: *a\nrisks: *a\n---\n", []),
        ("---\n- a list\n---\n## Costs\nw\n", ["benefit", "risks"]),
    ],
)
def test_what_an_author_left_empty_is_a_gap_and_blocks_at_risk_high(
    text: str, gaps: list[str]
) -> None:
    subject = Subject("m", 1, "c", "high", "a", "b", "d", "full")

    blocked = dossier(subject, [], card=text)["blocked"]

    assert read_card(text).gaps == gaps
    assert (blocked is None) == (not gaps)


@pytest.mark.parametrize(
    "head",
    [
        "a: &a [x]\nb: &b [*a,*a]\nc: [*b,*b]",
        "a: " + "[" * 2000,
        "a: !!python/object/apply:os.system ['true']",
        "a: " + "x" * 200_000,
        "? {a: b}\n: c",
        "a: \x00",
    ],
)
def test_a_hostile_head_is_read_in_bounds(head: str) -> None:
    assert read_card(f"---\n{head}\n---\ntext\n").text == "text"
