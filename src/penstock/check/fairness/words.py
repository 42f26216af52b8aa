"""Fairness in sentences, for readers who do not read tables.

Sentences are made of the numbers in the report alone, so that whoever has the report can check
them. Shares are told in so many of 100, differences as they are compared with the limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_YES = frozenset({"1", "yes", "true", "y"})
_NEARLY_ALL, _MUCH = 0.5, 0.1
_MEANS = ("mean_error", "mean_absolute_error", "calibration")


def column(report: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    """Tell how the groups of one column are treated.

    Examples
    --------
    >>> def rate(value):
    ...     return {"selection_rate": {"value": value}}
    >>> one = {
    ...     "column": "sex", "of": ["sex"], "measure": "demographic_parity", "limit": 0.1,
    ...     "min_ratio": None, "ratio": None, "needs": "", "base_gap": 0.16, "beyond": 0,
    ...     "groups": [
    ...         {"group": "Female", "judged": True, "rows": 500, "few": None, **rate(0.08)},
    ...         {"group": "Male", "judged": True, "rows": 500, "few": None, **rate(0.25)},
    ...     ],
    ...     "differences": {"demographic_parity": {
    ...         "value": 0.17, "low": 0.12, "high": 0.22, "part": "selection_rate",
    ...         "most": "Male", "least": "Female"}},
    ... }
    >>> print(column({"task": "binary", "positive": "1", "label": "paid"}, one))
    Of 100 people with sex Female, 8 get a yes; of 100 with sex Male, 25. The difference, 17 in \
100, is more than the limit of 10 in 100, and not by chance. Most of it is in the true answers: \
there it is 16 in 100.
    """
    groups: Sequence[Mapping[str, Any]] = one["groups"]
    if not groups:
        return f"There is no row to compare {one['column']} on."
    if len(groups) == 1 and not one["beyond"]:
        who = _who(one, groups[0]["group"])
        return f"All are people {who}: there is nobody to compare them with."
    gap = one["differences"].get(one["measure"])
    if gap is None:
        return f"Groups of {one['column']} cannot be compared yet. {_small(one)}".strip()
    sentences = [
        _extremes(report, one, gap),
        _others(one),
        _size(report, one, gap),
        _truth(one, gap),
        _ratio(one),
        _small(one),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def changed(change: Mapping[str, Any]) -> str:
    """Tell how the gaps moved since the champion.

    Examples
    --------
    >>> moved = {"column": "sex", "of": ["sex"], "measure": "demographic_parity", "before": 0.17,
    ...     "now": 0.12, "low": -0.07, "high": -0.03, "change": "shrank"}
    >>> changed({"why": "", "champion": 3, "columns": [moved]})
    'Compared with v3, in use, the gap by sex shrank from 17 to 12 in 100, and not by chance.'
    """
    if change["why"]:
        return f"Not compared with v{change['champion']}, in use: {change['why']}."
    told = [_moved(one) for one in change["columns"] if one["change"] != "same"]
    kept = [one["column"] for one in change["columns"] if one["change"] == "same"]
    if kept:
        told.append(f"the gap by {listed(kept)} did not change by more than chance")
    if not told:
        return f"There is no gap to compare with v{change['champion']}, in use."
    return f"Compared with v{change['champion']}, in use, {'; '.join(told)}."


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does.

    Examples
    --------
    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _moved(one: Mapping[str, Any]) -> str:
    if one["measure"] in ("mean_error", "mean_absolute_error"):
        sizes = f"from {one['before']:.3g} to {one['now']:.3g}"
    else:
        sizes = f"from {_digits(one['before'] * 100)} to {_digits(one['now'] * 100)} in 100"
    return f"the gap by {one['column']} {one['change']} {sizes}, and not by chance"


def _who(one: Mapping[str, Any], group: str) -> str:
    """Say which group: ``with sex Female``."""
    if len(one["of"]) > 1:
        return f"who are {group} ({' and '.join(one['of'])})"
    return f"with {one['column']} {group}"


def _yes(report: Mapping[str, Any], part: str) -> str:
    """Name the answer that a share speaks of."""
    name = part.partition(":")[2] or str(report["positive"])
    if report["task"] == "binary" and name.lower() in _YES:
        return "a yes"
    return f"“{name}”"


def _extremes(report: Mapping[str, Any], one: Mapping[str, Any], gap: Mapping[str, Any]) -> str:
    """Tell the lowest and the highest group."""
    part: str = gap["part"]
    values = {g["group"]: g[part]["value"] for g in one["groups"] if g[part] is not None}
    low, high = values[gap["least"]], values[gap["most"]]
    least, most = _who(one, gap["least"]), _who(one, gap["most"])
    kind = part.partition(":")[0]
    if kind in _MEANS:
        return _means(report, kind, (least, low), (most, high))
    of, first, second = _counted(low, high)
    yes = _yes(report, part)
    verb = "gets" if first == "1" else "get"
    told = {
        "selection_rate": (f"{least}, {first} {verb} {yes}", most),
        "tpr": (f"{least} who truly are {yes}, it finds {first}", most),
        "fpr": (f"{least} who truly are not {yes}, {first} {verb} it all the same", most),
        "precision": (f"{least} who get {yes}, {first} rightly {verb} it", most),
        "accuracy": (f"{least}, {first} {verb} a right answer", most),
    }
    begin, end = told[kind]
    return f"Of {of} people {begin}; of {of} {end}, {second}."


def _means(
    report: Mapping[str, Any], kind: str, least: tuple[str, float], most: tuple[str, float]
) -> str:
    def off(value: float) -> str:
        if kind == "mean_absolute_error":
            return f"off by {value:.3g}"
        if kind == "calibration":
            # Truth less probability: above 0 the probability was too low.
            return f"{abs(value) * 100:.2g} in 100 too {'low' if value > 0 else 'high'}"
        return "right" if value == 0 else f"{abs(value):.3g} too {'high' if value > 0 else 'low'}"

    thing = "probabilities" if kind == "calibration" else f"answers for {report['label']}"
    return (
        f"For people {least[0]}, {thing} are {off(least[1])} on average;"
        f" for people {most[0]}, {off(most[1])}."
    )


def _others(one: Mapping[str, Any]) -> str:
    judged = sum(1 for group in one["groups"] if group["judged"]) - 2
    if judged < 1:
        return ""
    return f"{judged} other {'group lies' if judged == 1 else 'groups lie'} between."


def _size(report: Mapping[str, Any], one: Mapping[str, Any], gap: Mapping[str, Any]) -> str:
    """Hold the difference against the limit, else against chance."""
    limit = one["limit"]
    size = _amount(report, one, gap["value"])
    if limit is None:
        if gap["low"] > 0:
            return f"The difference, {size}, is more than chance makes."
        return f"The difference, {size}, may be chance."
    most = _amount(report, one, limit)
    if gap["high"] <= limit:
        return f"The difference, {size}, is within the limit of {most}."
    if gap["low"] > limit:
        return f"The difference, {size}, is more than the limit of {most}, and not by chance."
    told = f"Whether the difference, {size}, is more than the limit of {most} cannot be told yet"
    return f"{told}: it {one['needs']}." if one["needs"] else f"{told}."


def _amount(report: Mapping[str, Any], one: Mapping[str, Any], value: float) -> str:
    if one["measure"] in ("mean_error", "mean_absolute_error"):
        return f"{value:.3g} in units of {report['label']}"
    return f"{_digits(value * 100)} in 100"


def _truth(one: Mapping[str, Any], gap: Mapping[str, Any]) -> str:
    """Say how much of a difference in yes is in the true answers already."""
    base, size = one["base_gap"], gap["value"]
    if base is None or size <= 0 or gap["low"] <= 0:
        return ""
    there = f"{_digits(abs(base) * 100)} in 100"
    if base >= size * _NEARLY_ALL:
        how = "Most of it is" if base < size else "All of it is"
        return f"{how} in the true answers: there it is {there}."
    if base >= size * _MUCH:
        return f"Part of it is in the true answers: there it is {there}."
    if base <= -size * _MUCH:
        return f"The true answers differ the other way, by {there}."
    return "It is not in the true answers: there the two hardly differ."


def _ratio(one: Mapping[str, Any]) -> str:
    least, ratio = one["min_ratio"], one["ratio"]
    if least is None or ratio is None:
        return ""
    begin = f"The rate of {ratio['least']} is {ratio['value']:.2f} of that of {ratio['most']}"
    if ratio["low"] >= least:
        return f"{begin}, at or above the {least:g} that is asked for."
    if ratio["high"] < least:
        return f"{begin}, under the {least:g} that is asked for, and not by chance."
    return f"{begin}; whether that is under the {least:g} that is asked for cannot be told yet."


def _small(one: Mapping[str, Any]) -> str:
    """Name groups that are too small to judge, and what they lack."""
    small = [group for group in one["groups"] if group["few"]]
    if not small:
        return ""
    told = [f"{group['group']} ({group['few']})" for group in small[:3]]
    rest = len(small) - len(told) + one["beyond"]
    if rest:
        told.append(f"{rest} other {'group' if rest == 1 else 'groups'}")
    return f"Too small to judge: {listed(told)}."


def _counted(low: float, high: float) -> tuple[str, str, str]:
    """Count two shares in so many of 100; of 1,000 or more where that would show no difference.

    Examples
    --------
    >>> _counted(0.08, 0.25), _counted(0.001, 0.003), _counted(0.5, 0.5)
    (('100', '8', '25'), ('1,000', '1', '3'), ('100', '50', '50'))
    """
    for of in (100, 1_000, 10_000):
        first, second = round(low * of), round(high * of)
        if first != second or low == high:
            return f"{of:,}", str(first), str(second)
    return "100", str(round(low * 100)), str(round(high * 100))


def _digits(value: float) -> str:
    """Write a number of hundredths: whole from 10 on, else with two digits that count."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
