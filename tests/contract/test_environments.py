"""What Environments must do: with real uv, in the real sandbox, from wheels made by hand."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.sandbox.local import LocalSandbox
from penstock.adapters.uv_environments import UvEnvironments
from penstock.adapters.uv_environments.interpreters import Interpreters, default_python
from penstock.build.project import dependency_files
from penstock.errors import NotFoundError, StoppedError, UnreachableError
from penstock.ports import AsOf, Command, Environments
from tests.contract.wheels import make_sdist, make_uv_lock, make_wheel, served
from tests.fakes import PresentEnvironments

NEEDS_ALPHA = (
    '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.9"\n'
    'dependencies = ["demo-alpha"]\n'
)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    make_wheel(folder, "demo-alpha", "1.0", requires=["demo-beta<2"])
    make_wheel(folder, "demo-alpha", "2.0", requires=["demo-beta<2"])
    make_wheel(folder, "demo-beta", "1.5")
    make_wheel(folder, "demo-beta", "2.0")
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    return tmp_path / "home"


@pytest.fixture
def environments(home: Path, wheels: Path) -> UvEnvironments:
    index = ("--no-index", "--find-links", str(wheels))
    return UvEnvironments(home, LocalSandbox(home), index=index)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def locked(
    environments: Environments,
    project: Path,
    *,
    extra: Sequence[str] = (),
    override: Sequence[str] = (),
    **more: Any,
) -> tuple[str, Path]:
    lock = project.parent / "requirements.lock"
    wanted = dependency_files.read(project)
    wanted = dependency_files.with_configured(wanted, extra, override)
    return environments.lock(wanted, lock, log=project.parent / "log", **more), lock


def pinned(lock: Path) -> list[str]:
    return [line.split()[0] for line in lock.read_text().splitlines() if "==" in line]


ENVIRONMENTS: dict[str, Callable[[UvEnvironments], Environments]] = {
    "uv": lambda made: made,
    "fake": lambda _: PresentEnvironments(),
}


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_a_project_that_needs_nothing_gets_a_python_that_runs(
    name: str, environments: UvEnvironments, project: Path, log: Path
) -> None:
    chosen = ENVIRONMENTS[name](environments)
    digest, lock = locked(chosen, project)

    python = chosen.ready(lock, log=log)

    subprocess.run([python, "-c", "import json"], check=True)
    assert chosen.python(digest) == python


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_the_same_project_has_the_same_lock_and_environment(
    name: str, environments: UvEnvironments, project: Path, log: Path
) -> None:
    chosen = ENVIRONMENTS[name](environments)

    first, lock = locked(chosen, project)
    python = chosen.ready(lock, log=log)
    second, lock = locked(chosen, project)

    assert first == second
    assert chosen.ready(lock, log=log) == python


def test_requirements_are_resolved_to_pins_with_hashes_and_no_address(
    environments: UvEnvironments, project: Path, wheels: Path
) -> None:
    (project / "requirements.txt").write_text("demo-alpha>=1  # the newest will do\n")

    _, lock = locked(environments, project)

    assert pinned(lock) == ["demo-alpha==2.0", "demo-beta==1.5"]
    assert lock.read_text().count("--hash=sha256:") == 2
    assert str(wheels) not in lock.read_text()
    assert "index" not in lock.read_text()


def test_the_environment_holds_what_the_lock_says_compiled_and_read_only(
    environments: UvEnvironments, project: Path, home: Path, log: Path
) -> None:
    (project / "requirements.txt").write_text("demo-alpha==1.0\n")
    _, lock = locked(environments, project)

    python = environments.ready(lock, log=log)
    folder = python.parent.parent
    show = "import demo_alpha as a, demo_beta as b; print(a.VERSION, b.VERSION)"
    command = Command([str(python), "-c", show], cwd=project, read=[project, folder])
    process = LocalSandbox(home).start(command, stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=60)

    assert said.split() == [b"1.0", b"1.5"]
    module = next(folder.rglob("demo_alpha.py"))
    assert module.stat().st_mode & 0o222 == 0
    assert list(folder.rglob("demo_alpha.*.pyc"))


def test_an_environment_that_is_there_is_used_without_asking_uv(
    environments: UvEnvironments, project: Path, log: Path
) -> None:
    (project / "requirements.txt").write_text("demo-beta\n")
    _, lock = locked(environments, project)
    environments.ready(lock, log=log)
    calls = log.read_text().count("$ uv")

    environments.ready(lock, log=log)

    assert log.read_text().count("$ uv") == calls
    assert log.read_text().splitlines()[-1].startswith("Environment ")
    assert " reused, " in log.read_text()


def test_builders_at_once_make_one_environment(
    environments: UvEnvironments, project: Path, log: Path
) -> None:
    (project / "requirements.txt").write_text("demo-beta\n")
    _, lock = locked(environments, project)
    pythons = list[Path]()
    builders = [
        threading.Thread(target=lambda: pythons.append(environments.ready(lock, log=log)))
        for _ in range(3)
    ]

    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()

    assert len(pythons) == 3
    assert len(set(pythons)) == 1
    assert log.read_text().count("$ uv venv") == 1


def test_a_half_made_environment_is_made_anew(
    environments: UvEnvironments, project: Path, home: Path, log: Path
) -> None:
    (project / "requirements.txt").write_text("demo-beta\n")
    digest, lock = locked(environments, project)
    (home / "envs" / digest / "bin").mkdir(parents=True)
    (home / "envs" / digest / "bin" / "python").write_text("cut off")

    with pytest.raises(NotFoundError):
        environments.python(digest)
    python = environments.ready(lock, log=log)

    subprocess.run([python, "-c", "import demo_beta"], check=True)


def test_extra_and_override_of_the_configuration_count(
    environments: UvEnvironments, project: Path
) -> None:
    (project / "requirements.txt").write_text("demo-beta>=2\n")

    plain, lock = locked(environments, project)
    before = pinned(lock)
    extra, override = ["demo-alpha<2"], ["demo-beta==1.5"]
    changed, lock = locked(environments, project, extra=extra, override=override)

    assert before == ["demo-beta==2.0"]
    assert pinned(lock) == ["demo-alpha==1.0", "demo-beta==1.5"]
    assert plain != changed


def test_extra_counts_without_any_dependency_file(
    environments: UvEnvironments, project: Path
) -> None:
    _, lock = locked(environments, project, extra=["demo-beta"])

    assert pinned(lock) == ["demo-beta==2.0"]


def test_included_files_and_constraints_count(environments: UvEnvironments, project: Path) -> None:
    (project / "more").mkdir()
    (project / "requirements.txt").write_text("-r more/base.txt\n-c limits.txt\n")
    (project / "more" / "base.txt").write_text("demo-alpha \\\n  >=1\n")
    (project / "limits.txt").write_text("demo-alpha<2\n")

    _, lock = locked(environments, project)

    assert pinned(lock) == ["demo-alpha==1.0", "demo-beta==1.5"]


def test_the_standard_table_of_pyproject_is_read_and_its_build_never_runs(
    environments: UvEnvironments, project: Path
) -> None:
    build = '[build-system]\nrequires = []\nbuild-backend = "evil"\nbackend-path = ["."]\n'
    (project / "pyproject.toml").write_text(NEEDS_ALPHA + build)
    (project / "evil.py").write_text("open('ran', 'w').write('x')\n")

    _, lock = locked(environments, project)

    assert pinned(lock) == ["demo-alpha==2.0", "demo-beta==1.5"]
    assert not (project / "ran").exists()


def test_a_lock_of_uv_is_taken_as_it_is(
    environments: UvEnvironments, project: Path, wheels: Path, log: Path
) -> None:
    (project / "pyproject.toml").write_text(NEEDS_ALPHA)
    make_uv_lock(project, wheels)

    digest, lock = locked(environments, project)
    environments.ready(lock, log=log)

    assert pinned(lock) == ["demo-alpha==1.0", "demo-beta==1.5"]
    assert environments.python(digest).exists()


def test_a_lock_of_uv_and_more_from_the_configuration_are_resolved_together(
    environments: UvEnvironments, project: Path, wheels: Path
) -> None:
    (project / "pyproject.toml").write_text(NEEDS_ALPHA)
    make_uv_lock(project, wheels)

    _, lock = locked(environments, project, override=["demo-alpha==2.0"])

    assert pinned(lock) == ["demo-alpha==2.0", "demo-beta==1.5"]


def test_a_lock_of_uv_that_does_not_fit_its_project_is_refused(
    environments: UvEnvironments, project: Path, wheels: Path
) -> None:
    forgotten = NEEDS_ALPHA.replace('"demo-alpha"', '"demo-alpha", "forgotten"')
    (project / "pyproject.toml").write_text(forgotten)
    make_uv_lock(project, wheels)

    with pytest.raises(StoppedError, match=r"PS217 uv\.lock does not fit pyproject\.toml"):
        locked(environments, project)


def test_requirements_that_cannot_be_met_stop_with_the_reason_and_the_file(
    environments: UvEnvironments, project: Path
) -> None:
    (project / "requirements.txt").write_text("demo-alpha\ndemo-beta>=2\n")

    with pytest.raises(StoppedError) as caught:
        locked(environments, project)

    assert caught.value.code == "PS211"
    assert "requirements.txt" in caught.value.what
    assert "demo-beta<2" in caught.value.what
    assert not (project.parent / "requirements.lock").exists()


def test_a_package_that_is_nowhere_stops_with_its_name(
    environments: UvEnvironments, project: Path
) -> None:
    (project / "requirements.txt").write_text("no-such-package\n")

    with pytest.raises(StoppedError, match=r"PS211.*no-such-package"):
        locked(environments, project)


def test_an_index_that_does_not_answer_is_worth_another_try(
    home: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    index = ("--default-index", f"http://127.0.0.1:{closed}/simple")
    environments = UvEnvironments(home, LocalSandbox(home), index=index)
    (project / "requirements.txt").write_text("demo-alpha\n")

    with pytest.raises(UnreachableError, match="PS214"):
        locked(environments, project)


def test_a_python_that_is_not_installed_is_named_beside_the_one_that_is(
    environments: UvEnvironments, project: Path
) -> None:
    with pytest.raises(StoppedError, match=r"PS213 .*asks for Python 3\.2; installed here: 3\."):
        locked(environments, project, python="3.2")


def test_a_project_that_demands_another_python_is_stopped(
    environments: UvEnvironments, project: Path
) -> None:
    (project / "pyproject.toml").write_text(NEEDS_ALPHA.replace(">=3.9", ">=3.99"))

    with pytest.raises(StoppedError, match=r"PS213 pyproject\.toml requires Python >=3\.99"):
        locked(environments, project)


def test_a_python_that_is_installed_may_be_asked_for(home: Path, project: Path) -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    environments = UvEnvironments(home, LocalSandbox(home), python=Path(sys.executable))

    _, lock = locked(environments, project, python=version)

    assert lock.read_text().startswith(f"# python {version}.")


def test_a_wheel_that_changed_since_the_lock_is_refused_and_nothing_is_ready(
    environments: UvEnvironments, project: Path, wheels: Path, log: Path
) -> None:
    (project / "requirements.txt").write_text("demo-beta==2.0\n")
    digest, lock = locked(environments, project)
    make_wheel(wheels, "demo-beta", "2.0", requires=["demo-alpha"])

    elsewhere = UvEnvironments(
        wheels.parent / "elsewhere",
        LocalSandbox(wheels.parent),
        index=("--no-index", "--find-links", str(wheels)),
    )

    with pytest.raises(StoppedError, match=r"(?i)hash mismatch"):
        elsewhere.ready(lock, log=log)

    with pytest.raises(NotFoundError):
        elsewhere.python(digest)


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc"])
def test_an_environment_that_is_gone_is_not_found(
    environments: UvEnvironments, digest: str
) -> None:
    with pytest.raises(NotFoundError, match="PS216"):
        environments.python(digest)


def test_an_empty_environment_is_quick(
    environments: UvEnvironments, project: Path, log: Path
) -> None:
    _, lock = locked(environments, project)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)

    environments.ready(lock, log=log)

    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3


# ---- as of a date --------------------------------------------------------------------------


def of(day: str, added: str | None = None) -> AsOf:
    files, more = (datetime.fromisoformat(f"{one}T00:00:00+00:00") for one in (day, added or day))
    return AsOf(files, more)


UPLOADED = {"demo_alpha-1": "2023-01-01", "demo_alpha-2": "2024-06-01", "demo_beta": "2023-01-01"}


def test_what_was_published_after_the_date_does_not_count(
    home: Path, wheels: Path, project: Path, log: Path
) -> None:
    (project / "requirements.txt").write_text("demo-alpha\n")

    with served(wheels, UPLOADED) as index:
        environments = UvEnvironments(home, LocalSandbox(home), index=("--default-index", index))
        _, lock = locked(environments, project, as_of=of("2023-08-01"))
        then = pinned(lock)
        _, lock = locked(environments, project, as_of=of("2024-08-01"))

    assert then == ["demo-alpha==1.0", "demo-beta==1.5"]
    assert pinned(lock) == ["demo-alpha==2.0", "demo-beta==1.5"]
    assert "Locked 2 packages from requirements.txt as of 2023-08-01, Python 3." in log.read_text()


def test_what_penstock_toml_adds_may_be_as_new_as_that_file(
    home: Path, wheels: Path, project: Path
) -> None:
    (project / "requirements.txt").write_text("demo-beta\n")

    with served(wheels, UPLOADED) as index:
        environments = UvEnvironments(home, LocalSandbox(home), index=("--default-index", index))
        _, lock = locked(
            environments, project, extra=["demo-alpha"], as_of=of("2023-08-01", "2024-08-01")
        )

    assert pinned(lock) == ["demo-alpha==2.0", "demo-beta==1.5"]


def test_a_date_before_the_wheels_of_the_running_python_is_moved_and_said(
    home: Path, wheels: Path, project: Path, log: Path
) -> None:
    (project / "requirements.txt").write_text("demo-alpha\n")
    minor = int(Interpreters(default_python(), home).installed()[0].minor.split(".")[1])
    begins = f"{2011 + minor}-11-30"
    uploaded = {"demo_alpha-1": f"{2011 + minor}-11-01", "demo_alpha-2": f"{2012 + minor}-01-01"}

    with served(wheels, uploaded) as index:
        environments = UvEnvironments(home, LocalSandbox(home), index=("--default-index", index))
        _, lock = locked(environments, project, as_of=of("2015-01-01"))

    assert pinned(lock) == ["demo-alpha==1.0", "demo-beta==1.5"]
    assert f"wheels for Python 3.{minor} begin about {begins}" in log.read_text()


@pytest.mark.parametrize("dated", [True, False], ids=["too new", "an index without dates"])
def test_where_nothing_can_be_had_as_of_the_date_todays_packages_are_taken_loudly(
    home: Path, wheels: Path, project: Path, log: Path, *, dated: bool
) -> None:
    (project / "requirements.txt").write_text("demo-alpha==2.0\n")

    with served(wheels, UPLOADED, dated=dated) as index:
        environments = UvEnvironments(home, LocalSandbox(home), index=("--default-index", index))
        _, lock = locked(environments, project, as_of=of("2023-08-01"))

    assert pinned(lock) == ["demo-alpha==2.0", "demo-beta==1.5"]
    assert "WARNING as of 2023-08-01 the requirements of requirements.txt" in log.read_text()
    assert "[environment] as_of" in log.read_text()


# ---- where packages come from --------------------------------------------------------------


def test_a_package_without_a_wheel_is_named_with_both_ways_out(
    environments: UvEnvironments, project: Path, wheels: Path
) -> None:
    make_sdist(wheels, "demo-gamma", "1.0", setup="open('/tmp/ran', 'w')")
    (project / "requirements.txt").write_text("demo-gamma==1.0\n")

    with pytest.raises(StoppedError, match=r"PS260 demo-gamma, which requirements\.txt") as caught:
        locked(environments, project)

    assert "[environment] override" in caught.value.hint
    assert 'source_builds = ["demo-gamma"]' in caught.value.hint


def test_a_file_with_another_digest_than_the_project_allows_is_not_installed(
    environments: UvEnvironments, project: Path, wheels: Path
) -> None:
    digest = hashlib.sha256((wheels / "demo_beta-2.0-py3-none-any.whl").read_bytes()).hexdigest()
    (project / "requirements.txt").write_text(f"demo-beta==2.0 --hash=sha256:{digest}\n")
    _, lock = locked(environments, project)
    assert lock.read_text().count(digest) == 1

    (project / "requirements.txt").write_text(f"demo-beta==2.0 --hash=sha256:{'0' * 64}\n")

    with pytest.raises(StoppedError, match=r"PS262 .*demo-beta ==2\.0 has a digest"):
        locked(environments, project)


def test_an_index_of_a_project_that_is_not_the_operators_stops_the_build(
    environments: UvEnvironments, project: Path
) -> None:
    line = "--extra-index-url https://mia:secret@private.example/simple\n"
    (project / "requirements.txt").write_text(f"demo-beta\n{line}")

    with pytest.raises(StoppedError, match=r"PS263 requirements\.txt line 2") as caught:
        locked(environments, project)

    assert "private.example/simple" in caught.value.what
    assert "secret" not in str(caught.value)


def test_an_index_that_is_public_or_the_operators_own_does_not_stop_it(
    environments: UvEnvironments, project: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "requirements.txt").write_text(
        "demo-beta\n"
        "-i https://pypi.org/simple/\n"
        "--extra-index-url https://download.pytorch.org/whl/cpu\n"
        "--extra-index-url https://private.example/simple/\n"
    )
    monkeypatch.setenv("UV_INDEX", "https://private.example/simple")

    _, lock = locked(environments, project)

    assert pinned(lock) == ["demo-beta==2.0"]
    assert "line 3 names the index download.pytorch.org/whl/cpu; the server's" in log.read_text()


# ---- every kind of file, to the environment ------------------------------------------------

POETRY = """\
[tool.poetry]
name = "p"
[tool.poetry.dependencies]
python = ">=3.9"
demo-alpha = "*"
[tool.poetry.group.dev.dependencies]
demo-delta = "*"
"""
POETRY_LOCK = """\
[[package]]
name = "demo-alpha"
version = "1.0"
[package.dependencies]
demo-beta = "<2"
[[package]]
name = "demo-beta"
version = "1.5"
[[package]]
name = "demo-delta"
version = "9.9"
"""
PYLOCK = """\
lock-version = "1.0"
[[packages]]
name = "demo-alpha"
version = "1.0"
[[packages]]
name = "demo-beta"
version = "1.5"
"""


@pytest.mark.parametrize(
    "files",
    [
        {"pyproject.toml": POETRY, "poetry.lock": POETRY_LOCK},
        {"pylock.toml": PYLOCK},
        {"Pipfile.lock": '{"default": {"demo-alpha": {"version": "==1.0"}}}'},
        {"Pipfile": "[packages]\ndemo-alpha = '<2'\n"},
        {"pyproject.toml": POETRY.replace('"*"', '"^1.0"')},
        {"conda.yaml": "dependencies: [python=3.6, demo-alpha=1.0, libgcc-ng]\n"},
        {"environment.yml": "dependencies:\n- pip:\n  - demo-alpha==1.0\n"},
        {"python_env.yaml": "python: 3.8\ndependencies: [demo-alpha==1.0]\n"},
        {"MLproject": "conda_env: c.yml\n", "c.yml": "dependencies: [demo-alpha==1.0]\n"},
        {"setup.py": "from setuptools import setup\nsetup(install_requires=['demo-alpha<2'])\n"},
    ],
    ids=lambda files: next(reversed(files)),
)
def test_every_kind_of_file_leads_to_a_lock(
    environments: UvEnvironments, project: Path, files: dict[str, str]
) -> None:
    for name, text in files.items():
        (project / name).write_text(text)

    _, lock = locked(environments, project)

    assert pinned(lock) == ["demo-alpha==1.0", "demo-beta==1.5"]


def test_a_python_that_is_only_wished_is_replaced_by_the_nearest_and_said(
    environments: UvEnvironments, project: Path, log: Path
) -> None:
    (project / "Pipfile").write_text("[packages]\n[requires]\npython_version = '3.2'\n")

    locked(environments, project)

    assert "WARNING Pipfile wishes Python 3.2; installed here: 3." in log.read_text()


# ---- from source, and room on the disk -----------------------------------------------------

TRIES = """
import socket
try:
    socket.create_connection(("127.0.0.1", PORT), timeout=2)
except OSError:
    pass
else:
    raise SystemExit("the build reached the network")
"""


@pytest.fixture(scope="session")
def setuptools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels that a build asks for, from the index."""
    folder = tmp_path_factory.mktemp("setuptools")
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
    if importlib.util.find_spec("pip") is None:
        argv[:3] = ["pip", "download"]
    subprocess.run([*argv, "setuptools==80.9.0", "wheel==0.45.1"], check=True)
    return folder


def test_an_allowed_package_is_built_without_network_and_stays_the_same(
    home: Path, wheels: Path, project: Path, log: Path, setuptools: Path
) -> None:
    for wheel in setuptools.iterdir():
        shutil.copy(wheel, wheels)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tries = TRIES.replace("PORT", str(listener.getsockname()[1]))
        make_sdist(wheels, "demo-gamma", "1.0", setup=tries)
        make_sdist(wheels, "demo-gamma", "2.0", setup="raise SystemExit('not the one')")
        make_wheel(wheels, "demo-delta", "1.0", requires=["demo-gamma<2", "demo-beta"])
        (project / "requirements.txt").write_text("demo-delta\n")
        index = ("--no-index", "--find-links", str(wheels))
        environments = UvEnvironments(
            home, LocalSandbox(home), index=index, source_builds=["Demo_Gamma"]
        )

        first, lock = locked(environments, project)
        python = environments.ready(lock, log=log)
        second, _ = locked(environments, project)

    assert pinned(lock) == ["demo-beta==2.0", "demo-delta==1.0", "demo-gamma==1.0"]
    assert first == second
    assert log.read_text().count("$ uv build") == 1
    assert list(python.parent.parent.rglob("demo_gamma.py"))


def test_a_build_that_fails_is_told_with_its_own_last_lines(
    home: Path, wheels: Path, project: Path, setuptools: Path
) -> None:
    for wheel in setuptools.iterdir():
        shutil.copy(wheel, wheels)
    make_sdist(wheels, "demo-gamma", "1.0", setup="raise SystemExit('no compiler here')")
    (project / "requirements.txt").write_text("demo-gamma\n")
    index = ("--no-index", "--find-links", str(wheels))
    environments = UvEnvironments(
        home, LocalSandbox(home), index=index, source_builds=["demo-gamma"]
    )

    with pytest.raises(StoppedError, match="PS264") as caught:
        locked(environments, project)

    assert "no compiler here" in caught.value.what
    assert not list((home / "wheels").glob("*.whl"))


def test_an_environment_that_cannot_fit_is_refused_before_it_is_written(
    home: Path, wheels: Path, project: Path, log: Path
) -> None:
    (project / "requirements.txt").write_text("demo-alpha\n")

    with served(wheels, UPLOADED) as index:
        environments = UvEnvironments(
            home, LocalSandbox(home), index=("--default-index", index), free=lambda _: 100
        )
        _, lock = locked(environments, project)
        with pytest.raises(UnreachableError, match=r"PS261 .*2 packages.* are missing"):
            environments.ready(lock, log=log)

    assert "pip sync" not in log.read_text()
