"""What pages cost the server with a large fleet: ``make bench-pages``.

10,000 models of 20 versions each, in SQLite; every page is asked as a browser does, without a
socket. Processor time of the server's process, the median of some requests; the promise is 50 ms.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from penstock.records import schema
from tests.unit.web_rig import BEGIN, SIGNATURE, House, client, house

MODELS, VERSIONS, REPEATS = 10_000, 20, 9
MOST_MS = 50
RESULT = Path(__file__).parent / "results" / "pages.json"
CHECKS = ("quality.limits", "service.errors", "service.p95", "smoke.loads", "drift.age")
PAGES = {
    "fleet": "/",
    "fleet, searched": "/?q=model-0123",
    "fleet, degraded": "/?state=Degraded",
    "fleet, page 2": "/rows?after=5.model-00500",
    "model": "/models/model-05000",
    "version": "/models/model-05000/versions/20",
    "run": "/runs/100000",
    "runs": "/runs",
    "runs of a model": "/runs?model=model-05000",
    "approvals": "/approvals",
    "monitoring": "/monitoring",
    "audit": "/audit",
    "try": "/models/model-05000/try",
    "API, models": "/api/models",
    "API, runs": "/api/runs",
}


def seeded(home: House, models: int, versions: int) -> None:
    """Write the fleet: each model's newest version serves, its newest four were checked."""
    run = home.push("first")
    with home.database.read() as connection:
        query = sa.select(schema.version.c.config).where(schema.version.c.run_id == run.id)
        config = connection.scalar(query)
    names = [f"model-{at:05d}" for at in range(models)]
    first = run.id + 1
    with home.database.write() as connection:

        def put(table: sa.Table, rows: list[dict[str, Any]]) -> None:
            for at in range(0, len(rows), 20_000):
                connection.execute(table.insert(), rows[at : at + 20_000])

        put(
            schema.model,
            [
                {
                    "name": name,
                    "owner": f"owner-{at % 97}",
                    "team": f"team-{at % 31}",
                    "release_branch": "main",
                    "last_number": versions,
                    "last_seq": versions,
                    "created_at": BEGIN,
                }
                for at, name in enumerate(names)
            ],
        )
        every = [(at, name, n) for at, name in enumerate(names) for n in range(1, versions + 1)]
        made = [BEGIN + timedelta(minutes=at % 500_000) for at in range(len(every))]
        put(
            schema.run,
            [
                {
                    "id": first + place,
                    "model": name,
                    "number": n,
                    "commit_sha": f"{first + place:040x}",
                    "trigger": "push",
                    "seq": n,
                    "state": "succeeded",
                    "created_by": "ines",
                    "message": "A change",
                    "created_at": made[place],
                    "updated_at": made[place],
                }
                for place, (_, name, n) in enumerate(every)
            ],
        )
        put(
            schema.version,
            [
                {
                    "model": name,
                    "number": n,
                    "run_id": first + place,
                    "commit_sha": f"{first + place:040x}",
                    "config": config,
                    "artifact_digest": f"{place:064x}",
                    "lock_digest": "b" * 64,
                    "signature": SIGNATURE,
                    "sandbox_level": "full",
                    "sealed_at": made[place],
                    "created_at": made[place],
                }
                for place, (_, name, n) in enumerate(every)
            ],
        )
        put(
            schema.deployment,
            [
                {
                    "model": name,
                    "environment": "production",
                    "number": versions,
                    "role": "champion",
                    "artifact_digest": "a" * 64,
                    "share": 100,
                    "generation": 1,
                }
                for name in names
            ],
        )
        put(
            schema.check_result,
            [
                {
                    "occasion": f"run:{first + place}:1",
                    "check_name": check,
                    "model": name,
                    "number": n,
                    "verdict": "passed",
                    "summary": "as it should be",
                    "evidence": {"value": 0.8},
                    "at": made[place],
                }
                for place, (_, name, n) in enumerate(every)
                if n > versions - 4
                for check in CHECKS
            ],
        )


async def measured(home: House) -> dict[str, Any]:
    """Ask every page, in turn, some times; milliseconds."""
    taken: dict[str, list[float]] = {name: [] for name in PAGES}
    sizes: dict[str, int] = {}
    async with client(home) as asking:
        for repeat in range(REPEATS + 1):
            for name, path in PAGES.items():
                began = time.process_time()
                answer = await asking.get(path)
                assert answer.status_code == 200, (path, answer.status_code, answer.text[:500])
                if repeat:  # the first one compiles templates and queries
                    taken[name].append((time.process_time() - began) * 1000)
                sizes[name] = len(answer.content)
    return {
        name: {"cpu_ms": round(statistics.median(ms), 1), "bytes": sizes[name]}
        for name, ms in taken.items()
    }


def main() -> None:
    models = int(sys.argv[1]) if len(sys.argv) > 1 else MODELS
    with tempfile.TemporaryDirectory() as folder:
        home = house(Path(folder))
        seeded(home, models, VERSIONS)
        pages = asyncio.run(measured(home))
    slow = {name: one["cpu_ms"] for name, one in pages.items() if one["cpu_ms"] >= MOST_MS}
    told = {"models": models, "versions": VERSIONS, "repeats": REPEATS, "pages": pages}
    RESULT.write_text(json.dumps({**told, "most_ms": MOST_MS, "over": slow}, indent=1) + "\n")
    for name, one in pages.items():
        print(f"{name:20}{one['cpu_ms']:8.1f} ms{one['bytes'] / 1000:9.0f} kB")


if __name__ == "__main__":
    main()
