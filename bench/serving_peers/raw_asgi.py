"""A bare ASGI app: decode with msgspec, `inplace_predict`, encode, once per request."""

from __future__ import annotations

import msgspec
from starlette.types import Receive, Scope, Send

from bench.serving_peers.vector import booster, score

_MODEL = booster()
_TYPE = (b"content-type", b"application/json")


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer POST /predict with a score."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    order = msgspec.json.decode(body)["requests"][0]
    answer = msgspec.json.encode({"predictions": [{"score": score(_MODEL, order)}]})
    headers = [_TYPE, (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
