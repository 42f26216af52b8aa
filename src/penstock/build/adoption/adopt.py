"""A model that was trained elsewhere: through the gate, or not in.

With ``[build] adopt`` nothing is trained. The file or folder that it names, committed or bound
under ``[data]``, is loaded dry by the gate program in the sandbox, in the environment that the
model will have; what passes is packed like a model of our own, to be read by the very loader
that was checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from penstock.build.results.outcome import Built
from penstock.build.train import Plan, interpreter_folders
from penstock.domain import JSON, CheckResult, Verdict
from penstock.errors import IntegrityError, StoppedError
from penstock.ports import Command, Limits, Use

GATE = Path(__file__).with_name("model_gate.py")
GATE_FILES = (GATE, GATE.with_name("model_unpickler.py"))
SECONDS = 300.0
MEMORY_BYTES = 6 << 30
QUESTION = "May a model that was trained elsewhere come in?"

_NEED_AN_ADAPTER = frozenset({"torch", "npy", "safetensors", "adapter"})
_SECOND_OPINION_S = 120.0


def model_path(plan: Plan) -> Path:
    """Return what ``[build] adopt`` names.

    Raises
    ------
    StoppedError
        PS291, it is not there, or is a link.
    """
    named = plan.config.build.adopt
    assert named is not None, "only with [build] adopt"
    path = plan.checkout / named
    if not path.exists() or path.resolve() != plan.checkout.resolve() / named:
        raise StoppedError(
            "PS291",
            f"[build] adopt names {named}, which is not there as a plain file or folder.",
            hint="Commit it, bind it under [data], or mend the name.",
        )
    return path


def gate_command(plan: Plan, path: Path, allow: Sequence[str]) -> Command:
    """Return the gate's command for the sandbox.

    Parameters
    ----------
    allow
        Names that the operator lets in besides, such as ``company.models.Scaler``.
    """
    words = [word for name in allow for word in ("--allow", name)]
    return Command(
        argv=[str(plan.python), "-I", str(GATE), str(path), *words],
        cwd=path if path.is_dir() else path.parent,
        read=[
            path if path.is_dir() else path.parent,
            *GATE_FILES,
            *interpreter_folders(plan.python),
        ],
        env={"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        limits=Limits(seconds=SECONDS, memory_bytes=MEMORY_BYTES),
        use=Use.CHECK,
    )


def scanner_command(python: Path, path: Path) -> Command:
    """Return picklescan's command: a second opinion that only warns."""
    return Command(
        argv=[str(python), "-I", "-m", "picklescan", "--path", str(path)],
        cwd=path if path.is_dir() else path.parent,
        read=[path if path.is_dir() else path.parent, *interpreter_folders(python)],
        limits=Limits(seconds=_SECOND_OPINION_S, memory_bytes=MEMORY_BYTES),
        use=Use.CHECK,
    )


def verdict_of(output: bytes, code: int, complaints: bytes) -> JSON:
    """Read what the gate program printed; a program that did not answer refuses."""
    try:
        told = json.loads(output)
        if isinstance(told, dict) and isinstance(cast("JSON", told).get("ok"), bool):
            return cast("JSON", told)
    except ValueError:
        pass
    last = complaints.decode(errors="replace").strip().splitlines()[-1:]
    why = "it took too long or too much memory" if code < 0 or code > 128 else "it did not answer"
    return {"ok": False, "refused": f"{why} ({' '.join(last)[:200] or f'exit code {code}'})"}


def result(named: str, told: JSON, allow: Sequence[str], opinion: str) -> CheckResult:
    """Return the gate's verdict as a check."""
    evidence = {
        "question": QUESTION,
        "file": named,
        "loader": told.get("loader"),
        "kind": told.get("kind"),
        "globals": told.get("globals", []),
        "files": told.get("files", {}),
        "versions": told.get("versions", {}),
        "seconds": told.get("seconds"),
        "let_in": list(allow),
        "picklescan": opinion,
    }
    if not told["ok"]:
        evidence["refused"] = told["refused"]
        summary = f"{named} holds {told['refused']}, which no model may"
        return CheckResult("adopt.gate", Verdict.FAILED, summary, evidence)
    kind = told.get("kind") or told["loader"]
    count = len(cast("Sequence[str]", told.get("globals", [])))
    summary = f"{kind} ({told['loader']}): {count} names, each known to belong to models"
    return CheckResult("adopt.gate", Verdict.PASSED, summary, evidence)


def refusal(named: str, told: JSON) -> StoppedError:
    """Return the error that ends a run whose model the gate refused."""
    return StoppedError(
        "PS290",
        f"{named} was not let in: it holds {told['refused']}.",
        hint="If the name is sound, the operator lets it in under [adopt] allow in server.toml; "
        "else save the model as skops, ONNX or its framework's own format.",
    )


def built(plan: Plan, path: Path, told: JSON) -> Built:
    """Return the adopted model, to be read by the loader that was checked.

    Raises
    ------
    StoppedError
        PS292, such files are no model by themselves: an adapter is needed.
    """
    loader, predict = str(told["loader"]), plan.config.build.predict
    files = (path,) if path.is_file() else tuple(sorted(p for p in path.rglob("*") if p.is_file()))
    if predict is not None:
        return Built("adapter", path, files, predict)
    if loader in _NEED_AN_ADAPTER:
        raise StoppedError(
            "PS292",
            f"{path.name} passed the gate, but {loader} files are no model by themselves.",
            hint="Add [build] predict: a file with load(folder) and predict(model, frame).",
        )
    return Built(loader, path, files, None)


def require_unchanged(staged: Path, told: JSON) -> None:
    """Compare what was packed with what was checked, by digest.

    Raises
    ------
    IntegrityError
        PS293, something else was packed.
    """
    checked = cast("Mapping[str, str]", told["files"])
    found = {
        file.relative_to(staged / "model").as_posix(): _sha256(file)
        for file in (staged / "model").rglob("*")
        if file.is_file()
    }
    if found != dict(checked):
        names = sorted({*found.items()} ^ {*checked.items()})
        raise IntegrityError(
            "PS293",
            f"What was packed is not what the gate checked: {names[0][0]}.",
            hint="Look who writes below PENSTOCK_HOME, then: penstock retry.",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def opinion_of(output: bytes, code: int) -> str:
    """Return picklescan's summary as one line; empty when it found nothing."""
    told: dict[str, Any] = {}
    for line in output.decode(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if value.strip().isdigit():
            told[name.strip().lower()] = int(value)
    dangerous = int(told.get("dangerous globals", 0))
    if not dangerous and code in (0, 1):
        return ""
    return f"picklescan found {dangerous} dangerous globals" if dangerous else "picklescan failed"
