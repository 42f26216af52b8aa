"""The pipeline. Start reading here, then at stretches.py.

    build       train, store, check, fairness, explain      building.py
    test        deploy, quality, speed, approve             testing.py
    production  canary, release                             releasing.py
    then        monitors at set periods, alerts             watching.py

A run is one pass. It is cut into stretches: the stage build, the stage test, the start of a
rollout, one look at a canary, one period of a monitor. Between two stretches nothing runs; a
row says where the run stands, and the transaction that decides on a stretch enqueues it. What
people do (approve, promote, roll back) is in acts.py, one transaction each.
"""
