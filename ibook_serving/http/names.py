"""Names that requests bring: how they are documented, and how one that is none is refused."""

from __future__ import annotations

from starlette.requests import Request

from ibook_assets.core.errors import ContractError
from ibook_assets.core.ids import NAME_PATTERN, check_name
from ibook_serving.http.problems import invalid_field


def path_parameter(name: str, description: str) -> dict[str, object]:
    """A name in a route's path, as the OpenAPI document describes it."""
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "pattern": NAME_PATTERN},
    }


def path_name(request: Request, parameter: str) -> str:
    """The name that the path of `request` holds there; ProblemError when it is none."""
    return checked_name(request.path_params[parameter], where=f"path.{parameter}")


def checked_name(text: str, *, where: str) -> str:
    """`text` when it is a name; ProblemError, 422 for the field `where`, when it is none."""
    try:
        return check_name(text, what=where)
    except ContractError as error:
        raise invalid_field(where, f"must match {NAME_PATTERN}", text) from error
