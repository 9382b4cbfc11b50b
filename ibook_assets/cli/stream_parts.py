"""The parts of the stream, made from the settings."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import date
from typing import TYPE_CHECKING, Final

from ibook_assets.cli.console import console
from ibook_assets.cli.processes import child
from ibook_assets.core.errors import ContractError, NotFoundError, StoreUnavailableError
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import RAW_TABLES
from ibook_assets.core.times import day_start_us
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.lake import Lake

if TYPE_CHECKING:
    from ibook_assets.stores.log import LogAddress
    from ibook_assets.stores.online.live import LiveStore
    from ibook_assets.streaming.running import Service
    from ibook_assets.streaming.standing import Standing

BROKER_SECONDS: Final = 20.0
"""How long the development broker may take until it answers."""

LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


def create_topics(config: Settings) -> None:
    """Create the topics that do not exist."""
    from ibook_assets.streaming.topics import create_log

    create_log(address_of(config), config.log_partitions)


def serve(config: Settings, *names: str) -> None:
    """Run the parts called `names` in this process until it is told to end.

    What they need and does not answer yet is waited for; a part that cannot work ends all.
    """
    from ibook_assets.streaming.running import run, stopped_by_signals

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Its lines about each reconnection say less than ours do.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    with stopped_by_signals() as stop, ThreadPoolExecutor(len(names)) as pool:
        running = [pool.submit(_run_and_stop, run, name, config, stop) for name in names]
    for part in running:
        part.result()


def _run_and_stop(
    run: Callable[[str, Callable[[], Service], threading.Event], None],
    name: str,
    config: Settings,
    stop: threading.Event,
) -> None:
    try:
        run(name, lambda: PARTS[name](config), stop)
    finally:
        stop.set()


def _sink(config: Settings) -> Service:
    from ibook_assets.streaming.sink import Sink

    create_topics(config)
    return Sink(address_of(config), open_blobs(config.lake, endpoint_url=config.s3_endpoint_url))


def _worker(config: Settings) -> Service:
    from ibook_assets.streaming.worker import Worker

    create_topics(config)
    return Worker(address_of(config), _filled_store(config))


def _probe(config: Settings) -> Service:
    from ibook_assets.streaming.probe import Probe

    create_topics(config)
    share = config.feature_log_share
    return Probe(address_of(config), _filled_store(config), FRAUD.features, share=share)


PARTS: Final[dict[str, Callable[[Settings], Service]]] = {
    "sink": _sink,
    "worker": _worker,
    "probe": _probe,
}
"""What `ibook stream up` runs together and each command alone."""

_FILLING: Final = threading.Lock()


def _filled_store(config: Settings) -> LiveStore:
    """The live store, filled from the lake when it has never been."""
    from ibook_assets.stores.online.backfill import backfill, begin_empty

    store = live_store_of(config)
    lake = lake_of(config)
    with _FILLING:
        try:
            store.meta()
        except NotFoundError:
            if lake.partitions("facts/transactions"):
                backfill(lake, store)
            else:
                # A platform that begins with the log has no history to be filled from.
                begin_empty(store, day_start_us(config.start_date))
    return store


def backfill_store(config: Settings) -> int:
    """Fill the live store anew; everything known before the answer (microseconds) is in it."""
    from ibook_assets.stores.online.backfill import backfill

    return backfill(lake_of(config), live_store_of(config))


def live_store_of(config: Settings) -> LiveStore:
    """The live store."""
    from ibook_assets.stores.online.opening import open_live

    return open_live(config.live_store)


def standing_of(config: Settings) -> Standing:
    """Where the log, the lake and the live store are."""
    from ibook_assets.stores.log_files import LogFiles
    from ibook_assets.streaming.standing import standing

    files = LogFiles(lake_of(config).blobs)
    return standing(address_of(config), files, live_store_of(config))


def replay_day(
    config: Settings,
    day: date,
    *,
    clock: Callable[[], int],
    seconds: float,
    stop: threading.Event,
) -> int:
    """Replay `day` of the source, known by `clock` (microseconds); the events that were sent."""
    from ibook_assets.defs.sources import source_of
    from ibook_assets.stores.order_users import users_of_orders
    from ibook_assets.streaming.gateway import Gateway
    from ibook_assets.streaming.replaying import recorded, replay

    source = source_of(config.model_copy(update={"log_from": None}))
    tables = {spec.name: source.delivery(spec, day).rows for spec in RAW_TABLES}
    recordings = recorded(tables, users_of_orders(lake_of(config), tables))
    with Gateway(
        address_of(config), gateway_id="replay", partitions=config.log_partitions, clock=clock
    ) as gateway:
        return replay(recordings, gateway, clock=clock, seconds=seconds, stop=stop)


def clock_from(start_us: int) -> Callable[[], int]:
    """A clock that shows `start_us` now and goes on at the speed of time (microseconds)."""
    began = time.monotonic_ns()
    return lambda: start_us + (time.monotonic_ns() - began) // 1_000


@contextmanager
def broker_if_none_listens(config: Settings) -> Iterator[None]:
    """A development broker at the settings' address while the block runs, if there is no broker.

    Raises:
        ContractError: none listens, and the address is not one of this machine.
        StoreUnavailableError: the development broker does not come up.
    """
    from ibook_assets.stores.log import open_consumer

    address = address_of(config)
    with ExitStack() as running:
        try:
            open_consumer(address, bootstrap_timeout_ms=1_000).close()
        except StoreUnavailableError:
            running.enter_context(_development_broker(config))
        yield


@contextmanager
def _development_broker(config: Settings) -> Iterator[None]:
    host, _, port = config.kafka_bootstrap.rpartition(":")
    if host not in LOOPBACK:
        msg = (
            f"no broker answers at {config.kafka_bootstrap}, and the development broker only "
            "listens on this machine; start yours, or set IBOOK_KAFKA_BOOTSTRAP=127.0.0.1:9092"
        )
        raise ContractError(msg)
    folder = config.home / "stream"
    folder.mkdir(parents=True, exist_ok=True)
    begin = _after_what_is_landed(config)
    (folder / "begin.json").write_text(json.dumps(begin))
    command = [sys.executable, "-m", "ibook_assets.streaming.broker", "--port", port]
    command += ["--begin", str(folder / "begin.json")]
    with child("development broker", command, log=folder / "broker.log") as process:
        deadline = time.monotonic() + BROKER_SECONDS
        while True:
            process.check_alive()
            try:
                create_topics(config)
            except StoreUnavailableError:
                if time.monotonic() > deadline:
                    raise
                continue
            break
        console.print(f"development broker at {config.kafka_bootstrap}, in memory only")
        yield


def _after_what_is_landed(config: Settings) -> dict[str, list[int]]:
    """Where a broker that begins empty must begin, so that the lake and the live store go on."""
    from ibook_assets.stores.log_files import LogFiles
    from ibook_assets.streaming.beginning import beginnings, follow

    begin = beginnings(LogFiles(lake_of(config).blobs), config.log_partitions)
    # A store that was never filled has no position to move; its first worker fills it.
    with suppress(NotFoundError):
        follow(live_store_of(config), begin)
    return begin


def address_of(config: Settings) -> LogAddress:
    """Address of the log."""
    from ibook_assets.stores.log import LogAddress

    return LogAddress(config.kafka_bootstrap)


def lake_of(config: Settings) -> Lake:
    """The lake."""
    return Lake(open_blobs(config.lake, endpoint_url=config.s3_endpoint_url))
