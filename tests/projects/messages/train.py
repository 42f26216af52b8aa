import pathlib

import joblib
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

messages = pd.read_csv("data/train.csv")
words = TfidfVectorizer(ngram_range=(1, 2), min_df=2)
model = make_pipeline(
    make_column_transformer((words, "text")),
    LogisticRegression(C=10, class_weight="balanced"),
)
model.fit(messages[["text"]], messages["kind"])
pathlib.Path("model").mkdir()
joblib.dump(model, "model/spam.joblib")
