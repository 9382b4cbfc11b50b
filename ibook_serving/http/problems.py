"""Problem documents (RFC 9457): every error the server answers has this one shape."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ibook_assets.core.errors import IbookError

PROBLEM_TYPE: Final = "application/problem+json"
_SHOWN_CHARS: Final = 80

_log = logging.getLogger(__name__)


class FieldError(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field of the request that is not as declared."""

    path: Annotated[str, msgspec.Meta(description="Where, as a path: `$.requests[0].amount`.")]
    message: Annotated[str, msgspec.Meta(description="What is allowed there.")]
    value: Annotated[
        str | None, msgspec.Meta(description="What was found, as JSON, shortened; absent if none.")
    ] = None


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 9457 problem document."""

    type: Annotated[str, msgspec.Meta(description="Identifies the kind of problem.")]
    title: Annotated[str, msgspec.Meta(description="The kind of problem in words.")]
    status: Annotated[int, msgspec.Meta(description="The HTTP status code.", ge=400, le=599)]
    detail: Annotated[str, msgspec.Meta(description="What happened and what to do next.")]
    instance: Annotated[str | None, msgspec.Meta(description="Path of the request.")] = None
    errors: Annotated[
        tuple[FieldError, ...] | None, msgspec.Meta(description="The fields at fault.")
    ] = None


class ProblemError(IbookError):
    """Ends a request with a problem document."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        errors: tuple[FieldError, ...] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        super().__init__(f"{status} {title}: {detail}")

    def document(self, instance: str | None = None) -> ProblemDocument:
        """The document to answer with."""
        slug = self.title.lower().replace(" ", "-")
        return ProblemDocument(
            type=f"urn:ibook:problem:{slug}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            instance=instance,
            errors=self.errors,
        )


def invalid_field(path: str, message: str, value: object = msgspec.UNSET) -> ProblemError:
    """422 for the field at `path`; `value` is what was found there."""
    shown = None if value is msgspec.UNSET else _shorten(value)
    found = "" if shown is None else f", found {shown}"
    return ProblemError(
        422,
        "Invalid field",
        f"{path}: {message}{found}.",
        errors=(FieldError(path, message, shown),),
    )


def _shorten(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}… ({len(text)} characters)"


def problem_response(problem: ProblemError, request: Request) -> Response:
    """The HTTP answer for `problem`."""
    return Response(
        msgspec.json.encode(problem.document(request.url.path)),
        status_code=problem.status,
        headers=problem.headers,
        media_type=PROBLEM_TYPE,
    )


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Turn the framework's own errors (unknown route, wrong method) into problem documents."""
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow")
    problem = {
        404: ProblemError(
            404,
            "Unknown route",
            f"There is no {request.url.path[:200]}; GET /docs lists the routes.",
        ),
        405: ProblemError(
            405,
            "Wrong method",
            f"{request.url.path} answers {allowed}, not {request.method[:20]}.",
            headers=error.headers,
        ),
    }.get(error.status_code)
    return problem_response(
        problem
        or ProblemError(error.status_code, "Refused", str(error.detail), headers=error.headers),
        request,
    )


async def answer_problem(request: Request, error: Exception) -> Response:
    """Answer a `ProblemError` raised while a request was handled."""
    assert isinstance(error, ProblemError)
    return problem_response(error, request)


async def answer_crash(request: Request, error: Exception) -> Response:
    """500 for a fault of ours: the cause goes to the log, never into the answer."""
    _log.error("request failed", extra={"path": request.url.path}, exc_info=error)
    return problem_response(
        ProblemError(
            500,
            "Internal error",
            "The server failed. The cause is in its log; sending the request again is safe.",
        ),
        request,
    )
