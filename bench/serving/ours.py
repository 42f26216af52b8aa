"""Penstock as it is installed: versions that the pipeline built, behind the part gateway.

A throw-away home gets a project of each model by `git push`; what the pipeline built, proved and
attested is then put into production by the records, as a canary would: alone, or 90 to 10 beside
a second version. The figures are of ``penstock serve --only gateway`` and its workers in their
sandboxes, with the prediction log on, as it always is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from bench.serving import peers
from bench.serving.peers import At, Server, split
from penstock.domain import Environment, Role
from penstock.records import rollouts
from penstock.wiring import clock
from tests.journey.server import PENSTOCK, Project
from tests.journey.server import Server as Home

CONFIG = """\
[model]
name = "{name}"
risk = "low"
[build]
model = "model/{name}.joblib"
timeout_s = 300
[evaluate]
data = "holdout.csv"
label = "default"
positive = 1
[speed]
p95_ms = 5000
[explain]
budget_s = 2
[serving]
accelerate = "{accelerate}"
"""
NULL = {
    "penstock.toml": CONFIG.replace('"model/{name}.joblib"', '"model/"\npredict = "adapter.py"'),
    "train.py": 'import pathlib\npathlib.Path("model").mkdir()\n'
    'pathlib.Path("model/weight.json").write_text("1")\n',
    "adapter.py": "def load(folder):\n    return None\n\n\ndef predict(model, frame):\n"
    '    return [0.75 if rating < 640 else 0.25 for rating in frame["rating"]]\n',
}
"""A comparison a row, in an environment without any package: what is measured is the way to a
worker and back, with the rows read; no library makes a table of them."""
REQUIREMENTS = ("scikit-learn", "numpy", "pandas", "joblib")
LEASE = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a row of the table serves."""

    model: str
    """As the pipeline knows it; ``null`` is a single comparison, next to no model."""
    accelerate: str
    canary: bool = False


KINDS = {
    "penstock-own": Kind("pipe", "off"),
    "penstock-own-canary": Kind("pipe", "off", canary=True),
    "penstock-fast": Kind("pipe", "auto"),
    "penstock-fast-canary": Kind("pipe", "auto", canary=True),
    "penstock-lr-own": Kind("lr", "off"),
    "penstock-lr-fast": Kind("lr", "auto"),
    "penstock-null": Kind("null", "off"),
    "penstock-null-canary": Kind("null", "off", canary=True),
}


class Built:
    """A home with what the chosen rows need, built by the pipeline; gone at the end."""

    def __init__(self, kinds: list[Kind]) -> None:
        self._home = Home()
        self._numbers: dict[tuple[str, str], list[int]] = {}
        self._kinds = kinds
        self.builds_s: list[float] = []

    def __enter__(self) -> Self:
        projects = self._home.home / "projects"
        try:
            self._home.start()
            projects.mkdir()
            for name in dict.fromkeys(kind.model for kind in self._kinds):
                self._build(name, projects / name)
            self._home.stop()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, *raised: Any) -> None:
        self._home.__exit__(*raised)

    def server(self, name: str) -> Server:
        """Return the row's server; put its versions into production before it starts."""
        kind = KINDS[name]

        def command(_: Path, at: At) -> list[str]:
            self._serve(kind)
            where = ["--port", str(at.spare[0]), "--predict-port", str(at.port)]
            return [*PENSTOCK, "serve", "--only", "gateway", *where]

        path = f"/models/{kind.model}/invocations"
        environ = {"PENSTOCK_HOME": str(self._home.home)}
        return Server(name, "", command, path, split, _probabilities, start_s=4, environ=environ)

    @property
    def home(self) -> Home:
        """The home, stopped."""
        return self._home

    def path(self, name: str) -> str:
        """Return which call of the model a row's version is served with."""
        kind = KINDS[name]
        with self._home.records.read() as connection:
            for one in rollouts.deployments(connection, model_name=kind.model):
                if one.number == self._numbers[kind.model, kind.accelerate][0]:
                    return str(one.serving.get("path", "own"))
        return "own"

    def _build(self, name: str, folder: Path) -> None:
        project = Project(folder)
        files = dict(NULL)
        if name != "null":
            train = (peers.PROGRAMS / "train.py").read_text()
            pins = (peers.HERE / "requirements" / "mlflow.txt").read_text().splitlines()
            files = {
                "penstock.toml": CONFIG.replace(
                    'model = "model/', f'run = "python train.py {name} model"\nmodel = "model/'
                ),
                "train.py": train,
                "requirements.txt": "\n".join(p for p in pins if p.startswith(REQUIREMENTS)),
            }
        holdout = (peers.models("pipe") / "holdout.csv").read_text()
        project.write({**files, "holdout.csv": holdout})
        project.git("init", "--quiet", "--initial-branch", "main")
        number = 0
        wanted = dict.fromkeys(kind.accelerate for kind in self._kinds if kind.model == name)
        for accelerate in wanted:
            kinds = [k for k in self._kinds if (k.model, k.accelerate) == (name, accelerate)]
            text = files["penstock.toml"].format(name=name, accelerate=accelerate)
            project.write({"penstock.toml": text})
            for _ in range(1 + any(kind.canary for kind in kinds)):
                number += 1
                self._push(project, name, number)
                self._numbers.setdefault((name, accelerate), []).append(number)

    def _push(self, project: Project, name: str, number: int) -> None:
        """Build a version on a branch of its own: it is tested, and goes no further."""
        project.commit(f"version {number}")
        began = time.monotonic()
        told = project.push(self._home, name, "main" if number == 1 else f"bench-{number}")
        run = self._home.ended(number, name, seconds=600)
        if run.state not in {"succeeded", "awaiting_approval"}:  # built and tested
            raise RuntimeError(f"{name}@{number} was not built: {run.state}, {run.reason}; {told}")
        self.builds_s.append(time.monotonic() - began)

    def _serve(self, kind: Kind) -> None:
        numbers = self._numbers[kind.model, kind.accelerate]
        places = [rollouts.Place(numbers[0], Role.CHAMPION, 90 if kind.canary else 100)]
        if kind.canary:
            lease = clock() + LEASE
            places.append(rollouts.Place(numbers[1], Role.CHALLENGER, 10, lease_until=lease))
        with self._home.records.change("bench") as change:
            for other in {of.model for of in KINDS.values()} & {name for name, _ in self._numbers}:
                for where in Environment:
                    here = places if (other, where) == (kind.model, Environment.PRODUCTION) else []
                    rollouts.split(change, other, where, here, reason="bench")


def _probabilities(told: Any) -> list[float]:
    return [pair[1] for pair in told["probabilities"]]
