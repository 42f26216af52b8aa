"""Penstock's memory: the truth about runs, versions, approvals, rollouts and what serves.

    database.Database -> read() gives a Connection, change() a Change: one transaction with at
    least one journal entry, so that nothing that matters changes without standing in the journal.

    schema        every table              journal    the hash-chained audit log
    runs          models, runs, versions, steps, check results
    approvals     questions to people      rollouts   rollouts and who serves which share
    watch         monitors, alerts, labels, messages to people
    tokens        who may call             fleet      the questions that pages ask

Functions take a connection (they read) or a change (they write); they decide nothing but
whether a move is allowed: every change of a state is a compare-and-set on ``state_version``.
"""
