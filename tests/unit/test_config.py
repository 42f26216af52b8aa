"""penstock.toml and server.toml: golden lists of faults, defaults, to JSON and back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from penstock import domain
from penstock.check.measures import MEASURES
from penstock.config import (
    METRICS,
    ModelConfig,
    ServerSettings,
    duration_s,
    json_schema,
    parse,
    read,
    resolve,
    server_settings,
    state_home,
)
from penstock.config.lines import line_index, line_of
from penstock.config.schema import MODEL_NAME
from penstock.errors import ConfigurationError

SMALLEST = """\
[model]
name = "credit-default"
[evaluate]
data = "data/holdout.parquet"
label = "default"
"""
GROWN = """\
[model]
name = "credit-default"
owner = "credit-risk"
task = "classification"
risk = "high"
[build]
run = "python train.py"
model = "models/*.joblib"
predict = "adapter.py"
env = { EXPERIMENT = "main" }
timeout_s = 600
network = false
[environment]
python = "3.11"
override = ["scikit-learn<1.4", "numpy <2; python_version < '3.12'"]
extra = ["PyYAML", "uvicorn[standard]>=0.30"]
[data]
"data/train.parquet" = { source = "file:///srv/lake/loans.parquet", sha256 = "%s" }
[evaluate]
data = "data/holdout.parquet"
label = "default"
positive = 1
id = "loan_id"
time = "applied_at"
sensitive = ["sex", "age_band"]
[quality]
primary = "roc_auc"
limits = { roc_auc = { min = 0.80 }, log_loss = { max = 0.45 } }
margin = 0.005
slices = ["region"]
[fairness]
metric = "equalized_odds_difference"
max = 0.10
[explain]
budget_s = 60
columns = ["income"]
examples = false
[speed]
p95_ms = 25
max_memory_mb = 800
[approval]
people = 2
expires = "7 d"
[canary]
steps = [1, 5, 25, 50]
batch_s = 2
[[monitor]]
every = "day"
checks = ["quality", "drift", "service"]
[[monitor]]
every = "week"
checks = ["drift"]
""" % ("0" * 64)


def faults(text: str) -> list[tuple[str, int | None, str, str]]:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    return [(one.code, one.line, one.key, one.fix) for one in caught.value.faults]


def model(text: str) -> str:
    return f'[model]\nname = "m"\n{text}'


def test_five_lines_suffice_and_the_rest_has_defaults() -> None:
    config = parse(SMALLEST)

    assert config.model.risk == "medium"
    assert config.build.timeout_s == 3600
    assert config.build.network is False
    assert config.approval.expires_s == 14 * 86400
    assert config.canary.steps is None
    assert [monitor.every for monitor in config.monitor] == ["day"]


def test_every_block_can_be_set() -> None:
    config = parse(GROWN)

    assert str(config.data["data/train.parquet"].address) == "/srv/lake/loans.parquet"
    assert config.quality.limits["log_loss"].max == 0.45
    assert config.canary.steps == (1, 5, 25, 50)
    assert [monitor.every for monitor in config.monitor] == ["day", "week"]


@pytest.mark.parametrize(
    ("risk", "people", "hold_s"), [("low", 0, 86400), ("medium", 1, 86400), ("high", 2, 259200)]
)
def test_the_risk_sets_what_nobody_set(risk: str, people: int, hold_s: float) -> None:
    config = resolve(parse(model(f'risk = "{risk}"')), None)

    assert (config.approval.people, config.canary.hold_s) == (people, hold_s)


def test_what_was_set_beats_the_risk_and_what_was_detected() -> None:
    text = model('task = "regression"\nrisk = "high"\n[approval]\npeople = 0\n')

    config = resolve(parse(text + '[canary]\nhold = "1 h"'), "classification")

    assert (config.approval.people, config.canary.hold_s) == (0, 3600)
    assert config.model.task == "regression"


def test_a_detected_task_is_kept_where_none_is_declared() -> None:
    assert resolve(parse(SMALLEST), "regression").model.task == "regression"


@pytest.mark.parametrize("text", [SMALLEST, GROWN])
def test_a_configuration_goes_to_json_and_back(text: str) -> None:
    config = resolve(parse(text), "classification")

    again = ModelConfig.model_validate(json.loads(json.dumps(config.model_dump(mode="json"))))

    assert again == config


def test_all_faults_come_at_once_in_the_order_of_the_file() -> None:
    text = """\
label = "x"
[model]
nmae = "A"
risk = "hihg"
[build]
run = 3
timeout_s = -1
network = "yes"
[evaluate]
data = "../x.csv"
label = "y"
positive = [1]
sensitive = ["y", "y"]
[quality]
limits = { roc_auc = { mim = 3 }, auc = { min = 0.1 }, accuracy = { min = 0.9, max = 0.1 } }
[canary]
steps = [5, 1]
key = ""
hold = "3 weeks"
[[monitor]]
every = "day"
[[monitor]]
every = "day"
checks = ["drfit", "data"]
[[check]]
name = "x"
[data]
"/abs" = { source = "ftp://x", sha256 = "1" }
"""

    found = [(code, line, key) for code, line, key, _ in faults(text)]

    assert found == [
        ("PS012", 1, "label"),
        ("PS013", 2, "model.name"),
        ("PS012", 3, "model.nmae"),
        ("PS015", 4, "model.risk"),
        ("PS014", 6, "build.run"),
        ("PS015", 7, "build.timeout_s"),
        ("PS014", 8, "build.network"),
        ("PS015", 10, "evaluate.data"),
        ("PS014", 12, "evaluate.positive"),
        ("PS015", 13, "evaluate.sensitive"),
        ("PS012", 15, "quality.limits.roc_auc.mim"),
        ("PS015", 15, "quality.limits.auc"),
        ("PS016", 15, "quality.limits.accuracy"),
        ("PS015", 17, "canary.steps"),
        ("PS015", 18, "canary.key"),
        ("PS015", 19, "canary.hold"),
        ("PS015", 24, "monitor[1].checks[0]"),
        ("PS017", 24, "monitor[1].checks[1]"),
        ("PS013", 25, "check[0].run"),
        ("PS015", 28, 'data."/abs"'),
        ("PS015", 28, 'data."/abs".source'),
        ("PS015", 28, 'data."/abs".sha256'),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("PS013", None, "model", 'Add [model] and below it name = "credit-default".')),
        ('[model]\nname = "Credit Default"', ("PS015", 2, "model.name", None)),
        (model("[evaluate]\ndata = 'a.csv'"), ("PS013", 3, "evaluate.label", None)),
        (model('[evalute]\nlabel = "x"'), ("PS012", 3, "evalute", 'Did you mean "evaluate"?')),
        (model('label = "x"'), ("PS012", 3, "model.label", "It belongs in [evaluate].")),
        (
            model(
                '[evaluate]\ndata = "h.csv"\nlabel = "y"\n[[check]]\nname = "Re jects"\nrun = "x"'
            ),
            (
                "PS015",
                7,
                "check[0].name",
                'Write "re-jects": small letters, digits, ". _ -"; at most 60.',
            ),
        ),
        (
            model(
                '[evaluate]\ndata = "h.csv"\nlabel = "y"\n'
                + 2 * '[[check]]\nname = "a"\nrun = "x"\n'
            ),
            ("PS016", 10, "check[1].name", "Give each check its own name."),
        ),
        (model('[[check]]\nname = "a"\nrun = "x"'), ("PS016", 3, "check", None)),
        (
            model('[evaluate]\ndata = "h.csv"\nlabel = "y"\ntraining = ["t.csv", "h.csv"]'),
            (
                "PS016",
                6,
                "evaluate.training",
                "Keep rows away from training, and name the two files.",
            ),
        ),
        (
            model('[evaluate]\ndata = "h.csv"\nlabel = "y"\ntraining = "t.txt"'),
            ("PS015", 6, "evaluate.training[0]", None),
        ),
        (model("[retrain]\non = []"), ("PS017", 3, "retrain", None)),
        (model('[canary]\nshadow_first = "soon"'), ("PS015", 4, "canary.shadow_first", None)),
        (model('[canary]\nlasts = "7 d"'), ("PS016", 4, "canary.lasts", None)),
        (model('[canary]\nonly = "ab"\nsteps = [5, 50]'), ("PS016", 5, "canary.steps", None)),
        (model('[canary]\nonly = "abc"'), ("PS015", 4, "canary.only", None)),
        (model('[canary]\nmin_time = "2 d"'), ("PS016", 4, "canary.min_time", None)),
        (model("[canary]\nsteps = [50, 100]"), ("PS015", 4, "canary.steps", None)),
        (
            model("[canary]\nsteps = [25, 5, 5]"),
            ("PS015", 4, "canary.steps", "Write steps = [5, 25]."),
        ),
        (model('[canary]\nhorizon = "10 s"'), ("PS016", 4, "canary.horizon", None)),
        (model('[canary]\nredraw = "hour"'), ("PS016", 4, "canary.redraw", None)),
        (model("[canary]\np_max_slow = 1"), ("PS015", 4, "canary.p_max_slow", None)),
        (model("[speed]\np50_ms = 9\np95_ms = 5"), ("PS016", 4, "speed.p50_ms", None)),
        (model("[speed]\nmargin = 0.9"), ("PS015", 4, "speed.margin", None)),
        (model("[quality]\nmargin = nan"), ("PS014", 4, "quality.margin", None)),
        (model('[quality]\nprimary = "auc"'), ("PS015", 4, "quality.primary", None)),
        (model("[fairness]\nmax = 0.1"), ("PS016", 4, "fairness.max", None)),
        (model('[build]\npredict = "a.txt"'), ("PS015", 4, "build.predict", None)),
        (model('[build]\nrun = " "'), ("PS015", 4, "build.run", None)),
        (model('[build]\nenv = { "A B" = "1" }'), ("PS015", 4, 'build.env."A B"', None)),
        (model('[environment]\npython = "2.7"'), ("PS015", 4, "environment.python", None)),
        (model("[approval]\npeople = true"), ("PS014", 4, "approval.people", None)),
        (model("[approval]\npeople = 1.5"), ("PS014", 4, "approval.people", None)),
        (
            model('[[monitor]]\nevery = "dya"'),
            ("PS015", 4, "monitor[0].every", 'Did you mean "day"?'),
        ),
        (model("[[monitor]]\nchecks = []"), ("PS015", 4, "monitor[0].checks", None)),
        (
            model("[[monitor]]\n[[monitor]]\nevery = 'day'"),
            ("PS016", 5, "monitor[1].every", None),
        ),
    ],
)
def test_one_fault_has_its_line_and_its_fix(
    text: str, expected: tuple[str, int | None, str, str | None]
) -> None:
    (found,) = faults(text)

    assert found[:3] == expected[:3]
    assert expected[3] is None or found[3] == expected[3]


@pytest.mark.parametrize(
    "requirement",
    ["-r /etc/passwd", "numpy --pre", "numpy @ https://x/y.whl", "a\nb", "--index-url=http://x"],
)
def test_a_requirement_cannot_smuggle_in_an_option_an_address_or_a_line(requirement: str) -> None:
    text = model(f"[environment]\nextra = [{json.dumps(requirement)}]")

    assert faults(text)[0][:3] == ("PS015", 4, "environment.extra[0]")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('sensitive = ["y"]', "evaluate.sensitive[0]"),
        ('id = "y"', "evaluate.id"),
        ('id = "t"\ntime = "t"', "evaluate.id"),
        ("[quality]\nslices = ['y']", "quality.slices[0]"),
    ],
)
def test_a_column_has_one_role(line: str, key: str) -> None:
    text = model(f'[evaluate]\ndata = "a.csv"\nlabel = "y"\n{line}')

    assert ("PS016", key) in [(found[0], found[2]) for found in faults(text)]


def test_a_fairness_limit_needs_sensitive_columns() -> None:
    found = faults(SMALLEST + "[fairness]\nmax = 0.1")

    assert found == [
        ("PS016", 7, "fairness.max", 'Add sensitive = ["…"] to [evaluate].'),
    ]


@pytest.mark.parametrize(
    ("lines", "code", "key", "fix"),
    [
        ("bands = { age = [40, 30] }", "PS016", "fairness.bands.age", "from low to high"),
        ("bands = { age = [] }", "PS016", "fairness.bands.age", "from low to high"),
        ('intersections = [["sex"]]', "PS016", "fairness.intersections[0]", "two or more"),
        ("limits = { sex = {} }", "PS015", "fairness.limits.sex", "Write { max = 0.1 }."),
        ("limits = { sex = { max = -1 } }", "PS015", "fairness.limits.sex.max", "at least 0"),
        ("min_ratio = 1.2", "PS015", "fairness.min_ratio", "at most 1"),
        (
            'metric = "calibration_difference"\nmin_ratio = 0.8',
            "PS016",
            "fairness.min_ratio",
            "Set max",
        ),
        (
            'metric = "mean_error_difference"\nlimits = { sex = { min_ratio = 0.8 } }',
            "PS016",
            "fairness.limits.sex.min_ratio",
            "Set max",
        ),
        ('metric = "equal_odds"', "PS015", "fairness.metric", "equal"),
    ],
)
def test_a_fault_in_the_block_of_fairness_has_its_fix(
    lines: str, code: str, key: str, fix: str
) -> None:
    evaluate = '[evaluate]\ndata = "h.csv"\nlabel = "y"\nsensitive = ["sex", "age"]\n'

    ((told, _, at, told_fix),) = faults(model(f"{evaluate}[fairness]\n{lines}"))

    assert (told, at) == (code, key)
    assert fix in told_fix


def test_data_is_either_fetched_or_made_by_the_build() -> None:
    text = SMALLEST + 'made_by_build = true\n[data]\n"data/holdout.parquet" = { source = "/a", '

    found = faults(f'{text}sha256 = "{"0" * 64}" }}')

    assert [one[:3] for one in found] == [("PS016", 6, "evaluate.made_by_build")]


def test_a_regression_has_no_positive_class() -> None:
    text = model('task = "regression"\n[evaluate]\ndata = "a.csv"\nlabel = "y"\npositive = 1')

    assert [one[:3] for one in faults(text)] == [("PS016", 7, "evaluate.positive")]


def test_a_limit_beyond_the_best_possible_value_is_a_fault() -> None:
    found = faults(SMALLEST + "[quality.limits.roc_auc]\nmin = 80")

    assert [one[:3] for one in found] == [("PS015", 7, "quality.limits.roc_auc.min")]


def test_rules_between_blocks_are_told_beside_other_faults() -> None:
    found = faults(model("[fairness]\nmax = 0.1\n[build]\nrun = 3"))

    assert [one[0] for one in found] == ["PS016", "PS014"]


def test_a_syntax_error_has_its_line() -> None:
    assert faults('[model]\nname = "a"\nrisk = low\n')[0][:3] == ("PS011", 3, "TOML")


def test_a_missing_file_is_a_fault_that_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path / "penstock.toml")

    assert "PS018" in str(caught.value)
    assert "penstock init" in str(caught.value)


def test_a_file_that_is_not_text_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_bytes(b'[model]\nname = "\xff"')

    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path / "penstock.toml")

    assert [(one.code, one.line) for one in caught.value.faults] == [("PS018", 2)]


def test_lines_are_found_through_multi_line_values_quotes_and_dots() -> None:
    text = '''\
[model]
name = """
[fake]
x = 1
"""
a.b = 1
steps = [
  1,
]
["odd name".inner]
'k e y' = 1
'''
    index = line_index(text)

    assert ("fake",) not in index
    assert line_of(index, ("model", "a", "b")) == 6
    assert line_of(index, ("model", "steps", 0)) == 7
    assert line_of(index, ("odd name", "inner", "k e y")) == 11
    assert line_of(index, ("nowhere",)) is None


@pytest.mark.parametrize(("text", "seconds"), [("10 s", 10), ("30 min", 1800), ("1.5h", 5400)])
def test_durations_have_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "d", "-1 d", "0 d", "1 week"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        duration_s(text)


def test_the_pattern_of_a_name_is_the_domains() -> None:
    assert re.compile(MODEL_NAME).pattern == domain.MODEL_NAME.pattern


def test_every_measure_that_may_be_limited_can_be_computed() -> None:
    assert set(METRICS) == set(MEASURES)


def test_the_schema_is_published_with_a_description_for_each_block() -> None:
    schema = json_schema()

    assert schema["required"] == ["model"]
    assert schema["additionalProperties"] is False
    assert all(block.get("description") for block in schema["$defs"].values())


def test_without_server_toml_the_server_listens_on_the_loopback_only(tmp_path: Path) -> None:
    settings = server_settings(tmp_path / "server.toml")

    assert settings == ServerSettings()
    assert settings.address == "http://127.0.0.1:8420"


def test_server_toml_is_read_and_options_win(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text(
        'port = 9000\n[sandbox]\nmode = "required"\n[notify]\nwebhooks = ["https://x"]'
    )

    settings = server_settings(path, options={"port": 9100})

    assert (settings.port, settings.sandbox.mode) == (9100, "required")
    assert settings.notify.webhooks == ("https://x",)


def test_faults_of_server_toml_come_at_once(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('prot = 1\nport = 70000\n[notify]\nwebhooks = ["ftp://x"]\n')

    with pytest.raises(ConfigurationError) as caught:
        server_settings(path)

    assert [(one.code, one.file, one.line) for one in caught.value.faults] == [
        ("PS012", "server.toml", 1),
        ("PS015", "server.toml", 2),
        ("PS015", "server.toml", 4),
    ]


def test_two_servers_cannot_share_a_port(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="grpc_port"):
        server_settings(tmp_path / "server.toml", options={"port": 8422, "grpc_port": 8422})
    with pytest.raises(ConfigurationError, match="predict_port"):
        server_settings(tmp_path / "server.toml", options={"port": 8421})


@pytest.mark.parametrize(
    ("environ", "is_root", "home"),
    [
        ({"PENSTOCK_HOME": "/srv/p", "HOME": "/root"}, True, "/srv/p"),
        ({"HOME": "/root"}, True, "/var/lib/penstock"),
        ({"HOME": "/home/mia"}, False, "/home/mia/.penstock"),
    ],
)
def test_the_home_is_never_below_roots_own_folder(
    environ: dict[str, str], is_root: bool, home: str
) -> None:
    assert state_home(environ, is_root=is_root) == Path(home)
