"""What is said of a build that failed: the cause with its file, and the way out.

The script's own error stands first. Where the error is of a kind that every project meets once
(no network, no such package, no memory), the sentence says so instead.
"""

from __future__ import annotations

import ast
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from penstock.build.project.distributions import distribution_of
from penstock.build.results.log_reading import Failure, excerpt, failure, stopped_for, tail
from penstock.build.train import Plan, hidden
from penstock.errors import StoppedError
from penstock.ports import Finished

_SERVES = (
    ("fetch_20newsgroups", "ndownloader.figshare.com"),
    ("fetch_california_housing", "ndownloader.figshare.com"),
    ("fetch_covtype", "ndownloader.figshare.com"),
    ("fetch_lfw", "ndownloader.figshare.com"),
    ("fetch_olivetti", "ndownloader.figshare.com"),
    ("fetch_openml", "api.openml.org"),
    ("huggingface_hub", "huggingface.co"),
    ("transformers", "huggingface.co"),
    ("datasets", "huggingface.co"),
    ("nltk", "raw.githubusercontent.com"),
    ("botocore", "its bucket (S3)"),
    ("gcsfs", "its bucket (Google Cloud Storage)"),
    ("kagglehub", "www.kaggle.com"),
)
"""Words of a traceback that tell which host was meant where the error does not."""

_MEMORY = re.compile(
    r"MemoryError|Unable to allocate [\d.]+ \w+|std::bad_alloc|Cannot allocate memory"
    r"|CUDA out of memory|OutOfMemoryError|not enough memory"
)
_DISK = re.compile(
    r"No space left on device|\[Errno 28\]|Disk quota exceeded|database or disk is full"
)
_NO_FILE = re.compile(
    r"(?:No such file or directory:? '?|does not exist: '?|not found: '?)(?P<path>[^'\n]+)"
)
_DENIED = re.compile(r"Permission denied: '?(?P<path>[^'\n]+)")
_NO_COMMAND = re.compile(
    r"(?:sh|bash): (?:line )?(?:[0-9]+: )?(?P<name>[\w.+-]+): (?:command )?not found"
)
_LIBRARY = re.compile(r"(?P<name>lib[\w.+-]+\.so[\w.]*): cannot open shared object file")
_OPTIONAL = re.compile(
    r"Missing optional dependency '(?P<name>[\w.-]+)'|tried using: '(?P<engine>\w+)'"
    r"|`Import (?P<import>\w+)` failed"
    r"|requires (?:the )?[`'\"]?(?P<needed>[\w-]+)[`'\"]? (?:to be installed|package)"
)
_MAX_SOURCES = 500
_MAX_SOURCE_BYTES = 1_000_000


def raise_failure(plan: Plan, finished: Finished, log: Path) -> NoReturn:
    """Say why a command failed that took too long or did not end with 0."""
    if finished.timed_out:
        limit = plan.config.build.timeout_s
        what = f"`{plan.run}` did not end within {limit:g} s.{excerpt(log)}"
        raise StoppedError("PS222", what, hint="Make it faster, or raise [build] timeout_s.")
    if (ended := stopped_for(log)) is not None:
        hint = "Make it use less, or raise [build] memory_mb, up to what the operator allows."
        raise StoppedError("PS209", f"`{plan.run}` was {ended}", hint=hint)
    found = failure(log, plan.checkout)
    if found is None:
        _raise_without_traceback(plan, finished.returncode, log)
    for of_a_kind in _KINDS:
        of_a_kind(plan, found)
    raise StoppedError("PS220", f"{found}.", hint="Mend it and push again.")


def raise_no_model(plan: Plan, log: Path, *, looked: str, elsewhere: str | None) -> NoReturn:
    """Say why a command that ended with 0 left no model behind.

    Parameters
    ----------
    looked
        The places that were searched, for a sentence.
    elsewhere
        A new model where nobody looks.
    """
    begun = f"`{plan.run}` ended with 0 but wrote no model"
    if elsewhere is not None:
        what = f"{begun} where models are looked for ({looked}). It wrote {elsewhere}."
        raise StoppedError("PS223", what, hint=f'Set [build] model = "{elsewhere}".')
    found = failure(log, plan.checkout)
    if found is not None:
        what = f"{begun}, and swallowed an error: {found}."
        hint = "Let the error out, so that the command fails by it; then mend its cause."
        raise StoppedError("PS281", what, hint=hint)
    what = f"{begun} (looked in {looked}).{excerpt(log)}"
    raise StoppedError("PS223", what, hint="If it writes elsewhere, set [build] model.")


def _raise_without_traceback(plan: Plan, code: int, log: Path) -> NoReturn:
    text = "\n".join(tail(log))
    missing = _NO_COMMAND.search(text)
    if code == 127 and missing:
        name = missing["name"]
        raise StoppedError(
            "PS288",
            f"`{plan.run}` needs the command {name}, which the environment lacks.",
            hint=f"Add the package that brings {name} to {_dependency_file(plan)} or to "
            "[environment] extra.",
        )
    number = code - 128 if code > 128 else -code
    how = f"was ended by signal {number}{_signal(number)}" if number > 0 else f"ended with {code}"
    if number == signal.SIGKILL:
        _raise_memory(f"`{plan.run}` {how}; it may have run out of memory.{excerpt(log)}")
    if _MEMORY.search(text):
        _raise_memory(f"`{plan.run}` {how}; it ran out of memory.{excerpt(log)}")
    what = f"`{plan.run}` {how}.{excerpt(log)}"
    raise StoppedError("PS220", what, hint="Run it in a clean copy of the project, mend it.")


def _signal(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""


def _raise_memory(what: str) -> NoReturn:
    hint = "Read the data in parts or with smaller types, or ask for a larger server."
    raise StoppedError("PS284", what, hint=hint)


def _tracking_server(plan: Plan, found: Failure) -> None:
    """Say that a tracking server set in the code does not answer."""
    if found.host is None:
        return
    of_mlflow = re.search(r"mlflow[/\\.]|api/2\.0/mlflow|dagshub", found.text) is not None
    for where, uri in _tracking_uris(plan.checkout):
        if found.host and found.host in uri:
            what = f"{where} sets the tracking server {uri}, which does not answer."
            raise StoppedError("PS280", what, hint="Remove the call; Penstock sets it.")
    if of_mlflow:
        server = f" {found.host}" if found.host else ""
        what = f"{found.where or plan.run} uses a tracking server{server}, which does not answer."
        hint = "Remove what sets it; Penstock sets the tracking server of a build."
        raise StoppedError("PS280", what, hint=hint)


def _network(plan: Plan, found: Failure) -> None:
    if found.host is None:
        return
    host = found.host or _host_in_code(plan.checkout, found.where or "")
    host = host or next((host for word, host in _SERVES if word in found.text), "")
    where = found.where or plan.run
    if plan.config.build.network:
        what = f"{where} could not reach {host or 'the network'}. ({found.error})"
        raise StoppedError("PS227", what, hint="Look whether it answers, then: penstock retry.")
    what = f"{where} tried to reach {host or 'the network'}; builds have no network. "
    what += f"({found.error})"
    hint = "Declare the file in [data], or set [build] network = true."
    raise StoppedError("PS227", what, hint=hint)


def _missing_module(plan: Plan, found: Failure) -> None:
    module = found.module or _optional(found.error)
    if module is None:
        return
    top = module.split(".")[0]
    file = (found.where or plan.run).partition(" line ")[0]
    lacking = plan.dependency_file or "the project without a dependency file"
    package = distribution_of(module)
    if found.module is None and package == top:  # a library asked for it, by its package's name
        package = top.replace("_", "-")
    hint = f"Add {package} to {_dependency_file(plan)} or to [environment] extra, and push again."
    if found.module and any(
        (plan.checkout / p).exists() for p in (top, f"{top}.py", f"src/{top}")
    ):
        hint = f"{top} is the project's own: mend the import, or commit the missing file."
    if found.package is not None:
        what = f"{found.package}, which {file} uses, needs {module}, which {lacking} lacks."
    else:
        what = f"{file} imports {module}, which {lacking} lacks."
    raise StoppedError("PS221", what, hint=hint)


def _optional(error: str) -> str | None:
    found = (
        _OPTIONAL.search(error) if error.startswith(("ImportError", "ModuleNotFound")) else None
    )
    return next((name for name in found.groups() if name), None) if found else None


def _missing_library(plan: Plan, found: Failure) -> None:
    library = _LIBRARY.search(found.error)
    if library is None:
        return
    hint = "Ask the operator to install it on the server."
    if library["name"].startswith("libGL"):
        hint = "Use opencv-python-headless instead of opencv-python, which needs no display."
    what = f"{found.package or found.where or plan.run} needs the system library "
    raise StoppedError("PS288", f"{what}{library['name']}, which is not there.", hint=hint)


def _memory(_plan: Plan, found: Failure) -> None:
    if _MEMORY.search(found.error):
        _raise_memory(f"{found}. The build ran out of memory.")


def _disk(_plan: Plan, found: Failure) -> None:
    if _DISK.search(found.error):
        what = f"{found}. The disk of the build is full."
        hint = "Write less, or ask the operator to make room; then: penstock retry."
        raise StoppedError("PS285", what, hint=hint)


def _hidden_data(plan: Plan, found: Failure) -> None:
    """Say that training reads the evaluation data, which is hidden from it."""
    denied = _DENIED.search(found.error)
    path = plan.checkout / denied["path"] if denied else None
    if path in hidden(plan):
        name = path.relative_to(plan.checkout).as_posix()
        what = f"{found.where or plan.run} reads {name}, the evaluation data, which "
        hint = "Train and validate on other rows. If training makes the file, set [evaluate] "
        what += "training must not see."
        raise StoppedError("PS286", what, hint=f"{hint}made_by_build = true.")


def _dvc_data(plan: Plan, found: Failure) -> None:
    missing = _NO_FILE.search(found.error)
    if missing is None:
        return
    path = Path(plan.checkout, missing["path"])
    if not path.is_relative_to(plan.checkout):
        return
    for one in (path, *path.parents):
        if one == plan.checkout:
            return
        if one.with_name(f"{one.name}.dvc").is_file():
            name = one.relative_to(plan.checkout).as_posix()
            what = f"{found.where or plan.run} reads {name}, which is kept by DVC and is not here."
            hint = "Let the operator allow its remote, or declare the file in [data]."
            raise StoppedError("PS283", what, hint=hint)


def _dependency_file(plan: Plan) -> str:
    return plan.dependency_file or "a requirements.txt"


_KINDS: tuple[Callable[[Plan, Failure], None], ...] = (
    _tracking_server,
    _missing_module,
    _missing_library,
    _memory,
    _disk,
    _hidden_data,
    _dvc_data,
    _network,
)
"""Each raises its sentence if the failure is of its kind; the first that does so decides."""


# ---- tracking servers in the source ----


def _tracking_uris(project: Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the address of each tracking server that the code sets."""
    for number, path in enumerate(sorted(project.rglob("*.py"))):
        if number >= _MAX_SOURCES:
            return
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= _MAX_SOURCE_BYTES:
            source = path.read_text("utf-8", "replace")
            if "http" in source and ("mlflow" in source.lower() or "dagshub" in source):
                name = path.relative_to(project).as_posix()
                yield from ((f"{name} line {line}", uri) for line, uri in _set_uris(source))


def _host_in_code(project: Path, where: str) -> str:
    """Return the host of the address in the statement that failed; empty if it names none.

    What Python itself says of a name that cannot be resolved does not hold the name.
    """
    file, _, line = where.rpartition(" line ")
    path = project / file
    inside = path.resolve().is_relative_to(project.resolve())  # the log is the project's word
    if not (line.isdecimal() and inside and path.is_file()):
        return ""
    if path.stat().st_size > _MAX_SOURCE_BYTES:
        return ""
    try:
        tree = ast.parse(path.read_text("utf-8", "replace"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    texts = dict(_constants(tree))
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= int(line) <= (node.end_lineno or 0)
    ]
    if not around:
        return ""
    for node in ast.walk(around[-1]):  # the innermost: what is walked later lies deeper
        text = _text_of(node, texts) if isinstance(node, ast.expr) else ""
        if "://" in text:
            return re.split(r"[/?#]", text.partition("://")[2])[0].rpartition("@")[2]
    return ""


def _set_uris(source: str) -> Iterator[tuple[int, str]]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    texts = dict(_constants(tree))
    for node in ast.walk(tree):
        for value in _uri_values(node):
            text = _text_of(value, texts)
            if text.startswith(("http://", "https://")):
                yield getattr(node, "lineno", 1), text


def _uri_values(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what a node sets as a tracking server."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        if name in {"set_tracking_uri", "set_registry_uri", "MlflowClient", "MLFlowLogger"}:
            yield from node.args[:1]
            yield from (k.value for k in node.keywords if k.arg in _URI_KEYWORDS)
        if name in {"setdefault", "putenv"} and _names_variable(node.args[:1]):
            yield from node.args[1:2]
    elif isinstance(node, ast.Assign):
        keys = [target.slice for target in node.targets if isinstance(target, ast.Subscript)]
        if _names_variable(keys):
            yield node.value


_URI_KEYWORDS = {"uri", "tracking_uri", "registry_uri"}


def _names_variable(nodes: list[ast.expr]) -> bool:
    return any(
        isinstance(node, ast.Constant) and node.value == "MLFLOW_TRACKING_URI" for node in nodes
    )


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name) and isinstance(node.value.value, str):
                    yield target.id, node.value.value


def _text_of(node: ast.expr, texts: dict[str, str]) -> str:
    """Return a text that stands in the code; of a choice, its last branch that is one."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        return texts.get(node.id, "")
    if isinstance(node, ast.Call):  # os.environ.get("URI", "http://...")
        return next((t for a in reversed(node.args) if (t := _text_of(a, texts))), "")
    if isinstance(node, ast.BoolOp):
        return next((t for v in reversed(node.values) if (t := _text_of(v, texts))), "")
    return ""
