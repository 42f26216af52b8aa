import sys

import mlflow
import pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

loans = pd.read_csv(sys.argv[1])
c = float(sys.argv[sys.argv.index("--C") + 1])
X, y = loans[["amount", "income", "years"]], loans["late"]
with mlflow.start_run():
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c)).fit(X, y)
    mlflow.log_param("C", c)
    mlflow.log_metric("train_accuracy", model.score(X, y))
    mlflow.sklearn.log_model(
        model,
        name="model",
        signature=infer_signature(X, model.predict(X)),
        registered_model_name="churn",
        pip_requirements=["scikit-learn"],
    )
