import pathlib

import joblib
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

NUMBERS = ["age", "education_num", "hours_per_week", "capital_gain"]
WORDS = ["workclass", "marital_status", "occupation", "sex", "race"]

rows = pd.read_parquet("data/train.parquet")
words = make_pipeline(
    SimpleImputer(strategy="constant", fill_value="unknown"),
    OneHotEncoder(handle_unknown="ignore"),
)
model = make_pipeline(
    make_column_transformer((StandardScaler(), NUMBERS)),
    LogisticRegression(max_iter=300),
)
model.fit(rows[NUMBERS + WORDS], rows["income_over_50k"])
pathlib.Path("model").mkdir(exist_ok=True)
joblib.dump(model, "model/adult.joblib")
