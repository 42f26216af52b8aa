"""An A/A canary with real workers, batches and traffic, as the benchmark runs twenty."""

from __future__ import annotations

from bench import arms


def test_a_version_beside_itself_is_not_harmful() -> None:
    with arms.served() as rig:
        told = arms.one_canary(rig, 0, looks=3)

    assert told["requests"] > 0
    assert told["found"]["control twice_p95"] != "failed"
