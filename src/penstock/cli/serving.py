"""Commands about what is served: predict, serving."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import quote

import typer

from penstock.cli.explaining import version_of
from penstock.cli.session import Session, columns, session
from penstock.errors import UsageError

_MARKS = {"ready": "passed", "failed": "failed", "starting": "running"}
_SHOWN = 12


def predict(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A model, or a version such as credit-default@12.")],
    file: Annotated[Path | None, typer.Argument(help="Rows as JSON; - reads them.")] = None,
    *,
    test: Annotated[bool, typer.Option("--test", help="In the test environment.")] = False,
    example: Annotated[bool, typer.Option("--example", help="Send a typical row.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Tell why.")] = False,
) -> None:
    """Ask a model about rows, as any caller does."""
    here = session(ctx)
    model, number = version_of(name) if "@" in name else (name, None)
    client = here.client()
    if file is not None and example:
        hint = "Leave one of them out."
        raise UsageError("PS869", f"Both --example and rows of {file} are asked.", hint=hint)
    if file is None:
        asked: Any = client.serving(model)["example"]
        if asked is None:
            what = f"No version of {model} says what its columns are."
            raise UsageError("PS869", what, hint=f"Give rows: penstock predict {name} FILE")
    else:
        asked = _request(file)
    version = "" if number is None else f"/versions/{number}"
    place = f"{'/test' if test else ''}/v2/models/{quote(model, safe='')}{version}"
    told: Any = client.ask(f"{place}/{'explain' if explain else 'infer'}", asked)
    here.data("explanation" if explain else "prediction", told)
    if explain:
        _why(here, told)
    else:
        _answers(here, told)


def serving(ctx: typer.Context, name: Annotated[str, typer.Argument(help="A model.")]) -> None:
    """Show how a model is served now."""
    here = session(ctx)
    told: Any = here.client().serving(name.partition("@")[0])
    here.data("serving", told)
    if not told["reachable"]:
        here.note(f"{told['why']} What follows is what should run.", mark="warning")
    rows = [("", "VERSION", "ROLE", "SHARE", "REQUESTS, 5 MIN", "P50, P95 MS", "MEMORY", "")]
    for one in cast("Sequence[Mapping[str, Any]]", told["versions"]):
        figures: Mapping[str, Any] = one.get("figures") or {}
        memory = one.get("rss_bytes")
        where = "" if one["environment"] == "production" else f", {one['environment']}"
        speed = f"{figures['p50_ms']:g}, {figures['p95_ms']:g}" if figures.get("p50_ms") else "-"
        rows.append(
            (
                f"{here.mark(_MARKS.get(one['state'], 'idle'))} {one['state']}",
                f"@{one['number']}",
                f"{one['role']}{where}",
                _share(one),
                f"{figures.get('requests', 0):,}",
                speed,
                f"{memory / 1e6:.0f} MB" if memory else "-",
                str(one.get("reason") or ""),
            )
        )
    for line in columns(rows) if len(rows) > 1 else ["No version runs."]:
        here.write(line)


def _share(of: Mapping[str, Any]) -> str:
    """Say what a version gets; what is planned only where that is not so, or not known."""
    planned, now = of.get("share", 0), of.get("share_now")
    if now is None:
        return f"{planned} % planned"
    late = of["state"] != "ready" and now != planned
    return f"{now} %, {planned} % planned" if late else f"{now} %"


def _request(file: Path) -> Mapping[str, Any]:
    """Read rows: a request of the protocol, a list of records, or one record."""
    hint = 'Give {"inputs": …}, a list such as [{"age": 41}], or one such record.'
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
        document: Any = json_.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError("PS869", f"{file} holds no rows: {error}.", hint=hint) from error
    if isinstance(document, dict) and "inputs" in document:
        return cast("Mapping[str, Any]", document)
    records: Any = [document] if isinstance(document, dict) else document
    listed = cast("list[Any]", records) if isinstance(records, list) else [None]
    if not (listed and listed[0] and all(isinstance(one, dict) for one in listed)):
        raise UsageError("PS869", f"{file} holds no rows.", hint=hint)
    rows = cast("list[dict[str, Any]]", listed)
    if any(row.keys() != rows[0].keys() for row in rows):
        raise UsageError("PS869", f"The records of {file} have different names.", hint=hint)
    return {"inputs": [_input(name, [row[name] for row in rows]) for name in rows[0]]}


def _input(name: str, values: list[Any]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    kinds = {"bool": "BOOL", "int": "INT64", "float": "FP64"}
    types = {kinds.get(value.__class__.__name__, "BYTES") for value in known}
    kind = "FP64" if types <= {"INT64", "FP64"} and types != {"INT64"} else min(types)
    return {"name": name, "shape": [len(values)], "datatype": kind, "data": values}


def _answers(here: Session, told: Mapping[str, Any]) -> None:
    outputs = {one["name"]: one for one in told["outputs"]}
    version = f"{told.get('model_name')}@{told.get('model_version')}"
    here.write(f"{version}: {', '.join(map(str, outputs['prediction']['data']))}", mark="passed")
    if "probability" in outputs:
        width = outputs["probability"]["shape"][1]
        parameters: Mapping[str, Any] = told.get("parameters") or {}
        classes: Sequence[Any] = parameters.get("classes") or range(width)
        flat = outputs["probability"]["data"]
        texts = [f"{share:.4g}" for share in flat]
        shares = [("", *texts[at : at + width]) for at in range(0, len(flat), width)]
        rows = [("", *map(str, classes)), *shares]
        for line in columns(rows):
            here.write(line)
    here.note(f"prediction id {told.get('id')}")


def _why(here: Session, told: Mapping[str, Any]) -> None:
    for row in cast("Sequence[Mapping[str, Any]]", told["rows"]):
        here.write(str(row["text"]))
        rows = [("usual", "", f"{row['base']:.4g}", "")]
        for one in row["contributions"][:_SHOWN]:
            value = "" if one["value"] is None else f"= {one['value']}"
            error = "" if one["se"] is None else f"± {1.96 * one['se']:.2g}"
            rows.append((str(one["column"]), value, f"{one['effect']:+.4g}", error))
        rows.append(("answer", "", f"{row['answer']:.4g}", ""))
        for line in columns(rows):
            here.write(line)
    here.note(f"{told['asked']:,} rows asked in {told['took_ms']:.0f} ms; {told['ended']}")


COMMANDS = (predict, serving)
