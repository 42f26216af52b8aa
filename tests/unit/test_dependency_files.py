"""Every kind of dependency file, as real projects write it, and what is made of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

from penstock.build.project import dependency_files
from penstock.build.project.dependency_files import FILES, read
from penstock.errors import StoppedError
from penstock.ports import Requirements

HEX = "0" * 64
PROJECT = '[project]\nname = "x"\nversion = "1"\ndependencies = ["numpy>=2"]\n'
POETRY = """\
[tool.poetry]
name = "x"
[tool.poetry.dependencies]
python = "^3.8"
numpy = "^1.20"
pandas = { version = "~1.3", extras = ["excel"], python = "<3.12" }
plots = { version = "*", optional = true }
torch = [
  { version = "1.13.1", platform = "linux" },
  { version = ">=2,<3", markers = "sys_platform == 'darwin'" },
]
[tool.poetry.group.dev.dependencies]
black = "*"
[tool.poetry.dev-dependencies]
mypy = "*"
"""


def folder(path: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(wanted: Requirements) -> list[str]:
    return sorted(wanted.lines)


# ---- which file decides --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "used"),
    [
        ({"uv.lock": "", "pyproject.toml": PROJECT, "requirements.txt": "a==1"}, "uv.lock"),
        ({"uv.lock": "", "requirements.txt": "a>1"}, "requirements.txt"),
        ({"pylock.toml": "", "poetry.lock": "", "pyproject.toml": PROJECT}, "pylock.toml"),
        ({"poetry.lock": "", "pyproject.toml": PROJECT, "Pipfile.lock": "{}"}, "poetry.lock"),
        ({"poetry.lock": "", "Pipfile.lock": "{}"}, "Pipfile.lock"),
        ({"Pipfile.lock": "{}", "requirements.txt": "a==1"}, "Pipfile.lock"),
        ({"pyproject.toml": PROJECT, "requirements.txt": "a==1"}, "requirements.txt"),
        ({"pyproject.toml": PROJECT, "requirements.txt": "a>1"}, "pyproject.toml"),
        ({"pyproject.toml": PROJECT, "requirements.txt": "a==1.*"}, "pyproject.toml"),
        ({"pyproject.toml": PROJECT, "requirements.txt": "a==1\nb"}, "pyproject.toml"),
        ({"pyproject.toml": "[tool.ruff]\n", "requirements.txt": "a"}, "requirements.txt"),
        (
            {"pyproject.toml": "[project]\ndependencies = []\n", "requirements.txt": "a"},
            "requirements.txt",
        ),
        ({"requirements.txt": "a", "Pipfile": "[packages]\nb = '*'\n"}, "requirements.txt"),
        ({"Pipfile": "[packages]\nb = '*'\n", "conda.yaml": "dependencies: [a]"}, "Pipfile"),
        (
            {"conda.yaml": "dependencies: [a]", "environment.yml": "dependencies: [b]"},
            "conda.yaml",
        ),
        ({"environment.yaml": "dependencies: [b]", "setup.py": "x"}, "environment.yaml"),
        ({"setup.py": "from setuptools import setup\nsetup(install_requires=['a'])"}, "setup.py"),
    ],
)
def test_the_first_dependency_file_in_the_order_decides(
    tmp_path: Path, files: dict[str, str], used: str
) -> None:
    assert read(folder(tmp_path, files)).file == used


def test_without_any_file_there_is_nothing_but_python(tmp_path: Path) -> None:
    wanted = read(tmp_path)

    assert (wanted.lines, wanted.files) == ((), ())
    assert "nothing but Python" in wanted.notes[0]


def test_where_two_files_disagree_the_packages_are_named(tmp_path: Path) -> None:
    lock = "\n".join(
        f'[[package]]\nname = "{name}"\nversion = "{version}"\nsource = {{ registry = "r" }}\n'
        for name, version in (("numpy", "1.26.4"), ("pandas", "2.2.0"), ("scipy", "1.11"))
    )
    files = {
        "uv.lock": lock,
        "pyproject.toml": PROJECT,
        "requirements.txt": "numpy==2.1.0\nPandas>=2\nscipy<1.11\nshap\n",
    }

    wanted = read(folder(tmp_path, files))

    (note,) = wanted.notes
    assert note == (
        "Used uv.lock; requirements.txt differs in 3 packages "
        "(numpy 1.26.4 | 2.1.0, scipy 1.11 | <1.11, shap - | any)."
    )


def test_files_that_agree_are_no_news(tmp_path: Path) -> None:
    files = {"requirements.txt": "numpy==2.1.0\n", "pyproject.toml": PROJECT}

    assert read(folder(tmp_path, files)).notes == ()


def test_a_broken_file_beside_the_one_that_decides_is_said_and_stops_nothing(
    tmp_path: Path,
) -> None:
    files = {"requirements.txt": "numpy==2.1.0\n", "environment.yml": "a: [b"}

    (note,) = read(folder(tmp_path, files)).notes

    assert note.startswith("Used requirements.txt; environment.yml cannot be compared: ")


# ---- requirements.txt ----------------------------------------------------------------------


def requirements(path: Path, text: str | bytes, **more: str) -> Requirements:
    return read(folder(path, {"requirements.txt": text, **more}))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\ufeffnumpy\r\n# why\r\npandas >=2 # fast\r\n", ["numpy", "pandas>=2"]),
        ("numpy \\\n  >=1,<2 \\\n  --hash=sha256:" + HEX, ["numpy<2,>=1"]),
        ("Foo[bar,baz]~=1.2 ; python_version > '3'", ['Foo[bar,baz]~=1.2; python_version > "3"']),
        ("pkg==1.*\nother>=1.0.*", ["other>=1.0", "pkg==1.*"]),
        ("torch==2.1.0+cpu", ["torch==2.1.0"]),
        ("-e .\n.[train]\n--editable .\nnumpy", ["numpy"]),
        ("numpy=1.21.5=py38h1_0\n_libgcc_mutex=0.1=main", ["numpy==1.21.5"]),
        ("sklearn==0.0\nos\npickle\npkg-resources==0.0.0", ["scikit-learn"]),
        ("--only-binary :all:\n--no-cache-dir\n--trusted-host x\nnumpy", ["numpy"]),
        ("numpy @ file:///tmp/build/numpy_and_base_1/work", ["numpy"]),
        ("numpy @ file:///w/numpy-1.21.2-cp38-linux_x86_64.whl#sha256=0", ["numpy==1.21.2"]),
    ],
)
def test_a_requirements_file_is_read_as_people_write_it(
    tmp_path: Path, text: str, found: list[str]
) -> None:
    assert lines(requirements(tmp_path, text)) == found


def test_a_file_that_windows_wrote_is_read(tmp_path: Path) -> None:
    assert lines(requirements(tmp_path, "numpy==2.1.0\r\n".encode("utf-16"))) == ["numpy==2.1.0"]


def test_what_is_read_otherwise_than_written_is_said_with_its_line(tmp_path: Path) -> None:
    text = "numpy\nsklearn\n-e .\ntorch==2.1+cu118\njson\npandas @ file:///x/pandas\n"

    notes = requirements(tmp_path, text).notes

    assert [note.split(":")[0] for note in notes] == [
        f"requirements.txt line {line}" for line in (2, 3, 4, 5, 6)
    ]


def test_asking_for_the_project_itself_brings_what_it_asks_for(tmp_path: Path) -> None:
    wanted = requirements(tmp_path, "-e .\nshap==0.4\n", **{"pyproject.toml": PROJECT})

    assert lines(wanted) == ["numpy>=2"]  # two files: the standard table decides
    (tmp_path / "pyproject.toml").write_text(PROJECT.replace(">=2", "==2.1.0"))
    assert lines(read(tmp_path)) == ["numpy==2.1.0", "shap==0.4"]


def test_included_files_and_constraints_are_followed_inside_the_project(tmp_path: Path) -> None:
    wanted = requirements(
        tmp_path,
        "-r more/base.txt\n--constraint=limits.txt\n",
        **{"more/base.txt": "-r ../other.txt\na", "other.txt": "b", "limits.txt": "a<2"},
    )

    assert (lines(wanted), wanted.constraints) == (["a", "b"], ("a<2",))
    assert set(wanted.files) == {
        *("requirements.txt", "more/base.txt", "other.txt", "limits.txt"),
    }


def test_the_digests_that_a_file_allows_are_kept(tmp_path: Path) -> None:
    text = f"Numpy==2.1.0 --hash=sha256:{HEX} --hash=sha256:{'1' * 64}\npandas>=2\n"

    wanted = requirements(tmp_path, text)

    assert wanted.hashes == {"numpy==2.1.0": {f"sha256:{HEX}", f"sha256:{'1' * 64}"}}


@pytest.mark.parametrize(
    "option",
    [
        "--index-url https://private.example/simple",
        "-i https://private.example/simple",
        "--extra-index-url=https://private.example/simple",
        "-f https://private.example/simple",
    ],
)
def test_an_index_that_a_file_names_is_taken_down_for_who_may_judge_it(
    tmp_path: Path, option: str
) -> None:
    wanted = requirements(tmp_path, f"numpy\n{option}\n")

    (named,) = wanted.indexes
    assert (named.url, named.where) == (
        "https://private.example/simple",
        "requirements.txt line 2",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a --global-option=x\n", "has an option"),
        ("--config-settings x=y\n", "has an option"),
        ("-e git+https://evil.example/demo\n", "has an option"),
        ("demo @ https://evil.example/demo.whl\n", "by address or path"),
        ("git+https://evil.example/demo\n", "by address or path"),
        ("https://evil.example/demo.tar.gz\n", "by address or path"),
        ("./local\n", "by address or path"),
        ("..\\outside\n", "by address or path"),
        ("../outside.whl\n", "by address or path"),
        ("demo.whl\n", "by address or path"),
        ("demo-alpha${SECRET}\n", "by address or path"),
        ("demo; os_name == '$HOME'\n", "by address or path"),
        ("-r ../../outside.txt\n", "which the project does not have"),
        ("-c /etc/passwd\n", "which the project does not have"),
        ("-r requirements.txt\n", "in a circle"),
        ("numpy=1.21\n", "is no requirement"),
        ("two words\n", "is no requirement"),
    ],
)
def test_a_file_cannot_say_where_packages_come_from(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(StoppedError, match="PS212") as caught:
        requirements(tmp_path, f"fine\n{text}")

    assert said in caught.value.what
    assert "requirements.txt" in caught.value.what


def test_a_single_equals_sign_gets_the_mended_line(tmp_path: Path) -> None:
    with pytest.raises(StoppedError) as caught:
        requirements(tmp_path, "numpy=1.21\n")

    assert caught.value.hint == 'Did you mean "numpy==1.21"?'


@pytest.mark.parametrize(
    ("name", "meant"),
    [("panda", "pandas"), ("numyp", "numpy"), ("scikit-lern", "scikit-learn"), ("torhc", "torch")],
)
def test_a_name_that_is_one_letter_off_is_asked_about(
    tmp_path: Path, name: str, meant: str
) -> None:
    notes = requirements(tmp_path, f"scipy\n{name}\n").notes

    assert notes == (f'requirements.txt line 2: "{name}" is one letter from "{meant}". Meant?',)


# ---- pyproject.toml, Pipfile, setup --------------------------------------------------------


def test_poetrys_own_table_is_read_without_groups_and_optional_packages(tmp_path: Path) -> None:
    wanted = read(folder(tmp_path, {"pyproject.toml": POETRY}))

    assert lines(wanted) == [
        "numpy<2,>=1.20",
        'pandas[excel]<1.4,>=1.3; python_version < "3.12"',
        'torch<3,>=2; sys_platform == "darwin"',
        'torch==1.13.1; sys_platform == "linux"',
    ]
    assert wanted.requires_python == "<4,>=3.8"
    assert wanted.python is None


@pytest.mark.parametrize("kind", ["git", "path", "url", "file"])
def test_a_package_of_poetry_or_pipenv_from_elsewhere_is_refused_by_name(
    tmp_path: Path, kind: str
) -> None:
    entry = f'evil = {{ {kind} = "../evil" }}\n'
    for name, table in (("pyproject.toml", "tool.poetry.dependencies"), ("Pipfile", "packages")):
        (tmp_path / "pyproject.toml").unlink(missing_ok=True)
        folder(tmp_path, {name: f"[{table}]\n{entry}"})

        with pytest.raises(StoppedError, match=f"PS212 {name}: evil comes from a {kind} source"):
            read(tmp_path)


def test_a_pipfile_is_read_with_its_python_as_a_wish(tmp_path: Path) -> None:
    text = """\
[[source]]
url = "https://pypi.org/simple"
[packages]
numpy = "*"
pandas = "==1.3.5"
requests = { version = ">=2", extras = ["socks"], sys_platform = "== 'linux'" }
mine = { path = ".", editable = true }
[dev-packages]
pytest = "*"
[requires]
python_version = "3.8"
"""

    wanted = read(folder(tmp_path, {"Pipfile": text}))

    assert lines(wanted) == [
        "numpy",
        "pandas==1.3.5",
        'requests[socks]>=2; sys_platform == "linux"',
    ]
    assert (wanted.python, wanted.python_from) == ("==3.8.*", "Pipfile")
    assert wanted.requires_python is None


def test_dynamic_dependencies_come_from_the_file_that_setuptools_names(tmp_path: Path) -> None:
    text = '[project]\nname = "x"\ndynamic = ["dependencies"]\n'
    more = '[tool.setuptools.dynamic]\ndependencies = { file = ["needs.in"] }\n'

    wanted = read(folder(tmp_path, {"pyproject.toml": text + more, "needs.in": "numpy>=2"}))

    assert lines(wanted) == ["numpy>=2"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("setup.cfg", "[options]\npython_requires = >=3.8\ninstall_requires =\n    a\n    b>2\n"),
        (
            "setup.py",
            """\
import setuptools, evil
evil.run()
NEEDS = ['a', 'b>2']
setuptools.setup(install_requires=NEEDS, python_requires='>=3.8')
""",
        ),
    ],
)
def test_the_list_of_setuptools_is_read_and_its_code_never_run(
    tmp_path: Path, name: str, text: str
) -> None:
    wanted = read(folder(tmp_path, {name: text}))

    assert (lines(wanted), wanted.requires_python) == (["a", "b>2"], ">=3.8")


# ---- locks ---------------------------------------------------------------------------------


def package(name: str, version: str, **more: str) -> str:
    rest = "".join(f"{key} = {value}\n" for key, value in more.items())
    return f'[[package]]\nname = "{name}"\nversion = "{version}"\n{rest}'


def test_the_lock_of_an_old_poetry_binds_what_the_main_group_needs(tmp_path: Path) -> None:
    lock = (
        package("numpy", "1.21.6", category='"main"', optional="false")
        + package("pandas", "1.3.5", category='"main"')
        + "[package.dependencies]\npython-dateutil = '>=2.7'\n"
        + package("python-dateutil", "2.8.2", category='"main"')
        + package("torch", "1.13.1")
        + package("black", "22.1", category='"dev"')
        + f'[metadata.files]\nnumpy = [{{ file = "n.whl", hash = "sha256:{HEX}" }}]\n'
    )

    wanted = read(folder(tmp_path, {"pyproject.toml": POETRY, "poetry.lock": lock}))

    assert wanted.file == "poetry.lock"
    assert wanted.constraints == (
        *("numpy==1.21.6", "pandas==1.3.5", "python-dateutil==2.8.2", "torch==1.13.1"),
    )
    assert wanted.hashes == {"numpy==1.21.6": {f"sha256:{HEX}"}}
    assert "numpy<2,>=1.20" in wanted.lines
    assert wanted.complete


def test_the_lock_of_a_new_poetry_is_read_with_a_standard_table(tmp_path: Path) -> None:
    files = f'[{{ file = "n.whl", hash = "sha256:{HEX}" }}]'
    lock = package("numpy", "2.1.0", groups='["main"]', files=files)
    lock += package("pytest", "8.0", groups='["dev"]', files=files)

    wanted = read(folder(tmp_path, {"pyproject.toml": PROJECT, "poetry.lock": lock}))

    assert wanted.constraints == ("numpy==2.1.0",)
    assert wanted.hashes == {"numpy==2.1.0": {f"sha256:{HEX}"}}


def test_two_versions_in_a_lock_of_poetry_bound_the_one_that_fits(tmp_path: Path) -> None:
    lock = package("numpy", "1.24.4") + package("numpy", "1.26.4")

    wanted = read(folder(tmp_path, {"pyproject.toml": PROJECT, "poetry.lock": lock}))

    assert wanted.constraints == ("numpy<=1.26.4,>=1.24.4",)


@pytest.mark.parametrize("kind", ["git", "url", "directory", "file"])
def test_a_lock_of_poetry_with_a_package_from_elsewhere_is_refused(
    tmp_path: Path, kind: str
) -> None:
    lock = package("numpy", "1") + f'[package.source]\ntype = "{kind}"\nurl = "../evil"\n'

    with pytest.raises(StoppedError, match=f"takes numpy from a {kind} source"):
        read(folder(tmp_path, {"pyproject.toml": PROJECT, "poetry.lock": lock}))


@pytest.mark.parametrize("source", ["git", "url", "path", "directory", "editable"])
def test_a_lock_of_uv_with_a_package_from_elsewhere_is_refused(
    tmp_path: Path, source: str
) -> None:
    lock = f'[[package]]\nname = "evil"\nsource = {{ {source} = "../evil" }}\n'

    with pytest.raises(StoppedError, match="takes evil from a"):
        read(folder(tmp_path, {"pyproject.toml": PROJECT, "uv.lock": lock}))


def test_a_lock_of_pipenv_gives_its_default_group(tmp_path: Path) -> None:
    lock = {
        "_meta": {"requires": {"python_version": "3.8"}},
        "default": {
            "numpy": {"version": "==1.21.6", "hashes": [f"sha256:{HEX}"], "index": "pypi"},
            "requests": {
                "version": "==2.26.0",
                "extras": ["socks"],
                "markers": "python_version >= '2.7'",
            },
            "mine": {"path": ".", "editable": True},
        },
        "develop": {"pytest": {"version": "==6.0"}},
    }

    wanted = read(folder(tmp_path, {"Pipfile.lock": json.dumps(lock)}))

    assert lines(wanted) == [
        "numpy==1.21.6",
        'requests[socks]==2.26.0; python_version >= "2.7"',
    ]
    assert wanted.hashes == {"numpy==1.21.6": {f"sha256:{HEX}"}}
    assert (wanted.complete, wanted.python) == (True, "==3.8.*")


def test_a_standard_lock_gives_its_packages_without_groups(tmp_path: Path) -> None:
    lock = f"""\
lock-version = "1.0"
requires-python = ">=3.9"
default-groups = ["train"]
[[packages]]
name = "numpy"
version = "2.1.0"
marker = "sys_platform == 'linux'"
wheels = [{{ url = "https://x/n.whl", hashes = {{ sha256 = "{HEX}" }} }}]
[[packages]]
name = "shap"
version = "0.46"
marker = "'train' in dependency_groups"
[[packages]]
name = "pytest"
version = "8.0"
marker = "'dev' in dependency_groups"
[[packages]]
name = "mine"
directory = {{ path = "." , editable = true }}
"""

    wanted = read(folder(tmp_path, {"pylock.toml": lock}))

    assert lines(wanted) == ['numpy==2.1.0; sys_platform == "linux"', "shap==0.46"]
    assert wanted.hashes == {"numpy==2.1.0": {f"sha256:{HEX}"}}
    assert (wanted.complete, wanted.requires_python) == (True, ">=3.9")


# ---- conda and MLflow ----------------------------------------------------------------------


def test_an_environment_of_conda_is_read_under_the_names_of_the_index(tmp_path: Path) -> None:
    text = """\
name: train
channels: [conda-forge, defaults]
dependencies:
  - python=3.10
  - numpy=1.21
  - pandas=1.3.5=py38h8c16a72_0
  - scipy>=1.7,<2
  - conda-forge::xgboost==1.5.0
  - pytorch=1.10
  - cudatoolkit=11.3
  - libgcc-ng=9.3.0
  - pip
  - matplotlib 3.5.*
  - pip:
    - -r more.txt
    - mlflow==2.0
    - sklearn
prefix: /home/mia/envs/train
"""

    wanted = read(folder(tmp_path, {"environment.yml": text, "more.txt": "shap"}))

    assert lines(wanted) == [
        *("matplotlib==3.5.*", "mlflow==2.0", "numpy==1.21.*", "pandas==1.3.5", "scikit-learn"),
        *("scipy<2,>=1.7", "shap", "torch==1.10.*", "xgboost==1.5.0"),
    ]
    assert wanted.python == "==3.10.*"
    assert any("(cudatoolkit, libgcc-ng)" in note for note in wanted.notes)


def test_mlflows_python_env_is_read_with_its_python_as_text(tmp_path: Path) -> None:
    files = {
        "MLproject": "name: x\npython_env: envs/python_env.yaml\n",
        "envs/python_env.yaml": "python: 3.10\nbuild_dependencies: [pip]\n"
        "dependencies:\n  - -r ../requirements/train.txt\n  - mlflow\n",
        "requirements/train.txt": "numpy==2.1.0",
    }

    wanted = read(folder(tmp_path, files))

    assert wanted.file == "envs/python_env.yaml"
    assert lines(wanted) == ["mlflow", "numpy==2.1.0"]
    assert wanted.python == "==3.10.*"


def test_an_mlproject_cannot_lead_out_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "conda.yaml").write_text("dependencies: [evil]")

    with pytest.raises(StoppedError, match="which the project does not have"):
        read(folder(tmp_path / "p", {"MLproject": "conda_env: ../conda.yaml\n"}))


def test_the_python_of_pyenv_is_a_wish(tmp_path: Path) -> None:
    wanted = requirements(tmp_path, "numpy", **{".python-version": "3.9.18\n"})

    assert (wanted.python, wanted.python_from) == ("==3.9.*", ".python-version")


# ---- what penstock.toml adds ---------------------------------------------------------------


def test_what_penstock_toml_adds_is_known_and_overridden_digests_are_dropped(
    tmp_path: Path,
) -> None:
    text = f"numpy==2.1.0 --hash=sha256:{HEX}\npandas==2.2 --hash=sha256:{HEX}\n"

    wanted = dependency_files.with_configured(
        requirements(tmp_path, text), ["PyYAML"], ["numpy<2"]
    )

    assert wanted.lines[-1] == "PyYAML"
    assert wanted.overrides == ("numpy<2",)
    assert wanted.added == ("pyyaml", "numpy")
    assert list(wanted.hashes) == ["pandas==2.2"]


# ---- whatever stands in them ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("pyproject.toml", "[project]\nname='p'\ndynamic=['dependencies']\n", "dynamic"),
        ("pyproject.toml", "[project]\ndependencies = 'numpy'\n", "not a list"),
        ("pyproject.toml", "[project]\ndependencies = [1]\n", "not a text"),
        ("pyproject.toml", "[project\n", "is not TOML"),
        ("pyproject.toml", "a = " + "[" * 5000, "is not TOML: it is nested too deep"),
        ("pyproject.toml", "[project]\ndependencies=[]\nrequires-python='x'\n", "no bound"),
        ("pyproject.toml", "[tool.poetry.dependencies]\nnumpy = '^x.y'\n", "no bound"),
        ("Pipfile.lock", "[]", "is not a table"),
        ("Pipfile.lock", "{", "is not JSON"),
        ("Pipfile.lock", "[" * 100_000, "is not JSON"),
        ("environment.yml", "a: [b", "is not YAML"),
        ("environment.yml", "dependencies: numpy", "is not a list"),
        ("setup.py", "setup(install_requires=open('r').readlines())", "would have to run"),
        ("setup.py", "def", "is no Python"),
        ("requirements.txt", "\x80", "is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_a_way_out(
    tmp_path: Path, file: str, text: str, said: str
) -> None:
    (tmp_path / file).write_bytes(text.encode("latin-1"))

    with pytest.raises(StoppedError, match="PS212") as caught:
        read(tmp_path)

    assert said in caught.value.what
    assert file in caught.value.what
    assert caught.value.hint


WORDS = st.one_of(
    st.sampled_from(
        [
            *("[project]", "[packages]", "[[package]]", "dependencies:", "dependencies = [", "]"),
            *("- pip:", "  - numpy=1.2", "- a", "numpy", "^1.2", "name = 'a'", "version = '1'"),
            *("[tool.poetry.dependencies]", "a = '^1'", "a = {version = 1}", "-r x", "-e .", "\\"),
            *('{"default": {"a": 1}}', '{"default": {"a": {"version": "1"}}}', "setup(a=b)", "@"),
            *("python: 3", "[options]", "install_requires = a", "{", "}", "==", "||", "python=x"),
        ]
    ),
    st.text(max_size=12),
)


@pytest.mark.parametrize("name", FILES)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(words=st.lists(WORDS, max_size=6), glue=st.sampled_from(["\n", " ", ""]))
def test_whatever_a_file_holds_it_is_read_or_refused_with_a_sentence(
    tmp_path: Path, name: str, words: list[str], glue: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / name).write_bytes(glue.join(words).encode(errors="replace"))

    wanted = None
    with contextlib.suppress(StoppedError):
        wanted = read(tmp_path)

    for line in (*wanted.lines, *wanted.constraints) if wanted is not None else ():
        assert Requirement(line).url is None
