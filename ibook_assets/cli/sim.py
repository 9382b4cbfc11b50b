"""`ibook sim …`: the simulator's commands, with the platform's gateway as their way to the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import typer

from ibook_assets.cli.console import settings
from ibook_assets.core.arrow import integers
from ibook_sim.cli.realtime import SinkOpener

if TYPE_CHECKING:
    from ibook_assets.streaming.gateway import Gateway

GATEWAY_ID = "simulator"


class GatewaySink:
    """Orders into the log through a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def send(self, rows: pa.Table) -> int:
        """Send orders, which become known now; how many were refused."""
        users = np.maximum(integers(rows["user_id"], null=0), 0)
        return len(self._gateway.send_rows("transactions", rows, users).refused)

    def flush(self) -> None:
        """Wait until everything sent is in the log."""
        self._gateway.flush()


def with_gateway(context: typer.Context) -> None:
    """World, load and replay: the simulator beside the platform."""
    context.obj = SinkOpener(_open_gateway)


@contextmanager
def _open_gateway() -> Iterator[GatewaySink]:
    from ibook_assets.cli.stream_parts import address_of
    from ibook_assets.streaming.gateway import Gateway

    config = settings()
    with Gateway(
        address_of(config), gateway_id=GATEWAY_ID, partitions=config.log_partitions
    ) as gateway:
        yield GatewaySink(gateway)
