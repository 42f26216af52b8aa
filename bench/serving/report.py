"""The table and the picture in docs/benchmarks.md, from bench/results/serving.json."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PICTURE = DOCS / "benchmarks.md", DOCS / "pictures" / "serving.svg"
BEGIN, END = "<!-- serving: made by python -m bench.serving -->", "<!-- end of serving -->"
NAMES = {
    "inprocess": "the call in process",
    "echo": "an ASGI application alone",
    "echo-callback": "our HTTP alone",
    "mlflow": "MLflow",
    "bentoml": "BentoML",
    "mlserver": "MLServer",
    "litserve": "LitServe",
    "ray": "Ray Serve",
    "vetiver": "vetiver",
    "penstock-own": "Penstock, own call",
    "penstock-own-canary": "Penstock, own call, canary",
    "penstock-fast": "Penstock, fast call",
    "penstock-fast-canary": "Penstock, fast call, canary",
    "penstock-lr-own": "Penstock, lr, own call",
    "penstock-lr-fast": "Penstock, lr, fast call",
    "penstock-null": "Penstock, no model",
    "penstock-null-canary": "Penstock, no model, canary",
}
WIDTH, BAR, LEFT, RIGHT = 760, 22, 210, 130


def write(facts: dict[str, Any]) -> None:
    """Put the results into the page and the picture."""
    PICTURE.write_text(picture(facts))
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text(facts)}\n{END}{after}")


def text(facts: dict[str, Any]) -> str:
    """Return the part of the page."""
    versions = ", ".join(f"{peer} {version}" for peer, version in facts["versions"].items())
    unclean = [row for row in facts["rows"] if not row["decides"]]
    head = (
        f"{facts['date']}, {facts['cores']} cores, Python {facts['python']}, Penstock "
        f"{facts['penstock']}; {versions}. {facts['repeats']} windows of {facts['seconds']} s a "
        "row, in turn; the median of those that count."
    )
    lines = [head]
    if unclean:
        lines.append(
            f"**In {len(unclean)} of {len(facts['rows'])} rows, marked with ?, fewer than three "
            "windows count**, because something else was busy on the machine: what hangs on them "
            "is undecided."
        )
    if facts["left_out"]:
        lines.append(f"Not measured, for want of time: {'; '.join(facts['left_out'])}.")
    lines += [f"{NAMES[one['server']]} did not run: {one['failed']}" for one in facts["failed"]]
    lines += [_table(facts), "![Requests a second](pictures/serving.svg)", _targets(facts)]
    return "\n\n".join(lines) + "\n"


def _table(facts: dict[str, Any]) -> str:
    # In process both models were called: the row is of the one that all servers have.
    rows = sorted(facts["rows"], key=lambda row: row["model"] == "pipe")
    by = {(r["server"], r["rows"], r["connections"]): r for r in rows}
    heads = (
        "",
        "1 row, 1 connection: median / p99 ms",
        "1 row, 64 connections: requests/s",
        "p99 ms",
        "processor, us a request",
        "64 rows, 16 connections: requests/s",
        "memory MB",
        "start s",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for server in NAMES:
        one, many, wide = (by.get((server, *asked)) for asked in ((1, 1), (1, 64), (64, 16)))
        any_of = many or one
        if any_of is None:
            continue
        cells = [
            NAMES[server],
            _cell(one, lambda r: f"{r['p50_ms']:.2f} / {r['p99_ms']:.2f}"),
            _cell(many, lambda r: f"{r['requests_per_s']:,.0f}"),
            _cell(many, lambda r: f"{r['p99_ms']:.1f}"),
            _cell(any_of, lambda r: f"{r['cpu_us']:,.0f}"),
            _cell(wide, lambda r: f"{r['requests_per_s']:,.0f}"),
            _cell(any_of, lambda r: f"{r['pss_mb']:.0f}" if "pss_mb" in r else "–"),
            _cell(any_of, lambda r: f"{r['start_s']:.1f}" if "start_s" in r else "–"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None, show: Any) -> str:
    if row is None:
        return "–"
    return show(row) + ("" if row["decides"] else " ?")


def _targets(facts: dict[str, Any]) -> str:
    lines = ["| target | value | at least | |", "|---|---|---|---|"]
    for one in facts["targets"]:
        value = "–" if one["value"] is None else f"{one['value']:.2f}"
        name = one["target"] if one["promised"] else f"{one['target']} (an aim)"
        lines.append(f"| {name} | {value} | {one['least']:.2f} | {one['verdict']} |")
    return "\n".join(lines)


def picture(facts: dict[str, Any]) -> str:
    """Return bars of requests a second at 64 connections, on a logarithmic scale."""
    rows = [r for r in facts["rows"] if (r["rows"], r["connections"]) == (1, 64)]
    rows.sort(key=lambda row: list(NAMES).index(row["server"]))
    height = BAR * len(rows) + 64
    most = max((row["requests_per_s"] for row in rows), default=1)
    decades = max(1.0, math.log10(most) - 1)
    title = "Requests a second, 64 connections, 1 row each"
    parts = [
        _tag(
            "svg",
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {WIDTH} {height}",
            role="img",
            font_family="system-ui, sans-serif",
            font_size=13,
        ),
        f"<title>{title}</title>",
        _tag("rect", "/", width=WIDTH, height=height, fill="#ffffff"),
        _words(12, 22, f"{title} (logarithmic)"),
    ]
    for place, row in enumerate(rows):
        y = 36 + BAR * place
        share = max(0.01, (math.log10(max(row["requests_per_s"], 10.1)) - 1) / decades)
        ours = row["server"].startswith("penstock")
        colour = "#0b6e8a" if ours else "#9aa3ab"
        long = round(share * (WIDTH - LEFT - RIGHT), 1)
        told = f"{row['requests_per_s']:,.0f}{'' if row['decides'] else ' ?'}"
        parts += [
            _words(LEFT - 8, y + 14, NAMES[row["server"]], anchor="end"),
            _tag("rect", "/", x=LEFT, y=y + 2, width=long, height=BAR - 6, fill=colour),
            _words(LEFT + long + 6, y + 14, told),
        ]
    note = f"{facts['date']}, {facts['cores']} cores; ? where fewer than three windows count"
    return "\n".join([*parts, _words(12, height - 10, note), "</svg>\n"])


def _tag(name: str, end: str = "", **attributes: Any) -> str:
    told = "".join(f' {key.replace("_", "-")}="{v}"' for key, v in attributes.items())
    return f"<{name}{told}{end}>"


def _words(x: float, y: float, words: str, anchor: str = "start") -> str:
    place = _tag("text", x=round(x, 1), y=y, text_anchor=anchor, fill="#1b1b1b")
    return f"{place}{escape(words)}</text>"
