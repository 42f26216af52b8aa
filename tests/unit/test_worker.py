"""The worker as it runs: a process of its own, asked over its socket."""

import json
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from penstock.inference.program.frames import (
    FORK,
    HEADER,
    INVOCATIONS,
    LOAD,
    METADATA,
    UNLOAD,
    V2,
    Reply,
    RequestPart,
    encode_request,
)
from tests.unit.packed_versions import (
    SIGNATURE,
    Ask,
    asking,
    connected,
    described,
    empty,
    pack,
    people,
    serving,
    speaking,
)

NUMBERS = {
    "columns": [{"name": "x", "datatype": "FP64", "optional": True}],
    "task": "regression",
    "classes": None,
    "positive": None,
}
MOODY = """
import math

def load(folder):
    return None

def predict(model, frame):
    x = frame["x"]
    if 13.0 in x:
        raise ArithmeticError("thirteen")
    if 14.0 in x:
        return [1.0]
    if 17.0 in x:
        return "seventeen"
    special = {15.0: math.nan, 16.0: object(), 18.0: None}
    return [special.get(value, value) for value in x]
"""


@pytest.fixture(scope="module")
def credit(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ask]:
    with serving(pack(tmp_path_factory.mktemp("credit") / "v")) as ask:
        yield ask


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ask]:
    folder = pack(tmp_path_factory.mktemp("moody") / "v", MOODY, NUMBERS)
    with serving(folder) as ask:
        yield ask


def numbers(*values: float | None) -> bytes:
    return json.dumps({"instances": values}).encode()


def told(reply: Reply) -> dict[str, Any]:
    return json.loads(reply.body)


def test_an_answer_follows_the_open_inference_protocol(credit: Ask) -> None:
    (reply,) = credit([(V2, b"made", people(25, 80))])

    assert (reply.status, reply.id, reply.rows) == (200, "made", 2)
    assert told(reply) == {
        "model_name": "credit",
        "model_version": "3",
        "id": "made",
        "outputs": [
            {"name": "prediction", "shape": [2], "datatype": "BYTES", "data": ["no", "yes"]},
            {
                "name": "probability",
                "shape": [2, 2],
                "datatype": "FP64",
                "data": pytest.approx([0.75, 0.25, 0.2, 0.8]),
            },
        ],
        "parameters": {"classes": ["no", "yes"]},
    }


def test_an_answer_to_invocations_has_predictions_and_probabilities(credit: Ask) -> None:
    row = {"age": 80, "city": "Bern", "visits": 1, "member": True}
    (reply,) = credit([(INVOCATIONS, b"made", json.dumps({"instances": [row]}).encode())])

    assert told(reply) == {
        "predictions": ["yes"],
        "probabilities": [pytest.approx([0.2, 0.8])],
        "id": "made",
    }


def test_the_callers_own_id_comes_back_in_answers_and_errors(credit: Ask) -> None:
    good = people(40).replace(b'{"inputs"', b'{"id": "own-1", "inputs"')
    bad = good.replace(b"own-1", b"own-2").replace(b'"age"', b'"aeg"')

    replies = credit([(V2, b"made-1", good), (V2, b"made-2", bad), (V2, b"made-3", people(40))])

    assert [reply.id for reply in replies] == ["own-1", "own-2", "made-3"]
    assert told(replies[0])["id"] == "own-1"
    assert [reply.status for reply in replies] == [200, 422, 200]


def test_a_bad_body_spoils_no_other_of_its_batch(credit: Ask) -> None:
    bodies = [people(10), b"{", people(30, 40), people(1, age=["x"]), people(50)]

    replies = credit([(V2, b"%d" % i, body) for i, body in enumerate(bodies)])

    assert [reply.status for reply in replies] == [200, 400, 200, 422, 200]
    assert [reply.rows for reply in replies] == [1, 0, 2, 0, 1]
    shares = [told(r)["outputs"][1]["data"][1::2] for r in replies if r.status == 200]
    assert shares == [pytest.approx([0.1]), pytest.approx([0.3, 0.4]), pytest.approx([0.5])]
    assert told(replies[3])["code"] == "PS552"


def test_metadata_says_what_is_served_and_what_it_costs(credit: Ask) -> None:
    (reply,) = credit([(METADATA, b"m", b"")])

    facts = told(reply)
    assert facts["ok"] is True
    assert (facts["format"], facts["task"]) == ("adapter", "classification")
    assert facts["classes"] == ["no", "yes"]
    assert facts["rss_bytes"] > 1e6


def test_a_poison_row_costs_its_own_request_only(moody: Ask) -> None:
    replies = moody([(INVOCATIONS, b"", numbers(n)) for n in (1, 13, 3)])

    assert [reply.status for reply in replies] == [200, 500, 200]
    refused = told(replies[1])
    assert refused["error"] == "The model raised ArithmeticError: thirteen"
    assert refused["code"] == "PS554"
    assert told(replies[2])["predictions"] == [3.0]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((1, 14), "The model answered 1 answers for 2 rows."),
        ((1, 15), "The model answered NaN or infinity."),
        ((1, 16), "The model answered float, object, not one value a row."),
        ((17,), "The model answered str, not one answer a row."),
        ((18,), "The model answered NoneType, not one value a row."),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_its_request_only(
    moody: Ask, values: tuple[float, ...], sentence: str
) -> None:
    replies = moody([(INVOCATIONS, b"", numbers(2)), (INVOCATIONS, b"", numbers(*values))])

    assert [reply.status for reply in replies] == [200, 500]
    refused = told(replies[1])
    assert (refused["error"], refused["code"]) == (sentence, "PS555")


def test_a_batch_answers_as_its_rows_do_one_by_one(moody: Ask) -> None:
    values = [0.1 * n for n in range(64)]

    batch = moody([(INVOCATIONS, b"", numbers(value)) for value in values])
    alone = [moody([(INVOCATIONS, b"", numbers(value))])[0] for value in values]

    assert batch == alone


def test_an_empty_frame_is_answered_with_an_empty_frame(moody: Ask) -> None:
    assert moody([]) == []


def test_a_probability_beyond_one_is_no_answer(tmp_path: Path) -> None:
    code = "def load(folder): return 2.5\ndef predict(model, frame): return [model]\n"
    with serving(pack(tmp_path / "v", code)) as ask:
        (reply,) = ask([(V2, b"", people(40))])

    assert reply.status == 500
    assert "2.5, which is neither a class nor a probability" in told(reply)["error"]


@pytest.mark.parametrize(
    ("returned", "predicted"),
    [
        ("[[0.9, 0.1]]", "no"),
        ("((0.1, 0.9),)", "yes"),
        ("['yes']", "yes"),
        ("[0.2]", "no"),
    ],
)
def test_an_adapter_answers_classes_or_probabilities(
    tmp_path: Path, returned: str, predicted: str
) -> None:
    code = f"def load(folder): return None\ndef predict(model, frame): return {returned}\n"
    with serving(pack(tmp_path / "v", code)) as ask:
        (reply,) = ask([(V2, b"", people(40))])

    assert told(reply)["outputs"][0]["data"] == [predicted]


def test_a_single_probability_speaks_of_the_positive_class(tmp_path: Path) -> None:
    code = "def load(folder): return None\ndef predict(model, frame): return [0.9]\n"
    folder = pack(tmp_path / "v", code, {**SIGNATURE, "positive": "no"})
    with serving(folder) as ask:
        (reply,) = ask([(V2, b"", people(40))])

    outputs = told(reply)["outputs"]
    assert outputs[0]["data"] == ["no"]
    assert outputs[1]["data"] == pytest.approx([0.9, 0.1])


def test_without_a_signature_any_columns_are_answered(tmp_path: Path) -> None:
    code = "def load(folder): return 0\ndef predict(model, frame): return [len(frame)]\n"
    with serving(pack(tmp_path / "v", code, None)) as ask:
        bodies = [b'{"inputs": {"a": [1]}}', b'{"inputs": {"a": [1], "b": ["x"]}}']
        replies = ask([(INVOCATIONS, b"", body) for body in bodies])

    assert [told(reply)["predictions"] for reply in replies] == [[1], [2]]


def test_the_projects_own_modules_can_be_imported(tmp_path: Path) -> None:
    folder = pack(
        tmp_path / "v",
        "from scoring import rule\nfrom packed import FACTOR\n"
        "def load(folder): return FACTOR\n"
        "def predict(model, frame): return [rule(model, age) for age in frame['age']]\n",
    )
    (folder / "code" / "scoring.py").write_text("def rule(factor, age): return factor * age\n")
    (folder / "code" / "src").mkdir()
    (folder / "code" / "src" / "packed.py").write_text("FACTOR = 0.02\n")

    with serving(folder) as ask:
        (reply,) = ask([(V2, b"", people(40))])

    assert told(reply)["outputs"][1]["data"] == pytest.approx([0.2, 0.8])
    assert not list(folder.rglob("__pycache__"))


def test_our_own_files_do_not_shadow_the_projects_modules(tmp_path: Path) -> None:
    folder = pack(
        tmp_path / "v",
        "import frames, bodies\n"
        "def load(folder): return frames.MINE + bodies.MINE\n"
        "def predict(model, frame): return [model]\n",
    )
    (folder / "code" / "frames.py").write_text("MINE = 0.25\n")
    (folder / "code" / "bodies.py").write_text("MINE = 0.5\n")

    with serving(folder) as ask:
        (reply,) = ask([(V2, b"", people(40))])

    assert told(reply)["outputs"][1]["data"] == pytest.approx([0.25, 0.75])


def test_a_large_frame_arrives_whole(moody: Ask) -> None:
    body = numbers(*[0.123456789] * 1000)

    replies = moody([(INVOCATIONS, b"%d" % i, body) for i in range(200)])

    assert {reply.status for reply in replies} == {200}
    assert [reply.id for reply in replies] == [str(i) for i in range(200)]
    assert sum(reply.rows for reply in replies) == 200_000


def test_loading_tells_what_it_is_whatever_the_model_prints(tmp_path: Path) -> None:
    code = "print('hello')\ndef load(folder):\n    print('loading')\n\ndef predict(m, f): ...\n"

    told = described(pack(tmp_path / "v", code))

    assert told["ok"] is True
    assert told["load_s"] >= 0
    assert told["rss_bytes"] > 0


def test_loading_says_why_a_model_does_not_load(tmp_path: Path) -> None:
    told = described(pack(tmp_path / "v", "import yaml_of_another_world\n"))

    assert told["ok"] is False
    assert told["error"] == (
        "adapter.py needs the module yaml_of_another_world, "
        "which neither the environment nor the project has."
    )
    assert "adapter.py" in told["traceback"]


@pytest.mark.parametrize(
    "noise",
    [
        HEADER.pack(2**31),
        HEADER.pack(8) + b"\xff" * 8,
        HEADER.pack(100) + b"torn",
        encode_request([RequestPart(V2, b"gone", people(40))]),
    ],
)
def test_the_next_connection_is_served_whatever_the_last_one_sent(
    tmp_path: Path, noise: bytes
) -> None:
    folder = pack(tmp_path / "v")
    with asking(folder) as worker:
        worker.disconnect()
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(folder / "w.sock"))
            other.sendall(noise)
        with connected(folder / "w.sock") as ask:
            (reply,) = ask([(METADATA, b"m", b"")])

    assert reply.status == 200


LOCAL = """
import features

def load(folder):
    return features.SCALE

def predict(model, frame):
    from later import OFFSET  # only now, when another version may have been asked
    assert features.SCALE == model
    return [model * value + OFFSET for value in frame["x"]]
"""


def local(folder: Path, scale: float, offset: float) -> Path:
    pack(folder, LOCAL, NUMBERS)
    (folder / "code" / "features.py").write_text(f"SCALE = {scale}\n")
    (folder / "code" / "later.py").write_text(f"OFFSET = {offset}\n")
    return folder


def order(kind: int, **body: Any) -> RequestPart:
    return RequestPart(kind, b"order", json.dumps(body).encode())


def test_versions_of_one_process_each_have_their_own_modules(tmp_path: Path) -> None:
    folders = [local(tmp_path / f"v{n}", scale=n, offset=n / 10) for n in (1, 2, 3)]
    with empty(tmp_path) as worker:
        worker.disconnect()
        with speaking(tmp_path / "e.sock") as ask:
            loaded = ask([order(LOAD, slot=n, folder=str(f)) for n, f in enumerate(folders)])
            parts = [RequestPart(INVOCATIONS, b"a", numbers(10.0), n % 3) for n in range(9)]
            replies = ask([*parts, *reversed(parts)])

    assert [reply.status for reply in loaded] == [200] * 3
    answers = [told(reply)["predictions"][0] for reply in replies]
    assert answers == pytest.approx([10.1, 20.2, 30.3] * 3 + [30.3, 20.2, 10.1] * 3)


def test_a_slot_is_loaded_replaced_and_emptied(tmp_path: Path) -> None:
    first, second = local(tmp_path / "a", 1, 0), local(tmp_path / "b", 2, 0)
    asked = RequestPart(INVOCATIONS, b"a", numbers(10.0), 7)
    with empty(tmp_path) as worker:
        worker.disconnect()
        with speaking(tmp_path / "e.sock") as ask:
            replies = ask(
                [
                    asked,
                    order(LOAD, slot=7, folder=str(first)),
                    asked,
                    RequestPart(METADATA, b"m", b"", 7),
                    order(LOAD, slot=7, folder=str(second)),
                    asked,
                    order(UNLOAD, slot=7),
                    asked,
                    order(UNLOAD, slot=7),
                    RequestPart(METADATA, b"m", b"", 7),
                ]
            )

    statuses = "".join(f"{reply.status} " for reply in replies)
    assert statuses == "503 200 200 200 200 200 200 503 200 503 "
    assert told(replies[0])["code"] == "PS522"
    assert [told(replies[n])["predictions"] for n in (2, 5)] == [[10.0], [20.0]]


def test_a_version_that_does_not_load_harms_no_other(tmp_path: Path) -> None:
    good = local(tmp_path / "a", 1, 0)
    asked = RequestPart(INVOCATIONS, b"a", numbers(10.0), 1)
    with empty(tmp_path) as worker:
        worker.disconnect()
        with speaking(tmp_path / "e.sock") as ask:
            assert ask([order(LOAD, slot=1, folder=str(good))])[0].status == 200
            for n, code in enumerate(["import features, gone", "raise SystemExit(3)", "1 +"]):
                bad = pack(tmp_path / f"bad{n}", code, NUMBERS)
                (bad / "code" / "features.py").write_text("SCALE = 99\n")
                (failed, answered) = ask([order(LOAD, slot=2, folder=str(bad)), asked])
                assert (failed.status, answered.status) == (500, 200)
                assert told(failed)["code"].startswith("PS57")
                assert told(answered)["predictions"] == [10.0]


@pytest.mark.parametrize(
    "wrong",
    [
        RequestPart(FORK, b"a", b"{}"),
        RequestPart(77, b"a", b"{}"),
        RequestPart(LOAD, b"a", b"{"),
        RequestPart(LOAD, b"a", b"[]"),
        RequestPart(LOAD, b"a", b'{"slot": -1}'),
        RequestPart(UNLOAD, b"a", b'{"slot": true}'),
    ],
)
def test_an_order_that_is_none_is_refused(tmp_path: Path, wrong: RequestPart) -> None:
    with empty(tmp_path) as worker:
        worker.disconnect()
        with speaking(tmp_path / "e.sock") as ask:
            (reply,) = ask([wrong])

    assert (reply.status, told(reply)["code"]) == (400, "PS523")
