"""Customers that stay with their arm, and what is read from a body to know them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.domain import Deployment, Environment, Role
from penstock.inference.gateway.sticky import (
    BUCKETS,
    HOUR_US,
    NO_BUCKET,
    READ_BYTES,
    bucket_of,
    customer_in,
    place_of,
    places,
)
from penstock.inference.program.frames import CSV, INVOCATIONS, V2
from tests.unit.gateway_rig import Rig, a_rig, canary, running, version

CHALLENGER = Deployment(
    "m", Environment.PRODUCTION, 2, Role.CHALLENGER, "", "", {}, 5, 1, None, 7, key="id"
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with a_rig(tmp_path) as made, running(made):
        yield made


def keyed(share: int, rollout_id: int = 7) -> list[Deployment]:
    return [replace(each, key="id", rollout_id=rollout_id) for each in canary(share)]


def test_buckets_are_even_and_another_rollout_draws_customers_anew() -> None:
    another = replace(CHALLENGER, rollout_id=8)
    names = [str(n) for n in range(20_000)]

    buckets = [bucket_of(name, CHALLENGER) for name in names]
    first = [place_of(bucket, CHALLENGER, 0) for bucket in buckets]
    second = [place_of(bucket_of(name, another), another, 0) for name in names]

    tenths = [sum(b // (BUCKETS // 10) == tenth for b in buckets) for tenth in range(10)]
    assert min(tenths) > 1800
    assert max(tenths) < 2200
    assert sum(a < 0.1 for a in first) == pytest.approx(2000, abs=250)
    both = sum(a < 0.1 and b < 0.1 for a, b in zip(first, second, strict=True))
    assert both == pytest.approx(200, abs=80)


def test_buckets_are_drawn_one_by_one_and_each_hour_where_that_is_asked_for() -> None:
    redrawn = replace(CHALLENGER, redraw=True)
    hours = [np.array(places(redrawn, draw)) for draw in range(100)]

    assert places(CHALLENGER, 0) == places(redrawn, 0)
    assert place_of(17, redrawn, 3 * HOUR_US + 1) == hours[3][17]
    assert place_of(17, CHALLENGER, 3 * HOUR_US + 1) == hours[0][17]
    drawn = np.array([(hour < 0.1).sum() for hour in hours])
    # Independent draws: the number is binomial, mean 1,000, standard deviation 30.
    assert drawn.mean() == pytest.approx(1000, abs=15)
    assert drawn.std() == pytest.approx(30, abs=10)
    assert np.corrcoef(hours[0], hours[1])[0, 1] == pytest.approx(0, abs=0.05)


BODIES: list[tuple[int, Any, str | None]] = [
    (V2, {"inputs": [{"name": "x", "data": [1]}, {"name": "id", "data": [17]}]}, "17"),
    (V2, {"inputs": [{"name": "id", "data": [["a-1"]]}]}, "a-1"),
    (V2, {"inputs": [{"name": "id", "data": [17.0]}]}, "17"),
    (V2, {"inputs": [{"name": "id", "data": [17, 17]}]}, "17"),
    (V2, {"inputs": [{"name": "id", "data": [17, 18]}]}, None),
    (V2, {"inputs": [{"name": "id", "data": []}]}, None),
    (V2, {"inputs": [{"name": "x", "data": [1]}]}, None),
    (V2, {"inputs": [{"name": "id", "data": [None]}]}, None),
    (V2, {"inputs": [{"name": "id", "data": [True]}]}, None),
    (V2, {"inputs": [{"name": "id", "data": [1.5]}]}, None),
    (V2, {"inputs": 3}, None),
    (V2, [1], None),
    (INVOCATIONS, {"dataframe_split": {"columns": ["x", "id"], "data": [[1, "k"]]}}, "k"),
    (INVOCATIONS, {"dataframe_split": {"columns": ["x"], "data": [[1]]}}, None),
    (INVOCATIONS, {"dataframe_records": [{"id": 17}]}, "17"),
    (INVOCATIONS, {"instances": [{"id": " k "}]}, "k"),
    (INVOCATIONS, {"inputs": {"id": ["k"]}}, "k"),
    (INVOCATIONS, {"inputs": [[1, 2]]}, None),
    (CSV, {"inputs": [{"name": "id", "data": [17]}]}, None),
    (V2, {"inputs": [{"name": "id", "data": [17]}], "pad": "x" * READ_BYTES}, None),
]


@pytest.mark.parametrize(("kind", "document", "found"), BODIES)
def test_the_customer_of_a_body(kind: int, document: Any, found: str | None) -> None:
    assert customer_in(kind, json.dumps(document).encode(), "id") == found


@settings(max_examples=60)
@given(
    body=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["inputs", "instances", "data", "id", "name"]), inner
            )
        ),
        max_leaves=8,
    ).map(lambda tree: json.dumps(tree).encode())
)
def test_no_body_breaks_the_search_for_a_customer(body: bytes) -> None:
    for kind in (V2, INVOCATIONS):
        found = customer_in(kind, body, "id")
        assert found is None or found


def test_a_customer_stays_in_the_challengers_share_as_it_rises(rig: Rig) -> None:
    arms: list[dict[str, int]] = []
    for generation, share in enumerate((10, 50)):
        rig.deployments = [replace(each, generation=generation + 1) for each in keyed(share)]
        rig.until(lambda share=share: rig.states() == {1: "ready", 2: "ready"})
        rig.until(lambda share=share: rig.workers()[2]["share_now"] == share)
        asked = {
            str(n): rig.client.post(
                rig.url + "/v2/models/m/infer", json={}, headers={"Penstock-Key": str(n)}
            ).json()["number"]
            for n in range(60)
        }
        again = rig.ask(inputs=[{"name": "id", "data": [7]}]).json()["number"]
        assert again == asked["7"]
        arms.append(asked)

    few, many = ({n for n, number in each.items() if number == 2} for each in arms)
    assert few < many
    challenger = keyed(50)[1]
    places_of = {str(n): place_of(bucket_of(str(n), challenger), challenger, 0) for n in range(60)}
    expected = {name for name, place in places_of.items() if place < 0.5}
    assert many == expected


def test_the_log_has_the_bucket_of_a_key_and_none_for_a_request_without(rig: Rig) -> None:
    rig.serve_these(keyed(50))

    rig.client.post(rig.url + "/v2/models/m/infer", json={}, headers={"Penstock-Key": "a"})
    rig.ask(n=1)
    rig.post("/v2/models/m/versions/1/infer", inputs=[{"name": "id", "data": ["a"]}])

    buckets = [entry.bucket for entry in rig.log()]
    assert buckets == [bucket_of("a", keyed(50)[1]), NO_BUCKET, NO_BUCKET]


def test_what_a_keyed_challenger_fails_has_its_bucket_in_both_entries(rig: Rig) -> None:
    rig.serve_these(keyed(100))

    answer = rig.client.post(
        rig.url + "/v2/models/m/infer",
        json={"do": "answer", "status": 500, "on": [2]},
        headers={"Penstock-Key": "a"},
    )

    assert answer.json()["number"] == 1
    assert {entry.bucket for entry in rig.log()} == {bucket_of("a", keyed(50)[1])}


def test_without_a_key_in_the_rollout_no_body_is_searched(rig: Rig) -> None:
    rig.serve_these(canary(50))

    numbers = {
        rig.client.post(
            rig.url + "/v2/models/m/infer", json={}, headers={"Penstock-Key": "a"}
        ).json()["number"]
        for _ in range(30)
    }

    assert numbers == {1, 2}
    assert {entry.bucket for entry in rig.log()} == {NO_BUCKET}


def test_one_version_alone_needs_no_key(rig: Rig) -> None:
    rig.serve_these([replace(version(1), key="id")])

    assert rig.ask(inputs=[{"name": "id", "data": ["a"]}]).status_code == 200
    assert [entry.bucket for entry in rig.log()] == [NO_BUCKET]
