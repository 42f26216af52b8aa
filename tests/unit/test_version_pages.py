"""A version's page: whole with every report, whole without any, and its documents as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.file_store import FileStore
from penstock.domain import Document, Run
from penstock.records import documents
from tests.unit import web_seed
from tests.unit.test_card import REPORTS
from tests.unit.test_web_pages import EVIL, Markup
from tests.unit.web_rig import House, get, house

AT = "/models/credit-default/versions/1"


def tracked(name: str, parent: str | None, **values: Any) -> dict[str, Any]:
    return {"id": name, "name": name, "parent": parent, "status": "FINISHED", **values}


TRACKING: dict[str, Any] = {
    "runs": [
        tracked("trial-1", "search", params={"depth": "4"}, metrics={"auc": 0.81}),
        tracked("search", None, params={}, metrics={}),
        tracked("trial-2", "search", params={"depth": "12"}, metrics={"auc": 0.84}),
        tracked("failed", "search", params={"depth": "30"}, metrics={}),
    ],
    "chosen": {"run": "trial-2", "name": "model", "format": "mlflow"},
    "metrics": {"auc": 0.84, "rows": 41880},
    "notes": [],
}
FACTS = {"facts": [{"name": "run", "value": "python train.py", "source": "train.py"}]}


def built(home: House, card: str = web_seed.CARD, /, **reports: Any) -> Run:
    run = web_seed.build(home, home.push(card=card))
    folder = home.control.home / "runs" / str(run.id) / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    for name, told in reports.items():
        (folder / f"{name}.json").write_text(json.dumps(told), encoding="utf-8")
    return run


def keep(home: House, run: Run, name: str, content: str, media_type: str) -> None:
    path = home.control.home / "kept"
    path.write_text(content, encoding="utf-8")
    digest = FileStore(home.control.home / "artifacts").put(path)
    of = Document(run.model, run.number, name, media_type, digest, path.stat().st_size, home.now)
    with home.database.write() as connection:
        documents.add(connection, of)


@pytest.fixture
def home(tmp_path: Path) -> House:
    return house(tmp_path)


def test_a_version_with_every_report_tells_it_all(home: House) -> None:
    built(home, **{**REPORTS, "tracking": TRACKING, "facts": FACTS})

    page = get(home, AT)
    seen = Markup(page.text)

    assert (page.status_code, seen.inline, seen.acting, seen.headings) == (200, [], [], 1)
    for words in (
        "Built in the full sandbox",
        "joblib: loading can run code",
        "Origin not signed",
        "python train.py",
        "Python 3.11.7, 12 packages from uv.lock, as of 2026-03-01",
        "s3://lake/train.csv",
        "made the model",
        "which no gate reads",
        "Are groups treated alike?",
    ):
        assert words in page.text, words


def test_what_was_only_measured_is_not_counted_as_passed(home: House) -> None:
    web_seed.check_in_test(home, built(home))

    assert "2 of 2 passed, 1 only measured" in get(home, AT).text


def test_an_older_version_without_reports_has_a_page_all_the_same(home: House) -> None:
    built(home)

    page = get(home, AT).text

    for words in (
        "No data file was recorded",
        "Nothing was tracked with MLflow",
        "Not recorded for this version",
        "None was kept for this version",
    ):
        assert words in page


def test_experiments_are_nested_and_sorted_without_a_script(home: House) -> None:
    built(home, tracking=TRACKING)

    def order(query: str) -> list[str]:
        page = get(home, f"{AT}{query}").text
        names = ["search", "trial-1", "trial-2", "failed"]
        return sorted(names, key=lambda name: page.index(f'<b class="med">{name}</b>'))

    assert order("") == ["search", "trial-1", "trial-2", "failed"]
    assert order("?sort=-metrics:auc")[:2] == ["trial-2", "trial-1"]
    assert order("?sort=params:depth")[:3] == ["trial-1", "trial-2", "failed"]
    assert 'aria-sort="descending"' in get(home, f"{AT}?sort=-metrics:auc").text
    assert get(home, f"{AT}?sort=nothing").status_code == 200


def test_what_people_wrote_is_text_on_a_versions_page_and_its_card(home: House) -> None:
    evil = json.loads(json.dumps(TRACKING).replace("trial-1", EVIL.replace('"', "")))
    facts = {"facts": [{"name": EVIL, "value": EVIL, "source": EVIL}]}
    built(home, f"---\nbenefit: |\n  {EVIL}\n---\n# {EVIL}\n", tracking=evil, facts=facts)

    for path in (AT, f"{AT}?sort={EVIL}", f"{AT}/card", f"{AT}/card.html"):
        page = get(home, path).text

        assert "<script>alert" not in page, path
        assert "<img" not in page, path
        assert Markup(page).acting == [], path


def test_the_card_is_a_page_a_file_and_markdown(home: House) -> None:
    built(home, **REPORTS)

    page = Markup(get(home, f"{AT}/card").text)
    file = get(home, f"{AT}/card.html")
    told = get(home, f"/api{AT}/card").json()["data"]

    assert (page.inline, page.acting, page.headings) == ([], [], 1)
    assert "attachment" in file.headers["content-disposition"]
    assert "About 41 more defaults" in file.text
    assert "## Measured by Penstock" in told["markdown"]
    assert told["gaps"] == []


def test_a_card_with_gaps_says_what_that_means(home: House) -> None:
    built(home, "")

    assert "CARD.md says nothing of benefit, work, risks." in get(home, AT).text
    assert get(home, f"/api{AT}/card").json()["data"]["gaps"] == ["benefit", "work", "risks"]


def test_a_document_is_a_file_that_no_browser_shows(home: House) -> None:
    run = built(home)
    keep(home, run, "bom", '{"a": 1}', "application/vnd.cyclonedx+json")

    page = get(home, AT).text
    file = get(home, f"/api{AT}/documents/bom")
    none = get(home, f"/api{AT}/documents/nothing")

    assert f'href="/api{AT}/documents/bom"' in page
    assert file.text == '{"a": 1}'
    assert file.headers["content-disposition"] == (
        'attachment; filename="credit-default-1-bom.json"'
    )
    assert file.headers["x-content-type-options"] == "nosniff"
    assert (none.status_code, none.json()["error"]["code"]) == (404, "PS125")


def test_a_version_that_is_not_there_is_said(home: House) -> None:
    built(home)

    assert get(home, "/models/credit-default/versions/9").status_code == 404
    assert get(home, "/api/models/nobody/versions/1").status_code == 404
