"""Seeded tables for the example projects: rows to train on, and later rows to judge by."""

from __future__ import annotations

import csv
import io
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Table = dict[str, list[Any]]
PURPOSES = ("car", "house", "study", "travel")
_PLAIN = ("are", "you", "home", "see", "dinner", "tonight", "the", "meeting", "moved", "train")
_SPAM = ("win", "prize", "claim", "cash", "now", "free", "call", "urgent", "offer", "reply")


def loans(rows: int, seed: int = 1) -> Table:
    """Draw loans, of which about a third are paid late; no column alone tells which."""
    draw = np.random.default_rng(seed)
    amount = draw.gamma(4, 2500, rows).round(2)
    income = draw.gamma(9, 4200, rows).round(2)
    years = draw.integers(0, 30, rows)
    purpose = draw.integers(0, 4, rows)
    logit = 1.6 * (amount / 10_000 - 1) - 1.3 * (income / 38_000 - 1) - 0.06 * (years - 12)
    logit += np.array([0.5, -0.7, 0.0, 0.6])[purpose] - 0.8
    late = draw.random(rows) < 1 / (1 + np.exp(-logit))
    return {
        "amount": amount.tolist(),
        "income": income.tolist(),
        "years": years.tolist(),
        "purpose": [PURPOSES[one] for one in purpose],
        "late": late.astype(int).tolist(),
    }


def hours(rows: int, seed: int = 2) -> Table:
    """Draw the bicycles that were lent in each hour since the first of March."""
    draw = np.random.default_rng(seed)
    at = np.datetime64("2026-03-01T00:00:00") + np.arange(rows) * np.timedelta64(1, "h")
    hour, weekday = np.arange(rows) % 24, np.arange(rows) // 24 % 7
    workday = (weekday < 5).astype(int)
    temp = 12 + 9 * np.sin(np.arange(rows) / 900) + draw.normal(0, 3, rows)
    humidity = draw.uniform(30, 95, rows)
    rush = np.exp(-((hour - 8) ** 2) / 5) + np.exp(-((hour - 17) ** 2) / 7)
    midday = np.exp(-((hour - 14) ** 2) / 18)
    level = 20 + 6 * temp + 160 * rush * workday + 150 * midday * (1 - workday) - 0.6 * humidity
    count = np.maximum(0, level + draw.normal(0, 22, rows)).round().astype(int)
    return {
        "at": [str(one).replace("T", " ") for one in at],
        "hour": hour.tolist(),
        "weekday": weekday.tolist(),
        "temp": temp.round(1).tolist(),
        "humidity": humidity.round(1).tolist(),
        "workday": workday.tolist(),
        "count": count.tolist(),
    }


def messages(rows: int, seed: int = 3) -> Table:
    """Draw short messages, a quarter of them advertisements; both use all words, unequally."""
    draw = np.random.default_rng(seed)
    spam = draw.random(rows) < 0.25
    texts = list[str]()
    for one in spam:
        wanted = draw.integers(5, 12)
        foreign = draw.random(wanted) < 0.22
        words = [str(draw.choice(_SPAM if one != other else _PLAIN)) for other in foreign]
        texts.append(" ".join([*words, str(draw.integers(100, 100_000))]))
    return {"text": texts, "kind": ["spam" if one else "ham" for one in spam]}


def digits(rows: int, first: int = 0) -> Table:
    """Give rows of the handwritten digits that scikit-learn ships, a column a pixel."""
    images, labels = _digits(first, rows)
    flat = images.reshape(len(labels), 64)
    return {
        **{f"p{place}": flat[:, place].tolist() for place in range(64)},
        "digit": labels.tolist(),
    }


def images(rows: int, first: int = 0) -> Table:
    """Give the same digits, one column of 8 by 8 lists."""
    found, labels = _digits(first, rows)
    return {"image": found.tolist(), "digit": labels.tolist()}


def _digits(first: int, rows: int) -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    found = cast("Any", load_digits())
    order = np.random.default_rng(4).permutation(len(found.target))[first : first + rows]
    return found.images[order].astype(int), found.target[order]


def part(table: Table, begin: int, end: int | None = None) -> Table:
    """Give some rows of a table."""
    return {name: values[begin:end] for name, values in table.items()}


def as_csv(table: Table) -> bytes:
    """Write a table with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue().encode()


def as_parquet(table: Table) -> bytes:
    """Write a table as Parquet; a column `at` becomes times."""
    columns = {
        name: pa.array(np.array(values, dtype="datetime64[s]")) if name == "at" else values
        for name, values in table.items()
    }
    out = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), out)
    return out.getvalue().to_pybytes()
