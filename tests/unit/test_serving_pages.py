"""How a model is served, as pages, API and commands tell it; the gateway is away."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.inference.gateway.figures import Figures
from penstock.web.drawing import Pages
from penstock.web.serving import drawn
from penstock.web.traffic import HEIGHT, traffic
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


def test_latency_is_told_by_the_time_at_which_it_was_so() -> None:
    figures, key = Figures(), ("production", "m", 1)
    for _ in range(10):
        figures.add(key, 0.001, failed=False, now_s=1100.0)
        figures.add(key, 0.1, failed=False, now_s=1200.0)

    told = figures.told(key, 1300.0)

    places = [place for place, at in enumerate(told["latencies"]) if at is not None]
    assert (len(told["latencies"]), places) == (15, [5, 10])
    early, late = (told["latencies"][place] for place in places)
    assert early == pytest.approx([1, 1], rel=0.13)
    assert late == pytest.approx([100, 100], rel=0.13)
    assert told["p50_ms"] == pytest.approx(1, rel=0.13)


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
    assert "v1 in the test environment" in sent.text
    assert "curl http://127.0.0.1:9/test/v2/models/spam/versions/1/infer" in sent.text


def test_what_a_gateway_tells_is_drawn(home: House) -> None:
    rates = [1.0, 2.0, 3.0]
    figures = {"requests": 90, "errors": 2, "p50_ms": 3.1, "p95_ms": 9.9, "rates": rates}
    ready = {"environment": "production", "number": 2, "role": "champion", "state": "ready"}
    ready |= {"share_now": 95, "rss_bytes": 120_000_000, "restarts": 1, "reason": ""}
    ready |= {"figures": figures, "log_drops": 4}
    failed = {"environment": "test", "number": 3, "role": "champion", "state": "failed"}
    failed |= {"share": 100, "share_now": 0, "reason": "Oh"}
    told = drawn({"reachable": True, "versions": [ready, failed]})

    html = Pages(home.control).fragment("_serving.html", served=told)

    for said in (
        "v2",
        "95\u00a0%",
        "3.1",
        "\u00a0ms",
        "120\u00a0MB",
        "1 restart",
        "2 failed",
        "5 min ago",
        "Oh",
        ">0\u00a0%",
        "100\u00a0% planned",
    ):
        assert said in html, said
    assert "style=" not in html


def version(number: int, role: str, rates: list[float], latencies: list[Any]) -> dict[str, Any]:
    figures = {"requests": 9, "p50_ms": 2.0, "p95_ms": 4.0, "rates": rates}
    figures |= {"latencies": latencies}
    return {"number": number, "role": role, "environment": "production", "figures": figures}


def test_both_arms_have_lines_on_one_scale_and_their_values_in_words() -> None:
    champion = version(1, "champion", [0.0, 8.0], [[2.0, 4.0], [2.0, 4.0]])
    challenger = version(2, "challenger", [0.0, 1.0], [None, [3.0, 7.0]])

    told = traffic([champion, challenger])

    assert told is not None
    rates, speeds = told.plots
    assert [(line.dashed, line.thin) for line in rates.lines] == [(False, False), (True, False)]
    assert [line.thin for line in speeds.lines] == [True, False, True, False]
    assert [float(tick.text) for tick in rates.ticks] == [0, 4, 8]
    assert rates.lines[0].path.endswith(" 10.0"), "eight a second are the top of the axis"
    assert [arm.name for arm in told.arms] == ["v1 champion", "v2 challenger"]
    assert "p95 4" in told.arms[0].text
    assert "v2 challenger" in rates.text


def test_nothing_is_drawn_across_a_time_in_which_nobody_asked() -> None:
    told = traffic([version(1, "champion", [1.0, 1.0], [[1.0, 1.0], None, [1.0, 1.0]])])

    assert told is not None
    assert told.plots[1].lines[0].path.count("M") == 2
    assert "L" not in told.plots[1].lines[0].path


@pytest.mark.parametrize("rates", [[], [0.0, 0.0]])
def test_without_requests_there_is_no_plot_but_a_sentence(home: House, rates: list[float]) -> None:
    quiet = version(1, "champion", rates, [])
    quiet["figures"] |= {"requests": 0, "errors": 0, "p50_ms": None, "p95_ms": None}
    told = drawn({"reachable": True, "versions": [quiet | {"state": "ready", "share": 100}]})

    html = Pages(home.control).fragment("_serving.html", served=told)

    assert told["traffic"] is None
    assert "No requests in the last five minutes." in html


@pytest.mark.parametrize("value", [0.0004, 0.011, 3.0, 77.0, 123_456.0])
def test_the_highest_value_stays_within_the_plot(value: float) -> None:
    told = traffic([version(1, "champion", [0.0, value], [])])

    assert told is not None
    _, low, high = (tick.at for tick in told.plots[0].ticks)
    reached = float(told.plots[0].lines[0].path.rpartition(" ")[2])
    assert 0 < high <= reached <= low < HEIGHT
