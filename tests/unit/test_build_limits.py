"""What a build may use: what it asks for, up to what the operator allows."""

from __future__ import annotations

import pytest

from penstock.config import Build, LimitSettings
from penstock.errors import StoppedError
from penstock.pipeline.building import build_limits


def test_a_build_that_asks_for_nothing_gets_what_the_operator_allows() -> None:
    limits = build_limits(Build(), LimitSettings(build_memory_mb=2000, build_cpus=1, log_mb=4))

    assert (limits.memory_bytes, limits.cpus, limits.output_bytes) == (2000 << 20, 1, 4 << 20)


def test_a_build_may_ask_for_less() -> None:
    limits = build_limits(Build(memory_mb=500), LimitSettings(build_memory_mb=2000))

    assert limits.memory_bytes == 500 << 20


def test_without_a_word_of_the_operator_a_build_gets_three_quarters_of_the_machine() -> None:
    limits = build_limits(Build(), LimitSettings())

    assert limits.memory_bytes is not None
    assert limits.memory_bytes > 64 << 20


def test_whoever_asks_for_more_is_told_all_of_it_and_by_whom_it_is_limited() -> None:
    asked = Build(memory_mb=64_000, timeout_s=100_000)

    with pytest.raises(StoppedError) as caught:
        build_limits(asked, LimitSettings(build_memory_mb=8000, build_timeout_s=3600))

    assert caught.value.code == "PS208"
    assert "memory_mb asks for 64,000, and the operator allows 8,000" in caught.value.what
    assert "timeout_s asks for 100,000, and the operator allows 3,600" in caught.value.what
    assert "server.toml" in caught.value.hint
