"""Which call of a version serves is signed, and a start answers what the build saw."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1.statement import Statement

from penstock.build.trust import path_proof, provenance
from penstock.build.trust.path_proof import Proof
from penstock.build.trust.provenance import Claim
from penstock.build.trust.signing import Keys
from penstock.check import fast_path
from penstock.domain import Deployment, Environment, Role, Verdict
from penstock.errors import IntegrityError
from penstock.inference.asking import columns_of
from penstock.inference.gateway.placed import First, Placed
from penstock.pipeline import first_rows
from penstock.pipeline.hosting import Hosting
from tests.unit.gateway_rig import a_rig, running, version
from tests.unit.test_provenance import NOW, Home

TABLE = pa.table({"age": [30.0, 40.0, 50.0], "name": ["ann", "bob", "eve"]})
ANSWER = {"outputs": [{"name": "prediction", "datatype": "FP64", "data": [0.25, 3.0]}]}
CLASSES = {"outputs": [{"name": "prediction", "datatype": "BYTES", "data": ["no"]}]}
PROOF = Proof("flat", fast_path.NAME, "e" * 64, 0.0, None, "run/7/attempt/1")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def kept(home: Home, content: bytes) -> str:
    path = home.path / "kept"
    path.write_bytes(content)
    return home.store.put(path)


def signed(home: Home, claim: Claim, of: Proof = PROOF, **changes: Any) -> str:
    stated = {**path_proof.statement(claim, of, at=NOW), **changes}
    return kept(home, home.keys.sign(stated))


def placed(home: Home, claim: Claim, **serving: Any) -> Placed:
    deployment = Deployment(
        claim.model,
        Environment.PRODUCTION,
        claim.number,
        Role.CHAMPION,
        claim.artifact_digest,
        claim.lock_digest,
        {},
        100,
        1,
        None,
        None,
        claim.attestation_digest,
        serving,
    )
    pool = home.path / "pool"
    pool.mkdir(exist_ok=True)
    return Hosting(cast("Any", None), home.store, home.path, 1).place(deployment, pool)


def test_the_statement_is_an_in_toto_statement_with_a_test_result(home: Home) -> None:
    claim = home.version()
    stated = path_proof.statement(claim, replace(PROOF, first_rows="a" * 64), at=NOW)

    parsed: Any = Statement([], "", {})
    ParseDict(dict(stated), parsed.pb)
    parsed.validate()
    whole = cast("Any", test_result_pb2).TestResult()
    ParseDict(stated["predicate"], whole)  # refuses any field that the predicate does not have
    assert whole.result == "PASSED"
    assert whole.configuration[0].annotations["path"] == "flat"
    assert whole.configuration[1].digest["sha256"] == "a" * 64


def test_a_path_that_is_signed_for_serves(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    claim = home.version()

    found = placed(home, claim, path="flat", proof=signed(home, claim))

    assert found.path == "flat"
    assert not caplog.records


def other_version(home: Home, claim: Claim) -> str | None:
    return signed(home, replace(claim, number=claim.number + 1))


def other_artifact(home: Home, claim: Claim) -> str | None:
    return signed(home, replace(claim, artifact_digest="9" * 64))


def other_path(home: Home, claim: Claim) -> str | None:
    return signed(home, claim, replace(PROOF, path="array"))


def other_key(home: Home, claim: Claim) -> str | None:
    theirs = Keys(home.path / "theirs")
    theirs.home.mkdir()
    theirs.make(now=NOW)
    return kept(home, theirs.sign(path_proof.statement(claim, PROOF, at=NOW)))


def other_predicate(home: Home, claim: Claim) -> str | None:
    return signed(home, claim, predicateType=provenance.PREDICATE_TYPE)


def the_first_statement(_: Home, claim: Claim) -> str | None:
    return claim.attestation_digest


def changed(home: Home, claim: Claim) -> str | None:
    envelope = json.loads(home.keys.sign(path_proof.statement(claim, PROOF, at=NOW)))
    envelope["payload"] = envelope["payload"].replace("A", "B", 1)
    return kept(home, json.dumps(envelope).encode())


def retired_key(home: Home, claim: Claim) -> str | None:
    late = path_proof.statement(claim, PROOF, at=NOW + timedelta(days=2))
    envelope = home.keys.sign(late)
    home.keys.make(now=NOW + timedelta(days=1))
    return kept(home, envelope)


def not_in_the_store(_home: Home, _claim: Claim) -> str | None:
    return "7" * 64


def none_at_all(_home: Home, _claim: Claim) -> str | None:
    return None


@pytest.mark.parametrize(
    "forged",
    [
        other_version,
        other_artifact,
        other_path,
        other_key,
        other_predicate,
        the_first_statement,
        changed,
        retired_key,
        not_in_the_store,
        none_at_all,
    ],
)
def test_a_path_without_a_statement_of_its_own_does_not_serve_but_the_own_call_does(
    home: Home,
    forged: Callable[[Home, Claim], str | None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    claim = home.version()

    found = placed(home, claim, path="flat", proof=forged(home, claim))

    assert found.path == "own"
    assert (found.folder / "penstock.json").is_file()
    assert "credit@1 serves by its own call" in caplog.text


def test_a_statement_that_lacks_something_proves_nothing_and_says_what(home: Home) -> None:
    claim = home.version()
    lacking: list[Any] = [{}, {"result": "PASSED", "configuration": []}, {"result": "PASSED"}]
    for predicate in lacking:
        digest = signed(home, claim, predicate=predicate)
        with pytest.raises(IntegrityError) as refused:
            path_proof.proved(claim, digest, home.store, home.keys)
        assert refused.value.code == "PS148"


def test_another_result_of_the_check_has_another_digest() -> None:
    passed = fast_path.result(Verdict.PASSED, "flat serves", path="flat", rows=300)

    digests = {
        path_proof.digest_of(one)
        for one in (
            passed,
            replace(passed, summary="array serves"),
            replace(passed, verdict=Verdict.FAILED),
            replace(passed, evidence={**passed.evidence, "rows": 299}),
        )
    }

    assert len(digests) == 4


# ---- the first rows ----------------------------------------------------------------------------


def first(answer: Any, folder: Path, tolerance: float = 0.0) -> First:
    file = folder / "rows.json"
    file.write_bytes(first_rows.written(b'{"inputs": []}', json.dumps(answer).encode()))
    return first_rows.read(file, tolerance)


def told(answer: Any, *data: Any) -> bytes:
    (output,) = answer["outputs"]
    return json.dumps({"id": "other", "outputs": [{**output, "data": [*data]}]}).encode()


@pytest.mark.parametrize(
    ("answer", "data", "tolerance", "hinders"),
    [
        (ANSWER, (0.25, 3.0), 0.0, ""),
        (ANSWER, (0.25 + 1e-12, 3.0), 0.0, ""),  # another processor
        (ANSWER, (0.26, 3.0), 0.0, "0.01 apart, 1e-09 is allowed"),
        (ANSWER, (0.25001, 3.0), 0.001, ""),
        (ANSWER, (0.25,), 0.0, "with other outputs"),
        (CLASSES, ("no",), 0.0, ""),
        (CLASSES, ("yes",), 0.001, "1 values that are no numbers differ"),
    ],
)
def test_a_start_must_answer_what_the_build_saw(
    tmp_path: Path, answer: Any, data: tuple[Any, ...], tolerance: float, hinders: str
) -> None:
    why = first(answer, tmp_path, tolerance).hindrance(200, told(answer, *data))

    assert (hinders in why) if hinders else not why
    assert (why != "") == why.startswith("PS562 ")


def test_an_error_is_no_answer_of_the_build(tmp_path: Path) -> None:
    assert first(ANSWER, tmp_path).hindrance(422, b"{}").startswith("PS562 ")


def test_the_rows_are_always_the_same_and_hold_no_column_that_must_not_be_kept() -> None:
    columns = [{**one, "example": "typical"} for one in columns_of(TABLE)]

    asked = first_rows.chosen(TABLE, columns, 2, ["name"])
    inputs = {one["name"]: one["data"] for one in json.loads(asked or b"")["inputs"]}

    assert asked == first_rows.chosen(TABLE, columns, 2, ["name"])
    assert len(inputs["age"]) == 2
    assert inputs["name"] == ["typical", "typical"]
    assert first_rows.chosen(TABLE, columns_of(TABLE), 2, ["name"]) is None
    assert first_rows.chosen(TABLE, columns, 0, []) is None


def test_rows_that_are_signed_for_are_asked_at_the_start_and_damaged_ones_are_not(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    claim = home.version()
    document = first_rows.written(b'{"inputs": []}', json.dumps(ANSWER).encode())
    rows = kept(home, document)
    digest = signed(home, claim, replace(PROOF, path="own", first_rows=rows))

    whole = placed(home, claim, path="own", proof=digest)
    home.blob(rows).chmod(0o644)
    home.blob(rows).write_bytes(document + b" ")
    damaged = placed(home, claim, path="own", proof=digest)

    assert [json.loads(one.body) for one in whole.first] == [{"inputs": []}]
    assert damaged.first == ()
    assert "starts without the rows" in caplog.text


@pytest.mark.parametrize(("answered", "state"), [(b"17", "ready"), (b"18", "failed")])
def test_a_version_that_answers_its_first_rows_otherwise_is_not_ready(
    tmp_path: Path, answered: bytes, state: str
) -> None:
    def hindrance(_: int, body: bytes) -> str:
        return "" if answered == b"%d" % json.loads(body)["n"] else "PS562 It answers otherwise"

    with a_rig(tmp_path) as rig, running(rig):
        rig.first = [First(b'{"n": 17}', hindrance)]
        rig.deployments = [version(1)]

        rig.until(lambda: rig.states() == {1: state})

        assert ("PS562" in str(rig.workers()[1]["reason"])) == (state == "failed")
        assert rig.log() == []
