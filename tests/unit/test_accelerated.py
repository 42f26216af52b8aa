"""Faster calls of a model: each answers bit by bit as the model's own call, or is refused."""

# scikit-learn has no types, and those that are guessed for its parameters are wrong:
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false, reportReturnType=false

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from penstock.inference.program import bodies, worker

if TYPE_CHECKING:
    from penstock.inference.program import formats

assert worker.Version, "worker.py makes the package under whose name the program's files meet"


def program(name: str) -> Any:
    """Return a file of the worker program, as it is in a model's environment."""
    return importlib.import_module(f"penstock_worker.{name}")


ROWS = 600
TYPES = {
    "age": ("INT64", False),
    "gain": ("FP64", False),
    "score": ("FP64", True),
    "member": ("BOOL", False),
    "city": ("BYTES", False),
    "job": ("BYTES", True),
    "note": ("BYTES", False),
}
NUMBERS, WORDS = ["age", "gain"], ["city", "job"]
BOTH = [*NUMBERS, *WORDS]


def _people() -> pd.DataFrame:
    random = np.random.default_rng(7)
    job = pd.Series(random.choice(["clerk", "smith", "baker"], ROWS))
    words = ["good", "bad", "late", "early", "fine"]
    return pd.DataFrame(
        {
            "age": random.integers(17, 90, ROWS),
            "gain": random.exponential(500, ROWS),
            "score": np.where(random.random(ROWS) < 0.1, np.nan, random.normal(size=ROWS)),
            "member": random.random(ROWS) < 0.5,
            "city": random.choice([f"town {place}" for place in range(12)], ROWS),
            "job": job.where(random.random(ROWS) > 0.1, None),
            "note": [" ".join(random.choice(words, 4)) for _ in range(ROWS)],
        }
    )


PEOPLE: Any = _people()
_LEAN = (PEOPLE.age > 45) * 1.0 + (PEOPLE.city == "town 3") * 2.0 + (PEOPLE.gain > 800) * 1.5
_NOISE = np.random.default_rng(8).normal(size=ROWS)
LABELS: dict[str, NDArray[Any]] = {
    "two": np.asarray(_LEAN + _NOISE > 1.2),
    "words": np.where(_LEAN + _NOISE > 1.2, "yes", "no"),
    "three": np.digitize(_LEAN + _NOISE, [0.5, 1.8]),
    "amount": np.asarray(_LEAN * 100 + _NOISE),
}


def _encoded(encoder: Any, scaler: Any = None, **more: Any) -> ColumnTransformer:
    parts = [("words", encoder, WORDS), ("numbers", scaler or StandardScaler(), NUMBERS)]
    return ColumnTransformer(parts, **more)


def _hot(**more: Any) -> OneHotEncoder:
    return OneHotEncoder(handle_unknown="ignore", sparse_output=False, **more)


def _codes() -> OrdinalEncoder:
    return OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)


def _filled() -> ColumnTransformer:
    words = make_pipeline(SimpleImputer(strategy="most_frequent"), _hot(min_frequency=40))
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return ColumnTransformer([("w", words, WORDS), ("n", numbers, [*NUMBERS, "score"])])


HGB = {"max_iter": 12, "random_state": 0}
FOREST = {"n_estimators": 9, "random_state": 0}
MODELS: dict[str, tuple[Any, str, Sequence[str]]] = {
    "boosting": (
        make_pipeline(_encoded(_hot()), HistGradientBoostingClassifier(**HGB)),
        "words",
        BOTH,
    ),
    "boosting of three": (
        make_pipeline(_encoded(_codes()), HistGradientBoostingClassifier(**HGB)),
        "three",
        BOTH,
    ),
    "boosting, remainder": (
        make_pipeline(
            ColumnTransformer([("w", _codes(), WORDS)], remainder="passthrough"),
            HistGradientBoostingRegressor(**HGB),
        ),
        "amount",
        [*BOTH, "score", "member"],
    ),
    "boosting, own categories": (
        make_pipeline(
            ColumnTransformer([("w", _codes(), WORDS)], remainder="passthrough"),
            HistGradientBoostingClassifier(categorical_features=[0, 1], **HGB),
        ),
        "two",
        [*BOTH, "score"],
    ),
    "linear": (make_pipeline(_encoded(_hot()), LogisticRegression(max_iter=300)), "words", BOTH),
    "linear, sparse": (
        make_pipeline(
            ColumnTransformer(
                [
                    ("w", OneHotEncoder(handle_unknown="ignore"), WORDS),
                    ("n", StandardScaler(), ["age"]),
                ],
                sparse_threshold=1,
            ),
            LogisticRegression(max_iter=300),
        ),
        "three",
        ["age", *WORDS],
    ),
    "linear, first dropped": (
        make_pipeline(
            _encoded(OneHotEncoder(drop="first", sparse_output=False), MinMaxScaler(clip=True)),
            Ridge(),
        ),
        "amount",
        BOTH,
    ),
    "filled": (make_pipeline(_filled(), ExtraTreesClassifier(**FOREST)), "two", [*BOTH, "score"]),
    "filled, boosted": (
        make_pipeline(_filled(), GradientBoostingClassifier(n_estimators=8, random_state=0)),
        "three",
        [*BOTH, "score"],
    ),
    "boosted amount": (
        make_pipeline(_filled(), GradientBoostingRegressor(n_estimators=8, random_state=0)),
        "amount",
        [*BOTH, "score"],
    ),
    "boosted of two": (GradientBoostingClassifier(n_estimators=8), "two", NUMBERS),
    "forest": (
        make_pipeline(_encoded(_hot(), RobustScaler()), RandomForestClassifier(**FOREST)),
        "three",
        BOTH,
    ),
    "bare forest": (RandomForestRegressor(**FOREST), "amount", [*NUMBERS, "score"]),
    "tree": (
        make_pipeline(_encoded(TargetEncoder(), MaxAbsScaler()), DecisionTreeClassifier()),
        "two",
        BOTH,
    ),
    "bare tree": (DecisionTreeRegressor(max_depth=4), "amount", [*NUMBERS, "score"]),
    "selected": (
        make_pipeline(
            ColumnTransformer(
                [
                    ("w", _hot(), make_column_selector(dtype_include=["object", "string"])),
                    ("l", FunctionTransformer(np.log1p), ["gain"]),
                    ("d", "drop", ["age"]),
                ],
                remainder="drop",
            ),
            Lasso(),
        ),
        "amount",
        BOTH,
    ),
    "nested": (
        make_pipeline(
            ColumnTransformer([("a", _encoded(_hot()), BOTH)]),
            make_pipeline(StandardScaler(), PCA(4, random_state=0)),
            LogisticRegression(),
        ),
        "two",
        BOTH,
    ),
    "union": (
        make_pipeline(
            FeatureUnion([("a", StandardScaler()), ("b", PolynomialFeatures(include_bias=False))]),
            LogisticRegression(max_iter=2000),
        ),
        "two",
        NUMBERS,
    ),
    "frames between": (
        make_pipeline(
            _encoded(_hot()).set_output(transform="pandas"), HistGradientBoostingClassifier(**HGB)
        ),
        "two",
        BOTH,
    ),
    "search": (
        GridSearchCV(
            make_pipeline(_encoded(_hot()), LogisticRegression()),
            {"logisticregression__C": [0.1, 1]},
            cv=2,
        ),
        "two",
        BOTH,
    ),
    "calibrated": (
        make_pipeline(
            _encoded(_hot()), CalibratedClassifierCV(DecisionTreeClassifier(max_depth=3), cv=2)
        ),
        "two",
        BOTH,
    ),
    "voting": (
        make_pipeline(
            _encoded(_hot()),
            VotingClassifier(
                [("a", LogisticRegression()), ("b", DecisionTreeClassifier())], voting="soft"
            ),
        ),
        "words",
        BOTH,
    ),
    "stacked": (
        make_pipeline(
            _encoded(_hot()),
            StackingClassifier([("a", AdaBoostClassifier(n_estimators=3))], cv=2),
        ),
        "two",
        BOTH,
    ),
    "text": (
        make_pipeline(
            ColumnTransformer(
                [("t", TfidfVectorizer(), "note"), ("n", StandardScaler(), NUMBERS)]
            ),
            LogisticRegression(),
        ),
        "two",
        ["note", *NUMBERS],
    ),
    "vectors": (make_pipeline(_encoded(_hot()), SVC()), "words", BOTH),
}


def _asked(part: pd.DataFrame) -> bodies.Asked:
    make = {"INT64": int, "FP64": float, "BOOL": bool, "BYTES": str}
    values: list[list[Any]] = []
    for name in part.columns:
        kind = make[TYPES[str(name)][0]]
        values.append([None if one is None or one != one else kind(one) for one in part[name]])
    return bodies.Asked(_columns(part), values, len(part))


def _columns(part: pd.DataFrame) -> tuple[bodies.Column, ...]:
    return tuple(bodies.Column(str(name), *TYPES[str(name)]) for name in part.columns)


def _told(ask: formats.Ask, asked: bodies.Asked) -> str:
    """Return an answer to the last bit, or how it was refused."""
    try:
        return repr(ask(asked))
    except Exception as error:  # noqa: BLE001  of whatever kind
        return f"{type(error).__name__}: {error}"


def _requests(people: pd.DataFrame) -> Iterator[bodies.Asked]:
    sizes = [*[1] * 6, 2, 7, 64]
    for start, size in enumerate(sizes):
        yield _asked(people.iloc[start : start + size])
    odd: list[pd.DataFrame] = []
    for name in people.columns:
        datatype, optional = TYPES[str(name)]
        found: list[Any] = {
            "FP64": [1e308, -1e308, -0.0, 5e-324, 3],
            "INT64": [2**53 + 1, -(2**63), 0],
            "BOOL": [True, False],
            "BYTES": ["", "never seen", "TOWN 3", "ü" * 50],
        }[datatype]
        for value in [*found, *([None] if optional else [])]:
            row = people.iloc[[0]].astype(object)
            row[name] = pd.Series([value], index=row.index, dtype=object)
            odd.append(row)
    for row in odd:
        yield _asked(row)
    yield _asked(pd.concat([people.iloc[5:8].astype(object), odd[-1]]))


def _fitted(name: str) -> tuple[formats.Model, pd.DataFrame]:
    made, label, names = MODELS[name]
    people = PEOPLE[list(names)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.fit(people, LABELS[label])
    return _model(made), people


def _model(made: Any) -> formats.Model:
    return program("formats").estimator(made, "model", program("rows").Stated(None, None, None))


@pytest.mark.filterwarnings("ignore")  # as own calls warn of strange values, too
@pytest.mark.parametrize("name", MODELS)
def test_a_faster_call_answers_as_the_models_own_to_the_last_bit(name: str) -> None:
    model, people = _fitted(name)
    paths = {one: program("accelerated").path(one, model, _columns(people))
             for one in ("array", "flat")}  # fmt: skip

    for asked in _requests(people):
        wanted = _told(model.ask, asked)
        for path, ask in paths.items():
            assert _told(ask, asked) == wanted, (path, asked.values)


@pytest.mark.parametrize("name", ["boosting", "linear, sparse", "bare forest"])
def test_usual_rows_never_come_to_the_models_own_call(name: str) -> None:
    model, people = _fitted(name)
    wanted = [_told(model.ask, asked) for asked in (_asked(people[:1]), _asked(people[:64]))]

    def never(asked: bodies.Asked) -> Any:
        raise AssertionError(asked)

    for path in ("array", "flat"):
        ask = program("accelerated").path(path, replace(model, ask=never), _columns(people))
        assert [_told(ask, _asked(people[:size])) for size in (1, 64)] == wanted


def test_a_row_that_a_path_does_not_know_is_left_to_the_models_own_call() -> None:
    strict = _encoded(OneHotEncoder(sparse_output=False))
    made = make_pipeline(strict, LogisticRegression()).fit(PEOPLE[BOTH], LABELS["two"])
    model = _model(made)
    ask = program("accelerated").path("flat", model, _columns(PEOPLE[BOTH]))
    strange = _asked(PEOPLE[BOTH].head(2).assign(city=["town 3", "Atlantis"]))

    with pytest.raises(ValueError, match="Found unknown categories"):
        ask(strange)


class Own(TransformerMixin, BaseEstimator):
    """A transformer of the project's own."""

    def fit(self, x: Any, y: Any = None) -> Own:
        """Learn nothing."""
        return self

    def transform(self, x: pd.DataFrame) -> pd.DataFrame:
        """Use a name."""
        return x.assign(age=x["age"] + 1)


def _older(people: Any) -> Any:
    return people[["age"]] + 1


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (make_pipeline(Own(), LogisticRegression()), "Own is code of its own"),
        (
            make_pipeline(FunctionTransformer(_older), LogisticRegression()),
            "calls _older, which may need a DataFrame",
        ),
        (
            FixedThresholdClassifier(LogisticRegression(), threshold=0.3),
            "decides apart from its probabilities",
        ),
    ],
)
def test_what_may_need_a_dataframe_is_refused_with_the_reason(made: Any, why: str) -> None:
    people = PEOPLE[NUMBERS]
    made.fit(people, LABELS["two"])
    model = _model(made)

    for path in ("array", "flat"):
        with pytest.raises(program("accelerated").Refused, match=why):
            program("accelerated").path(path, model, _columns(people))


def test_columns_in_another_order_than_in_training_are_refused() -> None:
    made = RandomForestClassifier(**FOREST).fit(PEOPLE[NUMBERS], LABELS["two"])
    model = _model(made)

    with pytest.raises(program("accelerated").Refused, match="another order"):
        program("accelerated").path("flat", model, _columns(PEOPLE[NUMBERS[::-1]]))


@pytest.mark.parametrize("trees", [1, 2, 3, 64, 65])
@pytest.mark.parametrize("missing", [False, True])
def test_many_trees_as_one_reach_the_leaves_of_each(trees: int, missing: bool) -> None:
    random = np.random.default_rng(trees)
    x = random.normal(size=(200, 4))
    x[random.random(x.shape) < 0.1] = np.nan if missing else 0.0
    y = random.normal(size=200)
    forest = RandomForestRegressor(trees, max_depth=6, random_state=0).fit(x, y)
    boosted = HistGradientBoostingRegressor(max_iter=trees, min_samples_leaf=2).fit(x, y)

    plain = program("trees").plain(forest.estimators_)(x.astype("float32"))
    histogram = program("trees").histogram(boosted)(x)

    assert np.array_equal(plain[..., 0], [one.predict(x) for one in forest.estimators_])
    total = program("trees").added(boosted._baseline_prediction[0], histogram)
    assert np.array_equal(total[:, 0], boosted.predict(x))
