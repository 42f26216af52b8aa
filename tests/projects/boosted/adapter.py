import json
import pathlib

import lightgbm as lgb

from features import prepare


def load(folder):
    folder = pathlib.Path(folder)
    purposes = json.loads((folder / "purposes.json").read_text())
    return lgb.Booster(model_file=folder / "booster.txt"), purposes


def predict(model, frame):
    booster, purposes = model
    return booster.predict(prepare(frame, purposes))
