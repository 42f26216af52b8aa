import mlflow
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

mlflow.set_tracking_uri("mlruns")
mlflow.set_experiment("regularisation")

loans = pd.read_csv("data/train.csv")
X, y = loans[["income", "amount", "years"]], loans["late"]
for c in (0.1, 1.0):
    with mlflow.start_run(run_name=f"C={c}"):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c)).fit(X, y)
        mlflow.log_param("C", c)
        mlflow.log_metric("accuracy", model.score(X, y))
        if c == 1.0:
            mlflow.sklearn.log_model(model, name="best", pip_requirements=["scikit-learn"])
