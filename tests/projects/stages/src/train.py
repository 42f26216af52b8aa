import json
import pathlib
import sys

import joblib
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

loans = pd.read_csv(sys.argv[1])
X, y = loans[["amount", "income", "years"]], loans["late"]
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
pathlib.Path(sys.argv[2]).parent.mkdir(exist_ok=True)
joblib.dump(model, sys.argv[2])
pathlib.Path("scores.json").write_text(json.dumps({"train": {"accuracy": model.score(X, y)}}))
