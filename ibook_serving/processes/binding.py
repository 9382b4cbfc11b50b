"""Where the server may listen, checked before anything heavy is imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
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


INHERITED_FD: Final = 3
"""Where systemd, and whoever does as it does, hands a listening socket over."""


def inherited_listener(environment: MutableMapping[str, str] = os.environ) -> int | None:
    """The descriptor of a listening socket that somebody opened for this process; usually None.

    Whoever holds the socket keeps it open while one server makes way for the next, so that
    connections wait instead of being refused. The variables are taken out of `environment`.

    Raises:
        ContractError: there are several sockets.

    Source: systemd, sd_listen_fds(3).
    """
    meant_for, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    if meant_for != str(os.getpid()):
        return None
    if count != "1":
        msg = f"LISTEN_FDS is {count!r}: hand exactly one listening socket over"
        raise ContractError(msg)
    return INHERITED_FD
