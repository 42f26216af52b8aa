"""Ray Serve: two replicas on half a processor each, batches of 64 requests or 2 ms."""

import os

import joblib
import pandas as pd
from ray import serve


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=256)
class Loans:
    def __init__(self, model: str) -> None:
        self.model = joblib.load(model)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def predict(self, requests: list[list[list]]) -> list[list[list[float]]]:
        rows = [row for each in requests for row in each]
        frame = pd.DataFrame(rows, columns=self.model.feature_names_in_)
        answers = self.model.predict_proba(frame).tolist()
        parts, start = [], 0
        for each in requests:
            parts.append(answers[start : start + len(each)])
            start += len(each)
        return parts

    async def __call__(self, request) -> dict:
        return {"predictions": await self.predict((await request.json())["rows"])}


app = Loans.bind(os.environ["BENCH_MODEL"])
