import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder


def train():
    loans = pd.read_csv("data/train.csv")
    features = loans.drop(columns="late")
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["purpose"]), remainder="passthrough"
    )
    forest = RandomForestClassifier(60, min_samples_leaf=20, random_state=3)
    return make_pipeline(columns, forest).fit(features, loans["late"]), features.head(50)
