"""People ask a version, on its page and in the terminal: the gateway and the worker are real."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from penstock.check.drift import reference_profile
from penstock.cli.commands import app
from penstock.domain import Environment, Role
from penstock.inference.gateway.examples import example_request
from penstock.records import rollouts, runs
from penstock.records.rollouts import Place
from penstock.records.runs import Seal
from penstock.web.fields import MOST_FIELDS, Field, fields_of, request_of
from penstock.web.trying import answers, curl, in_words, laid_out
from tests.unit.explained_rig import Explained
from tests.unit.gateway_rig import a_rig, running
from tests.unit.web_rig import House, get, house, listening, send

COLUMNS: list[dict[str, Any]] = [
    {"name": "age", "datatype": "FP64", "optional": False, "example": 41.5},
    {"name": "visits", "datatype": "INT64", "optional": True, "example": 3},
    {"name": "city", "datatype": "BYTES", "optional": True, "example": "Bern"},
    {"name": 'it\'s "a" note', "datatype": "BYTES", "optional": False, "example": "ä"},
    {"name": "member", "datatype": "BOOL", "optional": False, "example": True},
    {
        "name": "since",
        "datatype": "BYTES",
        "kind": "datetime",
        "optional": True,
        "example": "2026-01-31",
    },
]
SIGNATURE = {
    "columns": COLUMNS,
    "task": "classification",
    "classes": ["no", "yes"],
    "positive": "yes",
}
MODEL = """
def load(folder):
    return None

def predict(model, frame):
    rows = zip(frame["age"], frame["member"])
    return [min(1.0, max(0.0, age / 100 + (0.1 if member else 0))) for age, member in rows]
"""
ROWS = pa.table(
    {
        "age": [float(age) for age in range(20, 70)],
        "visits": [1, 2, None, 3, 4] * 10,
        "city": ["Bern", "Chur", "Bern", None, "Genf"] * 10,
        'it\'s "a" note': [f"note {n}" for n in range(50)],
        "member": [True, False] * 25,
    }
)


@dataclass
class Here:
    """A server with a model that serves, in both environments."""

    house: House
    rig: Explained

    def ask(self, fields: Mapping[str, str], **more: str) -> str:
        form = {**{f"c{at}": text for at, text in enumerate(GIVEN)}, **fields, **more}
        sent = send(self.house, "POST", "/models/m/try", data=form)
        assert sent.status_code == 200, sent.text
        return html.unescape(re.sub(r"\s+", " ", sent.text))


GIVEN = ("50", "3", "Bern", "ä", "true", "2026-01-31")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Generator[Here]:
    folder = tmp_path_factory.mktemp("home")
    made = house(folder)
    run = made.push("m")
    with made.database.change("penstock") as change:
        version = runs.version_of(change.connection, run.model, run.number)
        runs.seal(change, version, Seal("a" * 64, "b" * 64, "c" * 64, SIGNATURE, "full"))
        for environment in Environment:
            places = [Place(1, Role.CHAMPION, 100)]
            rollouts.split(change, "m", environment, places, reason="a test")
    reports = folder / "runs" / str(run.id) / "reports"
    reports.mkdir(parents=True)
    (reports / "profile.json").write_text(json.dumps(reference_profile(ROWS)), "utf-8")
    with made.database.read() as connection:
        deployments = rollouts.deployments(connection)
    with a_rig(tmp_path_factory.mktemp("gateway"), deadline_s=40.0) as rig:
        explained = Explained(rig.folder, rig.settings, MODEL, SIGNATURE)
        with running(explained):
            explained.serve_these(deployments)
            at = replace(made.control, predict_url=explained.url)
            yield Here(House(at, made.engine, made.clock), explained)


def test_the_form_has_a_field_a_column_filled_with_a_typical_row(here: Here) -> None:
    page = html.unescape(get(here.house, "/models/m/try").text)

    for said in (
        'name="c0" aria-describedby="c0-a"',
        'value="41.5"',
        "number, usually 22 to 67",
        "<option selected>Bern</option>",
        "<option>Genf</option>",
        'it\'s "a" note',
        "<option selected>true</option>",
        'type="date" autocomplete="off" value="2026-01-31"',
        "whole number, usually 1 to 4, may stay empty",
    ):
        assert said in page, said
    assert 'name="body"' not in page
    assert "style=" not in page


def test_the_answer_is_said_in_words_with_the_probability_of_each_class(here: Here) -> None:
    page = here.ask({})

    for said in ("The answer is yes.", "The probability of that is 60.0", "40.0", 'width="60.0%"'):
        assert said in page, said
    assert "<option selected>Bern</option>" in page, "what was asked stays in the form"
    (number,) = re.findall(r"predictions\?id=([^\"]+)", page)
    here.rig.until(lambda: any(entry.id == number for entry in here.rig.log()))


def test_an_empty_field_is_a_missing_value_where_the_version_takes_one(here: Here) -> None:
    page = here.ask({"c1": "", "c2": "", "c5": ""})

    assert "The answer is yes." in page
    sent = json.loads(here.rig.log()[-1].request)
    assert {one["name"]: one["data"] for one in sent["inputs"]} == {
        "age": [50],
        "visits": [None],
        "city": [None],
        'it\'s "a" note': ["ä"],
        "member": [True],
        "since": [None],
    }


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("c0", "1,5", 'Must be a number; it is "1,5".'),
        ("c0", "", "Must be a number; it is null."),
        ("c0", "1e999", 'Must be a number; it is "1e999".'),
        ("c0", "[1]", 'Must be a number; it is "[1]".'),
        ("c1", "2.5", "Must be a whole number or null; it is 2.5."),
        ("c4", "maybe", 'Must be true or false; it is "maybe".'),
        (
            "c5",
            "soon",
            'Must be a date such as 2026-01-31 or 2026-01-31T08:00:00 or null; it is "',
        ),
    ],
)
def test_what_the_version_refuses_stands_beside_its_field(
    here: Here, field: str, text: str, said: str
) -> None:
    page = here.ask({field: text})

    beside = page.partition(f'id="{field}-a"')[2].partition("</p>")[0]
    assert said in beside, beside
    assert page.count('aria-invalid="true"') == 1
    assert "Not answered" in page
    assert f'href="#{field}"' in page


def test_a_request_as_json_is_asked_as_it_stands(here: Here) -> None:
    form = html.unescape(get(here.house, "/models/m/try?body=json").text)
    body = laid_out(example_request(SIGNATURE))
    answered = here.ask({}, body=body, version="test@1")
    refused = here.ask({}, body="{'")

    assert body in form
    assert "The answer is yes." in answered
    assert "v1 in the test environment" in answered
    assert "The body is not JSON" in refused
    assert "{'" in refused


def test_an_explanation_is_a_sentence_and_a_picture(here: Here) -> None:
    page = here.ask({}, why="1")

    assert "The probability of yes is 0.6" in page
    assert page.count('class="wf-') > 2
    assert "All effects, with 95 % intervals" in page


def test_a_version_of_which_nothing_is_known_cannot_be_tried(here: Here) -> None:
    here.house.push("empty")

    assert "nothing to ask" in get(here.house, "/models/empty/try").text
    assert "nothing to ask" in send(here.house, "POST", "/models/empty/try", data={"c0": "1"}).text
    assert get(here.house, "/models/m/try?version=test@9").status_code == 404


@pytest.fixture(scope="module")
def address(here: Here) -> Generator[str]:
    with listening(here.house) as at:
        yield at


def commanded(here: Here, address: str, *arguments: str) -> Result:
    told = {"PENSTOCK_PREDICT_URL": here.rig.url, "PENSTOCK_TOKEN": ""}
    done = CliRunner().invoke(app, ["--server", address, *arguments], env=told)
    assert done.exception is None, done.output
    return done


def test_the_terminal_predicts_explains_and_shows_what_serves(
    here: Here, address: str, tmp_path: Path
) -> None:
    row = {column["name"]: column["example"] for column in COLUMNS}
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([row, {**row, "age": 10, "member": False}]), "utf-8")

    typical = commanded(here, address, "predict", "m")
    rows = commanded(here, address, "predict", "m@1", str(file))
    tested = commanded(here, address, "--json", "predict", "m", "--test")
    why = commanded(here, address, "predict", "m", "--explain")
    serving = commanded(here, address, "serving", "m")

    assert "m@1: yes" in typical.output
    assert "m@1: yes, no" in rows.output
    assert json.loads(tested.stdout)["data"]["outputs"][0]["data"] == ["yes"]
    assert "The probability of yes is" in why.output
    assert re.search(r"ready +@1 +champion +100 %", serving.output), serving.output
    assert re.search(r"ready +@1 +champion, test +100 %", serving.output), serving.output


def test_a_row_too_long_for_a_form_is_asked_as_json() -> None:
    def columns(count: int, **facts: Any) -> dict[str, Any]:
        one = {"datatype": "FP64", "optional": False, **facts}
        return {"columns": [{"name": str(at), **one} for at in range(count)]}

    assert fields_of(columns(MOST_FIELDS)) is not None
    assert fields_of(columns(MOST_FIELDS + 1)) is None
    assert fields_of(columns(1, shape=[28, 28])) is None


def test_a_small_tensor_is_a_list_to_be_changed() -> None:
    column = {"name": "x", "datatype": "FP64", "optional": False, "shape": [2, 2]}
    fields = fields_of({"columns": [column]})

    assert fields is not None
    assert request_of(fields) == example_request({"columns": [column]})


def test_nothing_is_told_of_the_values_of_a_hidden_column() -> None:
    profile = reference_profile(ROWS)
    told = fields_of({"columns": COLUMNS[:3]}, profile, hidden=["age", "city"])

    assert told is not None
    age, visits, city = told
    assert (age.about, visits.about) == ("number", "whole number, usually 1 to 4")
    assert (city.form, city.choices) == ("text", ())


@pytest.mark.parametrize("text", ["", " ", "null", "5", '{"a": 1}', "NaN"])
def test_a_text_is_sent_as_it_was_written(text: str) -> None:
    field = Field("note", "BYTES", optional=False, value=text)

    assert request_of([field])["inputs"][0]["data"] == [text]


def test_a_request_to_change_by_hand_has_a_column_a_line() -> None:
    columns = [{"name": name, "datatype": "BYTES", "example": "ü"} for name in "ab"]
    asked = example_request({"columns": columns})

    text = laid_out(asked)

    assert json.loads(text) == asked
    assert [line[:12] for line in text.splitlines()[1:-1]] == ['{"name": "a"', '{"name": "b"']
    assert "ü" in text
    assert json.loads(laid_out(None)) == {"inputs": []}


def test_an_answer_is_a_line_a_row_with_the_probability_of_each_class() -> None:
    outputs = [
        {"name": "prediction", "shape": [2], "datatype": "BYTES", "data": ["no", "yes"]},
        {"name": "probability", "shape": [2, 2], "datatype": "FP64", "data": [0.9, 0.1, 0.2, 0.8]},
    ]

    told = answers({"outputs": outputs, "parameters": {"classes": ["no", "yes"]}})
    plain = answers({"outputs": outputs[:1]})

    assert told == {
        "classes": ["no", "yes"],
        "rows": [
            {"prediction": "no", "probabilities": [0.9, 0.1]},
            {"prediction": "yes", "probabilities": [0.2, 0.8]},
        ],
    }
    assert told is not None
    assert in_words("churn", told) == []
    assert plain is not None
    assert [row["prediction"] for row in plain["rows"]] == ["no", "yes"]
    assert answers({"error": "No."}) is None


def test_a_decision_against_the_likelier_class_is_said() -> None:
    row = {"prediction": 1, "probabilities": [0.7, 0.3]}

    words = in_words("default", {"classes": ["0", "1"], "rows": [row]})

    assert words[0] == "default is 1."
    assert "less than the 70.0\N{NO-BREAK SPACE}% of 0" in words[1]


def test_the_command_sends_what_the_page_sent_whatever_stands_in_it() -> None:
    body = '{"inputs": [{"data": ["O\'Neill; rm -rf $HOME"]}]}'

    words = shlex.split(curl("http://127.0.0.1:1/v2/models/m/infer", body))
    broken = shlex.split(curl("http://127.0.0.1:1/v2/models/m/infer", "{'"))

    assert json.loads(words[-1]) == json.loads(body)
    assert broken[-1] == "{'"
