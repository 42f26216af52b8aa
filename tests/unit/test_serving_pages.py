"""How a model is served, as pages, API and commands tell it; the gateway is away."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.inference.gateway.figures import Figures
from penstock.web.drawing import Pages
from penstock.web.serving import drawn
from tests.unit import web_seed
from tests.unit.web_rig import House, get, house, send


@pytest.fixture
def home(tmp_path: Path) -> House:
    made = house(tmp_path)
    made = House(replace(made.control, predict_url="http://127.0.0.1:9"), made.engine, made.clock)
    web_seed.build(made, made.push("spam"))
    return made


def test_figures_count_what_was_answered_in_the_last_minutes() -> None:
    figures, key = Figures(), ("production", "m", 1)
    for number in range(100):
        figures.add(key, 0.001 * (number + 1), failed=number == 0, now_s=1000 + number / 50)

    told = figures.told(key, 1006.0)
    later = figures.told(key, 1400.0)

    assert (told["requests"], told["errors"]) == (100, 1)
    assert told["p50_ms"] == pytest.approx(50, rel=0.13)
    assert told["p95_ms"] == pytest.approx(95, rel=0.13)
    assert sum(told["rates"]) * 5 == 100
    assert (later["requests"], later["p50_ms"]) == (0, None)


def test_a_version_that_was_never_asked_has_no_figures() -> None:
    told = Figures().told(("production", "m", 1), 1000.0)

    assert (told["requests"], told["p95_ms"], set(told["rates"])) == (0, None, {0.0})


def test_the_page_of_a_model_stands_while_the_gateway_is_away(home: House) -> None:
    told = get(home, "/api/models/spam/serving").json()["data"]
    page = get(home, "/models/spam")

    assert told["reachable"] is False
    assert page.status_code == 200
    assert "How it is served" in page.text


def test_trying_says_what_the_gateway_said(home: House) -> None:
    form = get(home, "/models/spam/try")
    body = json.dumps({"inputs": []})
    sent = send(home, "POST", "/models/spam/try", data={"body": body, "version": "test@1"})

    assert form.status_code == sent.status_code == 200
    assert "The gateway does not answer" in sent.text


def test_what_a_gateway_tells_is_drawn(home: House) -> None:
    rates = [1.0, 2.0, 3.0]
    figures = {"requests": 90, "errors": 2, "p50_ms": 3.1, "p95_ms": 9.9, "rates": rates}
    ready = {"environment": "production", "number": 2, "role": "champion", "state": "ready"}
    ready |= {"share_now": 95, "rss_bytes": 120_000_000, "restarts": 1, "reason": ""}
    ready |= {"figures": figures, "log_drops": 4}
    failed = {"environment": "test", "number": 3, "role": "champion", "state": "failed"}
    told = drawn({"reachable": True, "versions": [ready, failed | {"share": 0, "reason": "Oh"}]})

    html = Pages(home.control).fragment("_serving.html", served=told)

    for said in ("v2", "95 %", "3.1", " ms", "120 MB", "1 restart", "2 failed", "<svg", "Oh"):
        assert said in html, said
