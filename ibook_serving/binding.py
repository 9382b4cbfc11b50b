"""Where the server may listen, checked before anything heavy is imported."""

from __future__ import annotations

from typing import Final

from ibook_assets.core.errors import ContractError
from ibook_assets.core.settings import Settings

HOSTS: Final = ("127.0.0.1", "0.0.0.0", "::")  # noqa: S104 - what LitServe can bind to
LOWEST_PORT: Final = 1_024
"""LitServe refuses the privileged ports below."""


def check_binding(settings: Settings) -> None:
    """ContractError when LitServe cannot listen where `settings` say."""
    if settings.host not in HOSTS:
        msg = f"host {settings.host!r} cannot be bound; use one of {', '.join(HOSTS)}"
        raise ContractError(msg)
    if settings.port < LOWEST_PORT:
        msg = f"port {settings.port} is privileged; use one from {LOWEST_PORT} to 65535"
        raise ContractError(msg)
