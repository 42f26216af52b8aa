"""A worker that knows no model: it does what a request tells it to.

    python -I -S gateway_worker.py --socket PATH --number N

A body is JSON: ``do`` is what to do, ``on`` the versions that obey (all when absent), ``id`` the
caller's own id. It answers with its number and how many requests its frame held.
"""

import argparse
import json
import os
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any


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
    if do == "sleep":
        time.sleep(asked["seconds"])
    if do == "garbage":
        connection.sendall(struct.pack("<I", 4) + b"\xff\xff\xff\xff")
        time.sleep(60)
    if do == "huge":
        connection.sendall(struct.pack("<I", 2**31))
        time.sleep(60)
    if do == "answer":
        return asked["status"], {"error": "as told"}
    return 200, {}


def reply(part: bytes, number: int, size: int, connection: socket.socket) -> bytes:
    kind, length = part[0], part[1]
    name, body = part[5 : 5 + length], part[5 + length :]
    status, answer = 200, dict[str, Any](ok=True)
    if kind:
        asked = json.loads(body)
        if number in asked.get("on", [number]):
            status, answer = obey(asked, connection)
        name = asked.get("id", name.decode()).encode()
        answer |= {"number": number, "batch": size, "n": asked.get("n"), "kind": kind}
        answer["id"] = name.decode()
    return (
        struct.pack("<HBB", status, len(name), 0)
        + name
        + struct.pack("<I", 1)
        + (json.dumps(answer).encode())
    )


def serve(connection: socket.socket, number: int) -> None:
    while True:
        (size,) = struct.unpack("<I", receive(connection, 4))
        payload = receive(connection, size)
        (count,) = struct.unpack_from("<I", payload)
        lengths = struct.unpack_from(f"<{count}I", payload, 4)
        start = 4 + 4 * count
        replies: list[bytes] = []
        for length in lengths:
            replies.append(reply(payload[start : start + length], number, count, connection))
            start += length
        body = struct.pack(f"<I{count}I", count, *map(len, replies)) + b"".join(replies)
        connection.sendall(struct.pack("<I", len(body)) + body)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket")
    parser.add_argument("--number", type=int)
    options = parser.parse_args()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(options.socket)
    listener.listen()
    connection, _ = listener.accept()
    serve(connection, options.number)


if __name__ == "__main__":
    main()
