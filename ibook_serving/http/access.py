"""Who may use the routes that are not for everybody."""

from __future__ import annotations

import hmac
from typing import Final

from starlette.requests import Request

from ibook_assets.core.settings import Settings
from ibook_serving.http.problems import ProblemError

ADMIN_SECURITY: Final = ("adminKey",)
"""Name of the key in the OpenAPI document."""
ADMIN_PROBLEMS: Final = {
    401: "Wrong key: the x-api-key header is missing or not the key",
    403: "Closed: the server has no IBOOK_ADMIN_KEY",
}
"""How every route that needs the key refuses a request without it."""


def require_admin_key(request: Request, settings: Settings) -> None:
    """Let a request pass that brings the admin key.

    Raises:
        ProblemError: 403 when no key is set, 401 when another one or none was sent.
    """
    key = settings.admin_key
    if key is None or not key.get_secret_value():
        raise ProblemError(
            403, "Closed", "Admin routes are closed; set IBOOK_ADMIN_KEY to open them."
        )
    sent = request.headers.get("x-api-key", "").encode("latin-1")
    if not hmac.compare_digest(sent, key.get_secret_value().encode()):
        raise ProblemError(401, "Wrong key", "Send the admin key in the x-api-key header.")
