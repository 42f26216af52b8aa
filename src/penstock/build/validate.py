"""`penstock check`: what can be known about a push before it is made. Offline, in seconds.

Nothing here runs or imports the project's code; files are read, and git is asked.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from penstock.build.data import dvc
from penstock.build.project import dependency_files, imports
from penstock.build.project.declared import require_apart
from penstock.build.project.detect import dependency_file, model_places, run_command
from penstock.build.project.model_files import CERTAIN_ENDINGS
from penstock.build.project.suggest import read_table
from penstock.config import Evaluate, ModelConfig, read
from penstock.config.card import PARTS, read_card
from penstock.errors import ConfigurationError, PenstockError

FEW_ROWS = 100
Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    subject: str
    text: str
    code: str = ""
    """Of a warning or an error that has a page of its own."""
    file: str = ""
    line: int | None = None
    fix: str = ""


def check_project(project: Path) -> list[Finding]:
    """Look at everything that the server would look at first."""
    config, findings = _configuration(project)
    findings += _dependencies(project)
    if config is None:
        return findings
    tracked = _tracked(project)
    findings += _command(project, config)
    findings += _data(project, config)
    findings += _imports(project, config)
    findings += _evaluation(project, config, tracked)
    findings += _card(project, config)
    findings += _committed_models(config, tracked)
    findings += _repository(project, tracked)
    return findings


def _configuration(project: Path) -> tuple[ModelConfig | None, list[Finding]]:
    try:
        config = read(project / "penstock.toml")
    except ConfigurationError as error:
        return None, [
            Finding("error", one.key, one.reason, one.code, one.file, one.line, one.fix)
            for one in error.faults
        ]
    text = f"model {config.model.name}, risk {config.model.risk}"
    return config, [Finding("ok", "penstock.toml", text, file="penstock.toml")]


def _dependencies(project: Path) -> Iterator[Finding]:
    try:
        fact, notes = dependency_file(project)
    except PenstockError as error:
        yield _error("environment", error)
        return
    if fact is not None:
        yield Finding("ok", "environment", f"from {fact.value}", file=fact.source)
    for note in notes:
        fix = "" if fact else "Write a requirements.txt with what the code imports."
        yield Finding("warning", "environment", note, fix=fix)


def _command(project: Path, config: ModelConfig) -> Iterator[Finding]:
    try:
        fact = run_command(project, config)
    except PenstockError as error:
        yield _error("run", error)
        return
    missing = _missing_script(project, fact.value)
    if missing is not None:
        fix = "Add the file, or mend [build] run."
        text = f"{fact.value} runs {missing}, which is not there."
        yield Finding("error", "run", text, "PS041", fact.source, fix=fix)
    else:
        yield Finding("ok", "run", f"{fact.value} ({fact.source})", file=fact.source)
    predict = config.build.predict
    if predict is not None and not (project / predict).is_file():
        fix = "Add the file with load(folder) and predict(model, frame), or take the key out."
        yield Finding("error", "predict", "is not there.", "PS041", predict, fix=fix)


def _data(project: Path, config: ModelConfig) -> Iterator[Finding]:
    """Look at what the server would fetch; whether the operator lets it is not known here."""
    for path, one in config.data.items():
        of = f", with the secret {one.secret}" if one.secret else ""
        yield Finding("ok", "data", f"{path} from {one.address}{of}", file="penstock.toml")
    try:
        stages_run = run_command(project, config).source == "dvc.yaml"
    except PenstockError:
        return  # said already
    try:
        if stages_run:
            require_apart(project, config)
        for one in dvc.kept(project, config, stages_run=stages_run):
            remote = dvc.remote_of(project, one)
            text = f"{one.path} from DVC's remote {remote.name}, {remote.url}"
            yield Finding("ok", "data", text, file=one.file)
    except PenstockError as error:
        yield _error("data", error)


def _imports(project: Path, config: ModelConfig) -> Iterator[Finding]:
    """Warn of imports that nothing in the dependency file serves, where there is a file."""
    try:
        command = run_command(project, config).value
        wanted = dependency_files.read(project)
        asked = config.environment
        wanted = dependency_files.with_configured(wanted, asked.extra, asked.override)
    except PenstockError:
        return  # said where the command and the file are looked at
    also = [config.build.predict] if config.build.predict else []
    for one in imports.missing(project, command, imports.named(wanted), also=also):
        text, fix = one.sentence(wanted.file), one.fix(wanted.file)
        yield Finding("warning", "imports", text, file=one.file, line=one.line, fix=fix)


def _missing_script(project: Path, command: str) -> str | None:
    """Return the Python file that a command names and that is not there."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if len(words) < 2 or not re.fullmatch(r"python(3(\.\d+)?)?", words[0]):
        return None
    if words[1].endswith(".py") and not (project / words[1]).is_file():
        return words[1]
    return None


def _evaluation(
    project: Path, config: ModelConfig, tracked: frozenset[str] | None
) -> Iterator[Finding]:
    spec = config.evaluate
    if spec is None:
        text = "No [evaluate]: smoke checks only; quality is undecided."
        fix = "Name rows that training never sees: [evaluate] data and label."
        yield Finding("warning", "evaluate", text, file="penstock.toml", fix=fix)
        return
    fetched = spec.data in config.data or dvc.keeps(project, config, spec.data)
    if spec.made_by_build or fetched:
        how = "made by the build" if spec.made_by_build else "fetched on the server"
        yield Finding("ok", "evaluate", f"{spec.data}, {how}", file="penstock.toml")
        return
    path = project / spec.data
    if not path.is_file():
        fix = "Add the file, or mend [evaluate] data."
        yield Finding("error", "evaluate", "is not there.", "PS042", spec.data, fix=fix)
        return
    if tracked is not None and spec.data not in tracked:
        fix = f"git add {'-f ' if _is_ignored(project, spec.data) else ''}{spec.data}"
        text = "is not in git, so a push would not carry it."
        yield Finding("error", "evaluate", text, "PS045", spec.data, fix=fix)
    try:
        table = read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = "Save it as CSV with a header, or as Parquet."
        yield Finding(
            "error", "evaluate", f"cannot be read: {reason}", "PS042", spec.data, fix=fix
        )
        return
    also = [("slices", column) for column in config.quality.slices]
    also += [("explain", column) for column in config.explain.columns]
    yield from _columns(table, spec, also)


def _columns(
    table: pa.Table, spec: Evaluate, also: Iterable[tuple[str, str]]
) -> Iterator[Finding]:
    known = table.column_names
    wanted = [("label", spec.label), ("id", spec.id), ("time", spec.time)]
    wanted += [("group", spec.group)]
    wanted += [("sensitive", column) for column in spec.sensitive]
    wanted += also
    broken = False
    for role, column in wanted:
        if column is None or column in known:
            continue
        near = get_close_matches(column, known, n=1)
        fix = f'Did you mean "{near[0]}"?' if near else f"There are {', '.join(known[:12])}."
        broken = True
        yield Finding("error", role, f'has no column "{column}".', "PS043", spec.data, fix=fix)
    if spec.label in known and spec.positive is not None:
        values = pc.unique(table[spec.label]).to_pylist()
        if spec.positive not in values:
            broken = True
            text = f'column "{spec.label}" has no value {spec.positive!r}.'
            fix = f"Its values are {', '.join(map(repr, values[:8]))}."
            yield Finding("error", "positive", text, "PS044", spec.data, fix=fix)
    if table.num_rows < FEW_ROWS:
        text = f"{table.num_rows} rows: most checks would stay undecided."
        yield Finding("warning", "evaluate", text, file=spec.data, fix="Add more rows.")
    elif not broken:
        text = f"{table.num_rows:,} rows, {len(known)} columns, label {spec.label}"
        yield Finding("ok", "evaluate", text, file=spec.data)


def _card(project: Path, config: ModelConfig) -> Iterator[Finding]:
    path = project / "CARD.md"
    if not path.is_file():
        text = "is not there: people who approve would read no word of yours."
        yield Finding("warning", "CARD.md", text, file="CARD.md", fix="penstock init")
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    empty = read_card(text).gaps
    if not empty:
        yield Finding("ok", "CARD.md", ", ".join(PARTS), file="CARD.md")
        return
    named = " and ".join(f'"{field}"' for field in empty)
    verb = "is" if len(empty) == 1 else "are"
    if config.model.risk == "high":
        why = f"{named} {verb} empty: at risk high nobody could approve this."
    else:
        why = f"{named} {verb} empty: people who approve would miss it."
    yield Finding("warning", "CARD.md", why, file="CARD.md", fix="Write a sentence for each.")


def _committed_models(config: ModelConfig, tracked: frozenset[str] | None) -> Iterator[Finding]:
    globs, _ = model_places(config)
    if config.build.model is None:  # other endings have more than models in them
        globs = tuple(glob for glob in globs if glob.rpartition(".")[2] in CERTAIN_ENDINGS)
    for file in sorted(tracked or ()):
        if any(fnmatch(file, pattern) and file.count("/") <= 1 for pattern in globs):
            text = "is committed; a build takes only a model that it has written itself."
            yield Finding("warning", "model", text, file=file, fix=f"git rm --cached {file}")


def _repository(project: Path, tracked: frozenset[str] | None) -> Iterator[Finding]:
    if tracked is None:
        text = "not a git repository: nothing can be pushed."
        yield Finding("warning", "git", text, fix="git init && git add -A && git commit -m first")
        return
    changed = (_git(project, "status", "--porcelain", "--", ".") or "").splitlines()
    if changed:
        files = "1 file is" if len(changed) == 1 else f"{len(changed)} files are"
        text = f"{files} not committed; a push sends the last commit without them."
        yield Finding("warning", "git", text, fix="git add -A && git commit")
    elif not _git(project, "rev-parse", "--verify", "--quiet", "HEAD"):
        yield Finding("warning", "git", "nothing is committed.", fix="git add -A && git commit")
    else:
        yield Finding("ok", "git", "everything is committed")


def _tracked(project: Path) -> frozenset[str] | None:
    """Return the files that git keeps, relative to the project; None outside a repository."""
    listed = _git(project, "ls-files", "-z")
    return None if listed is None else frozenset(filter(None, listed.split("\0")))


def _is_ignored(project: Path, file: str) -> bool:
    return _git(project, "check-ignore", "-q", "--", file) is not None


def _git(project: Path, *arguments: str) -> str | None:
    """Return what git prints; None when it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=project, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _error(subject: str, error: PenstockError) -> Finding:
    return Finding("error", subject, error.what, error.code, fix=error.hint)
