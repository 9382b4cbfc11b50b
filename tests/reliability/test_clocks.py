"""Row 12: producers whose clocks are wrong, and a gateway whose clock jumps."""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import array, integers
from ibook_assets.core.messages import topic_of
from ibook_assets.core.tables import EVENTS, RAW_TABLES
from ibook_assets.core.times import HOUR_US, MINUTE_US
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.contracts import CLOCK_SKEW_CAP_US
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.online.live import LiveStore
from ibook_assets.streaming.gateway import Gateway
from ibook_assets.streaming.sink import Sink
from ibook_assets.streaming.topics import create_log
from ibook_assets.streaming.worker import Worker
from tests.reliability.stream_parts import Site
from tests.reliability.stream_sending import BASE_US, DAY, known_at, occurring_at
from tests.reliability.streaming import FROM_CATALOGUE, at_watermark, batch_of, facts_of, world_of
from tests.services.brokers import BrokerService
from tests.streaming.log_reading import letters_in

ROWS = 2_000
TURNS = 3_000
NOON_US = BASE_US + 12 * HOUR_US
JUMPS = (0, -10, 0, -60, 0, 3, 0, -10, 3, 0, 0, -5, 3, 0, 10, 10, -10, 25, -60, 20)
"""How far the gateway's clock is off (minutes), chunk by chunk."""


class WrongClock:
    """Goes on by a second a chunk, plus how far it is off."""

    def __init__(self) -> None:
        self.true_us = NOON_US
        self.off_us = 0

    def __call__(self) -> int:
        return self.true_us + self.off_us


class Sent:
    """What a gateway was told, and what it said."""

    def __init__(self) -> None:
        self.accepted: dict[str, list[pa.Table]] = {spec.name: [] for spec in RAW_TABLES}
        self.known_us: list[int] = []
        self.refused = 0
        self.wrongly_judged = 0

    def send(self, gateway: Gateway, name: str, rows: pa.Table) -> None:
        """Send rows, and remember which the cap should refuse."""
        key = "user_id" if "user_id" in rows.column_names else "transaction_id"
        users = integers(rows[key], null=0)
        answer = gateway.send_rows(name, rows, users)
        refused = np.isin(np.arange(rows.num_rows), answer.refused)
        if "occurred_ts" in rows.column_names:
            ahead = integers(rows["occurred_ts"], null=0) - answer.known_us > CLOCK_SKEW_CAP_US
            self.wrongly_judged += int(np.count_nonzero(ahead != refused))
        self.known_us += answer.known_us.tolist()
        self.refused += int(np.count_nonzero(refused))
        self.accepted[name].append(known_at(rows, answer.known_us).filter(array(~refused)))


def send_with_wrong_clocks(broker: BrokerService) -> tuple[Sent, pa.Table]:
    """Every event of a small world, its time up to ten minutes off; with the catalogue."""
    world, clock, sent = world_of(ROWS), WrongClock(), Sent()
    rng = np.random.default_rng(12)
    catalogue = world.catalogue(DAY).events
    tables = {name: rows for name, rows in world.day(DAY).items() if name in sent.accepted}
    with Gateway(broker.log, gateway_id="door", partitions=2, clock=clock) as gateway:
        gateway.send_rows(EVENTS.name, catalogue, integers(catalogue["event_id"], null=0))
        for chunk, minutes in enumerate(JUMPS):
            clock.true_us += 1_000_000
            clock.off_us = minutes * MINUTE_US
            for name, rows in tables.items():
                size = -(-rows.num_rows // len(JUMPS))
                part = rows.slice(chunk * size, size)
                off = rng.integers(-10 * MINUTE_US, 10 * MINUTE_US, part.num_rows)
                sent.send(gateway, name, occurring_at(part, clock.true_us + off))
    return sent, catalogue


def level_store(site: Site, until_us: int) -> LiveStore:
    """The live store after a worker has applied everything known before a time."""
    store = site.empty_store()
    with closing(Worker(site.broker.log, store)) as worker:
        for _ in range(TURNS):
            worker.turn()
            if store.progress().watermark_us > until_us:
                return store
    raise AssertionError(store.progress())


def landed(site: Site, rows: int) -> dict[str, pa.Table]:
    """What a sink lands, `rows` in all."""
    topics = {spec.name: topic_of(spec.name) for spec in RAW_TABLES}
    blobs = LocalBlobs(Path(site.lake))
    with closing(Sink(site.broker.log, blobs, topics.values(), max_seconds=0.1)) as sink:
        for _ in range(TURNS):
            sink.turn()
            if sink.status().rows >= rows:
                break
        assert sink.status().refused == 0
    return {name: site.files.rows(topic) for name, topic in topics.items()}


def test_whatever_clocks_do_online_equals_batch(broker: BrokerService, tmp_path: Path) -> None:
    site = Site(broker, tmp_path, str(tmp_path / "online"), str(tmp_path / "lake"))
    create_log(broker.log, 2)
    sent, catalogue = send_with_wrong_clocks(broker)
    # Known times only grow, though the clock went back an hour.
    assert all(a < b for a, b in itertools.pairwise(sent.known_us))
    # Exactly what is ahead of its knowledge by more than the cap is refused, and told of.
    assert sent.wrongly_judged == 0
    assert sent.refused > 50
    reasons = Counter(letter.reason for letter in letters_in(broker.log).values())
    assert reasons == {"occurred_ts:after_known": sent.refused}
    accepted = {name: pa.concat_tables(tables) for name, tables in sent.accepted.items()}
    rows = sum(table.num_rows for table in accepted.values())
    tables = landed(site, rows)
    for name, table in tables.items():
        assert table.sort_by("known_ts").equals(accepted[name].cast(table.schema)), name

    store = level_store(site, max(sent.known_us))
    facts = facts_of(tables, catalogue)
    orders = facts["transactions"]
    queries, watermark_us = at_watermark(orders, store)
    for asked, as_of in (
        (queries, np.full(queries.num_rows, watermark_us)),
        (orders, integers(orders["known_ts"], null=0)),
    ):
        requests = asked.drop_columns(FROM_CATALOGUE).to_pylist()
        ours = store.fetch_as_of(FRAUD.features, requests, as_of)
        theirs = batch_of(facts, asked).values
        np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))
    store.close()
