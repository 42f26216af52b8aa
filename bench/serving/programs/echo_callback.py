"""The limit of the gateway's HTTP: ``echo_callback.py PORT``. Reads the body, answers a constant.

The connections and the server are Penstock's; in place of the gateway, one call answers.
"""

import sys

import msgspec
import uvicorn

from penstock.inference.gateway.answers import sent
from penstock.inference.gateway.connections import Connection

ANSWER = sent(
    200, b'{"predictions":[1],"probabilities":[[0.1097249217323405,0.8902750782676595]]}'
)
DECODER = msgspec.json.Decoder()


class Constant:
    """Takes the place of the gateway."""

    body_bytes = 2**20
    body_s = 10.0
    leaving = False

    def admit(self, method, url, headers):
        return True

    def answer(self, admitted, body, answered):
        DECODER.decode(body)
        answered(ANSWER)

    def leave(self, admitted):
        pass

    async def __call__(self, scope, receive, send):
        pass


if __name__ == "__main__":
    uvicorn.run(
        Constant(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
