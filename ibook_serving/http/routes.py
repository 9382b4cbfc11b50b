"""Routes declared once: what is registered with the server is what the OpenAPI document shows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ibook_serving.http.problems import PROBLEM_TYPE, ProblemDocument

_ENCODER: Final = msgspec.json.Encoder()
_JSON_TYPE: Final = (b"content-type", b"application/json")

Endpoint = Callable[[Request], Awaitable[Response]]


BODY_PROBLEMS: Final = {
    400: "Malformed JSON: the body cannot be read",
    408: "Body timeout: the body did not arrive in time",
    413: "Body too large: more bytes than this server takes",
    422: "Invalid field: names the path, the value and what is allowed",
}
"""How every route that reads a body can refuse it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One documented answer of a route."""

    description: str
    type: type[msgspec.Struct]
    example: msgspec.Struct


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """One documented answer that is not JSON."""

    description: str
    media_type: str
    example: str


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """A route, its handler and its documentation."""

    path: str
    methods: tuple[str, ...]
    endpoint: Endpoint
    summary: str
    description: str
    answers: Mapping[int, Answer | TextAnswer]
    body: type[msgspec.Struct] | None = None
    body_example: msgspec.Struct | Mapping[str, object] | None = None
    body_required: bool = True
    parameters: tuple[Mapping[str, object], ...] = ()
    security: tuple[str, ...] = ()
    problems: Mapping[int, str] = field(default_factory=dict)
    """Status and cause of the problem documents this route answers with; BODY_PROBLEMS are
    added to those of a route with a body."""
    documented: bool = True
    """Whether it is part of the interface; what only our own page reads is not."""


class JsonResponse(Response):
    """JSON that is encoded already; its headers need no encoding either."""

    def __init__(self, body: bytes, status: int) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), _JSON_TYPE]


def json_response(document: msgspec.Struct, status: int = 200) -> Response:
    """`document` as JSON."""
    return JsonResponse(_ENCODER.encode(document), status)


_REF: Final = "#/components/schemas/{name}"
_IN_NAMES: Final = str.maketrans("/", "_", "{}")


def openapi_document(specs: Sequence[RouteSpec], *, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of those of `specs` that are documented."""
    routes = [spec for spec in specs if spec.documented]
    types: dict[str, type[msgspec.Struct]] = {ProblemDocument.__name__: ProblemDocument}
    for route in routes:
        answers = [a.type for a in route.answers.values() if isinstance(a, Answer)]
        for shape in (route.body, *answers):
            if shape is not None:
                types[shape.__name__] = shape
    _, schemas = msgspec.json.schema_components(types.values(), ref_template=_REF)
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        item = paths.setdefault(route.path, {})
        for method in route.methods:
            item[method.lower()] = _operation(route, method)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ibook scoring",
            "version": version,
            "description": "Scores ticket orders with the promoted model. Errors are RFC 9457 "
            "problem documents.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "adminKey": {"type": "apiKey", "in": "header", "name": "x-api-key"}
            },
        },
    }


def _operation(route: RouteSpec, method: str) -> dict[str, object]:
    name = route.path.strip("/").translate(_IN_NAMES) or "root"
    refused = route.problems if route.body is None else {**BODY_PROBLEMS, **route.problems}
    operation: dict[str, object] = {
        "operationId": f"{method.lower()}_{name}",
        "summary": route.summary,
        "description": route.description,
        "responses": {
            **{str(code): _answer(answer) for code, answer in route.answers.items()},
            **{
                str(code): _problem(code, why)
                for code, why in sorted(refused.items())
                if code not in route.answers
            },
        },
    }
    if route.parameters:
        operation["parameters"] = [dict(p) for p in route.parameters]
    if route.security:
        operation["security"] = [{name: []} for name in route.security]
    if route.body is not None and method == "POST":
        operation["requestBody"] = {
            "required": route.body_required,
            "content": {
                "application/json": {
                    "schema": {"$ref": _REF.format(name=route.body.__name__)},
                    "example": msgspec.to_builtins(route.body_example),
                }
            },
        }
    return operation


def _answer(answer: Answer | TextAnswer) -> dict[str, object]:
    if isinstance(answer, TextAnswer):
        shown = {"schema": {"type": "string"}, "example": answer.example}
        return {"description": answer.description, "content": {answer.media_type: shown}}
    return {
        "description": answer.description,
        "content": {
            "application/json": {
                "schema": {"$ref": _REF.format(name=answer.type.__name__)},
                "example": msgspec.to_builtins(answer.example),
            }
        },
    }


def _problem(code: int, why: str) -> dict[str, object]:
    return {
        "description": why,
        "content": {
            PROBLEM_TYPE: {
                "schema": {"$ref": _REF.format(name=ProblemDocument.__name__)},
                "example": {
                    "type": "urn:ibook:problem:example",
                    "title": why.partition(":")[0],
                    "status": code,
                    "detail": why,
                },
            }
        },
    }
