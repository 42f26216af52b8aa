"""A whole server with its records and its engine in PostgreSQL: a push to production."""

from __future__ import annotations

import json
import random
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from tests.journey.server import Project, Server, toy_row
from tests.postgres import a_postgres

PASSWORD = "kept/to@ourselves"


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with a_postgres() as postgres:
        url = postgres.url.replace(":@", "@")
        settings = f'[database]\nurl = "{url}"\n'
        environ = {"PENSTOCK_DATABASE_PASSWORD": PASSWORD}
        with Server(environ, settings=settings) as made:
            yield made


def test_a_push_goes_to_production_and_the_password_is_shown_nowhere(
    server: Server, tmp_path: Path
) -> None:
    project = Project.toy(tmp_path)

    told = project.push(server)
    run = server.ended(1)
    server.until(server.serving, "a champion")
    row = toy_row(random.Random(1))
    answered = server.until(
        lambda: server.request("POST", "/v2/models/toy/infer", row, predict=True)[0] == 200,
        "an answer",
    )
    doctor = server.cli("doctor", "--json")

    assert (run.state, answered) == ("succeeded", True), told
    assert "rollout.full" in server.journal()
    seen = {one["subject"]: one for one in json.loads(doctor.stdout)["data"]}["database"]
    assert seen["verdict"] == "passed"
    assert seen["text"].startswith("PostgreSQL ")
    assert not (server.home / "penstock.db").exists()
    logs = "".join(log.read_text() for log in server.home.glob("*.log"))
    parts = [int(path.read_text()) for path in (server.home / "run").glob("*.pid")]
    lines = [" ".join(psutil.Process(pid).cmdline()) for pid in parts]
    assert len(lines) >= 3
    for text in (told, logs, doctor.stdout, *lines):
        assert PASSWORD not in text
        assert "kept%2Fto" not in text
