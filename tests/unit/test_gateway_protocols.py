"""Every protocol through a whole gateway, with a real worker behind it."""

from __future__ import annotations

import io
import json
import re
import shlex
import socket
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.inference.gateway import grpc_service, openapi
from penstock.inference.gateway.answers import anonymous
from penstock.inference.gateway.paths import understand
from penstock.inference.prediction_log.segments import read
from penstock.inference.prediction_log.table import Known, answered
from penstock.inference.program import bodies, frames, tensors
from tests.unit.gateway_rig import a_rig, running, version
from tests.unit.packed_versions import SIGNATURE, people
from tests.unit.protocol_rig import ModelRig, models

TABLE = pa.table(
    {"age": [40.0, 5.0], "city": ["Bern", None], "visits": [1, 2], "member": [True, False]}
)
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Generator[ModelRig]:
    with models(tmp_path_factory.mktemp("protocols")) as rig:
        yield rig


def post(rig: ModelRig, path: str, content: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return rig.client.post(rig.url + path, content=content, headers=named, timeout=20)


def stream() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue()


@pytest.mark.parametrize("environment", ["", "/test"])
def test_arrow_goes_in_and_comes_out(rig: ModelRig, environment: str) -> None:
    path = f"{environment}/models/credit/versions/3/invocations"

    answer = post(rig, path, stream(), content_type=ARROW, accept=f"text/html, {ARROW};q=0.9")

    assert (answer.status_code, answer.headers["content-type"]) == (200, ARROW)
    assert answer.headers["penstock-version"] == "credit@3"
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.column_names == ["prediction", "probability_no", "probability_yes"]
    assert table.column("probability_yes").to_pylist() == [0.4, 0.05]
    assert table.schema.metadata[b"model_version"] == b"3"


def test_every_answer_says_who_gave_it_an_error_too(rig: ModelRig) -> None:
    answers = [
        post(rig, "/v2/models/credit/infer", people(40, 5)),
        post(rig, "/v2/models/credit/infer", b"{"),
        post(rig, "/v2/models/credit/versions/3/infer", people(40, age=["x"])),
        post(rig, "/models/credit/invocations", b"\xff", content_type="text/csv"),
    ]

    assert [answer.status_code for answer in answers] == [200, 400, 422, 400]
    assert {answer.headers["penstock-version"] for answer in answers} == {"credit@3"}
    arms = [answer.headers["penstock-arm"] for answer in answers]
    assert arms == ["champion", "champion", "explicit", "champion"]
    ids = {answer.headers["penstock-prediction-id"] for answer in answers}
    assert len(ids) == 4


def test_an_error_has_the_words_of_its_protocol(rig: ModelRig) -> None:
    v2 = post(rig, "/v2/models/credit/infer", b"{").json()
    mlflow = post(rig, "/models/credit/invocations", b"{").json()
    unknown = post(rig, "/models/nobody/invocations", b"{}").json()

    assert set(v2) == {"error", "code", "hint"}
    for error in (mlflow, unknown):
        assert set(error) == {"error", "code", "hint", "error_code", "message"}
        assert (error["error_code"], error["message"]) == ("BAD_REQUEST", error["error"])


@pytest.mark.parametrize(
    ("path", "content", "headers", "code"),
    [
        ("/v2/models/credit/infer", b"age\n1\n", {"content_type": "text/csv"}, "PS507"),
        ("/models/credit/invocations", b"x", {"content_type": "image/png"}, "PS507"),
        (
            "/models/credit/invocations",
            b"x",
            {"content_type": "text/csv; charset=cp1252"},
            "PS507",
        ),
        ("/models/credit/invocations", b"x", {"content_encoding": "gzip"}, "PS514"),
    ],
)
def test_a_media_type_that_nobody_reads_is_refused_with_those_that_are(
    rig: ModelRig, path: str, content: bytes, headers: dict[str, str], code: str
) -> None:
    answer = post(rig, path, content, **headers)

    assert (answer.status_code, answer.json()["code"]) == (415, code)


def test_the_index_lists_what_runs_in_each_environment(rig: ModelRig) -> None:
    production = rig.post("/v2/repository/index", ready=True).json()
    test = post(rig, "/test/v2/repository/index", b"").json()
    broken = post(rig, "/v2/repository/index", b'{"ready": 3}')

    ready = {"version": "3", "state": "READY", "reason": ""}
    assert test == [{"name": "credit", **ready}]
    assert production == [
        {"name": "credit", **ready},
        {"name": "doubled", **ready, "version": "1"},
    ]
    assert (broken.status_code, broken.json()["code"]) == (400, "PS550")


def test_a_head_is_a_get_without_its_body(rig: ModelRig) -> None:
    answer = rig.client.head(rig.url + "/v2/health/ready")

    assert (answer.status_code, answer.content) == (200, b"")


def test_every_form_is_in_the_log_as_the_model_saw_it(rig: ModelRig) -> None:
    raw = tensors.encode("FP32", [40, 5])
    given = json.loads(people(40, 5, city=["Bern", None], visits=[1, 2], member=[True, False]))
    plain = json.dumps(given).encode()
    age = given["inputs"][0]
    del age["data"]
    age.update(datatype="FP32", parameters={"binary_data_size": len(raw)})
    given["parameters"] = {"binary_data_output": True}
    head = json.dumps(given).encode()
    parquet = io.BytesIO()
    pq.write_table(TABLE, parquet)
    rows = [list(row.values()) for row in TABLE.to_pylist()]
    frame = {"dataframe_split": {"columns": TABLE.column_names, "data": rows}}
    split = json.dumps(frame).encode()
    csv = b"age,city,visits,member\n40,Bern,1,true\n5,,2,false\n"
    v2, mlflow = "/v2/models/credit/infer", "/models/credit/invocations"
    length = str(len(head))
    answers = [
        post(rig, v2, plain, accept=ARROW),
        post(rig, v2, head + raw, inference_header_content_length=length),
        post(rig, mlflow, split),
        post(rig, mlflow, csv, content_type="text/csv"),
        post(rig, mlflow, parquet.getvalue(), content_type="application/vnd.apache.parquet"),
        post(rig, mlflow, stream(), content_type=ARROW, accept=ARROW),
    ]

    assert [answer.status_code for answer in answers] == [200] * 6
    logged = {entry.id: entry for entry in read(rig.folder / "log" / "production" / "credit")}
    known = Known(SIGNATURE, bodies.signature_columns(SIGNATURE))
    for answer in answers:
        told = answered(logged[answer.headers["penstock-prediction-id"]], known)
        assert told is not None
        assert told.asked.values == [[40.0, 5.0], ["Bern", None], [1, 2], [True, False]]
        assert (told.predictions, told.scores) == (["no", "no"], [0.4, 0.05])


def test_an_answer_without_a_row_in_the_log_has_no_id(tmp_path: Path) -> None:
    with a_rig(tmp_path) as rig:
        (tmp_path / "log").write_text("where the log's folder should be")
        with running(rig):
            rig.serve_these([version(1)])
            answer, own = rig.ask(), rig.ask(id="mine")

    assert (answer.status_code, answer.headers["penstock-logged"]) == (200, "no")
    assert "penstock-prediction-id" not in answer.headers
    assert "id" not in answer.json()
    assert own.json()["id"] == "mine"


def test_a_lost_id_is_taken_out_of_every_form() -> None:
    document = b'{"predictions":[1],"id":"lost"}'
    plain = frames.Reply(200, "lost", 1, document)
    binary = plain._replace(body=tensors.join(document, b"raw"), media=frames.BINARY_MEDIA)

    assert anonymous(plain).body == b'{"predictions":[1]}'
    assert tensors.split(anonymous(binary).body) == (b'{"predictions":[1]}', b"raw")
    for broken in (b"", b"[", b"[]"):
        for media in (frames.JSON_MEDIA, frames.BINARY_MEDIA, frames.ARROW_MEDIA):
            reply = plain._replace(body=broken, media=media)
            assert anonymous(reply) == reply


def test_every_path_of_the_document_is_one_of_the_gateways() -> None:
    for path, operations in openapi.document()["paths"].items():
        call = understand(path.replace("{MODEL}", "credit").replace("{NUMBER}", "3"))
        assert call is not None, path
        assert {method.upper() for method in operations} <= set(call.methods)


PARTS = (
    *("v2", "models", "credit", "doubled", "versions", "3", "1", "infer", "invocations", "test"),
    *("ready", "ping", "health", "live", "repository", "index", "penstock", "workers", "..", ""),
)
BODIES = (
    *(b"", b"{", b"{}", people(40, 5), stream(), b"age,visits,member\n1,1,true\n"),
    b'{"instances": [[1]]}',
    b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64"}]}',
)
HEADERS = {
    "content-type": ["application/json", "text/csv", ARROW, "application/parquet", "x", ""],
    "inference-header-content-length": ["0", "2", "99999999", "-1", "many"],
    "accept": [ARROW, "*/*", ";;,"],
    "origin": ["null", "http://localhost:1", "http://[", "file://"],
    "penstock-key": ["a", "é"],
}


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS"]),
    path=st.lists(st.sampled_from(PARTS), max_size=7).map("/".join),
    body=st.sampled_from(BODIES),
    headers=st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(values) for name, values in HEADERS.items()}
    ),
)
def test_whatever_is_sent_wherever_is_answered_in_json_and_never_by_a_fault_of_ours(
    rig: ModelRig, method: str, path: str, body: bytes, headers: dict[str, str]
) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = rig.client.request(
        method, f"{rig.url}/{path}", content=body, headers=encoded, timeout=20
    )

    assert answer.status_code < 500
    if answer.headers["content-type"] == "application/json" and method != "HEAD":
        facts = answer.json()
        assert answer.status_code < 400 or re.fullmatch(r"PS\d{3}", facts["code"])
    elif method != "HEAD":
        assert (answer.status_code, answer.headers["content-type"]) == (200, ARROW)


def test_without_grpc_what_comes_over_http_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> dict[str, Any]:
        raise ImportError("No module named 'google'")

    monkeypatch.setattr(grpc_service, "messages", missing)
    with a_rig(tmp_path / "a", grpc="127.0.0.1:1") as rig, running(rig):
        assert rig.get("/v2/health/live").status_code == 200
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with a_rig(tmp_path / "b", grpc=address) as rig, running(rig):
            assert rig.get("/v2/health/live").status_code == 200

    assert [text.split()[0] for text in caplog.messages if text[:2] == "PS"] == ["PS538", "PS518"]


DOCS = Path(__file__).parents[2] / "docs" / "http-api.md"


def commands() -> list[str]:
    """The calls of curl in the docs, in their order."""
    text = DOCS.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [
        line
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        if "curl" in line
    ]


@pytest.mark.parametrize("command", commands())
def test_what_the_docs_say_to_curl_is_answered(
    rig: ModelRig, tmp_path: Path, command: str
) -> None:
    (tmp_path / "rows.csv").write_text("age,city,visits,member\n40,Bern,1,true\n5,,2,false\n")
    pq.write_table(TABLE, tmp_path / "rows.parquet")
    (tmp_path / "rows.arrows").write_bytes(stream())
    command = command.replace("http://127.0.0.1:8421", rig.url)

    ran = subprocess.run(
        [*shlex.split(command), "--silent", "--fail-with-body", "--output", "answer"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=20,
    )

    answer = (tmp_path / "answer").read_bytes()
    assert ran.returncode == 0, answer
    if ARROW in command.partition("Accept")[2]:
        told = pa.ipc.open_stream(answer).read_all()
        assert told.column("prediction").to_pylist() == ["no", "no"]
    elif "invocations" in command:
        assert set(json.loads(answer)["predictions"]) == {"no"}
    elif "infer" in command:
        names = [output["name"] for output in json.loads(answer)["outputs"]]
        assert names[0] in {"prediction", "probability"}
    else:
        assert json.loads(answer) != {}


def test_the_docs_show_each_form() -> None:
    sent = " ".join(commands())

    for form in (
        "/infer",
        "versions/3",
        "dataframe_split",
        "text/csv",
        "parquet",
        f"Accept: {ARROW}",
    ):
        assert form in sent
