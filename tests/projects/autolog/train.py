import mlflow
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

mlflow.set_experiment("late payers")
mlflow.sklearn.autolog()

loans = pd.read_csv("data/train.csv")
X = loans.drop(columns="late")
y = loans["late"]
X_train, X_valid, y_train, y_valid = train_test_split(X, y, test_size=0.2, random_state=1)

columns = make_column_transformer(
    (StandardScaler(), ["amount", "income", "years"]),
    (OneHotEncoder(handle_unknown="ignore"), ["purpose"]),
)
with mlflow.start_run(run_name="logistic"):
    model = make_pipeline(columns, LogisticRegression(C=0.5))
    model.fit(X_train, y_train)
    mlflow.log_metric("valid_accuracy", model.score(X_valid, y_valid))
