"""Rows 1 to 3 for the stream as a whole: its own processes killed at random, its broker restarted.

The long form: `python -m tests.reliability.streaming --events 200000 --kills 40 --restarts 2`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
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
from ibook_assets.core.messages import FEATURES_LOG, topic_of
from ibook_assets.core.skew import BatchVectors, compare
from ibook_assets.core.tables import FEATURE_LOG, RAW_TABLES
from ibook_assets.core.times import DAY_US
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.contracts import validate
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.online.live import LiveStore
from ibook_assets.streaming.topics import create_log
from ibook_sim.world import World, WorldConfig
from tests.reliability.stream_parts import Site, running, wait_until_even
from tests.reliability.stream_sending import BASE_US, PARTITIONS, Sending, known_at
from tests.services.brokers import KafkaService

PARTS = ("sink", "sink", "worker", "worker", "probe")
"""Processes that run at once: two sinks and two workers race."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened; everything in `faulty` must be zero."""

    events: int
    kills: int
    broker_restarts: int
    landed: int
    files: int
    vectors: int
    compared: int
    """Users and others whose online features were compared with batch."""
    repeated: int
    """Messages that the log itself holds twice, and facts once: the broker was killed after it had
    stored them and before it could say so, so the producer sent them again in a new epoch."""
    lost: int
    """Events that were acknowledged but not landed."""
    duplicated: int
    """Offsets that landed more than once."""
    holes: int
    """Offsets that no file has."""
    differing: int
    """Values that differ between the online store and batch."""
    mismatch: int
    missing: int
    extra: int

    @property
    def faulty(self) -> dict[str, int]:
        """What is not zero and must be."""
        names = ("lost", "duplicated", "holes", "differing", "mismatch", "missing", "extra")
        return {name: value for name in names if (value := getattr(self, name))}


def stream_under_faults(
    site: Site,
    rng: np.random.Generator,
    *,
    events: int,
    kills: int,
    restarts: int,
    rows_per_second: float | None = None,
) -> Figures:
    """Send `events` while processes of the stream are killed and the broker is restarted."""
    create_log(site.broker.log, PARTITIONS)
    store = site.empty_store()
    sending = Sending(site.broker.log, world_of(events), events, rows_per_second=rows_per_second)
    with running(site, PARTS) as parts:
        sending.start()
        for fault in range(kills + restarts):
            due = (fault + 1) * events // (kills + restarts + 1)
            while sending.sent < due and sending.is_alive():
                time.sleep(0.01)
            if restarts and fault % max((kills + restarts) // restarts, 1) == 1:
                site.broker.kill()
                time.sleep(float(rng.random()))
                site.broker.start()
            else:
                parts.kill(int(rng.integers(len(PARTS))))
        sending.finish()
        wait_until_even(site, store, sending.last_known_us, parts)
    return judged([sending], site.files, store, kills=kills, restarts=restarts)


def world_of(events: int) -> World:
    """One whose days have about so many events."""
    return World(WorldConfig(users=5_000, events=80, orders_per_day=max(events // 8, 100)))


def judged(
    senders: Sequence[Sending], files: LogFiles, store: LiveStore, *, kills: int, restarts: int
) -> Figures:
    """Compare what was sent with what landed, and with what the store says."""
    landed = {spec.name: files.rows(topic_of(spec.name)) for spec in RAW_TABLES}
    sent = {name: pa.concat_tables(t for s in senders for t in s.tables[name]) for name in landed}
    facts = facts_of(landed, senders[0].catalogue)
    batch = batch_of(facts, facts["transactions"])
    logged = validate(files.rows(FEATURES_LOG), FEATURE_LOG, source="log").accepted
    skew = compare(logged, batch, features=FRAUD.features, share=1.0)
    queries, watermark_us = at_watermark(facts["transactions"], store)
    expected = batch_of(facts, queries).values
    rows = queries.drop_columns(FROM_CATALOGUE).to_pylist()
    ours = store.fetch(FRAUD.features, rows, watermark_us).values
    every_file = [f for s in RAW_TABLES for f in files.files(topic_of(s.name))]
    offsets = {(f.topic, f.partition, at) for f in every_file for at in range(f.start, f.end)}
    ends = {s.name: sum(files.ends(topic_of(s.name)).values()) for s in RAW_TABLES}
    return Figures(
        events=sum(sender.sent for sender in senders),
        kills=kills,
        broker_restarts=restarts,
        landed=sum(table.num_rows for table in landed.values()),
        files=len(every_file),
        vectors=logged.num_rows,
        compared=len(rows),
        repeated=sum(t.num_rows - len(_identities(t)) for t in landed.values()),
        lost=sum(len(_identities(sent[name]) - _identities(landed[name])) for name in sent),
        duplicated=sum(f.end - f.start for f in every_file) - len(offsets),
        holes=sum(ends.values()) - len(offsets),
        differing=int(np.count_nonzero(ours.view(np.uint32) != expected.view(np.uint32))),
        **skew.counts,
    )


FROM_CATALOGUE = ["category_code", "capacity", "list_price_cents", "starts_ts"]
"""Columns of orders that the store adds by itself."""


def _identities(table: pa.Table) -> set[tuple[int, int]]:
    """Time and id of each row: no gateway knows two rows at once."""
    columns = (table["known_ts"], table.column(0))
    return set(zip(*(integers(column, null=-1).tolist() for column in columns), strict=True))


def facts_of(landed: Mapping[str, pa.Table], events: pa.Table) -> dict[str, pa.Table]:
    """What batch makes of raw tables and a catalogue."""
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


def batch_of(facts: Mapping[str, pa.Table], queries: pa.Table) -> BatchVectors:
    """What batch computes for orders as of when they are known."""
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


def at_watermark(orders: pa.Table, store: LiveStore) -> tuple[pa.Table, int]:
    """Every user's last order, as if it came at the store's watermark."""
    watermark_us = store.progress().watermark_us
    assert watermark_us // DAY_US == BASE_US // DAY_US, "all on one day"
    users = integers(orders["user_id"], null=-1)
    _, first = np.unique(users[::-1], return_index=True)
    last = orders.take(np.sort(len(users) - 1 - first))
    return known_at(last, np.full(last.num_rows, watermark_us)), watermark_us


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--online", help="address of the live store; a folder unless given")
    parser.add_argument("--rate", type=float, help="events a second; as many as go unless given")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("kafka", "home"):
            (folder / name).mkdir()
        broker = KafkaService(folder / "kafka").start()
        stack.callback(broker.kill)
        started = time.monotonic()
        home = folder / "home"
        site = Site(broker, home, options.online or str(folder / "online"), str(home / "lake"))
        rng = np.random.default_rng(options.seed)
        figures = stream_under_faults(
            site,
            rng,
            events=options.events,
            kills=options.kills,
            restarts=options.restarts,
            rows_per_second=options.rate,
        )
        seconds = time.monotonic() - started
        sys.stdout.write(f"{seconds:.0f} s: {asdict(figures)}\n")


if __name__ == "__main__":
    main()
