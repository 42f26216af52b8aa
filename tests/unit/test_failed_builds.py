"""What is said of a build that failed: its cause, its file, the way out."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.build.checkout import FILE_TIME_S
from penstock.build.project.detect import model_places
from penstock.build.results.log_reading import failure
from penstock.build.results.outcome import collect
from penstock.build.train import Plan
from penstock.config import ModelConfig
from penstock.errors import StoppedError
from penstock.ports import Finished

SITE = "/envs/9f/lib/python3.11/site-packages"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_for(tmp_path)


def plan_for(folder: Path, **blocks: Any) -> Plan:
    config = ModelConfig.model_validate({"model": {"name": "credit-default"}, **blocks})
    (folder / "checkout").mkdir(exist_ok=True)
    plan = Plan(
        config=config,
        commit="3f2a91c" + "0" * 33,
        checkout=folder / "checkout",
        scratch=folder / "scratch",
        python=Path(sys.executable),
        run="python train.py",
        model_globs=model_places(config)[0],
        dependency_file="requirements.txt",
    )
    committed(plan, "train.py", "\n" * 60)
    committed(plan, "src/features.py", "\n" * 60)
    return plan


def committed(plan: Plan, name: str, text: str) -> Path:
    path = plan.checkout / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (FILE_TIME_S, FILE_TIME_S))
    return path


def stopped(plan: Plan, log: str, code: int = 1) -> StoppedError:
    file = plan.checkout.parent / "log"
    file.write_text(log.replace("{project}", str(plan.checkout)))
    with pytest.raises(StoppedError) as caught:
        collect(plan, Finished(code), log=file)
    return caught.value


def traceback(error: str, *frames: str) -> str:
    """A traceback through train.py line 41, then the frames, ``file:line``."""
    lines = ["epoch 1", "Traceback (most recent call last):"]
    for frame in ("{project}/train.py:41", *frames):
        file, _, line = frame.rpartition(":")
        lines += [f'  File "{file}", line {line}, in main', "    call(", "    ^^^^^"]
    return "\n".join([*lines, error, ""])


# ---- the script's own error ----


def test_the_scripts_own_error_stands_first_with_file_and_line(plan: Plan) -> None:
    log = traceback(
        "ValueError: could not convert string to float: '?'", f"{SITE}/pandas/core/frame.py:1"
    )

    error = stopped(plan, log)

    assert error.code == "PS220"
    assert error.what == "train.py line 41: ValueError: could not convert string to float: '?'."


def test_of_a_chain_the_first_error_is_told_as_well(plan: Plan) -> None:
    first = traceback("KeyError: 'amount'", "{project}/src/features.py:7")
    then = "\nThe above exception was the direct cause of the following exception:\n\n"

    error = stopped(plan, first + then + traceback("RuntimeError: no features"))

    assert error.what == (
        "train.py line 41: RuntimeError: no features "
        "(it came from src/features.py line 7: KeyError: 'amount')."
    )


def test_errors_that_have_nothing_to_do_with_one_another_are_no_chain(plan: Plan) -> None:
    caught = traceback("KeyError: 'caught and printed'")

    error = stopped(plan, f"{caught}going on\n{traceback('ValueError: the end')}")

    assert error.what == "train.py line 41: ValueError: the end."


def test_an_error_whose_words_begin_on_the_next_line_is_told_with_them(plan: Plan) -> None:
    log = traceback("ValueError: ") + "All the 5 fits failed.\nIt is very likely that ...\n"

    assert stopped(plan, log).what == "train.py line 41: ValueError: All the 5 fits failed."


def test_an_error_that_has_no_words_is_told_by_its_name(plan: Plan) -> None:
    assert stopped(plan, traceback("AssertionError")).what == "train.py line 41: AssertionError."


def test_what_is_printed_after_a_traceback_does_not_hide_it(plan: Plan) -> None:
    log = traceback("ValueError: 1") + "wandb: synced\nexit\n"

    assert stopped(plan, log).what == "train.py line 41: ValueError: 1."


def test_an_exception_group_is_told_by_its_inner_error(plan: Plan) -> None:
    log = (
        "  + Exception Group Traceback (most recent call last):\n"
        '  |   File "{project}/train.py", line 3, in <module>\n'
        "  |     raise ExceptionGroup('fits', errors)\n"
        "  | ExceptionGroup: fits (1 sub-exception)\n"
        "  +-+---------------- 1 ----------------\n"
        "    | Traceback (most recent call last):\n"
        '    |   File "{project}/src/features.py", line 7, in fit\n'
        "    |     raise ValueError('odd')\n"
        "    | ValueError: odd\n"
        "    +------------------------------------\n"
    )

    assert stopped(plan, log).what.startswith("src/features.py line 7: ValueError: odd")


def test_a_box_drawn_by_rich_is_read_like_a_traceback(plan: Plan) -> None:
    log = (
        "╭─────────────── Traceback (most recent call last) ────────────────╮\n"
        "│ {project}/train.py:41 in main                                    │\n"
        "│                                                                  │\n"
        "│   40                                                             │\n"
        "│ ❱ 41     frame.astype(float)                                     │\n"
        "╰──────────────────────────────────────────────────────────────────╯\n"
        "ValueError: could not convert\n"
    )

    assert stopped(plan, log).what == "train.py line 41: ValueError: could not convert."


def test_a_file_of_a_package_in_the_project_is_not_the_projects_own(plan: Plan) -> None:
    inside = committed(plan, ".venv/lib/site-packages/pandas/frame.py", "")

    assert stopped(plan, traceback("ValueError: 1", f"{inside}:3")).what.startswith("train.py")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0" * 99, b'  File "x", line 1\n', b"a: b\n"])
def test_any_log_can_be_read(plan: Plan, content: bytes) -> None:
    file = plan.checkout.parent / "log"
    file.write_bytes(content)

    assert failure(file, plan.checkout) is None


# ---- 0, and no model ----


def test_an_error_that_was_swallowed_is_named(plan: Plan) -> None:
    log = traceback("KeyError: 'amount'", "{project}/src/features.py:7") + "finished\n"

    error = stopped(plan, log, code=0)

    assert error.code == "PS281"
    assert error.what == (
        "`python train.py` ended with 0 but wrote no model, and swallowed an error: "
        "src/features.py line 7: KeyError: 'amount'."
    )


def test_without_any_model_the_places_and_the_last_lines_are_told(plan: Plan) -> None:
    error = stopped(plan, "epoch 1\nall done\n", code=0)

    assert error.code == "PS223"
    assert error.what == (
        "`python train.py` ended with 0 but wrote no model (looked in MLflow, model/, models/, "
        "artifacts/, output/, outputs/ and the root). Its last lines: epoch 1 / all done"
    )
    assert error.hint == "If it writes elsewhere, set [build] model."


def test_a_model_that_lies_elsewhere_is_named_with_what_to_write(plan: Plan) -> None:
    (plan.checkout / "src" / "bin").mkdir()
    (plan.checkout / "src" / "bin" / "clf.joblib").write_text("new")

    error = stopped(plan, "", code=0)

    assert error.what.endswith("It wrote src/bin/clf.joblib.")
    assert error.hint == 'Set [build] model = "src/bin/clf.joblib".'


# ---- imports ----


def test_a_module_that_another_package_needs_is_told_as_that(plan: Plan) -> None:
    log = traceback("ModuleNotFoundError: No module named 'yaml'", f"{SITE}/seaborn/utils.py:9")

    error = stopped(plan, log)

    assert error.code == "PS221"
    assert error.what == "seaborn, which train.py uses, needs yaml, which requirements.txt lacks."
    assert error.hint.startswith("Add PyYAML to requirements.txt")


@pytest.mark.parametrize(
    ("error", "package"),
    [
        ("ImportError: Missing optional dependency 'openpyxl'. Use pip or conda.", "openpyxl"),
        (
            "ImportError: Unable to find a usable engine; tried using: 'pyarrow', 'fastparquet'.",
            "pyarrow",
        ),
        ("ModuleNotFoundError: No module named 'imblearn'", "imbalanced-learn"),
    ],
)
def test_an_optional_package_is_named_by_its_distribution(
    plan: Plan, error: str, package: str
) -> None:
    found = stopped(plan, traceback(error))

    assert found.code == "PS221"
    assert found.hint.startswith(f"Add {package} to requirements.txt")


def test_a_system_library_that_is_missing_is_the_operators_to_install(plan: Plan) -> None:
    error = "OSError: libgomp.so.1: cannot open shared object file: No such file or directory"
    gl = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"

    lightgbm = stopped(plan, traceback(error, f"{SITE}/lightgbm/libpath.py:3"))

    assert lightgbm.code == "PS288"
    assert lightgbm.what == "lightgbm needs the system library libgomp.so.1, which is not there."
    assert (
        "opencv-python-headless" in stopped(plan, traceback(gl, f"{SITE}/cv2/__init__.py:3")).hint
    )


def test_a_command_that_is_missing_is_named(plan: Plan) -> None:
    error = stopped(replace(plan, run="dvc repro"), "/bin/sh: 1: dvc: not found\n", code=127)

    assert error.code == "PS288"
    assert error.what == "`dvc repro` needs the command dvc, which the environment lacks."


# ---- network ----

REFUSED = (
    "mlflow.exceptions.MlflowException: API request to http://mlflow.example.org:5000/api/2.0/"
    "mlflow/experiments/get-by-name failed with exception HTTPConnectionPool("
    "host='mlflow.example.org', port=5000): Max retries exceeded with url: /api/2.0/mlflow/"
    'experiments/get-by-name?experiment_name=x (Caused by NameResolutionError("HTTPConnection('
    "host='mlflow.example.org', port=5000): Failed to resolve 'mlflow.example.org'\"))"
)


@pytest.mark.parametrize(
    "source",
    [
        'mlflow.set_tracking_uri("http://mlflow.example.org:5000")',
        'mlflow.set_tracking_uri(uri="http://mlflow.example.org:5000")',
        'URI = "http://mlflow.example.org:5000"; mlflow.set_tracking_uri(URI)',
        'os.environ["MLFLOW_TRACKING_URI"] = "http://mlflow.example.org:5000"',
        'client = MlflowClient(tracking_uri="http://mlflow.example.org:5000")',
        'mlflow.set_tracking_uri(os.getenv("T", "http://mlflow.example.org:5000"))',
        'mlflow.set_tracking_uri(arguments.uri or "http://mlflow.example.org:5000")',
    ],
)
@pytest.mark.parametrize("network", [True, False])
def test_a_tracking_server_set_in_the_code_is_told_with_the_line_that_sets_it(
    tmp_path: Path, source: str, network: bool
) -> None:
    plan = plan_for(tmp_path, build={"network": network})
    committed(plan, "broken.py", "def mlflow http\0:")
    committed(plan, "train.py", "import mlflow, os\n" + "\n" * 10 + source + "\n" * 50)

    error = stopped(plan, traceback(REFUSED, f"{SITE}/mlflow/utils/rest_utils.py:321"))

    assert error.code == "PS280"
    assert error.what == (
        "train.py line 12 sets the tracking server http://mlflow.example.org:5000, "
        "which does not answer."
    )
    assert error.hint == "Remove the call; Penstock sets it."


def test_a_tracking_server_from_elsewhere_is_told_by_the_line_that_uses_it(plan: Plan) -> None:
    error = stopped(plan, traceback(REFUSED, f"{SITE}/mlflow/utils/rest_utils.py:321"))

    assert error.code == "PS280"
    assert error.what == (
        "train.py line 41 uses a tracking server mlflow.example.org, which does not answer."
    )


@pytest.mark.parametrize(
    ("error", "frame", "host"),
    [
        (
            "urllib.error.URLError: <urlopen error [Errno -3] failure in name resolution>",
            f"{SITE}/sklearn/datasets/_california_housing.py:9",
            "",
        ),
        (
            (
                "requests.exceptions.ConnectionError: HTTPSConnectionPool("
                "host='data.example.org'): Max retries exceeded with url: /x"
            ),
            f"{SITE}/requests/adapters.py:1",
            "data.example.org",
        ),
        (
            (
                "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and "
                "couldn't find them in the cached files."
            ),
            f"{SITE}/transformers/utils/hub.py:1",
            "huggingface.co",
        ),
        (
            (
                "huggingface_hub.errors.LocalEntryNotFoundError: An error happened while "
                "trying to locate the file on the Hub"
            ),
            f"{SITE}/huggingface_hub/file_download.py:1",
            "huggingface.co",
        ),
        (
            (
                "botocore.exceptions.EndpointConnectionError: Could not connect to the "
                'endpoint URL: "https://lake.s3.eu-west-1.amazonaws.com/loans.csv"'
            ),
            f"{SITE}/botocore/httpsession.py:1",
            "lake.s3.eu-west-1.amazonaws.com",
        ),
        (
            "OSError: [Errno 101] Network is unreachable",
            "/usr/lib/python3.11/socket.py:9",
            "the network",
        ),
    ],
)
def test_a_host_that_a_build_cannot_reach_is_named(
    plan: Plan, error: str, frame: str, host: str
) -> None:
    log = traceback(error, frame)
    if not host:
        host = "ndownloader.figshare.com"
        log = log.replace("    call(", "    fetch_california_housing(")

    found = stopped(plan, log)

    assert found.code == "PS227"
    assert f"train.py line 41 tried to reach {host}; builds have no network." in found.what
    assert found.hint == "Declare the file in [data], or set [build] network = true."


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("pd.read_csv('https://data.example.org/x.csv')", "data.example.org"),
        ("rows = pd.read_csv(\n    URL,\n    sep=';')", "data.example.org:8080"),
        ("def main():\n    return load(os.environ.get('X', URL))", "data.example.org:8080"),
        ("pd.read_csv(f'{URL}/x')", "data.example.org:8080"),
        ("other = 'https://other.example.org'\nload()", "the network"),
        ("this is no Python", "the network"),
    ],
)
def test_a_host_that_python_does_not_name_is_read_from_the_statement_that_failed(
    plan: Plan, code: str, named: str
) -> None:
    lines = ["URL = 'https://me:secret@data.example.org:8080/x.csv'", *code.splitlines()]
    last = len(lines) if "sep" not in code else len(lines) - 1
    committed(plan, "train.py", "\n".join(lines))
    error = "urllib.error.URLError: <urlopen error [Errno -3] failure in name resolution>"
    log = traceback(error, "/usr/lib/python3.11/urllib/request.py:9").replace(":41", f":{last}")

    found = stopped(plan, log.replace("line 41", f"line {last}"))

    assert found.code == "PS227"
    assert f"train.py line {last} tried to reach {named}; builds" in found.what


def test_a_log_cannot_make_the_server_read_files_beside_the_project(plan: Plan) -> None:
    outside = plan.checkout.parent / "outside.py"
    outside.write_text("load('https://secret.example.org')")
    (plan.checkout / "train.py").unlink()
    (plan.checkout / "train.py").symlink_to(outside)
    error = "urllib.error.URLError: <urlopen error [Errno -3] failure in name resolution>"

    found = stopped(plan, traceback(error).replace("line 41", "line 1"))

    assert "secret.example.org" not in str(found)


def test_with_a_network_a_host_that_does_not_answer_is_not_blamed_on_it(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, build={"network": True})
    log = traceback("requests.exceptions.ConnectTimeout: HTTPSConnectionPool(host='a.example')")

    error = stopped(plan, log)

    assert error.what.startswith("train.py line 41 could not reach a.example.")
    assert "retry" in error.hint


def test_the_host_may_stand_in_an_earlier_error_of_the_chain(plan: Plan) -> None:
    first = traceback("socket.gaierror: [Errno -2] Name or service not known: http://a.example/x")
    then = "\nDuring handling of the above exception, another exception occurred:\n\n"

    error = stopped(plan, first + then + traceback("RuntimeError: download failed"))

    assert error.code == "PS227"
    assert "tried to reach a.example" in error.what


# ---- data, memory, disk ----


@pytest.mark.parametrize("told", ["data/holdout.csv", "{project}/data/holdout.csv"])
def test_training_that_reads_the_evaluation_data_is_told_so(tmp_path: Path, told: str) -> None:
    plan = plan_for(tmp_path, evaluate={"data": "data/holdout.csv", "label": "y"})
    log = traceback(f"PermissionError: [Errno 13] Permission denied: '{told}'")

    error = stopped(plan, log)

    assert error.code == "PS286"
    assert error.what == (
        "train.py line 41 reads data/holdout.csv, the evaluation data, "
        "which training must not see."
    )


@pytest.mark.parametrize("tracked", ["data/raw.csv.dvc", "data.dvc"])
def test_a_file_that_dvc_keeps_is_named(plan: Plan, tracked: str) -> None:
    committed(plan, tracked, "outs:\n- md5: 0\n")
    error = "FileNotFoundError: [Errno 2] No such file or directory: 'data/raw.csv'"

    found = stopped(plan, traceback(error))

    assert found.code == "PS283"
    name = tracked.removesuffix(".dvc")
    assert found.what == f"train.py line 41 reads {name}, which is kept by DVC and is not here."


@pytest.mark.parametrize("path", ["data/x.csv", "/etc/x.csv", "../x.csv", "\0"])
def test_a_file_that_is_just_missing_is_the_scripts_own_error(plan: Plan, path: str) -> None:
    error = f"FileNotFoundError: [Errno 2] No such file or directory: '{path}'"

    assert stopped(plan, traceback(error)).code == "PS220"


@pytest.mark.parametrize(
    ("log", "code", "said"),
    [
        (
            traceback("MemoryError"),
            1,
            "train.py line 41: MemoryError. The build ran out of memory.",
        ),
        (
            traceback("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 74.5 GiB"),
            1,
            "The build ran out of memory.",
        ),
        ("loading\n", 137, "was ended by signal 9 (SIGKILL); it may have run out of memory."),
        ("terminate called: std::bad_alloc\n", 134, "signal 6 (SIGABRT); it ran out of memory."),
    ],
)
def test_running_out_of_memory_is_told(plan: Plan, log: str, code: int, said: str) -> None:
    error = stopped(plan, log, code)

    assert error.code == "PS284"
    assert said in error.what


def test_a_full_disk_is_told(plan: Plan) -> None:
    error = stopped(plan, traceback("OSError: [Errno 28] No space left on device: 'model.pkl'"))

    assert error.code == "PS285"
    assert error.what.endswith("The disk of the build is full.")


def test_what_the_sandbox_says_comes_before_what_the_log_says(plan: Plan) -> None:
    log = traceback("ValueError: 1") + "sandbox: ended, because it used more than 100 MB.\n"

    assert stopped(plan, log, 137).code == "PS209"
