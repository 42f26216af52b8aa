import pathlib

import joblib
import pandas as pd
from sklearn.svm import SVC

digits = pd.read_csv("data/train.csv")
pixels = [f"p{i}" for i in range(64)]
model = SVC(gamma=0.001, C=10).fit(digits[pixels], digits["digit"])
print("accuracy on the training rows:", model.score(digits[pixels], digits["digit"]))
pathlib.Path("models").mkdir(exist_ok=True)
joblib.dump(model, "models/digits.joblib")
