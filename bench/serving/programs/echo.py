"""The limit of an HTTP server: ``echo.py PORT``. Reads the body as JSON, answers a constant.

An ASGI application under uvicorn with uvloop and httptools, as the peers could have it at best.
"""

import sys

import msgspec
import uvicorn

ANSWER = b'{"predictions":[1],"probabilities":[[0.1097249217323405,0.8902750782676595]]}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
DECODER = msgspec.json.Decoder()


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    DECODER.decode(body)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
