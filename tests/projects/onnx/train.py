import pathlib

import pandas as pd
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

NUMBERS = ["amount", "income", "years"]

loans = pd.read_csv("data/train.csv")
model = make_pipeline(
    make_column_transformer(
        (StandardScaler(), NUMBERS), (OneHotEncoder(handle_unknown="ignore"), ["purpose"])
    ),
    LogisticRegression(),
)
model.fit(loans[[*NUMBERS, "purpose"]], loans["late"])

inputs = [(name, FloatTensorType([None, 1])) for name in NUMBERS]
inputs.append(("purpose", StringTensorType([None, 1])))
graph = to_onnx(model, initial_types=inputs)
pathlib.Path("models").mkdir()
pathlib.Path("models/loan.onnx").write_bytes(graph.SerializeToString())
