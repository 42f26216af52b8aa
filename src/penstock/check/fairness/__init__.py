"""Fairness: are groups of people treated alike?

    report.py    fairness(): every column and intersection; start reading here
    groups.py    who is in which group: values, bands of numbers, intersections
    rates.py     what is measured of a group, with its interval
    gaps.py      the largest difference and the smallest ratio between groups, all pairs at once
    change.py    the champion beside the challenger, on the same rows
    words.py     the same in sentences

Intervals look at all pairs of groups at once, so that many small groups do not look unfair by
chance. A group with fewer than 100 rows, or with too few cases of a kind, is listed and not
judged: undecided before failed.
"""
