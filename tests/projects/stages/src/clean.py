import pathlib
import sys

import pandas as pd

loans = pd.read_csv(sys.argv[1])
loans = loans[loans["income"] > 0].dropna()
pathlib.Path(sys.argv[2]).parent.mkdir(exist_ok=True)
loans.to_csv(sys.argv[2], index=False)
