"""Origin that can be proved: signed by our key, about this version, with these files."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.statement import Statement

from penstock.adapters.file_store import FileStore
from penstock.build import pack
from penstock.build.trust import provenance
from penstock.build.trust.provenance import Claim, Origin, Source
from penstock.build.trust.signing import Keys
from penstock.errors import IntegrityError, NotFoundError, PenstockError, UnreachableError

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
LOCK = "b" * 64


class Home:
    """A home with a key, a store, and versions in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = FileStore(path / "artifacts")
        self.keys = Keys(path)
        self.keys.make(now=NOW - timedelta(days=9))

    def version(self, number: int = 1, *, signed_by: Keys | None = None) -> Claim:
        """Pack, store and attest a version."""
        folder = self.path / f"staged-{number}"
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "model.joblib").write_bytes(b"\x80weights" * number)
        (folder / "penstock.json").write_text(json.dumps({"number": number}))
        digest = pack.pack(folder, self.store)
        return self.attest(Claim("credit", number, digest, LOCK, None), signed_by or self.keys)

    def attest(self, claim: Claim, keys: Keys, **changes: Any) -> Claim:
        files = pack.contents(claim.artifact_digest, self.store)
        stated = provenance.statement(claim, files, replace(ORIGIN, **changes))
        return self.keep(claim, keys.sign(stated))

    def keep(self, claim: Claim, envelope: bytes) -> Claim:
        path = self.path / "envelope"
        path.write_bytes(envelope)
        return replace(claim, attestation_digest=self.store.put(path))

    def envelope(self, claim: Claim) -> bytes:
        assert claim.attestation_digest is not None
        return provenance.stored(claim.attestation_digest, self.store)

    def load(self, claim: Claim) -> Path:
        return provenance.unpacked(claim, self.store, self.path)

    def blob(self, digest: str) -> Path:
        return self.path / "artifacts" / digest[:2] / digest


ORIGIN = Origin(
    repository="credit",
    branch="main",
    commit="c" * 40,
    config_digest="d" * 64,
    command="python train.py",
    python="3.11.7",
    lock=Source("requirements.lock", "e" * 64, notes={"role": "lock"}),
    data=[Source("data/train.csv", "f" * 64, uri="s3://lake/train.csv", notes={"read": True})],
    evaluation=Source("data/holdout.csv", "1" * 64, notes={"role": "evaluation"}),
    sandbox="full",
    network=False,
    variables=("PATH", "MPLBACKEND"),
    builder="http://127.0.0.1:8420",
    release="0.1.0",
    invocation="run/7/attempt/1",
    began_at=NOW - timedelta(minutes=2),
    ended_at=NOW,
    byproducts=[Source("log/train", "2" * 64)],
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_statement_is_an_in_toto_statement_with_slsa_provenance(home: Home) -> None:
    claim = home.version()

    stated = home.keys.verify(home.envelope(claim)).statement

    parsed: Any = Statement([], "", {})
    ParseDict(dict(stated), parsed.pb)
    parsed.validate()
    whole = cast("Any", provenance_pb2).Provenance()
    ParseDict(stated["predicate"], whole)  # refuses any field that the predicate does not have
    assert whole.build_definition.external_parameters["command"] == "python train.py"
    assert whole.run_details.metadata.invocation_id == "run/7/attempt/1"
    assert parsed.pb.subject[0].name == "credit@1"
    assert {s.name for s in parsed.pb.subject[1:]} == {"model/model.joblib", "penstock.json"}


def test_the_same_build_signed_twice_gives_the_same_bytes(home: Home) -> None:
    claim = home.version()

    assert home.attest(claim, home.keys) == claim


def test_an_attested_version_loads(home: Home) -> None:
    claim = home.version()

    folder = home.load(claim)

    assert (folder / "model" / "model.joblib").read_bytes() == b"\x80weights"
    assert home.load(claim) == folder


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def flip_an_unpacked_bit(home: Home, claim: Claim) -> Claim:
    file = home.load(claim) / "model" / "model.joblib"
    rewrite(file, flipped(file.read_bytes(), 3))
    return claim


def truncate_an_unpacked_file(home: Home, claim: Claim) -> Claim:
    file = home.load(claim) / "model" / "model.joblib"
    rewrite(file, file.read_bytes()[:-1])
    return claim


def add_a_file(home: Home, claim: Claim) -> Claim:
    (home.load(claim) / "model" / "sitecustomize.py").write_text("")
    return claim


def add_a_link(home: Home, claim: Claim) -> Claim:
    (home.load(claim) / "code").symlink_to("/etc")
    return claim


def flip_a_stored_bit(home: Home, claim: Claim) -> Claim:
    files = pack.contents(claim.artifact_digest, home.store)
    file = home.blob(files["model/model.joblib"])
    rewrite(file, flipped(file.read_bytes(), 3))
    return claim


def swap_the_manifest(home: Home, claim: Claim) -> Claim:
    other = home.version(2)
    return replace(claim, artifact_digest=other.artifact_digest)


def swap_the_number(home: Home, claim: Claim) -> Claim:
    return replace(claim, number=2)


def swap_the_model(home: Home, claim: Claim) -> Claim:
    return replace(claim, model="loans")


def swap_the_lock(home: Home, claim: Claim) -> Claim:
    return replace(claim, lock_digest="0" * 64)


def swap_the_attestation(home: Home, claim: Claim) -> Claim:
    return replace(claim, attestation_digest=home.version(2).attestation_digest)


def sign_with_another_key(home: Home, claim: Claim) -> Claim:
    other = Keys(home.path / "elsewhere")
    (home.path / "elsewhere").mkdir()
    other.make(now=NOW)
    return home.attest(claim, other)


def claim_a_key_id_that_is_believed(home: Home, claim: Claim) -> Claim:
    forged = json.loads(home.envelope(sign_with_another_key(home, claim)))
    forged["signatures"][0]["keyid"] = home.keys.current().id
    return home.keep(claim, json.dumps(forged).encode())


def change_the_payload(home: Home, claim: Claim) -> Claim:
    told = json.loads(home.envelope(claim))
    payload = base64.b64decode(told["payload"]).replace(b'"network":false', b'"network":true ')
    told["payload"] = base64.b64encode(payload).decode()
    return home.keep(claim, json.dumps(told).encode())


def change_the_payloads_type(home: Home, claim: Claim) -> Claim:
    told = json.loads(home.envelope(claim))
    told["payloadType"] = "text/plain"
    return home.keep(claim, json.dumps(told).encode())


def drop_the_signature(home: Home, claim: Claim) -> Claim:
    told = json.loads(home.envelope(claim))
    told["signatures"] = []
    return home.keep(claim, json.dumps(told).encode())


def keep_no_envelope(home: Home, claim: Claim) -> Claim:
    return home.keep(claim, b"\x80\x04not json")


def keep_a_list(home: Home, claim: Claim) -> Claim:
    return home.keep(claim, b"[1, 2]")


def state_nothing(home: Home, claim: Claim) -> Claim:
    return home.keep(claim, home.keys.sign({}))


def lose_the_attestation(home: Home, claim: Claim) -> Claim:
    assert claim.attestation_digest is not None
    home.blob(claim.attestation_digest).unlink()
    return claim


def forget_the_attestation(home: Home, claim: Claim) -> Claim:
    return replace(claim, attestation_digest=None)


def stop_believing(home: Home, claim: Claim) -> Claim:
    home.keys.trust.write_text("[]")
    return claim


ABUSES: list[tuple[Callable[[Home, Claim], Claim], str]] = [
    (flip_an_unpacked_bit, "PS113"),
    (truncate_an_unpacked_file, "PS113"),
    (add_a_file, "PS113"),
    (add_a_link, "PS113"),
    (flip_a_stored_bit, "PS112"),
    (swap_the_manifest, "PS133"),
    (swap_the_number, "PS133"),
    (swap_the_model, "PS133"),
    (swap_the_lock, "PS133"),
    (swap_the_attestation, "PS133"),
    (sign_with_another_key, "PS131"),
    (claim_a_key_id_that_is_believed, "PS131"),
    (change_the_payload, "PS131"),
    (change_the_payloads_type, "PS131"),
    (drop_the_signature, "PS131"),
    (keep_no_envelope, "PS132"),
    (keep_a_list, "PS132"),
    (state_nothing, "PS133"),
    (lose_the_attestation, "PS111"),
    (forget_the_attestation, "PS130"),
    (stop_believing, "PS131"),
]


@pytest.mark.parametrize(("abuse", "code"), ABUSES, ids=lambda one: getattr(one, "__name__", one))
def test_what_was_tampered_with_is_not_loaded(
    abuse: Callable[[Home, Claim], Claim], code: str, home: Home
) -> None:
    claim = abuse(home, home.version())

    with pytest.raises(PenstockError) as refused:
        home.load(claim)

    assert refused.value.code == code, refused.value
    assert isinstance(refused.value, (IntegrityError, NotFoundError))


# ---- keys ----------------------------------------------------------------------------------


def test_the_private_key_is_readable_by_nobody_else_and_stands_nowhere_else(home: Home) -> None:
    secret = home.keys.private.read_text().splitlines()[1]

    assert stat.S_IMODE(home.keys.private.stat().st_mode) == 0o600
    assert secret not in home.keys.trust.read_text()


def test_a_retired_key_proves_what_it_signed_and_nothing_that_was_built_later(home: Home) -> None:
    claim = home.version()
    old = home.keys.private.read_bytes()
    first = home.keys.current()
    home.keys.make(now=NOW + timedelta(hours=1))

    assert home.keys.current().id != first.id
    home.load(claim)

    home.keys.private.write_bytes(old)
    late = home.attest(claim, home.keys, ended_at=NOW + timedelta(hours=2))
    with pytest.raises(IntegrityError, match="was retired") as refused:
        home.load(late)
    assert refused.value.code == "PS133"


def test_a_rotation_that_was_killed_in_the_middle_leaves_everything_proved(home: Home) -> None:
    claim = home.version()
    private, trust = home.keys.private.read_bytes(), home.keys.trust.read_bytes()
    home.keys.make(now=NOW + timedelta(hours=1))
    after = home.keys.trust.read_bytes()
    believed = json.loads(after)
    believed[0]["until"] = None

    for stage in (private, trust), (private, json.dumps(believed).encode()):
        home.keys.private.write_bytes(stage[0])
        home.keys.trust.write_bytes(stage[1])
        home.load(claim)
        home.load(home.attest(claim, home.keys))


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_private_key_that_others_can_read_signs_nothing(home: Home, mode: int) -> None:
    home.keys.private.chmod(mode)

    with pytest.raises(UnreachableError, match="other users may read it") as refused:
        home.keys.sign({})

    assert refused.value.code == "PS138"


def test_a_key_without_its_public_half_signs_nothing(home: Home) -> None:
    home.keys.trust.write_text("[]")

    with pytest.raises(IntegrityError) as refused:
        home.keys.sign({})

    assert refused.value.code == "PS136"


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[1]", '[{"pem": "x", "since": "", "until": null}]', '["a"]']
)
def test_a_trust_file_that_is_none_is_said_to_be_none(home: Home, text: str) -> None:
    home.keys.trust.write_text(text)

    with pytest.raises(IntegrityError) as refused:
        home.keys.trusted()

    assert refused.value.code == "PS135"


def test_a_home_without_a_trust_file_believes_nobody(home: Home) -> None:
    claim = home.version()
    home.keys.trust.unlink()

    with pytest.raises(NotFoundError) as refused:
        home.load(claim)

    assert refused.value.code == "PS134"
