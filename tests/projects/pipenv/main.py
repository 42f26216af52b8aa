import pathlib

import joblib
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

if __name__ == "__main__":
    loans = pd.read_csv("data/train.csv")
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(loans[["amount", "income", "years"]], loans["late"])
    pathlib.Path("models").mkdir(exist_ok=True)
    joblib.dump(model, "models/loan.pkl")
