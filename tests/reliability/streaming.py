"""Rows 1 to 3 for the stream as a whole: its own processes killed at random, its broker restarted.

The long form: `python -m tests.reliability.streaming --events 200000 --kills 40 --restarts 2`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import integers
from ibook_assets.core.fact_rules import (
    build_outcomes,
    build_refunds,
    build_transactions,
    build_views,
)
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.engine import compute_view, required_sources
from ibook_assets.core.features.plan import layouts_of
from ibook_assets.core.messages import FEATURES_LOG, topic_of
from ibook_assets.core.skew import BatchVectors, compare
from ibook_assets.core.tables import EVENTS, FEATURE_LOG, RAW_TABLES, TRANSACTIONS
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.contracts import validate
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.online.live import LiveStore
from ibook_assets.stores.online.opening import open_live
from ibook_assets.streaming.gateway import Gateway
from ibook_assets.streaming.replaying import Recording, recorded
from ibook_assets.streaming.standing import Standing, standing
from ibook_assets.streaming.topics import create_log
from ibook_sim.world import World, WorldConfig
from tests.services.brokers import BrokerService, KafkaService

DAY = date(2026, 1, 20)
BASE_US = day_start_us(DAY)
PARTITIONS = 4
PARTS = ("sink", "sink", "worker", "worker", "probe")
"""Processes that run at once: two sinks and two workers race."""
CHUNK_ROWS = 500
FINISH_SECONDS = 600
"""How long the survivors may take to catch up before the stream counts as stuck."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened; everything from `lost` on must be zero."""

    events: int
    kills: int
    broker_restarts: int
    landed: int
    files: int
    vectors: int
    compared: int
    """Users and others whose online features were compared with batch."""
    lost: int
    """Events that were acknowledged but not landed."""
    duplicated: int
    """Events that landed more than once."""
    holes: int
    """Offsets that no file has."""
    differing: int
    """Values that differ between the online store and batch."""
    mismatch: int
    missing: int
    extra: int


def stream_under_faults(
    broker: BrokerService,
    home: Path,
    online: str,
    rng: np.random.Generator,
    *,
    events: int,
    kills: int,
    restarts: int,
) -> Figures:
    """Send `events` while processes of the stream are killed and the broker is restarted."""
    world = World(WorldConfig(users=5_000, events=80, orders_per_day=max(events // 8, 100)))
    create_log(broker.log, PARTITIONS)
    store = _empty_store(online)
    files = LogFiles(LocalBlobs(home / "lake"))
    sending = _Sending(broker, world, events)
    with _running(broker, home, online) as parts:
        sending.start()
        for fault in range(kills + restarts):
            due = (fault + 1) * events // (kills + restarts + 1)
            while sending.sent < due and sending.is_alive():
                time.sleep(0.01)
            if restarts and fault % max((kills + restarts) // restarts, 1) == 1:
                broker.kill()
                time.sleep(float(rng.random()))
                broker.start()
            else:
                parts.kill(int(rng.integers(len(PARTS))))
        sending.join()
        if sending.error is not None:
            raise sending.error
        _wait_until_even(broker, files, store, sending.last_known_us, parts)
    return _judged(sending, files, store, kills, restarts)


class _Sending(threading.Thread):
    """Sends a world's events through one gateway, as quickly as the log takes them."""

    def __init__(self, broker: BrokerService, world: World, events: int) -> None:
        super().__init__(name="sending")
        self._broker = broker
        self._events = events
        self.catalogue = world.catalogue(DAY).events
        self._recordings = _recordings(world, events)
        self.tables: dict[str, list[pa.Table]] = {spec.name: [] for spec in RAW_TABLES}
        self.sent = 0
        self.last_known_us = BASE_US
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._send_everything()
        except Exception as error:  # noqa: BLE001 - a thread's error is raised by who joins it
            self.error = error

    def _send_everything(self) -> None:
        began = time.monotonic_ns()

        def clock() -> int:
            return BASE_US + (time.monotonic_ns() - began) // 1_000

        with Gateway(
            self._broker.log, gateway_id="door", partitions=PARTITIONS, clock=clock
        ) as gateway:
            ids = integers(self.catalogue["event_id"], null=0)
            gateway.send_rows(EVENTS.name, self.catalogue, ids)
            gateway.flush()
            for name, chunk in _chunks(self._recordings):
                rows = _occurring_at(chunk.rows, clock())
                answer = gateway.send_rows(name, rows, chunk.users)
                assert not answer.refused
                self.tables[name].append(_known_at(rows, answer.known_us))
                self.last_known_us = int(answer.known_us[-1])
                self.sent += rows.num_rows
            gateway.flush()


class _Parts:
    """The stream's own processes, each replaced as soon as it is killed."""

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        self._environment = environment
        self._logs = logs
        self._processes = [self._start(number) for number in range(len(PARTS))]

    def kill(self, number: int) -> None:
        """Kill one (SIGKILL) and start its successor."""
        self._processes[number].kill()
        self._processes[number].wait()
        self._processes[number] = self._start(number)

    def end(self) -> None:
        """End all as an operator would."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(timeout=60)

    def check(self) -> None:
        """AssertionError when one has ended by itself."""
        for number, process in enumerate(self._processes):
            assert process.poll() is None, (self._logs / f"{number}.log").read_text()[-3_000:]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("ibook")), "stream", PARTS[number]]
        with (self._logs / f"{number}.log").open("ab") as log:
            return subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )


@contextmanager
def _running(broker: BrokerService, home: Path, online: str) -> Iterator[_Parts]:
    environment = os.environ | {
        "IBOOK_HOME": str(home),
        "IBOOK_KAFKA_BOOTSTRAP": broker.address,
        "IBOOK_ONLINE_URL": online,
        "IBOOK_LOG_PARTITIONS": str(PARTITIONS),
    }
    parts = _Parts(environment, home)
    try:
        yield parts
    finally:
        parts.end()


def _empty_store(address: str) -> LiveStore:
    store = open_live(address)
    hashes = {view.name: view.spec_hash for view in FEATURE_VIEWS}
    store.publish_generation(store.begin_generation(layouts_of(FEATURE_VIEWS), hashes, BASE_US))
    return store


def _recordings(world: World, events: int) -> dict[str, Recording]:
    """`events` rows of a world's days, of all tables."""
    found: dict[str, list[pa.Table]] = {spec.name: [] for spec in RAW_TABLES}
    rows, day = 0, DAY
    while rows < events:
        for name, table in world.day(day).items():
            if name in found:
                found[name].append(table.slice(0, max(events - rows, 0)))
                rows += found[name][-1].num_rows
        day += timedelta(days=1)
    return recorded({name: pa.concat_tables(tables) for name, tables in found.items()}, {})


def _chunks(recordings: Mapping[str, Recording]) -> Iterator[tuple[str, Recording]]:
    """Pieces of all tables in turn, so that orders, views and outcomes interleave."""
    pieces = max(len(r.users) for r in recordings.values()) // CHUNK_ROWS + 1
    for piece in range(pieces):
        for name, recording in recordings.items():
            size = -(-len(recording.users) // pieces)
            at = slice(piece * size, (piece + 1) * size)
            rows = recording.rows.slice(at.start, size)
            if rows.num_rows:
                yield name, Recording(rows, recording.users[at], recording.known_us[at])


def _occurring_at(rows: pa.Table, now_us: int) -> pa.Table:
    return _with(rows, "occurred_ts", np.full(rows.num_rows, now_us))


def _known_at(rows: pa.Table, known_us: np.ndarray) -> pa.Table:
    return _with(rows, "known_ts", known_us)


def _with(rows: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    if name not in rows.column_names:
        return rows
    at = rows.column_names.index(name)
    return rows.set_column(at, rows.schema.field(at), pa.array(values, pa.int64()))


def _wait_until_even(
    broker: BrokerService, files: LogFiles, store: LiveStore, known_us: int, parts: _Parts
) -> None:
    deadline = time.monotonic() + FINISH_SECONDS
    while True:
        parts.check()
        found = standing(broker.log, files, store)
        if _is_even(found, known_us) and _vectors(files) == _orders(files):
            return
        assert time.monotonic() < deadline, found
        time.sleep(1)


def _is_even(found: Standing, known_us: int) -> bool:
    return found.watermark_us > known_us and not any(p.sink_lag for p in found.partitions)


def _vectors(files: LogFiles) -> set[int]:
    return _distinct(files.rows(FEATURES_LOG), "transaction_id")


def _orders(files: LogFiles) -> set[int]:
    return _distinct(files.rows(topic_of(TRANSACTIONS.name)), "transaction_id")


def _judged(
    sending: _Sending, files: LogFiles, store: LiveStore, kills: int, restarts: int
) -> Figures:
    landed = {spec.name: files.rows(topic_of(spec.name)) for spec in RAW_TABLES}
    sent = {name: pa.concat_tables(tables) for name, tables in sending.tables.items()}
    facts = _facts(landed, sending.catalogue)
    batch = _batch(facts, facts["transactions"])
    logged = validate(files.rows(FEATURES_LOG), FEATURE_LOG, source="log").accepted
    skew = compare(logged, batch, features=FRAUD.features, share=1.0)
    queries, watermark_us = _at_watermark(facts["transactions"], store)
    expected = _batch(facts, queries).values
    rows = queries.drop_columns(_FROM_CATALOGUE).to_pylist()
    ours = store.fetch(FRAUD.features, rows, watermark_us).values
    every_file = [f for topic in (topic_of(s.name) for s in RAW_TABLES) for f in files.files(topic)]
    return Figures(
        events=sending.sent,
        kills=kills,
        broker_restarts=restarts,
        landed=sum(table.num_rows for table in landed.values()),
        files=len(every_file),
        vectors=logged.num_rows,
        compared=len(rows),
        lost=sum(len(_known(sent[name]) - _known(landed[name])) for name in sent),
        duplicated=sum(t.num_rows - len(_known(t)) for t in landed.values()),
        holes=sum(
            sum(files.ends(topic_of(s.name)).values()) - landed[s.name].num_rows for s in RAW_TABLES
        ),
        differing=int(np.count_nonzero(ours.view(np.uint32) != expected.view(np.uint32))),
        **skew.counts,
    )


_FROM_CATALOGUE = ["category_code", "capacity", "list_price_cents", "starts_ts"]


def _known(table: pa.Table) -> set[int]:
    """One gateway knows no two rows at once, so the time is a row's identity."""
    return _distinct(table, "known_ts")


def _distinct(table: pa.Table, column: str) -> set[int]:
    return set(integers(table[column], null=-1).tolist())


def _facts(landed: Mapping[str, pa.Table], events: pa.Table) -> dict[str, pa.Table]:
    raw = {
        spec.name: validate(landed[spec.name], spec, source="log").accepted for spec in RAW_TABLES
    }
    nothing = pa.array([], pa.int64())
    orders = build_transactions(raw["transactions"], earlier_ids=nothing, events=events).table
    return {
        "transactions": orders,
        "views": build_views(raw["views"]).table,
        "refunds": build_refunds(raw["refunds"], earlier_ids=nothing, orders=orders).table,
        "outcomes": build_outcomes(raw["outcomes"], orders=orders).table,
    }


def _batch(facts: Mapping[str, pa.Table], queries: pa.Table) -> BatchVectors:
    columns = []
    for view in FEATURE_VIEWS:
        sources = {name: facts[name] for name in required_sources(view)}
        found = compute_view(view, sources, queries)
        columns += [found[name].to_numpy() for name in view.feature_names]
    return BatchVectors(
        integers(queries["transaction_id"], null=-1),
        integers(queries["known_ts"], null=0),
        np.ascontiguousarray(np.stack(columns, axis=1)),
    )


def _at_watermark(orders: pa.Table, store: LiveStore) -> tuple[pa.Table, int]:
    """Every user's last order, as if it came at the store's watermark."""
    watermark_us = store.progress().watermark_us
    assert watermark_us // DAY_US == BASE_US // DAY_US, "all on one day"
    users = integers(orders["user_id"], null=-1)
    _, first = np.unique(users[::-1], return_index=True)
    last = orders.take(np.sort(len(users) - 1 - first))
    return _known_at(last, np.full(last.num_rows, watermark_us)), watermark_us


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--online", help="address of the live store; a folder unless given")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("kafka", "home"):
            (folder / name).mkdir()
        broker = KafkaService(folder / "kafka").start()
        stack.callback(broker.kill)
        started = time.monotonic()
        figures = stream_under_faults(
            broker,
            folder / "home",
            options.online or str(folder / "online"),
            np.random.default_rng(options.seed),
            events=options.events,
            kills=options.kills,
            restarts=options.restarts,
        )
        seconds = time.monotonic() - started
        sys.stdout.write(f"{seconds:.0f} s: {asdict(figures)}\n")


if __name__ == "__main__":
    main()
