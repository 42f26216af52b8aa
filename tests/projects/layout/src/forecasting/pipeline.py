"""The nodes in their order, for machines that have no kedro."""

import json
import pathlib

import pandas as pd

from forecasting.nodes import fit

ROOT = pathlib.Path(__file__).parents[2]


def train():
    parameters = json.loads((ROOT / "conf/base/parameters.json").read_text())
    catalog = json.loads((ROOT / "conf/base/catalog.json").read_text())
    hours = pd.read_csv(ROOT / catalog["hours"]["filepath"])
    features = parameters["features"]
    return fit(hours, features, parameters["model"]), hours[features].head(40)
