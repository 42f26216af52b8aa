import argparse
import json
import pathlib

import lightgbm as lgb
import pandas as pd

from features import prepare

parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=100)
args = parser.parse_args()

loans = pd.read_csv("data/train.csv")
purposes = {name: i for i, name in enumerate(sorted(loans["purpose"].unique()))}
table = lgb.Dataset(prepare(loans, purposes), loans["late"], categorical_feature=["purpose"])
params = {"objective": "binary", "num_leaves": 7, "learning_rate": 0.08, "verbose": -1}
booster = lgb.train(params, table, num_boost_round=args.rounds)

out = pathlib.Path("out")
out.mkdir(exist_ok=True)
booster.save_model(out / "booster.txt")
(out / "purposes.json").write_text(json.dumps(purposes))
