"""BentoML: two workers with its own adaptive batching."""

import os
from typing import Any

import bentoml
import joblib
import pandas as pd


@bentoml.service(workers=2, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Loans:
    def __init__(self) -> None:
        self.model = joblib.load(os.environ["BENCH_MODEL"])

    @bentoml.api(batchable=True, max_batch_size=256, max_latency_ms=1000, route="/predict")
    def predict(self, rows: list[list[Any]]) -> list[list[float]]:
        frame = pd.DataFrame(rows, columns=self.model.feature_names_in_)
        return self.model.predict_proba(frame).tolist()
