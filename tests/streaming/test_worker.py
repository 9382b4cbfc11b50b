"""The worker on real brokers: what it feeds the store is what batch would, whoever dies."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ibook_assets.core.arrow import integers
from ibook_assets.core.tables import RAW_TABLES
from ibook_assets.core.times import day_start_us
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.log import LogAddress
from ibook_assets.stores.online.backfill import begin_empty
from ibook_assets.stores.online.live import LiveStore, Position
from ibook_assets.stores.online.lmdb_live import LmdbLiveStore
from ibook_assets.streaming.applying import Applier
from ibook_assets.streaming.cataloguing import news_of
from ibook_assets.streaming.gateway import Gateway
from ibook_assets.streaming.replaying import Recording, recorded
from ibook_assets.streaming.worker import Worker
from ibook_sim.world import World, WorldConfig
from tests.services.brokers import BrokerService

DAY = date(2026, 1, 20)
BASE_US = day_start_us(DAY)
PARTITIONS = 2
CHUNKS = 10
TURNS = 3_000
"""Turns of a worker, of 50 ms and more, after which it counts as stuck."""


@pytest.fixture(scope="module")
def world() -> World:
    return World(WorldConfig(users=800, events=40, orders_per_day=120))


@pytest.fixture(scope="module")
def recordings(world: World) -> dict[str, Recording]:
    tables = dict(world.day(DAY).items())
    return recorded({spec.name: tables[spec.name] for spec in RAW_TABLES}, {})


def empty_store(folder: Path) -> LiveStore:
    store = LmdbLiveStore(folder)
    begin_empty(store, BASE_US)
    return store


class Clock:
    """Shows a minute more each time it is asked for the first time since it was moved."""

    def __init__(self) -> None:
        self.now_us = BASE_US

    def __call__(self) -> int:
        return self.now_us


@contextmanager
def gateway_at(log: LogAddress, clock: Clock, name: str = "door") -> Iterator[Gateway]:
    with Gateway(log, gateway_id=name, partitions=PARTITIONS, clock=clock) as opened:
        yield opened


def send_chunk(
    gateway: Gateway, clock: Clock, recordings: Mapping[str, Recording], chunk: int
) -> dict[str, pa.Table]:
    """A tenth of every recording; the rows as they became known."""
    sent = {}
    for name, recording in recordings.items():
        rows = recording.rows.slice(
            chunk * len(recording.users) // CHUNKS, len(recording.users) // CHUNKS
        )
        users = recording.users[chunk * len(recording.users) // CHUNKS :][: rows.num_rows]
        clock.now_us += 60_000_000
        if "occurred_ts" in rows.column_names:
            column = rows.column_names.index("occurred_ts")
            field = rows.schema.field(column)
            now = pa.array(np.full(rows.num_rows, clock.now_us), pa.int64())
            rows = rows.set_column(column, field, now)
        answer = gateway.send_rows(name, rows, users)
        assert not answer.refused
        column = rows.column_names.index("known_ts")
        known = pa.array(answer.known_us, pa.int64())
        sent[name] = rows.set_column(column, rows.schema.field(column), known)
    clock.now_us += 60_000_000
    gateway.flush()
    return sent


def drop_in_the_middle(worker: Worker) -> None:
    """Let it read, but hardly commit."""
    while not worker.status.assignments:
        worker.turn()
    for _ in range(3):
        worker.turn()


def work_until(worker: Worker, store: LiveStore, watermark_us: int) -> None:
    for _ in range(TURNS):
        worker.turn()
        if store.progress().watermark_us >= watermark_us:
            return
    raise AssertionError(worker.status, worker._assignment.partitions, worker._buffer.read)


def assert_as_in_one_go(
    store: LiveStore, sent: Mapping[str, pa.Table], world: World, folder: Path
) -> None:
    """The store answers as one that all rows were applied to at once."""
    expected = empty_store(folder)
    applier = Applier(expected)
    news = news_of(world.catalogue(DAY).events)
    end_us = store.progress().watermark_us
    applier.commit(
        sent, before={"x/0": Position(0, BASE_US)}, after={"x/0": Position(0, end_us)}, news=news
    )
    rows = sent["transactions"].to_pylist()
    ours = store.fetch(FRAUD.features, rows, end_us)
    theirs = expected.fetch(FRAUD.features, rows, end_us)
    np.testing.assert_array_equal(ours.values.view(np.uint32), theirs.values.view(np.uint32))
    assert len(np.unique(ours.values[:, :60], axis=0)) > 50, "the values say something"
    expected.close()


def send_catalogue(gateway: Gateway, world: World) -> None:
    events = world.catalogue(DAY).events
    gateway.send_rows("events", events, integers(events["event_id"], null=0))
    gateway.flush()


def test_a_worker_that_is_replaced_all_the_time_applies_every_event_once(
    broker: BrokerService, world: World, recordings: dict[str, Recording], tmp_path: Path
) -> None:
    store, clock = empty_store(tmp_path / "store"), Clock()
    sent = []
    with gateway_at(broker.log, clock) as gateway:
        send_catalogue(gateway, world)
        for chunk in range(CHUNKS):
            sent.append(send_chunk(gateway, clock, recordings, chunk))
            worker = Worker(broker.log, store)
            if chunk % 2:
                drop_in_the_middle(worker)
            else:
                work_until(worker, store, clock.now_us)
            worker.close()
    worker = Worker(broker.log, store)
    work_until(worker, store, clock.now_us)
    worker.close()
    together = {name: pa.concat_tables([s[name] for s in sent]) for name in sent[0]}
    assert_as_in_one_go(store, together, world, tmp_path / "expected")
    store.close()


def test_two_workers_share_the_partitions_and_hand_them_over(
    broker: BrokerService, world: World, recordings: dict[str, Recording], tmp_path: Path
) -> None:
    store, clock = empty_store(tmp_path / "store"), Clock()
    sent = []
    with gateway_at(broker.log, clock) as gateway, ExitStack() as running:
        send_catalogue(gateway, world)
        running.enter_context(working(broker.log, store))
        for chunk in range(CHUNKS):
            sent.append(send_chunk(gateway, clock, recordings, chunk))
            if chunk == 3:
                second = ExitStack()
                second.enter_context(working(broker.log, store))
            if chunk == 7:
                wait_for(store, clock.now_us)
                second.close()
        wait_for(store, clock.now_us)
    together = {name: pa.concat_tables([s[name] for s in sent]) for name in sent[0]}
    assert_as_in_one_go(store, together, world, tmp_path / "expected")
    store.close()


@contextmanager
def working(log: LogAddress, store: LiveStore) -> Iterator[Worker]:
    """A worker in a thread of its own."""
    stop = threading.Event()
    worker = Worker(log, store)
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        yield worker
    finally:
        stop.set()
        thread.join()
        worker.close()


def wait_for(store: LiveStore, watermark_us: int) -> None:
    pause = threading.Event()
    for _ in range(TURNS):
        if store.progress().watermark_us >= watermark_us:
            return
        pause.wait(0.02)
    raise AssertionError(store.progress())


def test_a_worker_that_was_assigned_nothing_joins_anew_when_nobody_else_works(
    dev_broker: BrokerService, recordings: dict[str, Recording], tmp_path: Path
) -> None:
    store, clock = empty_store(tmp_path / "store"), Clock()
    with gateway_at(dev_broker.log, clock) as gateway:
        worker = Worker(dev_broker.log, store, stall_seconds=1)
        while not worker.status.assignments:
            worker.turn()
        worker._consumer.unsubscribe()
        worker._assignment.on_partitions_assigned([])
        send_chunk(gateway, clock, recordings, 0)
        work_until(worker, store, clock.now_us)
        assert worker.status.replaced == 1
        worker.close()
    store.close()
