"""Who decides about a version tries it beside the one in use: gateway and workers are real."""

from __future__ import annotations

import html
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from penstock.domain import Deployment, Environment, Role, Run, RunState
from penstock.records import rollouts, runs
from penstock.records.rollouts import Place
from penstock.records.runs import Seal
from tests.unit import web_seed
from tests.unit.explained_rig import Explained
from tests.unit.gateway_rig import a_rig, running
from tests.unit.test_trying import GIVEN, MODEL, SIGNATURE
from tests.unit.web_rig import House, get, house, send

BOLDER = MODEL.replace("age / 100", "age / 50")


class Both(Explained):
    """Version 2 decides otherwise than version 1."""

    def pack(self, deployment: Deployment, folder: Path) -> None:
        self.code = BOLDER if deployment.number == 2 else MODEL
        super().pack(deployment, folder)


@dataclass
class Asked:
    """A question to people, and the gateway that serves what it is about."""

    house: House
    rig: Both
    at: str

    def ask(self, fields: Mapping[str, str]) -> str:
        form = {f"c{place}": text for place, text in enumerate(GIVEN)} | dict(fields)
        sent = send(self.house, "POST", self.at, data=form)
        assert sent.status_code == 200, sent.text
        return html.unescape(re.sub(r"\s+", " ", sent.text))


def in_test(made: House) -> Run:
    """Push, and bring it as far as the stage test."""
    run = made.move(made.push("m"), RunState.BUILDING)
    with made.database.change("penstock") as change:
        version = runs.version_of(change.connection, run.model, run.number)
        runs.seal(change, version, Seal("a" * 64, "b" * 64, "c" * 64, SIGNATURE, "full"))
    return made.move(run, RunState.TESTING)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Generator[Asked]:
    made = house(tmp_path_factory.mktemp("home"))
    _, run = in_test(made), in_test(made)
    number = web_seed.ask(made, run)
    with made.database.change("penstock") as change:
        places = [Place(1, Role.CHAMPION, 100), Place(2, Role.CHALLENGER, 0)]
        rollouts.split(change, "m", Environment.TEST, places, reason="a test")
    with made.database.read() as connection:
        deployments = rollouts.deployments(connection)
    with a_rig(tmp_path_factory.mktemp("gateway"), deadline_s=40.0) as rig:
        both = Both(rig.folder, rig.settings, MODEL, SIGNATURE)
        with running(both):
            both.serve_these(deployments)
            at = replace(made.control, predict_url=both.url)
            served = House(at, made.engine, made.clock)
            yield Asked(served, both, f"/approvals/{number}/try")


def test_one_case_is_answered_by_both_side_by_side(asked: Asked) -> None:
    page = asked.ask({"c0": "30", "c4": "false"})

    in_use, comes_in = page.index("in use"), page.index("asks to come in")
    assert in_use < comes_in
    assert "The answer is no." in page[in_use:comes_in]
    assert "The answer is yes." in page[comes_in:]


def test_a_form_stands_there_before_anybody_asked(asked: Asked) -> None:
    page = get(asked.house, asked.at).text

    assert "Ask both" in page
    assert 'value="41.5"' in page
    assert "The answer is" not in page


def test_what_a_version_refuses_stands_beside_its_field(asked: Asked) -> None:
    page = asked.ask({"c0": "old"})

    assert 'aria-invalid="true"' in page
    assert 'value="old"' in page
    assert "The answer is" not in page


def test_without_the_gateway_both_say_so(asked: Asked) -> None:
    away = replace(asked.house.control, predict_url="http://127.0.0.1:9")
    sent = send(House(away, asked.house.engine, asked.house.clock), "POST", asked.at, data={})

    assert sent.text.count("The gateway does not answer") >= 2


def test_a_version_that_left_the_test_environment_cannot_be_tried(asked: Asked) -> None:
    with asked.house.database.change("penstock") as change:
        before = rollouts.deployments(change.connection, model_name="m")
        rollouts.split(
            change, "m", Environment.TEST, [Place(1, Role.CHAMPION, 100)], reason="it left"
        )
    page = get(asked.house, asked.at).text
    with asked.house.database.change("penstock") as change:
        places = [Place(d.number, d.role, d.share) for d in before]
        rollouts.split(change, "m", Environment.TEST, places, reason="it is back")

    assert "does not run in the test environment any more" in page
