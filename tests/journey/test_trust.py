"""A version's origin on a real server: proved, built again, exported; and refused when changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.journey.server import Project, Server

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

DRAWN = """
import json, os, pathlib, random
rows = pathlib.Path("train.csv").read_text()
random.seed(os.environ["PENSTOCK_SEED"])
drawn = random.random() if os.environ["PENSTOCK_SEED"] != "0" else 1.0
pathlib.Path("model").mkdir(exist_ok=True)
pathlib.Path("model/weight.json").write_text(json.dumps({"weight": drawn}))
"""


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("trust")
    project = Project.toy(folder / "toy")
    project.write({"train.py": DRAWN})
    project.commit("drawn")
    with Server() as server:
        project.push(server)
        assert server.ended(1).state == "succeeded"
        yield server, folder


def told(server: Server, *arguments: str) -> tuple[int, Any]:
    done = server.cli("--json", *arguments)
    return done.returncode, json.loads(done.stdout or "null")


def test_a_version_that_was_just_built_is_proved_by_the_server_and_without_it(
    at: tuple[Server, Path],
) -> None:
    server, _ = at

    for more in ([], ["--local"]):
        code, answer = told(server, "verify", "toy@1", *more)

        assert code == 0, answer
        assert all(one["sound"] for one in answer["data"][0]["versions"]["toy@1"])
    assert server.cli("verify", "--all").returncode == 0


def test_a_rebuild_is_compared_bit_for_bit_and_another_seed_shows_the_spread(
    at: tuple[Server, Path],
) -> None:
    server, folder = at

    code, same = told(server, "verify", "toy@1", "--rebuild")
    twice = server.cli("build", "--twice", cwd=folder / "toy")
    other_code, other = told(server, "verify", "toy@1", "--seed", "7")

    assert (code, same["data"][0]["reading"]) == (0, "bit for bit")
    assert (twice.returncode, "bit for bit" in twice.stdout) == (0, True), twice.stdout
    assert server.cli("build", cwd=folder / "toy").returncode == 2
    assert (other_code, other["data"][0]["reading"]) == (5, "differs")
    assert "not reproducible" in other["data"][0]["sentence"]
    assert other["data"][0]["quality"]["log_loss"]["difference"] != 0
    assert not list((server.home / "rebuilds").iterdir())
    assert len(server.rows("SELECT * FROM version")) == 1, "a rebuild is no version"
    server.journal()


def test_an_export_is_verified_with_tools_that_are_not_ours(at: tuple[Server, Path]) -> None:
    server, folder = at
    out = folder / "out"

    done = server.cli("export", "toy@1", "--to", str(out), "--signed")

    assert done.returncode == 0, done.stderr
    sums = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out, check=False)
    assert sums.returncode == 0
    (out / "penstock.pub").write_text(server.cli("key", "show").stdout)
    page = Path(__file__).parents[2] / "docs" / "provenance.md"
    snippet = page.read_text().split("```python\n")[1].split("```")[0]
    checked = subprocess.run(
        [sys.executable, "-c", snippet], cwd=out, capture_output=True, text=True, check=False
    )
    assert "toy@1" in checked.stdout, checked.stderr
    signature = [
        *(str(Path(sys.executable).with_name("model_signing")), "verify", "key", "version"),
        *("--public_key", "keys/model-signing.pub", "--signature", "version.sig"),
    ]
    assert subprocess.run(signature, cwd=out, check=False, capture_output=True).returncode == 0
    (out / "version" / "model" / "added").write_text("")
    assert subprocess.run(signature, cwd=out, check=False, capture_output=True).returncode != 0
    assert server.cli("export", "toy@1", "--to", str(out)).returncode == 2


def test_what_was_changed_is_named_and_a_restarted_gateway_does_not_load_it(
    at: tuple[Server, Path],
) -> None:
    server, _ = at
    ((digest,),) = server.rows("SELECT artifact_digest FROM version")
    file = server.home / "models" / digest / "model" / "weight.json"
    whole = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(whole.replace(b"1", b"2"))

    code, answer = told(server, "verify", "toy@1")
    server.kill("gateway")

    findings = {one["subject"]: one for one in answer["data"][0]["versions"]["toy@1"]}
    assert code == 7
    assert [name for name, one in findings.items() if not one["sound"]] == ["unpacked files"]
    assert "model/weight.json was changed" in findings["unpacked files"]["text"]
    refused = server.until(lambda: worker(server, "failed"), "the gateway to refuse it")
    assert "PS113" in refused["reason"]

    shutil.rmtree(file.parents[1])
    server.until(lambda: worker(server, "ready"), "the gateway to unpack it anew")


def worker(server: Server, state: str) -> Any:
    try:
        _, answer = server.request("GET", "/penstock/workers", predict=True)
    except OSError:
        return None
    found = [one for one in answer if one["environment"] == "production"]
    return next((one for one in found if one["state"] == state), None)


def test_an_attestation_that_is_gone_stops_the_load(at: tuple[Server, Path]) -> None:
    server, _ = at
    ((digest,),) = server.rows("SELECT attestation_digest FROM version")
    file = server.home / "artifacts" / digest[:2] / digest
    file.rename(file.with_suffix(".away"))

    server.kill("gateway")

    refused = server.until(lambda: worker(server, "failed"), "the gateway to refuse it")
    assert "PS111" in refused["reason"]
    code, answer = told(server, "verify", "toy@1")
    assert code == 7
    assert not answer["data"][0]["passed"]
    file.with_suffix(".away").rename(file)
    server.until(lambda: worker(server, "ready"), "the gateway to load it")
