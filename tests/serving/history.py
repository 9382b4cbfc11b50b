"""A small published history, and requests about it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_assets.core.facts import FACT_OUTCOMES, FACT_REFUNDS, FACT_TRANSACTIONS, FACT_VIEWS
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import CATEGORIES, CHANNELS, EVENTS, TIERS, TableSpec
from ibook_assets.core.times import DAY_US, HOUR_US
from ibook_assets.stores.online import LiveStore, OnlineWriter, Published
from ibook_assets.stores.online.packed import packed_events
from tests.stores.online.live_worlds import apply, publish

AS_OF_US: Final = 20_500 * DAY_US
USERS: Final = 30
EVENTS_ON_SALE: Final = 5
ROWS: Final = 400


def publish_history(settings: Settings, *, as_of_us: int = AS_OF_US, seed: int = 3) -> Published:
    """Publish forty days of orders, outcomes, refunds and views of a few users."""
    sources, events = history_facts(as_of_us=as_of_us, seed=seed)
    return OnlineWriter(settings.online_path).publish(sources, events, as_of_us=as_of_us)


def fill_live(store: LiveStore, *, as_of_us: int = AS_OF_US, seed: int = 3) -> None:
    """The same as a new generation of a live store, whose watermark becomes `as_of_us`."""
    sources, events = history_facts(as_of_us=as_of_us, seed=seed)
    publish(store, [(key, bytes(value), None) for key, value in packed_events(events)])
    apply(store, sources, as_of_us)


def history_facts(*, as_of_us: int, seed: int) -> tuple[dict[str, pa.Table], pa.Table]:
    """Facts by table, and the catalogue."""
    rng = np.random.default_rng(seed)
    sources = {
        spec.name: _facts(spec, rng, as_of_us)
        for spec in (FACT_TRANSACTIONS, FACT_OUTCOMES, FACT_REFUNDS, FACT_VIEWS)
    }
    events = pa.Table.from_pylist(
        [
            {
                "event_id": i,
                "promoter_id": i % 2,
                "venue_id": i,
                "category": CATEGORIES[i % len(CATEGORIES)],
                "capacity": 1_000 + i,
                "list_price_cents": 5_000 + 100 * i,
                "on_sale_ts": as_of_us - 50 * DAY_US,
                "starts_ts": as_of_us + 20 * DAY_US,
            }
            for i in range(EVENTS_ON_SALE)
        ],
        EVENTS.schema,
    )
    return sources, events


def _facts(spec: TableSpec, rng: np.random.Generator, as_of_us: int) -> pa.Table:
    known = np.sort(rng.integers(as_of_us - 40 * DAY_US, as_of_us, ROWS))
    columns: dict[str, npt.NDArray[Any]] = {}
    for column in spec.columns:
        if column.allowed:
            columns[column.name] = rng.choice(column.allowed, ROWS)
        elif pa.types.is_boolean(column.type):
            columns[column.name] = rng.random(ROWS) < 0.9
        else:
            columns[column.name] = rng.integers(1, 5, ROWS)
    columns |= {spec.key[0]: np.arange(ROWS), "known_ts": known}
    columns["user_id"] = rng.integers(0, USERS, ROWS)
    columns["event_id"] = rng.integers(0, EVENTS_ON_SALE, ROWS)
    for name in ("amount_cents", "card_id", "device_id", "ip_id"):
        if name in spec.column_names:
            columns[name] = rng.integers(0, 20_000 if name == "amount_cents" else USERS, ROWS)
    if "is_fraud" in spec.column_names:
        columns["is_fraud"] = (rng.random(ROWS) < 0.1).astype(np.int64)
    if "category_code" in spec.column_names:
        columns["category_code"] = rng.integers(0, len(CATEGORIES), ROWS)
    return pa.table({n: pa.array(columns[n]) for n in spec.column_names}, spec.schema)


def orders(count: int, *, seed: int = 5) -> list[dict[str, object]]:
    """Orders of known and unknown users, some with every field and some with the least."""
    rng = np.random.default_rng(seed)
    made: list[dict[str, object]] = []
    for i in range(count):
        order: dict[str, object] = {
            "user_id": int(rng.integers(0, USERS + 5)),
            "event_id": int(rng.integers(0, EVENTS_ON_SALE + 1)),
            "amount": int(rng.integers(0, 500_000)) / 100,
            "occurred_at": f"2026-02-{i % 28 + 1:02d}T{i % 24:02d}:15:00Z",
        }
        if i % 2:
            order |= {
                "card_id": int(rng.integers(0, USERS + 5)),
                "device_id": int(rng.integers(0, USERS + 5)),
                "ip_id": f"10.0.0.{i}",
                "quantity": i % 8 + 1,
                "tier": TIERS[i % len(TIERS)],
                "channel": CHANNELS[i % len(CHANNELS)],
                "declines": i % 4,
                "avs_match": i % 3 > 0,
                "checkout_seconds": i / 7,
            }
        made.append(order)
    return made


def later(hours: int) -> int:
    """A time after the first snapshot's."""
    return AS_OF_US + hours * HOUR_US
