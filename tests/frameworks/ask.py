"""Asks many packed versions in one process, with the worker's own parts.

    python ask.py WORKER < lines

Each line is ``{"folder", "bodies"}``; each answer ``{"describe", "replies"}``. The worker serves
one version a process; loading every framework anew for each would take minutes.
"""

import importlib.util
import json
import pathlib
import sys

spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec)
sys.modules["worker"] = worker
spec.loader.exec_module(worker)
sys.dont_write_bytecode = True
out, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    asked = json.loads(line)
    folder = pathlib.Path(asked["folder"])
    kept = list(sys.path)
    try:
        version = worker.Version(folder)
    except worker.formats.LoadError as error:
        told = {"ok": False, "error": str(error), "code": error.code, "hint": error.hint}
        print(json.dumps({"describe": told, "replies": []}), file=out, flush=True)
        continue
    parts = [worker.frames.RequestPart(1, b"a", body.encode()) for body in asked["bodies"]]
    replies = [
        [reply.status, reply.body.decode()]
        for part in parts
        for reply in worker.Server(version).answer([part])
    ]
    told = {"describe": version.describe(), "replies": replies}
    print(json.dumps(told), file=out, flush=True)
    sys.path[:] = kept
