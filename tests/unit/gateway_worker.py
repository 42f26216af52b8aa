"""A worker that knows no model: it does what a request tells it to.

    python -I -S gateway_worker.py SOCKET

It is a host that forks such workers. A body is JSON: ``do`` is what to do, ``on`` the versions
that obey (all when absent), ``id`` the caller's own id. It answers with the version's number and
how many requests its frame held.
"""

import ctypes
import json
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

LOAD, UNLOAD, FORK = 32, 33, 34
ballast: dict[int, bytes] = {}
leaked: list[bytes] = []
warming: dict[int, dict[str, Any]] = {}
"""What the gateway's own request does, by slot."""


def receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            sys.exit(0)
        received += piece
    return received


def obey(asked: dict[str, Any], connection: socket.socket) -> tuple[int, dict[str, Any]]:
    do = asked.get("do")
    if do == "die" or (do == "die once" and not Path(asked["marker"]).exists()):
        if do == "die once":
            Path(asked["marker"]).touch()
        os._exit(9)
    if do == "grow":
        path = connection.getsockname()
        Path(path.removesuffix(".new") + ".reason").write_text("used 812 MB of 800")
        os._exit(9)
    if do == "keep":
        leaked.append(b"x" * asked["bytes"])
    if do in {"sleep", "hold"}:
        take_time(asked)
    if do == "garbage":
        connection.sendall(struct.pack("<I", 4) + b"\xff\xff\xff\xff")
        time.sleep(60)
    if do == "huge":
        connection.sendall(struct.pack("<I", 2**31))
        time.sleep(60)
    if do == "tell id":
        return 200, {"at": time.time_ns()}
    if do == "answer":
        return asked["status"], {"error": "as told"}
    return 200, {}


def take_time(asked: dict[str, Any]) -> None:
    """Touch a file at the start when told to; then sleep, or wait until another file is there."""
    if "marker" in asked:
        Path(asked["marker"]).touch()
    time.sleep(asked.get("seconds", 0))
    while "until" in asked and not Path(asked["until"]).exists():
        time.sleep(0.005)


def reply(part: bytes, versions: dict[int, int], size: int, connection: socket.socket) -> bytes:
    kind, length, _, slot = struct.unpack_from("<BBBH", part)
    name, body = part[5 : 5 + length], part[5 + length :]
    status, answer = 200, dict[str, Any](ok=True)
    if kind == LOAD:
        told = json.loads(body)
        status, answer = load(Path(told["folder"]), told["slot"], versions)
    elif kind == UNLOAD:
        versions.pop(json.loads(body)["slot"], None)
        ballast.pop(slot, None)
    elif slot not in versions:
        status, answer = 503, {"error": f"slot {slot} is not loaded", "code": "PS522"}
    elif kind:
        asked, number = json.loads(body), versions[slot]
        if not name and slot in warming:
            asked = warming[slot]
        if number in asked.get("on", [number]):
            status, answer = obey(asked, connection)
        name = asked.get("id", name.decode()).encode()
        answer |= {"number": number, "batch": size, "n": asked.get("n"), "kind": kind}
        answer["id"] = name.decode()
        answer |= {"pid": os.getpid(), "versions": len(versions)}
    return (
        struct.pack("<HBB", status, len(name), 0)
        + name
        + struct.pack("<I", 1)
        + json.dumps(answer, separators=(",", ":")).encode()
    )


def load(folder: Path, slot: int, versions: dict[int, int]) -> tuple[int, dict[str, Any]]:
    """Obey what the folder says about loading; its name ends in the number."""
    asked = json.loads((folder / "load.json").read_text())
    time.sleep(asked.get("seconds", 0))
    if asked.get("do") == "die":
        os._exit(9)
    if asked.get("do") == "fail":
        return 500, {"error": "No module named yaml", "code": "PS570", "hint": "Lock it."}
    ballast[slot] = b"x" * asked.get("bytes", 0)
    warming.pop(slot, None)
    if "first" in asked:
        warming[slot] = asked["first"]
    versions[slot] = int(folder.name.rpartition("@")[2])
    return 200, {"ok": True}


def serve(connection: socket.socket) -> None:
    versions: dict[int, int] = {}
    while True:
        parts = read(connection)
        replies = [reply(part, versions, len(parts), connection) for part in parts]
        connection.sendall(frame(replies))


def read(connection: socket.socket) -> list[bytes]:
    (size,) = struct.unpack("<I", receive(connection, 4))
    payload = receive(connection, size)
    (count,) = struct.unpack_from("<I", payload)
    lengths = struct.unpack_from(f"<{count}I", payload, 4)
    start, parts = 4 + 4 * count, list[bytes]()
    for length in lengths:
        parts.append(payload[start : start + length])
        start += length
    return parts


def frame(replies: list[bytes]) -> bytes:
    body = struct.pack(f"<I{len(replies)}I", len(replies), *map(len, replies)) + b"".join(replies)
    return struct.pack("<I", len(body)) + body


def listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    return listener


def fork(path: str, inherited: list[socket.socket]) -> int:
    pid = os.fork()
    if pid:
        while not Path(path).exists():
            time.sleep(0.001)
        return pid
    for each in inherited:
        each.close()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    listener = listen(path + ".new")
    Path(path + ".new").rename(path)
    connection, _ = listener.accept()
    serve(connection)
    return 0


def host(path: str) -> None:
    """Fork children as told, and end with the connection."""
    listener = listen(path)
    connection, _ = listener.accept()
    children: dict[str, int] = {}
    while True:
        (part,) = read(connection)
        told = json.loads(part[5 + part[1] :])
        if part[0] == FORK:
            children[told["socket"]] = fork(told["socket"], [listener, connection])
            answer: dict[str, Any] = {"pid": children[told["socket"]]}
        else:
            pid = children.pop(told["socket"])
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            said = Path(told["socket"] + ".reason")
            answer = {"reason": said.read_text() if said.exists() else ""}
        body = struct.pack("<HBB", 200, 0, 0) + struct.pack("<I", 0) + json.dumps(answer).encode()
        connection.sendall(frame([body]))


if __name__ == "__main__":
    host(sys.argv[1])
