"""Train boosters of the scikit-learn kind, alone and in pipelines, for test_boosters.py."""

# The libraries have no types:
# pyright: basic

import pathlib
import sys

import joblib
import numpy as np
import pandas as pd
from catboost import CatBoostClassifier, CatBoostRegressor
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from xgboost import XGBClassifier

root = pathlib.Path(sys.argv[1])
random = np.random.default_rng(6)
ROWS = 220
table = pd.DataFrame(
    {
        "age": random.normal(40, 9, ROWS),
        "visits": random.integers(0, 9, ROWS).astype(float),
        "city": random.choice(["Bern", "Chur", "Zug"], ROWS),
    }
)
table.to_parquet(root / "table.parquet")
two = ((table.age + 5 * table.visits > 60) ^ (random.random(ROWS) < 0.1)).astype(int)
many = np.digitize(table.age, [35, 45])
amount = table.age * 2 + table.visits
light = {"n_estimators": 8, "verbose": -1}
cat = {"iterations": 8, "verbose": 0, "allow_writing_files": False}
CASES = {
    "xgboost two": (XGBClassifier(n_estimators=8), two),
    "xgboost many pipeline": (XGBClassifier(n_estimators=4), many),
    "lightgbm two pipeline": (LGBMClassifier(**light), two),
    "lightgbm many": (LGBMClassifier(**light), many),
    "lightgbm amount": (LGBMRegressor(**light), amount),
    "catboost two": (CatBoostClassifier(**cat), two),
    "catboost amount pipeline": (CatBoostRegressor(**cat), amount),
}
for name, (model, label) in CASES.items():
    if name.endswith("pipeline"):
        words = ("words", OneHotEncoder(handle_unknown="ignore"), ["city"])
        numbers = ("numbers", StandardScaler(), ["age", "visits"])
        fitted = make_pipeline(ColumnTransformer([words, numbers]), model).fit(table, label)
    else:
        fitted = model.fit(table[["age", "visits"]], label)
    joblib.dump(fitted, root / f"{name}.joblib")
