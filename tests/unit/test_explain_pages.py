"""The page, the file, the API and the command that show what a version looks at."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.check.explanation import change
from penstock.cli.running import run as penstock
from penstock.web import curves
from tests.unit.test_explain import report_of_twins
from tests.unit.web_rig import House, get, house, listening

AT = "/models/credit-default/versions/1/explain"


@functools.cache
def reports() -> str:
    """A report with a champion's beside it."""
    before, now = report_of_twins(seed=1), report_of_twins()
    return json.dumps({**now, "change": change.compare(before, now, versions=(1, 2))})


@pytest.fixture
def home(tmp_path: Path) -> House:
    found = house(tmp_path)
    run = found.push()
    place = found.control.home / "runs" / str(run.id) / "reports"
    place.mkdir(parents=True)
    (place / "explain.json").write_text(reports())
    return found


def test_the_page_has_every_part_and_no_style_of_its_own(home: House) -> None:
    page = get(home, AT).text

    for heading in (
        "Effect of each column",
        "How the answer moves",
        "Rows one by one",
        "How it was measured",
    ):
        assert heading in page
    assert "income and band tell much the same" in page
    assert "It decides as v1 does" in page
    assert "not shown: sensitive" in page
    assert not re.search(r"\sstyle=|<style|<script>", page)
    assert page.count("<figure>") == 3 + 4  # a constant column has no curve
    assert page.count("As a table") == 3


def test_a_version_that_was_not_explained_says_how_it_would_be(home: House) -> None:
    home.push(commit="c" * 40, message="second")

    told = get(home, "/api/models/credit-default/versions/2/explain")

    assert told.status_code == 404
    assert told.json()["error"]["code"] == "PS355"


def test_a_version_without_a_champion_and_without_curves_has_a_page_too(home: House) -> None:
    bare: dict[str, Any] = json.loads(reports())
    bare |= {"change": None, "curves": [], "examples": [], "shap": None}
    bare["columns"] = [{**one, "shap": None, "low": None, "high": None} for one in bare["columns"]]
    (home.control.home / "runs" / "1" / "reports" / "explain.json").write_text(json.dumps(bare))

    page = get(home, AT)

    assert page.status_code == 200
    assert "How the answer moves" not in page.text


def test_values_of_the_data_are_text_on_the_page(home: House) -> None:
    sly = reports().replace('"middle"', '"<script>alert(1)</script>"')
    (home.control.home / "runs" / "1" / "reports" / "explain.json").write_text(sly)

    page = get(home, AT).text

    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_file_to_keep_needs_nothing_from_elsewhere(home: House) -> None:
    file = get(home, f"{AT}.html")

    assert file.headers["content-disposition"].startswith("attachment")
    assert "--d-challenger" in file.text
    assert not re.search(r"(?:src|href)=[\"'](?!#)", file.text)


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    home: House,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    monkeypatch.chdir(tmp_path)
    with listening(home) as url:
        monkeypatch.setenv("PENSTOCK_SERVER", url)

        def call(*arguments: str) -> tuple[int, str, str]:
            code = penstock(["explain", *arguments])
            seen = capsys.readouterr()
            return code, seen.out, seen.err

        yield call


def test_the_command_prints_the_columns_one_row_and_the_file(
    command: Command, tmp_path: Path
) -> None:
    code, out, err = command("credit-default@1")
    assert code == 0
    assert "It relies most on income" in out
    assert re.search(r"^income +#{20} ", out, re.MULTILINE)
    (row,) = re.findall(r"--row (\d+)", err)

    code, out, _ = command("credit-default@1", "--row", row)
    assert code == 0
    assert out.splitlines()[0].startswith(f"credit-default@1, row {row} (highest answer): answer")
    assert re.search(r"^income +=", out, re.MULTILINE)

    code, _, err = command("credit-default@1", "--row", "999999")
    assert (code, "PS356" in err) == (3, True)

    code, _, _ = command("credit-default@1", "--html", str(tmp_path / "out.html"))
    assert code == 0
    assert "What credit-default v1 looks at" in (tmp_path / "out.html").read_text()

    assert command("credit-default@first")[0] == 2
    assert command("credit-default@9")[0] == 3


def test_a_waterfall_ends_where_the_answer_is_and_small_steps_are_one() -> None:
    sizes = [0.5 - n / 20 for n in range(12)]
    effects = [{"column": f"c{n}", "value": n, "effect": size} for n, size in enumerate(sizes)]
    answer = 0.2 + sum(sizes)

    found = curves.waterfall({"base": 0.2, "answer": answer, "effects": effects}, most=5)

    assert [step.name for step in found.steps][-1] == "7 other columns"
    last = found.steps[-1]
    assert found.answer == pytest.approx(last.x + last.width, abs=0.02)
    assert 0 <= found.base < found.answer <= 100
    assert all(step.x >= 0 and step.x + step.width <= 100.4 for step in found.steps)


def test_flat_curves_and_single_categories_are_drawn_inside_the_drawing() -> None:
    flat = {
        "kind": "number",
        "x": [1, 2],
        "y": [0.0, 0.0],
        "low": [0.0, 0.0],
        "high": [0.0, 0.0],
        "lines": [[9.0, -9.0]],
    }

    found = curves.curve(flat, None)

    numbers = [float(n) for n in re.findall(r"-?[\d.]+", found.line + "".join(found.lines))]
    assert all(0 <= n <= curves.WIDTH for n in numbers)
    names = {**flat, "kind": "category", "x": ["a", "b"], "lines": []}
    assert [row.name for row in curves.categories(names, flat).rows] == ["a", "b"]
