"""Logs: searched and read from their end without being read whole, and harmless to look at."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from penstock.domain import RunState
from penstock.errors import UsageError
from penstock.web import events, logs
from tests.unit.web_rig import House, get, house


@pytest.fixture
def home(tmp_path: Path) -> House:
    return house(tmp_path)


def kept(home: House, log: str | bytes) -> list[logs.Kept]:
    run = home.move(home.push(), RunState.BUILDING, "The stage build runs.")
    home.step(run, ("build", "train"))
    (home.control.home / f"runs/{run.id}/build-train-1.log").write_bytes(
        log.encode() if isinstance(log, str) else log
    )
    return logs.of_run(home.control, events.standing(home.control, run.id), None)


def numbers(found: logs.Found) -> list[int]:
    return [line.line for line in found.lines]


def test_a_text_is_found_in_any_letters_with_its_line(home: House) -> None:
    found = logs.search(kept(home, "start\nLoss 0.4\nend\nloss 0.3\n"), "LOSS")

    assert [(one.step, one.line, one.text) for one in found.lines] == [
        ("build/train", 2, "Loss 0.4"),
        ("build/train", 4, "loss 0.3"),
    ]
    assert found.sentence == "2 lines hold “LOSS”."


def test_what_a_terminal_would_show_is_what_is_searched(home: House) -> None:
    log = b"\x1b[31mlo\x1b[0mss high\n10 %\r50 %\r100 % done\nGr\xc3\xbcn\nodd \xff\xfe byte\n"
    of = kept(home, log)

    assert [one.text for one in logs.search(of, "loss").lines] == ["loss high"]
    assert numbers(logs.search(of, "100 %")) == [2]
    assert not logs.search(of, "50 %").lines
    assert numbers(logs.search(of, "GRÜ")) == [3]
    assert numbers(logs.search(of, "byte")) == [4]
    assert "\x1b" not in b"".join(logs.whole(of)).decode()


def test_a_match_behind_many_blocks_keeps_its_line_number(home: House) -> None:
    filler = "x" * 99 + "\n"
    of = kept(home, filler * 50_000 + "needle\n" + filler * 10)

    assert numbers(logs.search(of, "needle")) == [50_001]


def test_a_log_of_one_endless_line_is_searched_in_bounded_memory(home: House) -> None:
    of = kept(home, b"0123456789abcdef" * (3 << 20) + b"needle")  # 48 MB without a line's end

    tracemalloc.start()
    found = logs.search(of, "needle")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(found.lines) == 1
    assert found.searched_bytes == found.all_bytes == (48 << 20) + 6
    assert peak < 16 << 20


def test_a_long_line_is_cut_around_what_was_found(home: House) -> None:
    (line,) = logs.search(kept(home, "a" * 5000 + "needle" + "b" * 5000 + "\n"), "needle").lines

    assert "needle" in line.text
    assert len(line.text) <= logs.LONGEST + 2


def test_a_search_says_when_it_found_too_much_or_ran_out_of_time(home: House) -> None:
    of = kept(home, "loss\n" * 1000)

    assert logs.search(of, "loss").ended == "most"
    assert len(logs.search(of, "loss").lines) == logs.MOST_FOUND
    assert "for its time" in logs.search(of, "nothing", seconds=0).sentence


@pytest.mark.parametrize("text", ["", "   ", "two\nlines"])
def test_a_search_for_nothing_is_refused(home: House, text: str) -> None:
    with pytest.raises(UsageError, match="one line"):
        logs.search(kept(home, "x\n"), text)


@pytest.mark.parametrize("ending", ["", "\n"])
@pytest.mark.parametrize("block", [7, 1 << 20])
def test_the_last_lines_begin_where_they_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, block: int
) -> None:
    monkeypatch.setattr(logs, "BLOCK", block)
    first, second, third = (tmp_path / name for name in ("a", "b", "c"))
    first.write_text("a1\na2\na3\n")
    second.write_text("")
    third.write_text(f"c1\nc2{ending}")
    files = [first, second, third, tmp_path / "none"]
    whole = first.read_text() + third.read_text()

    for count in range(1, 9):
        tail = whole[logs.tail_start(files, count) :].splitlines()

        assert tail == whole.splitlines()[-count:], count


def test_the_page_finds_in_the_logs_and_what_it_shows_is_text(home: House) -> None:
    run = home.move(home.push(), RunState.BUILDING, "The stage build runs.")
    home.step(run, ("build", "train"), log="<b>loss</b> 0.4\nother\n")

    page = get(home, f"/runs/{run.id}?q=LOSS").text

    assert "1 line holds “LOSS”." in page
    assert "&lt;b&gt;<mark>loss</mark>&lt;/b&gt; 0.4" in page
    assert "No line holds “nowhere”." in get(home, f"/runs/{run.id}?q=nowhere").text
    assert get(home, f"/runs/{run.id}?q=loss&within=test/speed").text.count("<mark>") == 0


def test_the_api_finds_across_the_runs_of_a_model_newest_first(home: House) -> None:
    for text in ("loss 1\n", "loss 2\n"):
        run = home.move(home.push(), RunState.BUILDING, "The stage build runs.")
        home.step(run, ("build", "train"), log=text)
        home.move(run, RunState.FAILED, "x", ended_by="check")
    home.push("another")

    found = get(home, "/api/models/credit-default/log/search?q=loss").json()["data"]

    assert [(one["run"], one["text"]) for one in found["lines"]] == [(2, "loss 2"), (1, "loss 1")]
    assert get(home, "/api/models/nobody/log/search?q=loss").status_code == 404


def test_the_last_lines_and_the_whole_log_come_over_the_api(home: House) -> None:
    run = home.move(home.push(), RunState.BUILDING, "The stage build runs.")
    home.step(run, ("build", "train"), log="one\ntwo\nthree\n")

    told = get(home, f"/api/runs/{run.id}/log?tail=2").json()["data"]
    whole = get(home, f"/api/runs/{run.id}/log/whole?step=build/train")

    assert (told["text"], told["next"]) == ("two\nthree\n", 14)
    assert whole.text == "one\ntwo\nthree\n"
    assert whole.headers["content-disposition"] == (
        f'attachment; filename="run-{run.id}-build-train.log"'
    )
