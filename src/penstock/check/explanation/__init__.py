"""Explanation: what does a version look at, and how did that change?

    report.py       explain(): everything within one budget of time; start reading here
    asking.py       the numbers that are explained, and asking for them within the budget
    importance.py   what a column is worth: it is shuffled, and the measure gets worse
    likeness.py     columns that tell the same, shuffled together as well
    rows.py         what each column adds to the answers, row by row and in all
    shapley.py      Shapley values, sampled
    dependence.py   how the answer moves with one column: partial dependence, ALE
    examples.py     which rows are shown one by one
    exact.py        exact tree values from the model's environment, held against the sampled
    change.py       the champion beside the challenger
    words.py        the same in sentences

A version is seen only through an `Ask`, so that none can make its own explanation.
"""
