"""The pages: every state is drawn, nothing that a user wrote becomes markup, forms work alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from penstock.domain import CheckResult, RunState, Verdict
from penstock.records import approvals, rollouts, runs
from tests.unit import web_seed
from tests.unit.web_rig import House, get, house, send

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"


@pytest.fixture
def home(tmp_path: Path) -> House:
    return house(tmp_path)


class Markup(HTMLParser):
    """What matters of a page: scripts, attributes that act, headings, forms."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.acting: list[str] = []
        self.tags: list[str] = []
        self.headings = 0
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.headings += tag == "h1"
        self._script = tag == "script" and given.get("type") != "application/json"
        if tag == "style":
            self.inline.append(tag)
        self.acting += [
            name
            for name, value in attrs
            if name == "style"
            or (name.startswith("on") and name != "open")
            or name.startswith("hx-on")
            or (name in {"href", "src", "action"} and (value or "").startswith("javascript:"))
        ]

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.inline.append(data)


def paths() -> list[str]:
    _, numbers = web_seed.shared_town()
    return [
        *("/", "/runs", "/approvals", "/monitoring", "/audit", "/nothing", "/?q=nobody"),
        *(f"/models/{name}" for name in ("churn-telecom", "claims-triage", "credit-default")),
        *("/models/demand-forecast-fr", "/models/price-elasticity-de", "/audit?model=fraud-card"),
        *(f"/runs/{numbers[n]}" for n in ("waiting", "failed", "building", "canary_run")),
        *(f"/rollouts/{numbers[n]}" for n in ("canary", "rolled_back")),
        "/rollouts/1",
        f"/approvals/{numbers['approval']}",
        f"/runs/{numbers['waiting']}?step=build/train",
        "/runs?model=fraud-card",
    ]


def test_every_page_keeps_to_its_policy_and_has_one_title() -> None:
    home, _ = web_seed.shared_town()

    for path in paths():
        page = get(home, path)
        seen = Markup(page.text)

        assert page.status_code in {200, 404}, path
        assert (seen.inline, seen.acting, seen.headings) == ([], [], 1), path
        assert "Undefined" not in page.text, path


def test_what_people_wrote_is_text_on_every_page(home: House) -> None:
    run = home.push("spam", message=EVIL, team=EVIL.replace('"', ""), pusher=EVIL, card=EVIL)
    run = home.move(run, RunState.BUILDING, EVIL)
    home.step(run, ("build", "train"), reason=EVIL, log=f"{EVIL}\n")
    home.seal(run)
    found = CheckResult(
        f"smoke.{EVIL}",
        Verdict.UNDECIDED,
        EVIL,
        {"reading": EVIL, "question": EVIL, "value": EVIL},
    )
    home.found(run, found)
    run = web_seed.check_in_test(home, home.move(run, RunState.TESTING, EVIL))
    asked = web_seed.ask(home, run, card=f"---\nbenefit: {EVIL}\nrisks: |\n  {EVIL}\n---\n")
    every = ["/", "/runs", "/approvals", "/audit", "/models/spam", f"/approvals/{asked}"]

    for path in [*every, f"/runs/{run.id}", f"/go?q={EVIL}", f"/?q={EVIL}&team={EVIL}"]:
        page = get(home, path, follow_redirects=True)

        assert "<script>alert" not in page.text, path
        assert "<img" not in page.text, path
        assert Markup(page.text).acting == [], path
    assert "&lt;script&gt;alert(1)" in get(home, f"/runs/{run.id}").text


def test_an_empty_server_shows_the_three_commands(home: House) -> None:
    page = get(home, "/").text

    for command in ("penstock init", "penstock connect http://127.0.0.1:8420", "penstock push"):
        assert command in page


def test_the_queue_names_who_needs_a_person_and_the_one_thing_to_do() -> None:
    home, numbers = web_seed.shared_town()

    page = get(home, "/").text
    queue = page[page.index("Needs a person") : page.index('id="h-all"')]

    order = ["churn-telecom", "stock-level", "price-elasticity-de", "credit-default"]
    assert [queue.index(name) for name in order] == sorted(queue.index(name) for name in order)
    assert f'href="/approvals/{numbers["approval"]}"' in queue
    assert "fraud-card" not in queue


def test_the_failed_step_opens_first_with_what_why_and_what_to_do() -> None:
    home, numbers = web_seed.shared_town()

    page = get(home, f"/runs/{numbers['failed']}").text

    assert "What failed: build/train" in page
    assert "could not convert &#39;n/a&#39; to float" in page
    assert f"penstock logs {numbers['failed']} --step build/train" in page
    assert "Run again from here" in page
    assert "hx-sse:connect" not in page


def test_another_steps_log_can_be_opened() -> None:
    home, numbers = web_seed.shared_town()

    page = get(home, f"/runs/{numbers['waiting']}?step=build/train").text

    assert "epoch 3  loss 0.3764" in page


def test_undecided_is_never_green() -> None:
    home, numbers = web_seed.shared_town()

    page = get(home, f"/approvals/{numbers['approval']}").text

    looks = re.findall(r'<span class="st (\w+)"><svg[^>]*><use[^>]*/></svg>Undecided', page)
    assert looks
    assert "ok" not in looks
    assert "7 of 8 checks passed, 1 undecided" in page


def test_the_dossier_shows_gaps_of_the_card_in_red(home: House) -> None:
    run = web_seed.check_in_test(home, web_seed.build(home, home.push("spam")))
    asked = web_seed.ask(home, run, card="---\nbenefit: fewer losses\n---\n")

    page = get(home, f"/approvals/{asked}").text

    assert "fewer losses" in page
    assert page.count('class="gap"') == 2


def test_an_approval_is_a_form_that_works_without_a_script(home: House) -> None:
    run = web_seed.check_in_test(home, web_seed.build(home, home.push("spam")))
    asked = web_seed.ask(home, run)
    path = f"/approvals/{asked}"

    unread = send(home, "POST", path, data={"decision": "approve", "reason": "fine"})
    silent = send(home, "POST", path, data={"decision": "reject", "reason": " "})
    none = send(home, "POST", path, data={"read": "yes"})
    good = send(home, "POST", path, data={"decision": "approve", "read": "yes", "reason": "ok"})

    assert (unread.status_code, silent.status_code, none.status_code) == (400, 400, 400)
    assert "Nobody says yes to what they have not read." in unread.text
    assert ">fine</textarea>" in unread.text
    assert "A reason is needed to say no." in silent.text
    assert (good.status_code, good.headers["Location"]) == (303, path)
    with home.database.read() as connection:
        assert approvals.get(connection, asked).state == "granted"
    assert "Approved" in get(home, path).text


def test_who_approves_their_own_in_single_user_mode_is_recorded_as_its_author(
    home: House,
) -> None:
    from penstock.web.access import local_person

    run = home.push("spam", pusher=local_person())
    run = web_seed.check_in_test(home, web_seed.build(home, run))
    asked = web_seed.ask(home, run)
    assert "approved by its author" in get(home, f"/approvals/{asked}").text

    send(home, "POST", f"/approvals/{asked}", data={"decision": "approve", "read": "yes"})

    with home.database.read() as connection:
        assert approvals.votes(connection, asked)[0].reason == "approved by its author"


def test_the_author_sees_why_the_button_is_off(home: House) -> None:
    run = web_seed.check_in_test(home, web_seed.build(home, home.push("spam", pusher="ines")))
    asked = web_seed.ask(home, run)
    token = home.token("ines", "read:*", "approve:*")

    page = get(home, f"/approvals/{asked}", headers={"Authorization": f"Bearer {token}"}).text

    assert "its author cannot approve it" in page
    assert re.search(r'value="approve"\s+disabled', page)


def test_who_has_no_right_sees_why_both_buttons_are_off(home: House) -> None:
    run = web_seed.check_in_test(home, web_seed.build(home, home.push("spam")))
    asked = web_seed.ask(home, run)
    headers = {"Authorization": f"Bearer {home.token('otto', 'read:*')}"}

    page = get(home, f"/approvals/{asked}", headers=headers).text
    tried = send(home, "POST", f"/approvals/{asked}", data={"decision": "reject"}, headers=headers)

    assert "no right to approve spam" in page
    assert tried.status_code == 403
    assert "PS835" in tried.text


def test_buttons_of_a_rollout_do_what_they_say(home: House) -> None:
    web_seed.live(home, "spam")
    run = web_seed.check_in_test(home, web_seed.build(home, home.push("spam")))
    web_seed.ask(home, run)
    going = web_seed.release(home, run)
    path = f"/rollouts/{going.id}"

    def state() -> tuple[str, int]:
        with home.database.read() as connection:
            now = rollouts.get(connection, going.id)
        return str(now.state), now.share

    assert state() == ("canary", 1)
    for act, after in (
        ("pause", ("paused", 1)),
        ("resume", ("canary", 1)),
        ("promote", ("canary", 5)),
        ("rollback", ("rolled_back", 0)),
    ):
        done = send(home, "POST", f"/models/spam/{act}", data={"back": path, "reason": "r"})

        assert (done.status_code, done.headers["Location"]) == (303, path)
        assert state() == after
    assert send(home, "POST", "/models/spam/explode").status_code == 400
    assert send(home, "POST", "/models/spam/pause").status_code == 409


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example", "/\\evil.example"])
def test_a_form_leads_back_to_our_own_pages_only(home: House, back: str) -> None:
    web_seed.live(home, "spam")

    done = send(home, "POST", "/models/spam/monitor", data={"back": back, "run": "day"})

    assert done.headers["Location"] == "/models/spam"


def test_buttons_of_a_run_do_what_they_say(home: House) -> None:
    failed = home.move(home.push("spam"), RunState.BUILDING)
    home.move(failed, RunState.FAILED, "it broke", ended_by="error")

    again = send(home, "POST", f"/runs/{failed.id}/retry")
    ended = send(home, "POST", f"/runs/{failed.id}/abort", data={"reason": "enough"})

    assert (again.status_code, ended.status_code) == (303, 303)
    with home.database.read() as connection:
        assert runs.get(connection, failed.id).state is RunState.ABORTED
    assert send(home, "POST", f"/runs/{failed.id}/explode").status_code == 400


@pytest.mark.parametrize(
    ("asked", "leads"),
    [
        ("7", "/runs/7"),
        ("spam", "/models/spam"),
        ("spa", "/?q=spa"),
        ("//evil.example", "/?q=%2F%2Fevil.example"),
    ],
)
def test_go_leads_to_a_run_a_model_or_a_filter(home: House, asked: str, leads: str) -> None:
    home.push("spam")

    assert get(home, "/go", params={"q": asked}).headers["Location"] == leads


def test_pages_have_a_json_twin() -> None:
    home, numbers = web_seed.shared_town()

    for path in ("/models.json", "/models/credit-default.json", f"/runs/{numbers['failed']}.json"):
        twin = get(home, path, follow_redirects=True)

        assert twin.json()["schema"].startswith("penstock."), path
    assert get(home, "//evil.example/x.json").headers.get("Location", "/api/").startswith("/api/")


def test_a_table_for_spreadsheets_holds_no_formulas(home: House) -> None:
    home.push("spam", team="=cmd|' /C calc'!A0")

    table = get(home, "/models.csv").text

    assert table.splitlines()[0].startswith("name,team,owner")
    assert "'=cmd|" in table
    assert ",=cmd" not in table


def test_the_audit_page_says_whether_the_chain_holds(home: House) -> None:
    import sqlite3

    home.push("spam")
    assert "Chain verified" in get(home, "/audit").text
    with sqlite3.connect(home.control.home / "penstock.db") as connection:
        connection.execute("drop trigger journal_no_update")
        connection.execute("update journal set actor = 'nobody' where seq = 1")

    page = get(home, "/audit").text

    assert "Journal entry 1 does not follow" in page
    assert "Chain verified" not in page


def test_static_files_are_kept_for_ever_only_by_their_hash(home: House) -> None:
    from penstock.web.drawing import static_url

    hashed = get(home, static_url("app.css"))
    plain = get(home, "/static/app.css")

    assert "immutable" in hashed.headers["Cache-Control"]
    assert plain.headers["Cache-Control"] == "no-cache"
    assert get(home, "/static/../pages.py").status_code == 404


def test_all_vendored_files_have_their_licence_beside_them() -> None:
    import penstock.web

    folder = Path(penstock.web.__file__).parent / "static" / "vendor"

    assert {"htmx.org.LICENSE", "uplot.LICENSE"} <= {path.name for path in folder.iterdir()}


def test_a_first_version_has_no_champion_to_compare_with(home: House) -> None:
    web_seed.live(home, "spam")

    page = get(home, "/rollouts/1").text

    assert "took over" in page
    assert "There is no champion to compare it with." in page


def test_a_page_of_a_run_weighs_little() -> None:
    import gzip

    home, numbers = web_seed.shared_town()
    for path in ("/", f"/runs/{numbers['waiting']}", f"/rollouts/{numbers['canary']}"):
        page = get(home, path)

        assert len(gzip.compress(page.content, 6)) < 25_000, path
