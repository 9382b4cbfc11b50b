"""The routes of the page and of the files it is made with."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from ibook_serving.http.routes import Endpoint, RouteSpec, TextAnswer
from ibook_serving.page.document import FOLDER, document
from ibook_serving.page.evidence import evidence_section
from ibook_serving.status.endpoints import StatusBoard

HTML: Final = "text/html; charset=utf-8"
STATIC: Final = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "numbers.js": "text/javascript; charset=utf-8",
    "lookup.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""Files of the folder `static` and what they are."""

_SAFE: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Page:
    """What answers at `/`."""

    def __init__(self, board: StatusBoard) -> None:
        """A page of what `board` shows."""
        self._board = board

    def routes(self) -> tuple[RouteSpec, ...]:
        """The page, the part of it that it fetches again, and its files."""
        return (
            _route("/", self.page, "The page for analysts and on-call", HTML),
            _route(f"{FOLDER}/evidence", self.evidence, "Its drift and promotions", HTML),
            *(
                _route(f"{FOLDER}/{name}", _file(name, kind), f"Its {name}", kind)
                for name, kind in STATIC.items()
            ),
        )

    async def page(self, request: Request) -> Response:
        """GET /."""
        status, evidence = await self._board.look()
        origin = f"{request.url.scheme}://{request.url.netloc}"
        return _html(document(status, evidence, origin=origin))

    async def evidence(self, _request: Request) -> Response:
        """GET /page/evidence."""
        status, evidence = await self._board.look()
        return _html(evidence_section(evidence, status))


def _html(text: str) -> Response:
    return Response(text, media_type=HTML, headers={**_SAFE, "Cache-Control": "no-store"})


def _route(path: str, endpoint: Endpoint, summary: str, kind: str) -> RouteSpec:
    answers = {200: TextAnswer(summary, kind, "")}
    return RouteSpec(path, ("GET",), endpoint, summary, "", answers, documented=False)


def _file(name: str, kind: str) -> Endpoint:
    content = files("ibook_serving.page").joinpath("static", name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    # Looked at anew each time, which costs an empty answer: a new release is never half there.
    headers = {**_SAFE, "ETag": tag, "Cache-Control": "no-cache"}

    async def answer(request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        if tag in (part.strip().removeprefix("W/") for part in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return answer
