"""Many models on one machine: ``python -m bench.serving.many``, as ``make bench-many`` does.

A home gets one model from the pipeline and then as many more under other names, each with a
signed attestation of its own. The gateway serves them as it serves all that share an
environment; callers ask for them by Zipf's law, few very often and most hardly ever. Beside it
the same gateway gives each of `--alone` models a process of its own: what a model takes there is
the slope between two counts, and what all would take is extrapolated from it, not measured. The
same few models in shared processes stand beside them: with a thousand, hardly two requests that
wait are for one model, so that latency there is of calls one by one, whoever serves them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bench.serving import load, peers, running
from bench.serving.ours import Built, Kind
from penstock import __version__
from penstock.build.trust import provenance, signing
from penstock.domain import Environment, Role, Version
from penstock.records import documents, rollouts, runs, schema
from penstock.wiring import store
from tests.journey.server import PENSTOCK
from tests.journey.server import Server as Home

RESULTS = Path(__file__).parents[1] / "results" / "many.json"
MODEL = "lr"
ZIPF = 1.1
POSTS = 20_000
CONNECTIONS = 16
READY_S = 600.0


def main() -> int:
    """Measure, and write the results."""
    options = _options()
    table = json.loads((peers.models(MODEL) / f"{MODEL}.rows.json").read_text())
    body = json.dumps(peers.split(table["columns"], table["rows"][:1]))
    with Built([Kind(MODEL, "auto")]) as built, tempfile.TemporaryDirectory() as folder:
        names = [f"{MODEL}-{number:04}" for number in range(1, options.models + 1)]
        began = time.monotonic()
        _copies(built.home, names)
        print(f"{len(names)} copies made in {time.monotonic() - began:.1f} s", flush=True)
        work = Path(folder)
        shared = _measured(built.home, names, body, work, options, alone=False)
        few, more = names[: options.alone // 2], names[: options.alone]
        half = _measured(built.home, few, body, work, options, alone=True)
        whole = _measured(built.home, more, body, work, options, alone=True)
        together = _measured(built.home, more, body, work, options, alone=False)
    each_mb = (whole["pss_mb"] - half["pss_mb"]) / (len(more) - len(few))
    facts: dict[str, Any] = {
        "name": "many",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "penstock": __version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "models": len(names),
        "zipf": ZIPF,
        "connections": CONNECTIONS,
        "shared": shared,
        "a_process_each": [half, whole],
        "as_many_shared": together,
        "a_process_each_mb_a_model": each_mb,
        "a_process_each_extrapolated_mb": whole["pss_mb"] + each_mb * (len(names) - len(more)),
        "targets": {"pss_mb": 2048, "errors": 0},
        "targets_met": shared["pss_mb"] <= 2048 and not shared["cold"]["errors"],
    }
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))
    return 0 if facts["targets_met"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.serving.many", description="Many models.")
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--alone", type=int, default=20, help="with a process of their own")
    parser.add_argument("--seconds", type=int, default=8, help="of a window")
    options = parser.parse_args()
    if not load.installed():
        parser.error("wrk is not installed; on Debian: apt-get install wrk")
    return options


def _copies(home: Home, names: Sequence[str]) -> None:
    """Record the built version again under each name, proved by an attestation of its own."""
    keys, kept = signing.Keys(home.home), store(home.home)
    with home.records.read() as connection:
        first = runs.version_of(connection, MODEL, 1)
        rows = {
            of: dict(
                connection.execute(sa.select(of).where(of.c[column] == value)).mappings().one()
            )
            for of, column, value in (
                (schema.model, "name", MODEL),
                (schema.run, "id", first.run_id),
                (schema.version, "model", MODEL),
            )
        }
        proof = documents.get(connection, MODEL, 1, documents.PROOF)
        others = documents.found(connection, MODEL, 1, documents.FIRST_ROWS)
    assert first.attestation_digest is not None, "what was built is attested"

    def signed(digest: str) -> dict[str, str]:
        stated = keys.verify(provenance.stored(digest, kept)).statement
        return {name: _attested(first, name, stated, keys, kept) for name in names}

    digests, proofs = signed(first.attestation_digest), signed(proof.digest)
    with home.records.write() as connection:
        for number, name in enumerate(names, first.run_id + 1):
            of_run = {**rows[schema.run], "id": number, "model": name}
            of_version = {**rows[schema.version], "model": name, "run_id": number}
            of_version["attestation_digest"] = digests[name]
            for of, row in (
                (schema.model, {**rows[schema.model], "name": name}),
                (schema.run, of_run),
                (schema.version, of_version),
            ):
                connection.execute(of.insert().values(**row))
            documents.add(connection, replace(proof, model=name, digest=proofs[name]))
            if others is not None:
                documents.add(connection, replace(others, model=name))


def _attested(first: Version, name: str, stated: Any, keys: signing.Keys, kept: Any) -> str:
    claim = provenance.claim_of(replace(first, model=name))
    subject = [{**stated["subject"][0], "name": str(claim)}, *stated["subject"][1:]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "attestation.json")
        path.write_bytes(keys.sign({**stated, "subject": subject}))
        return kept.put(path)


def _measured(
    home: Home,
    names: Sequence[str],
    body: str,
    work: Path,
    options: argparse.Namespace,
    *,
    alone: bool,
) -> dict[str, Any]:
    """Serve these models and no others; load them from cold, then once more."""
    _route(home, names, alone=alone)
    posts = work / "posts"
    draw = random.Random(7)
    weights = [1 / rank**ZIPF for rank in range(1, len(names) + 1)]
    asked = draw.choices(names, weights, k=POSTS)
    posts.write_text("".join(f"/models/{name}/invocations {body}\n" for name in asked))
    with _gateway(home, work) as (pid, port):
        ready_s = _until_served(port, names, body)
        windows = [
            load.window(pid, port, posts, CONNECTIONS, options.seconds, warm_up_s=0)
            for _ in range(3)
        ]
        told = [_shown(window) for window in windows]
        processes = len(load.tree(pid))
    facts = {
        "models": len(names),
        "ready_s": ready_s,
        "processes": processes,
        "pss_mb": told[-1]["pss_mb"],
        "cold": told[0],
        "warm": told[1:],
    }
    print(f"{'a process each' if alone else 'shared':<15} {facts}", flush=True)
    return facts


def _shown(window: load.Window) -> dict[str, Any]:
    names = ("requests_per_s", "p50_ms", "p99_ms", "errors", "cpu_us", "other_cpu", "pss_mb")
    return {**{name: getattr(window, name) for name in names}, "clean": window.clean}


def _route(home: Home, names: Sequence[str], *, alone: bool) -> None:
    with home.records.change("bench") as change:
        connection = change.connection
        for of in connection.execute(sa.select(schema.version)).mappings().all():
            block = {**of["config"].get("serving", {}), "isolated": alone}
            connection.execute(
                schema.version.update()
                .where(schema.version.c.model == of["model"])
                .values(config={**of["config"], "serving": block})
            )
            for where in Environment:
                serves = of["model"] in names and where is Environment.PRODUCTION
                places = [rollouts.Place(1, Role.CHAMPION, 100)] if serves else []
                rollouts.split(change, of["model"], where, places, reason="bench")


@contextmanager
def _gateway(home: Home, work: Path) -> Generator[tuple[int, int]]:
    port, other = running.free_ports(2)
    argv = [*PENSTOCK, "serve", "--only", "gateway", "--port", str(other)]
    argv += ["--predict-port", str(port)]
    with running.program(argv, home.environ(), home.home, work / "gateway.log") as process:
        yield process.pid, port


def _until_served(port: int, names: Sequence[str], body: str) -> float:
    """Wait until the first, the middle and the last of the models answer."""
    began = time.monotonic()
    for name in (names[0], names[len(names) // 2], names[-1]):
        while True:
            try:
                status, told = running.post(port, f"/models/{name}/invocations", body.encode())
            except OSError as error:
                status, told = 0, str(error).encode()
            if status == 200:
                break
            if time.monotonic() - began > READY_S:
                raise RuntimeError(f"{name} was not ready in {READY_S:g} s: {told[:200]!r}")
            time.sleep(0.1)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
