"""Trains one small model of every kind, as data scientists would, and notes its own answers.

    python train.py FOLDER

Writes ``FOLDER/<case>/`` with the model and ``FOLDER/expected.json`` with, for each case, what
the model itself says of the evaluation rows.
"""

import json
import os
import pathlib
import sys
import warnings

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
warnings.simplefilter("ignore")

import catboost  # noqa: E402
import joblib  # noqa: E402
import lightgbm  # noqa: E402
import mlflow.catboost  # noqa: E402
import mlflow.lightgbm  # noqa: E402
import mlflow.pyfunc  # noqa: E402
import mlflow.sklearn  # noqa: E402
import mlflow.xgboost  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnx.helper as oh  # noqa: E402
import pandas as pd  # noqa: E402
import skops.io  # noqa: E402
import xgboost  # noqa: E402
from mlflow.models import infer_signature  # noqa: E402
from skl2onnx import to_onnx  # noqa: E402
from skl2onnx.common.data_types import (  # noqa: E402
    FloatTensorType,
    Int64TensorType,
    StringTensorType,
)
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import Pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder  # noqa: E402

ROOT = pathlib.Path(sys.argv[1])
EXPECTED = {}

RNG = np.random.default_rng(5)
ROWS = 120
FRAME = pd.DataFrame(
    {
        "age": RNG.normal(40, 9, ROWS),
        "visits": RNG.integers(0, 9, ROWS),
        "city": RNG.choice(["Bern", "Chur", "Zug"], ROWS),
    }
)
NUMBERS = FRAME[["age", "visits"]]
BINARY = ((FRAME.age + 5 * FRAME.visits > 60) | (FRAME.city == "Zug")).astype(int).to_numpy()
THREE = np.digitize(FRAME.age, [35, 45])
WORDS = np.where(BINARY == 1, "yes", "no")
AMOUNT = (FRAME.age * 2 + FRAME.visits).to_numpy()
IMAGES = RNG.random((ROWS, 4, 4)).astype("float32")
BRIGHT = np.digitize(IMAGES.mean(axis=(1, 2)), [0.47, 0.53])


def case(name, write, *, probability=None, prediction=None):
    (ROOT / name).mkdir(parents=True)
    write(ROOT / name)
    told = {"probability": probability, "prediction": prediction}
    EXPECTED[name] = {k: None if v is None else np.asarray(v).tolist() for k, v in told.items()}


def pair(positive):
    positive = np.asarray(positive, dtype="float64")
    return np.column_stack([1 - positive, positive])


def data():
    table = FRAME.assign(binary=BINARY, word=WORDS, three=THREE, amount=AMOUNT)
    table.assign(city=table.city.astype("category")).to_parquet(ROOT / "category.parquet")
    table.to_parquet(ROOT / "table.parquet")
    images = pd.DataFrame({"image": [row.tolist() for row in IMAGES], "bright": BRIGHT})
    images.to_parquet(ROOT / "images.parquet")


def boosters():
    quick = {"n_estimators": 6, "max_depth": 3}
    model = xgboost.XGBClassifier(**quick).fit(NUMBERS, BINARY)
    own = model.predict_proba(NUMBERS)
    case("xgboost-ubj", lambda f: model.save_model(f / "model.ubj"), probability=own)
    case("xgboost-json", lambda f: model.save_model(f / "model.json"), probability=own)
    booster = xgboost.train(
        {"objective": "multi:softmax", "num_class": 3, "max_depth": 3},
        xgboost.DMatrix(NUMBERS, THREE),
        num_boost_round=5,
    )
    prediction = booster.predict(xgboost.DMatrix(NUMBERS)).astype(int)
    case("xgboost-booster", lambda f: booster.save_model(f / "model.ubj"), prediction=prediction)
    number = xgboost.train({"max_depth": 3}, xgboost.DMatrix(NUMBERS, AMOUNT), num_boost_round=5)
    prediction = number.predict(xgboost.DMatrix(NUMBERS))
    case("xgboost-amount", lambda f: number.save_model(f / "model.ubj"), prediction=prediction)
    frame = FRAME.assign(city=FRAME.city.astype("category"))
    category = xgboost.XGBClassifier(**quick, enable_categorical=True).fit(frame, BINARY)
    own = category.predict_proba(frame)
    case("xgboost-category", lambda f: category.save_model(f / "model.ubj"), probability=own)

    quick = {"n_estimators": 6, "verbose": -1}
    light = lightgbm.LGBMClassifier(**quick).fit(frame, BINARY)
    own = light.predict_proba(frame)
    case("lightgbm-txt", lambda f: light.booster_.save_model(f / "model.txt"), probability=own)
    case("lightgbm-joblib", lambda f: joblib.dump(light, f / "model.joblib"), probability=own)
    many = lightgbm.LGBMClassifier(**quick).fit(NUMBERS.to_numpy(), THREE)
    own = many.predict_proba(NUMBERS.to_numpy())
    case("lightgbm-array", lambda f: many.booster_.save_model(f / "model.txt"), probability=own)
    blank = NUMBERS.rename(columns={"age": "age in years"})
    spaced = lightgbm.LGBMRegressor(**quick).fit(blank, AMOUNT)
    own = spaced.predict(blank)
    case("lightgbm-blank", lambda f: spaced.booster_.save_model(f / "model.txt"), prediction=own)

    quick = {"iterations": 6, "verbose": 0, "allow_writing_files": False}
    cat = catboost.CatBoostClassifier(**quick, cat_features=["city"]).fit(FRAME, WORDS)
    own = cat.predict_proba(FRAME)
    case("catboost", lambda f: cat.save_model(f / "model.cbm"), probability=own)
    amount = catboost.CatBoostRegressor(**quick).fit(NUMBERS.to_numpy(), AMOUNT)
    own = amount.predict(NUMBERS.to_numpy())
    case("catboost-amount", lambda f: amount.save_model(f / "model.cbm"), prediction=own)


def pipeline():
    encoder = ColumnTransformer([("city", OneHotEncoder(), ["city"])], remainder="passthrough")
    return Pipeline([("encoder", encoder), ("model", LogisticRegression(max_iter=500))])


def fitted():
    model = pipeline().fit(FRAME, BINARY)
    own = model.predict_proba(FRAME)
    case("skops", lambda f: skops.io.dump(model, f / "model.skops"), probability=own)
    signature = infer_signature(FRAME, BINARY)
    plain = {"signature": signature, "pip_requirements": ["scikit-learn"]}

    def save(flavor, model, **more):
        return lambda f: flavor.save_model(model, f / "model", **{**plain, **more})

    case("mlflow-sklearn", save(mlflow.sklearn, model), probability=own)
    case(
        "mlflow-pickle",
        save(mlflow.sklearn, model, serialization_format="cloudpickle", signature=None),
        probability=own,
    )
    numbers = {"signature": infer_signature(NUMBERS, BINARY)}
    boosted = xgboost.XGBClassifier(n_estimators=4).fit(NUMBERS, BINARY)
    own = boosted.predict_proba(NUMBERS)
    case("mlflow-xgboost", save(mlflow.xgboost, boosted, **numbers), probability=own)
    light = lightgbm.LGBMClassifier(n_estimators=4, verbose=-1).fit(NUMBERS, BINARY)
    own = light.predict_proba(NUMBERS)
    case("mlflow-lightgbm", save(mlflow.lightgbm, light, **numbers), probability=own)
    booster = light.booster_
    case("mlflow-booster", save(mlflow.lightgbm, booster, **numbers), probability=own)
    quick = {"iterations": 4, "verbose": 0, "allow_writing_files": False}
    cat = catboost.CatBoostClassifier(**quick).fit(NUMBERS, BINARY)
    own = cat.predict_proba(NUMBERS)
    case("mlflow-catboost", save(mlflow.catboost, cat, **numbers), probability=own)


def pyfunc():
    project = pathlib.Path(ROOT / "project")
    project.mkdir()
    (project / "our_rule.py").write_text("def rule(frame):\n    return frame['age'] * 2\n")
    (project / "our_loader.py").write_text(
        "import our_rule, pathlib\n"
        "class Model:\n"
        "    def __init__(self, path): self.plus = float(pathlib.Path(path).read_text())\n"
        "    def predict(self, frame):\n"
        "        assert str(frame['visits'].dtype) == 'int32', frame.dtypes\n"
        "        return our_rule.rule(frame) + self.plus\n"
        "def _load_pyfunc(path): return Model(path)\n"
    )
    (project / "plus.txt").write_text("1.5")
    given = NUMBERS.assign(visits=NUMBERS.visits.astype("int32"))
    own = FRAME.age * 2 + 1.5

    def save(folder):
        mlflow.pyfunc.save_model(
            folder / "model",
            loader_module="our_loader",
            data_path=str(project / "plus.txt"),
            code_paths=[str(project / "our_rule.py"), str(project / "our_loader.py")],
            signature=infer_signature(given, own),
            pip_requirements=["pandas"],
        )

    case("mlflow-loader", save, prediction=own)

    class Bright(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            level = model_input.reshape(len(model_input), -1).mean(axis=1)
            return np.column_stack([1 - level, level * 0.75, level * 0.25])

    shares = Bright().predict(None, IMAGES)

    def save_images(folder):
        mlflow.pyfunc.save_model(
            folder / "model",
            python_model=Bright(),
            signature=infer_signature(IMAGES, shares),
            pip_requirements=["numpy"],
        )

    case("mlflow-images", save_images, probability=shares)


def onnx_models():
    lr = LogisticRegression().fit(NUMBERS.to_numpy(), BINARY)
    shape = [("X", FloatTensorType([None, 2]))]
    options = {"zipmap": False}
    made = to_onnx(lr, initial_types=shape)
    own = lr.predict_proba(NUMBERS.to_numpy())
    case("onnx-zipmap", lambda f: onnx.save(made, f / "model.onnx"), probability=own)
    bare = to_onnx(lr, initial_types=shape, options=options)
    case("onnx-array", lambda f: onnx.save(bare, f / "model.onnx"), probability=own)
    types = [
        ("age", FloatTensorType([None, 1])),
        ("visits", Int64TensorType([None, 1])),
        ("city", StringTensorType([None, 1])),
    ]
    model = pipeline().fit(FRAME, WORDS)
    columns = to_onnx(model, initial_types=types)
    own = model.predict_proba(FRAME)
    case("onnx-columns", lambda f: onnx.save(columns, f / "model.onnx"), probability=own)

    def network(batch, last):
        weights = np.linspace(-1, 1, 48).reshape(16, 3).astype("float32")
        nodes = [
            oh.make_node("Flatten", ["pixels"], ["flat"]),
            oh.make_node("MatMul", ["flat", "weights"], ["scores"]),
            *([oh.make_node("Softmax", ["scores"], ["shares"])] if last == "shares" else []),
        ]
        graph = oh.make_graph(
            nodes,
            "bright",
            [oh.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [batch, 4, 4])],
            [oh.make_tensor_value_info(last, onnx.TensorProto.FLOAT, [batch, 3])],
            [onnx.numpy_helper.from_array(weights, "weights")],
        )
        opset = [oh.make_opsetid("", 17)]
        return oh.make_model(graph, opset_imports=opset, ir_version=10), weights

    for name, batch, last in [
        ("onnx-images", "n", "shares"),
        ("onnx-scores", "n", "scores"),
        ("onnx-one-by-one", 1, "shares"),
    ]:
        made_of, weights = network(batch, last)
        scores = IMAGES.reshape(ROWS, -1) @ weights
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        own = powers / powers.sum(axis=1, keepdims=True)
        case(name, lambda f, m=made_of: onnx.save(m, f / "model.onnx"), probability=own)


if __name__ == "__main__":
    ROOT.mkdir(exist_ok=True, parents=True)
    data()
    boosters()
    fitted()
    pyfunc()
    onnx_models()
    (ROOT / "expected.json").write_text(json.dumps(EXPECTED))
