NUMBERS = ["amount", "income", "years"]


def prepare(frame, purposes):
    """The booster gets numbers only; the burden matters more than its parts."""
    out = frame[NUMBERS].astype(float)
    out["burden"] = out["amount"] / out["income"]
    out["purpose"] = [purposes.get(p, -1) for p in frame["purpose"]]
    return out
