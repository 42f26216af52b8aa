import yaml


def columns():
    with open("columns.yml") as file:
        return yaml.safe_load(file)["columns"]
