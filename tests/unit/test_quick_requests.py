"""The ways that most requests take through the worker are exactly those of all others."""

import json
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from penstock.inference.program import bodies, frames, replies, requests
from penstock.inference.program.rows import Answer, AnswerError
from tests.unit.packed_versions import SIGNATURE, pack, people, serving

COLUMNS = bodies.signature_columns(SIGNATURE)
NAMES = ["age", "city", "visits", "member"]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.just("Bern"),
    st.just([1]),
)
SHAPES: list[Any] = [[1], [2], [1, 1], [True], [1.0], [], {}, "1", None, [0], [-1], 1]
SPOILT: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from([*NAMES, "x", 1, None]),
    "shape": st.sampled_from(SHAPES),
    "datatype": st.sampled_from(["FP32", "x", None, ["FP64"], "INT8"]),
    "data": st.one_of(st.lists(VALUES, max_size=2), VALUES),
}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a request that most callers could have sent, and spoil some of it."""
    rows = draw(st.integers(0, 3))
    usual: dict[str, Any] = {
        "age": st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers()),
        "city": st.one_of(st.none(), st.just("Bern")),
        "visits": st.one_of(st.integers(-3, 3), st.just(2.0), st.just(2**63)),
        "member": st.booleans(),
    }
    inputs: list[Any] = [
        {
            "name": name,
            "shape": [rows],
            "datatype": str(column.datatype),
            "data": draw(st.lists(usual[name], min_size=rows, max_size=rows)),
        }
        for name, column in zip(NAMES, COLUMNS or (), strict=True)
    ]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, 3))
        part = draw(st.sampled_from(["name", "shape", "datatype", "data", "gone", "other"]))
        if part == "gone":
            del inputs[at:]
        elif part == "other":
            inputs.insert(at, draw(st.one_of(VALUES, st.just(dict[str, Any]()))))
        elif at < len(inputs) and isinstance(inputs[at], dict):
            inputs[at][part] = draw(SPOILT[part])
    return {"inputs": draw(st.sampled_from([inputs, inputs[::-1]]))}


def outcome(read: Any) -> Any:
    try:
        asked = read()
    except bodies.RequestError as error:
        return error.status, error.code, str(error)
    return asked, [list(map(type, values)) for values in asked.values]


def usual(shape: list[Any]) -> dict[str, Any]:
    """Return a request in the model's order, of one row, whose first shape is this."""
    document = json.loads(people(40))

    def place(fields: dict[str, Any]) -> int:
        return NAMES.index(fields["name"])

    document["inputs"].sort(key=place)
    document["inputs"][0]["shape"] = shape
    return document


@given(documents())
@example(usual([1]))
@example(usual([True]))
@example(usual([1.0]))
@example({"inputs": []})
@example({"inputs": None})
@example({})
def test_a_request_in_the_models_order_is_read_as_any_other(document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()

    quick = outcome(lambda: requests.understand(frames.V2, body, COLUMNS).asked)

    assert quick == outcome(lambda: bodies.read(bodies.V2, json.loads(body), COLUMNS))


@st.composite
def splits(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a DataFrame split that most callers could have sent, and spoil some of it."""
    usual = {"age": 40.5, "city": "Bern", "visits": 2, "member": True}
    rows: Any = [list(usual.values()) for _ in range(draw(st.integers(0, 3)))]
    split: dict[str, Any] = {"columns": list(usual), "data": rows}
    spoil = draw(st.sampled_from(["", "", "value", "row", "columns", "data", "order"]))
    if spoil == "value" and rows:
        rows[-1][draw(st.integers(0, 3))] = draw(VALUES)
    elif spoil == "row":
        rows.append(draw(st.one_of(VALUES, st.lists(VALUES, max_size=5))))
    elif spoil == "order":
        split["columns"] = draw(st.permutations([*usual, "age"]))
    elif spoil:
        split[spoil] = draw(st.one_of(VALUES, st.lists(VALUES, max_size=4)))
    more = draw(st.sampled_from([{}, {}, {"inputs": None}, {"instances": [[1]]}, {"id": "mine"}]))
    return {"dataframe_split": draw(st.one_of(st.just(split), st.just(split), VALUES)), **more}


@given(splits(), st.sampled_from(["", "", " ", "\n\t", "x", "{}", "\u00a0"]), st.booleans())
@example({"dataframe_split": {"columns": NAMES, "data": [[1.5, None, 2, True]] * 2}}, "", False)
@example({"dataframe_split": {"columns": NAMES, "data": [[1, "a", 2, True]] * 1001}}, "", False)
def test_a_split_in_the_models_order_is_read_as_any_other_whatever_surrounds_it(
    document: dict[str, Any], around: str, before: bool
) -> None:
    text = json.dumps(document)
    body = (around + text if before else text + around).encode()

    def slowly() -> bodies.Asked:
        try:
            found = json.loads(body)
        except ValueError as error:
            raise bodies.RequestError(400, "PS550", f"The body is not JSON: {error}.") from None
        return bodies.read(bodies.INVOCATIONS, found, COLUMNS)

    quick = outcome(lambda: requests.understand(frames.INVOCATIONS, body, COLUMNS).asked)

    assert quick == outcome(slowly)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
PREDICTIONS = st.one_of(
    *(
        st.lists(values, min_size=1, max_size=4)
        for values in (
            st.floats(),
            st.integers(),
            TEXTS,
            st.booleans(),
            st.floats() | st.integers(),
        )
    )
)


@given(PREDICTIONS, st.one_of(st.none(), st.floats()), TEXTS)
@example([5e-324, 1e16, 1e22, -0.0], 0.1, 'a"b')
def test_an_answer_is_written_as_the_json_of_its_document(
    prediction: list[Any], share: float | None, text: str
) -> None:
    body = people(*range(1, len(prediction) + 1))
    request = requests.understand(frames.V2, body, COLUMNS, id="made")
    probability = None if share is None else [[share, 0.5] for _ in prediction]
    about = replies.About(text, 3, [text, "yes"])

    reply = replies.answered(request, Answer(prediction, probability), about)

    kinds: dict[Any, str] = {bool: "BOOL", int: "INT64", str: "BYTES"}
    kind = (
        kinds.get(type(prediction[0]), "FP64") if len(set(map(type, prediction))) == 1 else "FP64"
    )
    rows = len(prediction)
    outputs = [{"name": "prediction", "shape": [rows], "datatype": kind, "data": prediction}]
    document: dict[str, Any] = {"model_name": text, "model_version": "3"}
    if probability is not None:
        document["parameters"] = {"classes": [text, "yes"]}
        flat = [value for row in probability for value in row]
        shape = [rows, 2]
        outputs.append({"name": "probability", "shape": shape, "datatype": "FP64", "data": flat})
    try:
        wanted = replies.plain({**document, "outputs": outputs, "id": "made"})
    except AnswerError:
        assert (reply.status, json.loads(reply.body)["code"]) == (500, "PS555")
    else:
        assert (reply.status, reply.body) == (200, wanted)


COUNTS = """
def load(folder):
    return None

def predict(model, frame):
    return [len(frame["age"]) for _ in frame["age"]]
"""


def test_a_wrong_value_leaves_the_others_of_its_batch_in_one_call(tmp_path: Path) -> None:
    wrong = people(1, 2, visits=[1, "x"])
    sent = [people(10), wrong, people(20, 30), people(1, age=[None])]

    with serving(pack(tmp_path / "v", COUNTS)) as ask:
        told = ask([(frames.V2, b"%d" % at, body) for at, body in enumerate(sent)])
        alone = ask([(frames.V2, b"1", wrong)])

    assert [(reply.status, reply.id) for reply in told] == [
        (200, "0"), (422, "1"), (200, "2"), (422, "3"),
    ]  # fmt: skip
    assert [json.loads(told[at].body)["outputs"][0]["data"] for at in (0, 2)] == [[3], [3, 3]]
    assert alone == [told[1]]
    assert "Column 'visits' must be a whole number; row 1 has" in json.loads(told[1].body)["error"]
