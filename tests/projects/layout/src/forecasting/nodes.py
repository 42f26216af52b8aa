from sklearn.tree import DecisionTreeRegressor


def fit(hours, features, options):
    return DecisionTreeRegressor(random_state=0, **options).fit(hours[features], hours["count"])
