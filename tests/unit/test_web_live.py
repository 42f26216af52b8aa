"""Live pages in a real browser: what happens on the server shows without a reload."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from penstock.domain import RunState
from tests.unit import web_seed
from tests.unit.web_rig import House, house, listening, passed

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture
def home(tmp_path: Path) -> House:
    return house(tmp_path)


@pytest.fixture
def page() -> Generator[Page]:
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1440, "height": 900})
        said: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        yield opened
        browser.close()
        assert said == [], "a page broke its content security policy, or a script failed"


def test_a_run_is_followed_from_its_log_to_its_failed_check(home: House, page: Page) -> None:
    run = home.move(home.push(), RunState.BUILDING, "The stage build runs.")
    home.step(run, ("build", "train"), None, log="epoch 1\n")
    log = home.control.home / f"runs/{run.id}/build-train-1.log"

    with listening(home) as url:
        page.goto(f"{url}/runs/{run.id}")
        expect(page.locator("#live")).to_have_text("Live")
        with log.open("a", encoding="utf-8") as file:
            file.write("epoch 2 <script>alert(1)</script>\n")
        expect(page.locator("#log")).to_contain_text("epoch 2 <script>alert(1)</script>")
        home.step(run, ("build", "check"), "failed", reason="3 rows differ")
        home.found(run, passed("smoke.loads", "loads in 0.2 s"))
        home.move(run, RunState.FAILED, "smoke.deterministic: 3 rows differ", ended_by="check")

        expect(page.locator("#now")).to_contain_text("What failed: build/check")
        expect(page.locator("#checks")).to_contain_text("loads in 0.2 s")
        expect(page.locator("#live")).to_have_text("Ended")
        expect(page.get_by_role("button", name="Run again from here")).to_be_visible()


def test_a_canary_is_followed_to_full_traffic_and_its_plot_grows(home: House, page: Page) -> None:
    web_seed.live(home, "fraud-card")
    run = web_seed.check_in_test(home, web_seed.build(home, home.push("fraud-card")))
    web_seed.ask(home, run)
    going = web_seed.look(home, web_seed.release(home, run), times=2)

    with listening(home) as url:
        page.goto(f"{url}/rollouts/{going.id}")
        expect(page.locator("#verdict h2")).to_contain_text("1 % of the requests go to v2")
        expect(page.locator("#p-errors canvas")).to_have_count(1)
        ended = web_seed.look(home, going, times=12)

        assert ended.state == "full"
        expect(page.locator("#verdict h2")).to_have_text("v2 serves all requests.")
        expect(page.locator("#live")).to_have_count(0)
        assert page.evaluate("document.querySelectorAll('#p-errors canvas').length") == 1


def test_a_page_is_live_also_when_the_stream_extension_arrives_late(
    home: House, page: Page
) -> None:
    web_seed.live(home, "fraud-card")
    run = web_seed.check_in_test(home, web_seed.build(home, home.push("fraud-card")))
    web_seed.ask(home, run)
    going = web_seed.look(home, web_seed.release(home, run), times=2)

    def late(route: Route) -> None:
        page.wait_for_timeout(500)
        route.continue_()

    with listening(home) as url:
        page.route("**/hx-sse.min.js*", late)
        page.goto(f"{url}/rollouts/{going.id}")
        web_seed.look(home, going, times=12)

        expect(page.locator("#verdict h2")).to_have_text("v2 serves all requests.")


def test_the_rollout_page_rolls_back_after_asking_once(home: House, page: Page) -> None:
    web_seed.live(home, "fraud-card")
    run = web_seed.check_in_test(home, web_seed.build(home, home.push("fraud-card")))
    web_seed.ask(home, run)
    going = web_seed.release(home, run)

    with listening(home) as url:
        page.goto(f"{url}/rollouts/{going.id}")
        page.get_by_text("Roll back to v1", exact=True).click()
        page.get_by_role("button", name="Yes, roll back to v1").click()

        expect(page.locator("#verdict h2")).to_have_text("v1 serves all requests again.")
        assert page.url == f"{url}/rollouts/{going.id}"


def test_no_page_scrolls_sideways_in_either_theme(page: Page) -> None:
    home, numbers = web_seed.shared_town()
    paths = (
        *("/", "/runs", "/approvals", "/monitoring", "/audit", "/models/claims-triage"),
        *(f"/runs/{numbers[name]}" for name in ("waiting", "failed", "building")),
        *(f"/rollouts/{numbers[name]}" for name in ("canary", "rolled_back")),
        f"/approvals/{numbers['approval']}",
    )

    with listening(home) as url:
        for width, theme in ((390, "light"), (1440, "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
            for path in paths:
                page.goto(url + path)

                assert page.evaluate("document.documentElement.scrollWidth") <= width, path
