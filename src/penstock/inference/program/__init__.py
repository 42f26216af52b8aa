"""The programs that run in a model's own environment, on the standard library of Python 3.9.

`worker.py` is started by path, never imported from here: start reading there.
"""
