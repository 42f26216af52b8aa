import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.inference.program import bodies
from penstock.inference.program.bodies import Asked, RequestError
from penstock.inference.program.frames import INVOCATIONS, V2
from tests.unit.packed_versions import SIGNATURE, people, v2

COLUMNS = bodies.signature_columns(SIGNATURE)
ROW = {"age": 40, "city": None, "visits": 2, "member": False}


def parsed(kind: int, body: bytes, signature: bool = True) -> Asked:
    return bodies.read(kind, bodies.decode(body), COLUMNS if signature else None)


def invocation(**document: Any) -> bytes:
    return json.dumps(document).encode()


def matrix(shape: list[int], data: list[Any]) -> bytes:
    tensor = {"name": "x", "shape": shape, "datatype": "FP64", "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (V2, v2(member=[False, True], visits=[2, 3], age=[40, 50.5], city=[None, "Bern"])),
        (
            INVOCATIONS,
            invocation(
                dataframe_split={
                    "columns": ["city", "age", "visits", "member"],
                    "data": [[None, 40, 2, False], ["Bern", 50.5, 3, True]],
                }
            ),
        ),
        (
            INVOCATIONS,
            invocation(
                dataframe_records=[
                    {"age": 40, "visits": 2, "member": False},
                    {"age": 50.5, "city": "Bern", "visits": 3, "member": True},
                ]
            ),
        ),
        (INVOCATIONS, invocation(instances=[[40, None, 2, False], [50.5, "Bern", 3, True]])),
        (
            INVOCATIONS,
            invocation(
                inputs={
                    "age": [40, 50.5],
                    "city": [None, "Bern"],
                    "visits": [2.0, 3],
                    "member": [False, True],
                },
                params={"ignored": 1},
            ),
        ),
        (INVOCATIONS, invocation(inputs=[[40, None, 2, False], [50.5, "Bern", 3, True]])),
    ],
)
def test_every_dialect_says_the_same_rows_in_the_models_order(kind: int, body: bytes) -> None:
    asked = parsed(kind, body)

    assert asked.rows == 2
    assert asked.values == [[40.0, 50.5], [None, "Bern"], [2, 3], [False, True]]
    assert [type(value) for value in asked.values[0] + asked.values[2]] == [float, float, int, int]


def test_one_tensor_holds_all_columns_of_a_numeric_model() -> None:
    columns = (bodies.Column("a", "FP64", False), bodies.Column("b", "INT64", True))
    document = bodies.decode(matrix([3, 2], [1, 2, 3, 4, 5, None]))

    asked = bodies.read(V2, document, columns)

    assert asked.values == [[1.0, 3.0, 5.0], [2, 4, None]]


def test_a_nested_tensor_means_the_same_as_a_flat_one() -> None:
    columns = (bodies.Column("a", "FP64", False), bodies.Column("b", "INT64", True))
    document = bodies.decode(matrix([3, 2], [[1, 2], [3, 4], [5, None]]))

    assert bodies.read(V2, document, columns).values == [[1.0, 3.0, 5.0], [2, 4, None]]


def test_a_model_of_one_column_takes_bare_values() -> None:
    column = (bodies.Column("age", "FP64", False),)

    bare = bodies.read(INVOCATIONS, {"instances": [1, 2]}, column)
    tensor = bodies.read(V2, bodies.decode(matrix([2, 1], [1, 2])), column)

    assert bare == tensor == Asked(column, [[1.0, 2.0]], 2)


@pytest.mark.parametrize(
    ("kind", "body", "status", "code", "sentence"),
    [
        (V2, b"{", 400, "PS550", "not JSON"),
        (V2, b"\xff", 400, "PS550", "not JSON"),
        (V2, b"[" * 100_000, 400, "PS550", "nested too deeply"),
        (V2, b"[1]", 400, "PS550", "not a JSON object"),
        (V2, b"{}", 400, "PS550", "inputs is null; it must be a list"),
        (V2, b'{"inputs": [7]}', 400, "PS550", "inputs[0] must be an object"),
        (V2, people(40).replace(b"INT64", b"INT65"), 400, "PS550", "'visits' has datatype"),
        (V2, people(40).replace(b"[1]", b'"n"', 1), 400, "PS550", "shape of 'age' is"),
        (V2, people(40).replace(b"[1]", b"[-1]", 1), 400, "PS550", "has shape [-1]"),
        (V2, people(40).replace(b"[1]", b"[2]", 1), 400, "PS553", "has shape [2] but 1 values"),
        (V2, people(40).replace(b"city", b"age"), 400, "PS550", "'age' is there twice"),
        (V2, matrix([1, 3], [1, 2, 3]), 400, "PS550", "'x' has 3 columns, the model has 4"),
        (V2, people(1, 2, age=[[1, 2], [3, 4]]), 422, "PS552", "row 0 has [1, 2]"),
        (V2, people(*[1.0] * 1001), 400, "PS553", "1001 rows; at most 1000"),
        (V2, people(), 400, "PS553", "no rows"),
        (V2, people(40, visits=[1, 2]), 400, "PS553", "and another has"),
        (V2, people(40, aeg=[1]), 422, "PS551", "no column 'aeg'"),
        (V2, v2(aeg=[40], visits=[1], member=[True]), 422, "PS551", "did you mean 'age'?"),
        (V2, v2(age=[40], member=[True]), 422, "PS551", "'visits' is missing; it must be a whole"),
        (V2, people(40, age=["40"]), 422, "PS552", "'age' must be a number; row 0 has \"40\""),
        (V2, people(40, age=[True]), 422, "PS552", "'age' must be a number; row 0 has true"),
        (V2, people(40, age=[None]), 422, "PS552", "'age' must be a number; row 0 has null"),
        (V2, people(1, 2, city=["a", 3]), 422, "PS552", "'city' must be text or null; row 1"),
        (V2, people(40, visits=[1.5]), 422, "PS552", "'visits' must be a whole number"),
        (V2, people(40, visits=[2**63]), 422, "PS552", "'visits' must be a whole number"),
        (V2, people(40, member=[1]), 422, "PS552", "'member' must be true or false"),
        (V2, people(float("nan")), 400, "PS550", "NaN is no JSON value"),
        (V2, people(float("-inf")), 400, "PS550", "-Infinity is no JSON value"),
        (V2, people(40.25).replace(b"40.25", b"1e999"), 422, "PS552", "'age' must be a number"),
        (V2, people(40.25).replace(b"40.25", b"9" * 400), 422, "PS552", "'age' must be a number"),
        (V2, people(40.25).replace(b"40.25", b"9" * 5000), 400, "PS550", "not JSON"),
        (INVOCATIONS, b"{}", 400, "PS550", "it has none of them"),
        (INVOCATIONS, invocation(inputs=[], instances=[]), 400, "PS550", "instances and inputs"),
        (INVOCATIONS, invocation(inputs=3), 400, "PS550", "inputs is 3; it must be a list"),
        (INVOCATIONS, invocation(dataframe_split=[]), 400, "PS550", "must be an object"),
        (
            INVOCATIONS,
            invocation(dataframe_split={"columns": ["a", "a"], "data": []}),
            400,
            "PS550",
            "different names",
        ),
        (
            INVOCATIONS,
            invocation(dataframe_split={"columns": [*ROW], "data": [[*ROW.values()], [1]]}),
            400,
            "PS553",
            "Row 1 has 1 values for 4 columns",
        ),
        (INVOCATIONS, invocation(dataframe_records=[[1]]), 400, "PS550", "list of objects"),
        (INVOCATIONS, invocation(instances=[3, 4]), 400, "PS553", "Row 0 has 0 values"),
        (INVOCATIONS, invocation(instances=[ROW, {"age": 1}]), 422, "PS552", "row 1 has null"),
    ],
)
def test_a_faulty_body_is_refused_in_a_sentence_with_its_place(
    kind: int, body: bytes, status: int, code: str, sentence: str
) -> None:
    with pytest.raises(RequestError) as refused:
        parsed(kind, body)

    assert (refused.value.status, refused.value.code) == (status, code)
    assert sentence in str(refused.value)


def test_a_misspelt_column_is_not_offered_one_that_was_sent() -> None:
    with pytest.raises(RequestError, match=r"has age, city, visits, member\.$"):
        parsed(V2, people(40, aeg=[1]))


@pytest.mark.parametrize(
    ("values", "datatype", "optional"),
    [
        ([1, 2], "INT64", False),
        ([1, 2.5], "FP64", False),
        ([1.0, None], "FP64", True),
        ([None], "FP64", True),
        ([True], "BOOL", False),
        (["a", None], "BYTES", True),
        (["a", 1.5], "", False),
        ([True, 1], "", False),
    ],
)
def test_without_a_signature_the_types_are_those_of_the_values(
    values: list[Any], datatype: str, optional: bool
) -> None:
    asked = parsed(INVOCATIONS, invocation(inputs={"x": values}), signature=False)

    assert asked.columns == (bodies.Column("x", datatype, optional),)
    assert asked.values == [values]


def test_without_a_signature_a_declared_type_wins() -> None:
    asked = parsed(V2, v2(height=[1, 2]), signature=False)

    assert asked.columns == (bodies.Column("height", "FP64", False),)


def test_the_callers_own_id_is_kept() -> None:
    assert bodies.own_id({"id": "order-7"}, "made") == "order-7"
    assert bodies.own_id({}, "made") == "made"


@pytest.mark.parametrize("given", [7, "a b", "a\nb", "é", "x" * 201, ["a"]])
def test_an_id_that_could_not_be_a_header_is_refused(given: Any) -> None:
    with pytest.raises(RequestError, match="visible ASCII"):
        bodies.own_id({"id": given}, "made")


CELLS = st.booleans() | st.integers() | st.floats() | st.text(max_size=2)
FITS: dict[str, Callable[[Any], bool]] = {
    "FP64": lambda value: type(value) in {int, float} and abs(value) <= sys.float_info.max,
    "INT64": lambda value: (
        (type(value) is int or (type(value) is float and value.is_integer()))
        and -(2**63) <= value < 2**63
    ),
    "BYTES": lambda value: type(value) is str,
    "BOOL": lambda value: type(value) is bool,
}


@given(st.sampled_from(sorted(FITS)), st.lists(CELLS, min_size=1, max_size=4))
@example("FP64", [1.0, float("nan")])
@example("FP64", [1.0, float("inf"), float("-inf")])
@example("FP64", [1.0, 10**400])
@example("INT64", [1, 2, 2**63])
@example("INT64", [1, 2, True])
def test_a_column_is_accepted_when_each_of_its_values_fits(
    datatype: str, values: list[Any]
) -> None:
    column = bodies.Column("c", datatype, optional=False)
    misfits = [row for row, value in enumerate(values) if not FITS[datatype](value)]

    if not misfits:
        (read,) = bodies.read(INVOCATIONS, {"inputs": {"c": values}}, (column,)).values
        assert read == values
        return
    with pytest.raises(RequestError, match=f"row {misfits[0]} has"):
        bodies.read(INVOCATIONS, {"inputs": {"c": values}}, (column,))
