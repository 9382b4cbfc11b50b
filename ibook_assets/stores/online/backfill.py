"""Filling a live store from the lake: everything known before the end of the last day of facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

from ibook_assets.core.arrow import integers
from ibook_assets.core.fact_rules import ID_LOOKBACK_DAYS, ORDER_COLUMNS, ORDER_LOOKBACK_DAYS
from ibook_assets.core.facts import ENTITY_COLUMNS, FACT_TRANSACTIONS
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.packing import absent_columns, in_known_order
from ibook_assets.core.features.plan import Layout, layouts_of
from ibook_assets.core.ids import MISSING_ID
from ibook_assets.core.tables import REFUNDS, TRANSACTIONS, TableSpec
from ibook_assets.core.times import DAY_US, day_of, day_start_us
from ibook_assets.stores.fact_days import days_before
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.online.facts import OnlineFacts, read_online_facts
from ibook_assets.stores.online.format import (
    ORDER_PREFIX,
    REFUND_PREFIX,
    OrderRecord,
    key_of,
    pack_seen,
    record_expires_us,
    seen_expires_us,
)
from ibook_assets.stores.online.live import Entry, LiveStore
from ibook_assets.stores.online.packed import packed_events, packed_records


def backfill(lake: Lake, store: LiveStore) -> int:
    """Fill a new generation of `store` with all that counts, and let everybody read it.

    Returns:
        The time (microseconds) before which everything known is in: a worker goes on with rows
        known from then on.

    Raises:
        ContractError: facts are missing, so that there is nothing to be complete about.
        ConflictError: somebody published a later generation meanwhile.
        StoreUnavailableError: the store does not answer; what it serves has not changed.
    """
    facts = read_online_facts(lake)
    generation = _begin(store, facts.as_of_us)
    store.load(generation, _history(facts, layouts_of(FEATURE_VIEWS)))
    store.load(generation, _orders(lake, facts.as_of_us))
    store.load(generation, _refunds(lake, facts.as_of_us))
    store.publish_generation(generation)
    return facts.as_of_us


def begin_empty(store: LiveStore, base_us: int) -> None:
    """Let everybody read a generation without any history, to be filled from the log alone.

    Args:
        store: the live store.
        base_us: when the platform's first event can be known (microseconds).
    """
    store.publish_generation(_begin(store, base_us))


def _begin(store: LiveStore, base_us: int) -> int:
    hashes = {view.name: view.spec_hash for view in FEATURE_VIEWS}
    return store.begin_generation(layouts_of(FEATURE_VIEWS), hashes, base_us)


def _history(facts: OnlineFacts, layouts: Sequence[Layout]) -> Iterator[Entry]:
    ordered = {name: in_known_order(table, name) for name, table in facts.sources.items()}
    for number, layout in enumerate(layouts):
        table = ordered[layout.source]
        if absent_columns(layout, table) is not None:
            for key, record in packed_records(number, table, layout, facts.as_of_us):
                value = bytes(record)
                yield key, value, record_expires_us(layout, value)
    for key, attributes in packed_events(facts.events):
        yield key, bytes(attributes), None


def _orders(lake: Lake, base_us: int) -> Iterator[Entry]:
    """Orders that refunds, outcomes and repetitions may still name."""
    last_seen = _last_days(lake, TRANSACTIONS, base_us)
    unreached = set(last_seen)
    # The newest day first: of an id that came back, the order known first is looked for.
    for day in reversed(_days(lake, "facts/transactions", base_us, ORDER_LOOKBACK_DAYS)):
        rows = lake.read("facts/transactions", [day], columns=ORDER_COLUMNS, spec=FACT_TRANSACTIONS)
        columns = [integers(rows[name], null=MISSING_ID).tolist() for name in ORDER_COLUMNS]
        for order_id, known_ts, *entities in reversed(list(zip(*columns, strict=True))):
            seen_day = last_seen.get(order_id, known_ts // DAY_US)
            yield _order(order_id, OrderRecord._make([known_ts, *entities, seen_day]))
        unreached -= set(columns[0])
    for order_id in unreached:
        nothing = (MISSING_ID,) * len(ENTITY_COLUMNS)
        record = OrderRecord._make([MISSING_ID, *nothing, last_seen[order_id]])
        yield _order(order_id, record)


def _order(order_id: int, order: OrderRecord) -> Entry:
    return key_of(ORDER_PREFIX, order_id), order.pack(), order.expires_us


def _refunds(lake: Lake, base_us: int) -> Iterator[Entry]:
    """Refund ids whose return would be a repetition."""
    for refund_id, day in _last_days(lake, REFUNDS, base_us).items():
        seen_us = day * DAY_US
        expires_us = seen_expires_us(REFUND_PREFIX, seen_us)
        yield key_of(REFUND_PREFIX, refund_id), pack_seen(seen_us), expires_us


def _last_days(lake: Lake, spec: TableSpec, base_us: int) -> dict[int, int]:
    """Row ids of the raw days that repetitions are looked for in, and the last day of each."""
    table, key = f"raw/{spec.name}", spec.key[0]
    seen: dict[int, int] = {}
    for day in _days(lake, table, base_us, ID_LOOKBACK_DAYS):
        ids = integers(lake.read(table, [day], columns=[key])[key], null=MISSING_ID)
        seen |= dict.fromkeys(ids.tolist(), day_start_us(date.fromisoformat(day)) // DAY_US)
    return seen


def _days(lake: Lake, table: str, base_us: int, count: int) -> list[str]:
    """The last `count` days before `base_us` that `table` has."""
    there = set(lake.partitions(table))
    return [d for d in days_before(day_of(base_us).isoformat(), count) if d in there]
