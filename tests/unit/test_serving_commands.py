"""The commands predict and serving against a real HTTP server: words, JSON, exit codes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.running import run
from tests.unit.penstock_server import Answer, FakeServer, serving

EXAMPLE = {"inputs": [{"name": "age", "shape": [1], "datatype": "FP64", "data": [41.5]}]}
PREDICTED = {
    "id": "p-1",
    "model_name": "churn",
    "model_version": "12",
    "parameters": {"classes": ["stays", "goes"]},
    "outputs": [
        {"name": "prediction", "shape": [2], "datatype": "BYTES", "data": ["stays", "goes"]},
        {
            "name": "probability",
            "shape": [2, 2],
            "datatype": "FP64",
            "data": [0.9, 0.1, 0.25, 0.75],
        },
    ],
}
EXPLAINED = {
    "asked": 1200,
    "took_ms": 84.2,
    "ended": "steady",
    "rows": [
        {
            "text": "Mostly age.",
            "base": 0.2,
            "answer": 0.75,
            "contributions": [{"column": "age", "value": 41, "effect": 0.55, "se": 0.01}],
        }
    ],
}
READY = {
    "environment": "production",
    "number": 12,
    "role": "champion",
    "state": "ready",
    "share": 100,
    "share_now": 95,
    "rss_bytes": 120_000_000,
    "figures": {"requests": 1500, "p50_ms": 3.1, "p95_ms": 9.9},
}
REFUSED = {
    "environment": "test",
    "number": 13,
    "role": "champion",
    "state": "failed",
    "share": 100,
    "share_now": 0,
    "reason": "Needs 1.9 GB of 1.5 GB.",
}


@dataclass
class Result:
    """What one call of the program left."""

    code: int
    out: str
    err: str


Penstock = Callable[..., Result]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeServer]:
    with serving() as fake:
        for name in ("PENSTOCK_TOKEN", "FORCE_COLOR", "CI"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        monkeypatch.setenv("PENSTOCK_SERVER", fake.url)
        monkeypatch.setenv("PENSTOCK_PREDICT_URL", fake.url)
        monkeypatch.chdir(tmp_path)
        yield fake


@pytest.fixture
def penstock(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> Penstock:
    assert server.url

    def call(*arguments: str) -> Result:
        code = run(list(arguments))
        seen = capsys.readouterr()
        return Result(code, seen.out, seen.err)

    return call


def rows(path: Path, document: Any) -> str:
    path.write_text(json.dumps(document), "utf-8")
    return str(path)


def told(server: FakeServer, path: str, answer: Any) -> None:
    server.answers[f"POST {path}"] = Answer(json.dumps(answer).encode())


def test_records_are_sent_column_by_column_and_each_answer_is_told(
    server: FakeServer, penstock: Penstock, tmp_path: Path
) -> None:
    told(server, "/v2/models/churn/infer", PREDICTED)
    records = [{"age": 41, "city": "Bern", "vip": True}, {"age": 2.5, "city": None, "vip": None}]

    done = penstock("predict", "churn", rows(tmp_path / "rows.json", records))

    assert done.code == 0, done.err
    assert server.asked[-1].json == {
        "inputs": [
            {"name": "age", "shape": [2], "datatype": "FP64", "data": [41, 2.5]},
            {"name": "city", "shape": [2], "datatype": "BYTES", "data": ["Bern", None]},
            {"name": "vip", "shape": [2], "datatype": "BOOL", "data": [True, None]},
        ]
    }
    assert "churn@12: stays, goes" in done.out
    assert [line.split() for line in done.out.splitlines()[1:]] == [
        ["stays", "goes"],
        ["0.9", "0.1"],
        ["0.25", "0.75"],
    ]
    assert "p-1" in done.err


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("churn",), "/v2/models/churn/infer"),
        (("churn@12",), "/v2/models/churn/versions/12/infer"),
        (("churn@12", "--test"), "/test/v2/models/churn/versions/12/infer"),
    ],
)
def test_without_rows_the_typical_row_goes_to_the_version_that_is_meant(
    server: FakeServer, penstock: Penstock, words: tuple[str, ...], path: str
) -> None:
    server.tell("GET /api/models/churn/serving", {"example": EXAMPLE})
    told(server, path, PREDICTED)

    done = penstock("predict", *words)

    assert done.code == 0, done.err
    assert (server.asked[-1].path, server.asked[-1].json) == (path, EXAMPLE)


def test_an_answer_is_explained_column_by_column(server: FakeServer, penstock: Penstock) -> None:
    server.tell("GET /api/models/churn/serving", {"example": EXAMPLE})
    told(server, "/v2/models/churn/explain", EXPLAINED)

    done = penstock("predict", "churn", "--explain")

    assert done.code == 0, done.err
    for said in ("Mostly age.", "= 41", "+0.55", "0.75"):
        assert said in done.out, said


def test_json_is_what_the_gateway_said(
    server: FakeServer, penstock: Penstock, tmp_path: Path
) -> None:
    told(server, "/v2/models/churn/infer", PREDICTED)

    done = penstock("--json", "predict", "churn", rows(tmp_path / "row.json", {"age": 41}))

    assert json.loads(done.out) == {"schema": "penstock.prediction/1", "data": PREDICTED}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "holds no rows"),
        ("[]", "holds no rows"),
        ("[{}]", "holds no rows"),
        ("[1, 2]", "holds no rows"),
        ("7", "holds no rows"),
        ('[{"age": 1}, {"ages": 2}]', "different names"),
    ],
)
def test_a_file_without_rows_is_refused_before_anything_is_asked(
    server: FakeServer, penstock: Penstock, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "rows.json"
    file.write_text(text, "utf-8")

    done = penstock("predict", "churn", str(file))

    assert done.code != 0
    assert "PS869" in done.err
    assert said in done.err
    assert server.asked == []


def test_a_missing_file_and_rows_beside_the_example_are_refused(
    server: FakeServer, penstock: Penstock, tmp_path: Path
) -> None:
    missing = penstock("predict", "churn", "nowhere.json")
    both = penstock("predict", "churn", rows(tmp_path / "r.json", {"age": 1}), "--example")

    assert "nowhere.json" in missing.err
    assert "Leave one of them out." in both.err
    assert 0 not in (missing.code, both.code)
    assert server.asked == []


def test_a_model_without_a_signature_has_no_typical_row(
    server: FakeServer, penstock: Penstock
) -> None:
    server.tell("GET /api/models/churn/serving", {"example": None})

    done = penstock("predict", "churn")

    assert "PS869" in done.err
    assert "penstock predict churn FILE" in done.err


def test_what_the_gateway_refuses_is_said_as_it_says_it(
    server: FakeServer, penstock: Penstock, tmp_path: Path
) -> None:
    refusal = {"error": "Column age is missing.", "code": "PS608", "hint": "Send age."}
    server.answers["POST /v2/models/churn/infer"] = Answer(json.dumps(refusal).encode(), 400)

    done = penstock("predict", "churn", rows(tmp_path / "row.json", {"size": 1}))

    assert done.code != 0
    assert "Column age is missing." in done.err
    assert "Traceback" not in done.err


def test_how_a_model_is_served_is_a_line_a_version(server: FakeServer, penstock: Penstock) -> None:
    state = {"reachable": True, "why": "", "versions": [READY, REFUSED], "example": None}
    server.tell("GET /api/models/churn/serving", state)

    done = penstock("serving", "churn@12")

    assert done.code == 0, done.err
    head, ready, refused = done.out.splitlines()
    assert head.split()[:3] == ["VERSION", "ROLE", "SHARE"]
    for said in ("ready", "@12", "champion", "95 %", "1,500", "3.1, 9.9", "120 MB"):
        assert said in ready, said
    for said in ("failed", "@13", "champion, test", "0 %, 100 % planned", "Needs 1.9 GB of"):
        assert said in refused, said


def test_a_gateway_that_is_away_is_said_and_what_should_run_is_shown(
    server: FakeServer, penstock: Penstock
) -> None:
    away = {"reachable": False, "why": "Nothing answers.", "example": None}
    unknown = {**READY, "state": "unknown", "share_now": None}
    server.tell("GET /api/models/churn/serving", {**away, "versions": [unknown]})
    server.tell("GET /api/models/empty/serving", {**away, "versions": []})

    planned = penstock("serving", "churn")
    empty = penstock("serving", "empty")

    assert "Nothing answers." in planned.err
    assert "@12" in planned.out
    assert "100 % planned" in planned.out
    assert "No version runs." in empty.out
