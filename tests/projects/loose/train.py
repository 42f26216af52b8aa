"""Late payers, first version."""

import os

import joblib
import pandas as pd
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

df = pd.read_csv("data/train.csv")
features = ["amount", "income", "years"]
train, valid = train_test_split(df, random_state=42)
clf = GradientBoostingClassifier(n_estimators=60, max_depth=2, random_state=42)
clf.fit(train[features], train["late"])
print("AUC:", roc_auc_score(valid["late"], clf.predict_proba(valid[features])[:, 1]))
os.makedirs("models", exist_ok=True)
joblib.dump(clf, "models/late.joblib")
