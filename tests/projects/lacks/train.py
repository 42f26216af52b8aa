import joblib
import pandas as pd
from sklearn.linear_model import LogisticRegression

from features import columns

loans = pd.read_csv("data/train.csv")
model = LogisticRegression().fit(loans[columns()], loans["late"])
joblib.dump(model, "model.joblib")
