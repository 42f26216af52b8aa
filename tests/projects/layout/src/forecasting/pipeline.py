"""The nodes in their order, for machines that have no kedro."""

import pathlib

import pandas as pd
import yaml

from forecasting.nodes import fit

ROOT = pathlib.Path(__file__).parents[2]


def train():
    parameters = yaml.safe_load((ROOT / "conf/base/parameters.yml").read_text())
    catalog = yaml.safe_load((ROOT / "conf/base/catalog.yml").read_text())
    hours = pd.read_csv(ROOT / catalog["hours"]["filepath"])
    features = parameters["features"]
    return fit(hours, features, parameters["model"]), hours[features].head(40)
