"""LitServe: two workers, batches of 64 requests or 2 ms. ``litserve_server.py PORT``."""

import os
import sys

import joblib
import litserve
import pandas as pd


class Loans(litserve.LitAPI):
    def setup(self, device):
        self.model = joblib.load(os.environ["BENCH_MODEL"])

    def decode_request(self, request):
        return request["rows"]

    def batch(self, inputs):
        return inputs

    def predict(self, inputs):
        rows = [row for each in inputs for row in each]
        frame = pd.DataFrame(rows, columns=self.model.feature_names_in_)
        answers = self.model.predict_proba(frame).tolist()
        parts, start = [], 0
        for each in inputs:
            parts.append(answers[start : start + len(each)])
            start += len(each)
        return parts

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return {"predictions": output}


if __name__ == "__main__":
    served = Loans(max_batch_size=64, batch_timeout=0.002)
    server = litserve.LitServer(served, accelerator="cpu", workers_per_device=2)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )
