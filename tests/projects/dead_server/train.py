import mlflow
import pandas as pd
from sklearn.linear_model import LogisticRegression

mlflow.set_tracking_uri("http://mlflow.example.org:5000")
mlflow.set_experiment("late payers")
mlflow.autolog()

loans = pd.read_csv("data/train.csv")
with mlflow.start_run():
    LogisticRegression().fit(loans[["amount", "income", "years"]], loans["late"])
