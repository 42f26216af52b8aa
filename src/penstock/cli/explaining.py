"""What a version looks at, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.cli.session import Session, columns
from penstock.errors import NotFoundError, UsageError

_BAR = 20
_DIRECTIONS = {"up": "higher raises it", "down": "higher lowers it", "mixed": "up and down"}


def explain_version(here: Session, version: str, *, row: int | None, html: Path | None) -> None:
    """Write a version's explanation, or one row of it; or all of it into a file.

    Raises
    ------
    UsageError
        PS058 no version is named, PS050 the file cannot be written.
    NotFoundError
        PS355 the version has no explanation, PS356 the row is not among the shown ones.
    """
    name, number = version_of(version)
    client = here.client()
    if html is not None:
        write_file(html, client.explanation_page(name, number))
        here.write(f"Written to {html}.")
        here.data("file", {"path": str(html)})
        return
    report = client.explanation(name, number)
    if row is not None:
        report = _of_row(version, report, row)
        here.data("explain-row", report)
        _row(here, version, report)
        return
    here.data("explain", report)
    _table(here, version, report)


def version_of(text: str) -> tuple[str, int]:
    """Read NAME@NUMBER.

    Raises
    ------
    UsageError
        PS058: it is none.
    """
    name, _, number = text.partition("@")
    if not (name and number.isdigit()):
        raise UsageError(
            "PS058", f'"{text}" is no version.', hint="Write NAME@NUMBER, credit-default@12."
        )
    return name, int(number)


def write_file(path: Path, content: bytes) -> None:
    """Write a file that the command was asked for.

    Raises
    ------
    UsageError
        PS050: it cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        what = f"{path} cannot be written ({error.strerror})."
        raise UsageError("PS050", what, hint="Name another place.") from error


def _of_row(version: str, report: Mapping[str, Any], row: int) -> Mapping[str, Any]:
    shown: Sequence[Mapping[str, Any]] = report["examples"]
    for one in shown:
        if one["row"] == row:
            return one
    rows = ", ".join(str(one["row"]) for one in shown)
    raise NotFoundError(
        "PS356",
        f"Row {row} is not among the rows of {version} that were explained one by one.",
        hint=f"Choose from {rows}." if rows else "No row was; see [explain] in penstock.toml.",
    )


def _table(here: Session, version: str, report: Mapping[str, Any]) -> None:
    here.write(f"{version}: {report['text']}")
    change: Mapping[str, Any] = report["change"] or {"columns": ()}
    if "text" in change:
        here.write(str(change["text"]))
    found: Sequence[Mapping[str, Any]] = report["columns"]
    if not found:
        return
    compared: Sequence[Mapping[str, str]] = change["columns"]
    changes = {one["column"]: one["change"] for one in compared}
    most = max((one["shap"]["mean"] for one in found if one["shap"]), default=0.0) or 1.0
    rows = [("COLUMN", "", "EFFECT", "95 % INTERVAL", "WORTH", "", "")]
    for one in found:
        shap = one["shap"]
        size = 0.0 if shap is None else shap["mean"]
        changed = changes.get(one["column"], "same")
        rows.append(
            (
                str(one["column"]),
                "#" * round(size / most * _BAR),
                "" if shap is None else f"{size:.4g}",
                "" if shap is None else f"{shap['low']:.3g} to {shap['high']:.3g}",
                f"{one['mean']:.3g}",
                "" if shap is None else _DIRECTIONS.get(shap["direction"], ""),
                "" if changed == "same" else changed,
            )
        )
    for line in columns(rows):
        here.write(line)
    for one in report["skipped"]:
        here.note(f"skipped {one['what']}: {one['why']}")
    shown = [str(one["row"]) for one in report["examples"]]
    if shown:
        here.following(f"penstock explain {version} --row {shown[0]}")


def _row(here: Session, version: str, of: Mapping[str, Any]) -> None:
    said = f" for {of['of']}" if of["of"] is not None else ""
    here.write(
        f"{version}, row {of['row']} ({of['why']}): answer {of['answer']:.4g}{said},"
        f" truth {of['truth']}"
    )
    rows = [("mean answer", "", f"{of['base']:.4g}", "")]
    for one in of["effects"]:
        value = "" if one["value"] is None else f"= {one['value']}"
        error = "" if one["se"] is None else f"± {1.96 * one['se']:.2g}"
        rows.append((str(one["column"]), value, f"{one['effect']:+.4g}", error))
    rows.append(("answer", "", f"{of['answer']:.4g}", ""))
    for line in columns(rows):
        here.write(line)
