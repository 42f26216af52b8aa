"""The request path: what callers of a model touch.

    gateway: HTTP in, HTTP out -> routing: which version -> batching: one frame a batch
    -> workers: the processes that hold the models -> prediction_log: on disk before the reply

`worker` is the one program that runs in a model's own environment; the rest of this package
never loads a model. Nothing here reads the database: wiring hands the routes over.
"""
