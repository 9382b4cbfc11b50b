"""`python -m ibook_assets.streaming.broker`: run the development broker until it is ended."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from ibook_assets.core.errors import ContractError
from ibook_assets.streaming.broker.broker import Limits
from ibook_assets.streaming.broker.server import DevBroker
from ibook_assets.streaming.broker.topics import NOWHERE

_Offset = Annotated[int, msgspec.Meta(ge=0)]

_MEMORY_ONLY = "Keeps everything in memory: it is lost when the broker stops."


def main() -> int:
    """Listen, print the address, serve until SIGTERM or SIGINT."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    limits = Limits(
        message_bytes=options.message_bytes,
        retention_bytes=options.retention_mib * 2**20,
        default_partitions=options.partitions,
    )
    try:
        begin = _beginnings(options.begin)
        asyncio.run(_serve(DevBroker(options.host, options.port, limits, begin)))
    except (ContractError, OSError) as error:
        sys.stderr.write(f"ibook development broker: {error}\n")
        return 2
    return 0


async def _serve(broker: DevBroker) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    address = await broker.start()
    sys.stdout.write(f"ibook development broker on {address}. {_MEMORY_ONLY}\n")
    sys.stdout.flush()
    await ended.wait()
    await broker.stop()


def _beginnings(path: Path | None) -> Mapping[str, Sequence[int]]:
    """Offsets by topic; ContractError when the file does not hold such."""
    if path is None:
        return NOWHERE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, list[_Offset]])
    except msgspec.DecodeError as error:
        msg = f'{path} is not like {{"raw.views": [120, 98]}}, offsets by topic: {error}'
        raise ContractError(msg) from error


def _parser() -> argparse.ArgumentParser:
    limits = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m ibook_assets.streaming.broker",
        description=f"A single Kafka-protocol broker for development. {_MEMORY_ONLY}",
    )
    parser.add_argument("--host", default="127.0.0.1", help="loopback address (%(default)s)")
    parser.add_argument("--port", type=int, default=9092, help="0 takes a free one (%(default)s)")
    parser.add_argument(
        "--partitions",
        type=int,
        default=limits.default_partitions,
        help="of a topic whose creator asks for no number (%(default)s)",
    )
    parser.add_argument(
        "--message-bytes",
        type=int,
        default=limits.message_bytes,
        help="largest batch of messages that is taken (%(default)s)",
    )
    parser.add_argument(
        "--retention-mib",
        type=int,
        default=limits.retention_bytes // 2**20,
        help="MiB each partition keeps; the oldest messages are dropped (%(default)s)",
    )
    parser.add_argument(
        "--begin",
        type=Path,
        help="JSON file of offsets by topic, where earlier messages have been landed up to",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
