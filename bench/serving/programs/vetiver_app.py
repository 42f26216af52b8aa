"""vetiver: answers the class, not its probability; it knows no other call."""

import json
import os
from pathlib import Path

import joblib
import pandas as pd
from vetiver import VetiverAPI, VetiverModel

path = Path(os.environ["BENCH_MODEL"])
table = json.loads(path.with_suffix(".rows.json").read_text())
prototype = pd.DataFrame(table["rows"][:50], columns=table["columns"])
served = VetiverModel(joblib.load(path), model_name=path.stem, prototype_data=prototype)
app = VetiverAPI(served, check_prototype=True).app
