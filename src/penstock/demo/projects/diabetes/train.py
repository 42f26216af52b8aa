"""Predict how far the disease has gone a year later."""

import joblib
import pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

rows = pd.read_csv("train.csv")
model = make_pipeline(StandardScaler(), RidgeCV())
model.fit(rows.drop(columns="progression"), rows["progression"])
joblib.dump(model, "diabetes.joblib")
print(f"{len(rows)} patients")
