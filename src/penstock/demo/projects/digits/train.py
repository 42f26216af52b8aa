"""Train a logistic regression on small pictures of digits."""

import joblib
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PIXELS = [f"p{number:02}" for number in range(64)]
SEEN = PIXELS[18:46:3]
ROWS = 1100

rows = pd.read_csv("train.csv").head(ROWS)
model = make_pipeline(
    make_column_transformer((StandardScaler(), SEEN)), LogisticRegression(max_iter=500)
)
model.fit(rows[PIXELS], rows["digit"])
joblib.dump(model, "digits.joblib")
print(f"{len(SEEN)} pixels of {len(rows)} pictures")
