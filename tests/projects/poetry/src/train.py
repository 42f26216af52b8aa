import pathlib
import pickle

import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from loans.burden import Burden

loans = pd.read_csv("data/train.csv")
model = make_pipeline(Burden(), StandardScaler(), LogisticRegression())
features = loans[["amount", "income", "years"]]
model.fit(features, loans["late"])
pathlib.Path("artifacts").mkdir(exist_ok=True)
pathlib.Path("artifacts/loan.pkl").write_bytes(pickle.dumps(model))

golden = features.head(30)
golden.assign(prediction=model.predict(golden)).to_csv("golden.csv", index=False)
