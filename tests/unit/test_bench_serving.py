from typing import Any

from bench.serving import report, targets


def window(server: str, rate: float, connections: int = 64, **changes: Any) -> dict[str, Any]:
    return {
        "server": server,
        "model": "pipe",
        "rows": 1,
        "connections": connections,
        "seconds": 8,
        "requests_per_s": rate,
        "p50_ms": 1000 / rate,
        "p99_ms": 3000 / rate,
        "cpu_us": 1e6 / rate,
        "server_cpu": 1.0,
        "other_cpu": 0.01,
        "pss_mb": 300.0,
        "start_s": 4.0,
        "errors": 0,
        "clean": True,
        **changes,
    }


def verdict(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    told = targets.judge(targets.medians(found))["targets"]
    return next(one for one in told if one["target"] == name)


CANARY = "canary beside none: requests/s"


def test_a_target_is_judged_by_the_median_of_the_windows_that_count() -> None:
    fast = [window("penstock-fast", rate) for rate in (90, 100, 500)]
    canary = [window("penstock-fast-canary", rate) for rate in (96, 97, 98)]
    busy = window("penstock-fast-canary", 1, clean=False)

    found = verdict([*fast, *canary, busy], CANARY)

    assert (found["value"], found["verdict"]) == (0.97, "passed")


def test_with_fewer_than_three_windows_that_count_a_target_is_undecided() -> None:
    fast = [window("penstock-fast", 100) for _ in range(3)]
    canary = [window("penstock-fast-canary", 99, clean=n < 2) for n in range(3)]

    found = verdict([*fast, *canary], CANARY)

    assert (found["value"], found["verdict"]) == (None, "undecided")


def test_short_windows_decide_nothing() -> None:
    short = [window("penstock-null", 100, seconds=1) for _ in range(5)]
    row = targets.medians(short)[0]

    assert not row["decides"]


def test_of_a_peer_the_best_window_stands() -> None:
    ours = [window("penstock-fast-canary", 800) for _ in range(3)]
    peer = [window("bentoml", rate) for rate in (50, 60, 100)]

    found = verdict(
        [*ours, *peer], "fast call with canary and log: requests/s to those of bentoml"
    )

    assert (found["value"], found["verdict"]) == (8.0, "passed")


def test_one_broken_promise_is_not_outweighed_and_nothing_measured_is_undecided() -> None:
    fast = [window("penstock-fast", 100) for _ in range(3)]
    canary = [window("penstock-fast-canary", 50) for _ in range(3)]

    broken = targets.judge(targets.medians([*fast, *canary]))

    assert broken["targets_met"] is False
    assert targets.judge([])["targets_met"] is None


def test_the_page_and_the_picture_mark_what_does_not_decide() -> None:
    found = [window("echo", 30000, seconds=1), *(window("bentoml", 900) for _ in range(3))]
    rows = targets.medians(found)
    facts = {
        "date": "2026-12-01",
        "cores": 2,
        "python": "3.11.7",
        "penstock": "0.1.0",
        "versions": {"BentoML": "1.4.39"},
        "seconds": 8,
        "repeats": 3,
        "left_out": [],
        "failed": [],
        "rows": rows,
        **targets.judge(rows),
    }

    page, picture = report.text(facts), report.picture(facts)

    assert "| an ASGI application alone | – | 30,000 ? | 0.1 ? |" in page
    assert "| BentoML | – | 900 | 3.3 |" in page
    assert "In 1 of 2 rows" in page
    assert ">30,000 ?</text>" in picture
    assert ">900</text>" in picture


def test_the_call_in_process_is_that_of_the_model_that_every_server_has() -> None:
    found = [window("inprocess", 200, 1), window("inprocess", 400, 1, model="lr")]
    facts: dict[str, Any] = {
        "date": "2026-01-01", "cores": 2, "python": "3.11", "penstock": "0", "repeats": 3,
        "seconds": 8, "versions": {}, "failed": [], "left_out": [],
        "rows": targets.medians(found), **targets.judge(targets.medians(found)),
    }  # fmt: skip

    assert "| the call in process | 5.00 / 15.00" in report.text(facts)
