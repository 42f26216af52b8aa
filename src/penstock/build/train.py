"""Training: the project's own command, as the sandbox runs it.

`training_command` says how it runs; the engine runs it; outcome.py takes what it left behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from penstock.build.project.entry import is_function
from penstock.config import ModelConfig
from penstock.ports import Command, Limits, Use

RUNNER = Path(__file__).with_name("runner.py")
"""The program that calls ``module:function`` in the project's environment."""

_QUIET: Mapping[str, str] = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "KEDRO_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NML_DISABLE_USAGE_LOGGING": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}

_THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS"),
    *("LOKY_MAX_CPU_COUNT", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that training depends on."""

    config: ModelConfig
    commit: str
    checkout: Path
    """Of this run alone, made by `checkout`; training writes into it."""
    scratch: Path
    """A folder of this run alone, for temporary files and the private tracking store."""
    python: Path
    """Of the locked environment."""
    run: str
    """The command, for a shell, in the project's folder; or ``module:function``."""
    model_globs: Sequence[str]
    """Where a new model is looked for."""
    dependency_file: str | None = None
    """For sentences: the file that lacks a package."""
    threads: int = 1
    """That numerical libraries may use: the machine's, shared by the builds at one time."""
    masked: Sequence[str] = ()
    """Files of the project, besides ``[evaluate] data``, that training must not see."""
    limits: Limits = field(default_factory=Limits)
    """What the command may use."""
    began_ms: int = 0
    """When the build began, as Unix time in ms: what was tracked earlier is not of this build."""


def interpreter_folders(python: Path) -> tuple[Path, ...]:
    """Return the folders that a sandbox must show for this python to run.

    Its environment, and the interpreter behind it where that does not lie below /usr.
    """
    folders = {python.parent.parent: None, python.resolve().parent.parent: None}
    settings = python.parent.parent / "pyvenv.cfg"
    if settings.is_file():
        pairs = (line.partition("=") for line in settings.read_text("utf-8").splitlines())
        homes = [Path(value.strip()) for key, _, value in pairs if key.strip() == "home"]
        folders |= {home.parent: None for home in homes}
    return tuple(folder for folder in folders if not folder.is_relative_to("/usr"))


def hidden(plan: Plan) -> list[Path]:
    """Return the files of the checkout that training must not read: the evaluation data."""
    evaluate = plan.config.evaluate
    named = [] if evaluate is None or evaluate.made_by_build else [evaluate.data]
    return [plan.checkout / path for path in (*named, *plan.masked)]


def training_command(plan: Plan) -> Command:
    """Return the project's own command, as the sandbox shall run it."""
    build = plan.config.build
    plan.scratch.mkdir(parents=True, exist_ok=True)
    for left in plan.scratch.glob("mlflow.db*"):  # of an attempt that was killed
        left.unlink()
    argv, programs = ["/bin/sh", "-c", plan.run], list[Path]()
    if is_function(plan.run):
        argv, programs = [str(plan.python), str(RUNNER), plan.run.strip()], [RUNNER]
    return Command(
        argv=argv,
        cwd=plan.checkout,
        read=[*interpreter_folders(plan.python), *programs],
        write=[plan.checkout, plan.scratch],
        mask=hidden(plan),
        env=_environment(plan),
        network=build.network,
        use=Use.TRAIN,
        limits=replace(plan.limits, seconds=build.timeout_s),
    )


def _environment(plan: Plan) -> dict[str, str]:
    build = plan.config.build
    own = {
        "PATH": f"{plan.python.parent}:/usr/local/bin:/usr/bin:/bin",
        "TMPDIR": str(plan.scratch),
        "PYTHONPATH": f"{plan.checkout}:{plan.checkout / 'src'}",
        "PYTHONHASHSEED": str(build.seed),
        "PYTHONUNBUFFERED": "1",
        "PENSTOCK_SEED": str(build.seed),
        "MPLBACKEND": "Agg",
        **dict.fromkeys(_THREADS, str(plan.threads)),
        "MLFLOW_EXPERIMENT_NAME": plan.config.model.name,
        "MLFLOW_ALLOW_FILE_STORE": "true",
        **_QUIET,
    }
    if not build.network:
        own["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    own |= build.env
    own["MLFLOW_TRACKING_URI"] = f"sqlite:///{plan.scratch / 'mlflow.db'}"
    own.pop("MLFLOW_RUN_ID", None)  # it makes projects crash that set their own experiment
    return own
