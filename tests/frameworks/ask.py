"""Asks many packed versions in one process, with the worker's own parts.

    python ask.py WORKER < lines

Each line is ``{"folder", "bodies"}``; each answer ``{"describe", "replies"}``. Loading every
framework anew for each would take minutes.
"""

import importlib.util
import json
import sys

spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec)
sys.modules["worker"] = worker
spec.loader.exec_module(worker)
sys.dont_write_bytecode = True
out, sys.stdout = sys.stdout, sys.stderr
server = worker.Server()
for line in sys.stdin:
    asked = json.loads(line)
    order = json.dumps({"slot": 0, "folder": asked["folder"]}).encode()
    loaded = server.answer([worker.frames.RequestPart(worker.frames.LOAD, b"l", order)])[0]
    told = {"describe": json.loads(loaded.body), "replies": []}
    for body in asked["bodies"] if loaded.status == 200 else ():
        (reply,) = server.answer([worker.frames.RequestPart(1, b"a", body.encode())])
        told["replies"].append([reply.status, reply.body.decode()])
    print(json.dumps(told), file=out, flush=True)
