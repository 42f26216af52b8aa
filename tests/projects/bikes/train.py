import pathlib

import joblib
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor

COLUMNS = ["hour", "weekday", "temp", "humidity", "workday"]

hours = pd.read_parquet("data/train.parquet").sort_values("at")
model = HistGradientBoostingRegressor(max_iter=80, random_state=0)
model.fit(hours[COLUMNS], hours["count"])

last = hours.tail(500)
error = (model.predict(last[COLUMNS]) - last["count"]).abs().mean()
print(f"mae: {error:.2f}")
pathlib.Path("models").mkdir()
joblib.dump(model, "models/demand.joblib")
