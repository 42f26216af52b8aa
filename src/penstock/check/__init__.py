"""Checks: one question each, with a verdict and what it rests on; gates over them.

`quality` measures, `comparison` asks whether a challenger is worse than the champion, `drift`
whether requests still look like the data that was judged; `gate` makes one verdict of many.
All of them work on a model's answers, never on the model.
"""
