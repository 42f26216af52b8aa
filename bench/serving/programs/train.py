"""Train a model of the benchmark: ``train.py NAME FOLDER [mlflow]``. Seeded.

``pipe``  one-hot and scaling in a ColumnTransformer, then gradient boosting of 100 trees
``lr``    the same preparation, then a logistic regression

Leaves ``NAME.joblib``, ``holdout.csv`` and ``NAME.rows.json``, rows that training never saw, and
the MLflow model ``NAME/`` where asked.
"""

import json
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

TRAIN, HOLDOUT, ASKED = 16_000, 2_000, 512
WORDS = {"purpose": 10, "county": 24, "channel": 5, "collateral": 4}
CLASSIFIERS = {
    "pipe": lambda: HistGradientBoostingClassifier(max_iter=100, random_state=0),
    "lr": lambda: LogisticRegression(max_iter=500),
}


def loans(rows: int, seed: int) -> pd.DataFrame:
    """A made table: eight numbers, four words, and whether a loan defaulted."""
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "amount": draw.lognormal(9.5, 0.6, rows).round(2),
            "income": draw.lognormal(10.4, 0.4, rows).round(2),
            "age": draw.uniform(18, 80, rows).round(1),
            "years_employed": draw.exponential(6, rows).round(1),
            "open_accounts": draw.poisson(4, rows).astype(float),
            "inquiries": draw.poisson(1, rows).astype(float),
            "utilization": draw.beta(2, 3, rows).round(3),
            "rating": draw.normal(650, 70, rows).round(1),
        }
    )
    for name, levels in WORDS.items():
        frame[name] = [f"{name}-{level}" for level in draw.integers(0, levels, rows)]
    risk = (
        frame["amount"] / frame["income"]
        + 2 * frame["utilization"]
        - (frame["rating"] - 650) / 70
        + 0.4 * (frame["county"].str[-1] == "3")
        + draw.logistic(0, 0.6, rows)
    )
    frame["default"] = (risk > 1.4).astype(int)
    return frame


def main(name: str, folder: Path, mlflow: bool) -> None:
    train = loans(TRAIN, seed=0)
    rows, label = train.drop(columns="default"), train["default"]
    numbers = [column for column in rows.columns if column not in WORDS]
    words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    prepare = ColumnTransformer(
        [("words", words, list(WORDS)), ("numbers", StandardScaler(), numbers)]
    )
    model = Pipeline([("prepare", prepare), ("classify", CLASSIFIERS[name]())]).fit(rows, label)
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / f"{name}.joblib")
    loans(HOLDOUT, seed=1).to_csv(folder / "holdout.csv", index=False)
    asked = loans(ASKED, seed=2).drop(columns="default")
    table = {
        "columns": list(asked.columns),
        "rows": asked.to_numpy().tolist(),
        "probabilities": model.predict_proba(asked)[:, 1].tolist(),
    }
    (folder / f"{name}.rows.json").write_text(json.dumps(table))
    if mlflow:
        import mlflow.sklearn
        from mlflow.models import infer_signature

        mlflow.sklearn.save_model(
            model,
            str(folder / name),
            signature=infer_signature(asked.head(5), model.predict_proba(asked.head(5))),
            pyfunc_predict_fn="predict_proba",
            serialization_format="cloudpickle",
        )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:] == ["mlflow"])
