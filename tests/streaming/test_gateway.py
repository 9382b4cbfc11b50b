"""The gateway: judged once, known once, and never a promise that an event breaks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.core.messages import (
    HEARTBEATS,
    MAX_MESSAGE_BYTES,
    PAYLOAD_HEAD_BYTES,
    Heartbeat,
    decode,
    encode_heartbeat,
)
from ibook_assets.stores.log import LogAddress, open_producer
from ibook_assets.streaming.gateway import ROWS_AT_ONCE, Gateway
from ibook_assets.streaming.promises import Epoch, Ledger
from ibook_assets.streaming.topics import create_log
from tests.services.brokers import BrokerService, DevBrokerService
from tests.streaming.log_reading import everything_in, heartbeats_in, letters_in

ORDERS = "raw.transactions"
NOON_US = 1_767_614_400_000_000
ORDER: dict[str, Any] = {
    "transaction_id": 1, "occurred_ts": NOON_US, "user_id": 2, "event_id": 3, "amount_cents": 5,
}  # fmt: skip


def ticking(start_us: int = NOON_US) -> Callable[[], int]:
    """A clock that goes on by a millisecond whenever it is read."""
    return itertools.count(start_us, 1_000).__next__


def gateway(log: LogAddress, gateway_id: str = "g", **options: Any) -> Gateway:
    chosen: dict[str, Any] = {"clock": ticking(), "partitions": 3, "heartbeat_seconds": 0.01}
    return Gateway(log, gateway_id=gateway_id, **(chosen | options))


def _orders(rows: int, **changed: Any) -> pa.Table:
    columns = {name: [value] * rows for name, value in ORDER.items()} | changed
    return pa.table(columns | {"transaction_id": list(range(rows))})


# What a gateway keeps account of, without a log.


def _ledger(clock: Callable[[], int], partitions: int = 2) -> Ledger:
    return Ledger(
        clock, {"t": [0] * partitions}, max_waiting=10_000, max_bytes=10_000, patience_seconds=5
    )


@given(st.lists(st.integers(0, 50) | st.just(7), min_size=1), st.integers(1, 3))
def test_knowledge_times_only_grow_whatever_the_clock_does(times: list[int], rows: int) -> None:
    readings = itertools.chain(times, itertools.repeat(times[-1]))
    ledger = _ledger(readings.__next__)
    known: list[int] = []
    for _ in times:
        first, _ = ledger.reserve(rows)
        known += range(first, first + rows)
    assert known == sorted(set(known))
    assert known[0] == times[0]


def test_a_promise_waits_for_every_earlier_event_and_no_later_one() -> None:
    ledger = _ledger(itertools.count(100).__next__)
    assert ledger.promise() == (100, {"t": [0, 0]})
    first, early = ledger.reserve()
    assert ledger.promise() is None
    _, late = ledger.reserve()
    ledger.settle(early, "t", 1, 7)
    promised = ledger.promise()
    assert promised is not None
    assert promised[0] > first
    assert promised[1] == {"t": [0, 8]}
    ledger.settle(late, "t", 0, 3)
    later = ledger.promise()
    assert later is not None
    assert later[0] > promised[0]
    assert later[1] == {"t": [4, 8]}


def test_an_event_that_was_not_sent_holds_nothing_back() -> None:
    ledger = _ledger(itertools.count(0).__next__)
    _, epoch = ledger.reserve(3)
    ledger.withdraw(epoch, 3)
    assert ledger.promise() is not None
    assert ledger.waiting == 0


steps = st.lists(
    st.tuples(st.sampled_from(["reserve", "settle", "withdraw", "promise"]), st.integers(0, 9)),
    max_size=60,
)


@given(steps, st.lists(st.integers(0, 20), min_size=1))
def test_no_promise_is_ever_broken(steps: list[tuple[str, int]], times: list[int]) -> None:
    ledger = _ledger(itertools.cycle(times).__next__)
    pending: list[tuple[int, Epoch]] = []
    stored: list[tuple[int, int, int]] = []
    promises: list[tuple[int, list[int]]] = []
    ends = [0, 0]
    for step, choice in [*steps, ("promise", 0)]:
        if step == "reserve":
            pending.append(ledger.reserve())
        elif step == "promise":
            said = ledger.promise()
            if said is not None:
                promises.append((said[0], said[1]["t"]))
        elif pending:
            known_us, epoch = pending.pop(choice % len(pending))
            if step == "settle":
                ledger.settle(epoch, "t", choice % 2, ends[choice % 2])
                stored.append((known_us, choice % 2, ends[choice % 2]))
                ends[choice % 2] += 1
            else:
                ledger.withdraw(epoch)
    for latest_us, below in promises:
        assert all(known >= latest_us or o < below[p] for known, p, o in stored)
        # Neither may an event be stored later that was known before.
        assert all(known >= latest_us for known, _ in pending)
    assert [us for us, _ in promises] == sorted(us for us, _ in promises)


def test_senders_wait_for_room_and_then_are_refused() -> None:
    clock = itertools.count(0).__next__
    ledger = Ledger(clock, {}, max_waiting=1, max_bytes=5, patience_seconds=0)
    _, epoch = ledger.reserve()
    ledger.hold(9)
    with pytest.raises(StoreUnavailableError, match=r"1 events \(9 bytes\) wait"):
        ledger.reserve()
    with pytest.raises(StoreUnavailableError, match=r"1 events \(9 bytes\) wait"):
        ledger.hold(1)
    ledger.withdraw(epoch, held=9)
    ledger.hold(1)
    ledger.reserve()


# With a log.


def test_an_event_is_stored_as_it_was_sent_and_known(broker: BrokerService) -> None:
    with gateway(broker.log) as opened:
        known = [opened.send("transactions", ORDER, user_id=user) for user in (1, 2, 1)]
        opened.flush()
    stored = everything_in(broker.log, ORDERS)
    assert {r.key for r in stored} == {b"1", b"2"}
    by_time = sorted(stored, key=lambda r: decode(ORDERS, r.value)["known_ts"])
    assert [decode(ORDERS, r.value)["known_ts"] for r in by_time] == known == sorted(set(known))
    assert [r.timestamp for r in by_time] == [us // 1_000 for us in known]
    row = decode(ORDERS, by_time[0].value)
    assert {name: row[name] for name in ORDER} == ORDER


def test_a_user_has_one_partition_number_in_all_topics(broker: BrokerService) -> None:
    refund = {"refund_id": 1, "occurred_ts": NOON_US, "transaction_id": 1, "amount_cents": 1}
    with gateway(broker.log) as opened:
        for user in range(40):
            opened.send("transactions", ORDER, user_id=user)
            opened.send("refunds", refund, user_id=user)
    places = [
        {r.key: r.partition for r in everything_in(broker.log, topic)}
        for topic in (ORDERS, "raw.refunds")
    ]
    assert places[0] == places[1]
    assert len(set(places[0].values())) == 3


def test_under_concurrent_senders_no_promise_is_broken(broker: BrokerService) -> None:
    def send(opened: Gateway, user: int) -> None:
        for number in range(200):
            opened.send("transactions", ORDER | {"transaction_id": number}, user_id=user)
        opened.send_rows("transactions", _orders(300), [user] * 300)

    # The clock goes back again and again.
    times = itertools.cycle([NOON_US, NOON_US + 50, NOON_US - 10**9])
    with (
        gateway(broker.log, clock=times.__next__) as opened,
        ThreadPoolExecutor(4) as pool,
    ):
        for done in [pool.submit(send, opened, user) for user in range(8)]:
            done.result()
    stored = everything_in(broker.log, ORDERS)
    known = [(decode(ORDERS, r.value)["known_ts"], r.partition, r.offset) for r in stored]
    assert len({us for us, _, _ in known}) == len(known) == 8 * 500
    beats = heartbeats_in(broker.log)
    for beat in beats:
        ends = beat.ends[ORDERS]
        assert all(us >= beat.known_ts or offset < ends[p] for us, p, offset in known)
    assert [b.known_ts for b in beats] == sorted(b.known_ts for b in beats)
    assert [b.closed for b in beats] == [False] * (len(beats) - 1) + [True]
    assert beats[-1].known_ts > max(us for us, _, _ in known)
    assert sum(beats[-1].ends[ORDERS]) == len(known)


def test_a_next_life_and_a_slow_clock_do_not_contradict_what_was_promised(
    broker: BrokerService,
) -> None:
    with gateway(broker.log) as first:
        known_us = first.send("transactions", ORDER, user_id=1)
    create_log(broker.log, 3)
    ahead_us = NOON_US + 10**10
    ahead = Heartbeat(gateway="ahead", known_ts=ahead_us, ends={})
    producer = open_producer(broker.log)
    producer.send(HEARTBEATS, encode_heartbeat(ahead), timestamp_ms=ahead_us // 1_000).get(10)
    producer.close()
    with gateway(broker.log, clock=ticking(NOON_US - 10**9)) as second:
        later_us = second.send("transactions", ORDER, user_id=1)
    assert later_us >= ahead_us > known_us
    beats = heartbeats_in(broker.log)
    greeting = beats[[b.gateway for b in beats].index("ahead") + 1]
    assert sum(greeting.ends[ORDERS]) == 1


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"user_id": None}, "user_id:null"),
        ({"amount_cents": -1}, "amount_cents:below_minimum"),
        ({"occurred_ts": NOON_US + 3_600_000_000}, "occurred_ts:after_known"),
        ({"tier": "x" * MAX_MESSAGE_BYTES}, "message:oversized"),
        ({"surprise": 1}, "message:unreadable_message"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_event_is_refused_and_told_of(
    changed: dict[str, Any], reason: str, dev_broker: DevBrokerService
) -> None:
    with gateway(dev_broker.log) as opened:
        opened.send("transactions", ORDER, user_id=1)
        with pytest.raises(ContractError, match=reason):
            opened.send("transactions", ORDER | changed, user_id=2)
        opened.send("transactions", ORDER, user_id=1)
    assert len(everything_in(dev_broker.log, ORDERS)) == 2
    ((source, letter),) = letters_in(dev_broker.log).items()
    assert source.startswith(f"{ORDERS}/g/")
    assert (letter.topic, letter.reason) == (ORDERS, reason)
    assert len(letter.payload) == min(letter.size, PAYLOAD_HEAD_BYTES)
    if letter.size <= PAYLOAD_HEAD_BYTES:
        assert letter.sha256 == sha256(letter.payload).hexdigest()
    assert heartbeats_in(dev_broker.log)[-1].closed


def test_of_many_rows_the_bad_ones_are_refused_and_told_of(dev_broker: DevBrokerService) -> None:
    rows = ROWS_AT_ONCE + 500
    amounts = np.arange(rows) - 1
    amounts[rows - 1] = -5
    with gateway(dev_broker.log) as opened:
        sent = opened.send_rows("transactions", _orders(rows, amount_cents=amounts), range(rows))
    assert sent.refused == (0, rows - 1)
    assert (np.diff(sent.known_us) > 0).all()
    stored = everything_in(dev_broker.log, ORDERS)
    assert sorted(int(r.key) for r in stored) == list(range(1, rows - 1))
    letters = letters_in(dev_broker.log).values()
    assert [letter.reason for letter in letters] == ["amount_cents:below_minimum"] * 2


def test_rows_that_have_no_message_hold_nothing_back(dev_broker: DevBrokerService) -> None:
    with gateway(dev_broker.log) as opened, pytest.raises(ContractError, match="surprise"):
        opened.send_rows("transactions", _orders(3, surprise=[1, 2, 3]), [1, 2, 3])
    assert heartbeats_in(dev_broker.log)[-1].closed


def test_a_logged_vector_keeps_its_own_time(dev_broker: DevBrokerService) -> None:
    row = {"transaction_id": 1, "known_ts": 77, "definition": "d", "vector": b"\x01"}
    with gateway(dev_broker.log) as opened:
        opened.send("feature_log", row, user_id=1)
    (stored,) = everything_in(dev_broker.log, "features.log")
    assert decode("features.log", stored.value) == row


@pytest.mark.parametrize("gateway_id", ["", "a b", "../x"])
def test_a_gateway_needs_a_name(gateway_id: str, dev_broker: DevBrokerService) -> None:
    with pytest.raises(ContractError, match="gateway id"):
        gateway(dev_broker.log, gateway_id)


def test_topics_of_other_partitions_are_refused(dev_broker: DevBrokerService) -> None:
    create_log(dev_broker.log, 2)
    with pytest.raises(ContractError, match="has 2 partitions"):
        gateway(dev_broker.log)


def test_without_a_log_there_is_no_gateway(dev_broker: DevBrokerService) -> None:
    dev_broker.stop()
    with pytest.raises(StoreUnavailableError, match="did not answer"):
        gateway(dev_broker.log)


def test_while_the_log_is_away_nothing_is_promised_and_then_nothing_is_lost(
    broker: BrokerService,
) -> None:
    with gateway(broker.log, patience_seconds=0.5, max_waiting=150) as opened:
        opened.send("transactions", ORDER, user_id=1)
        opened.flush()
        broker.pause()
        sent = [opened.send("transactions", ORDER, user_id=user) for user in range(100)]
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            opened.flush()
        sent += [opened.send("transactions", ORDER, user_id=user) for user in range(50)]
        with pytest.raises(StoreUnavailableError, match="150 events"):
            opened.send("transactions", ORDER, user_id=1)
        broker.resume()
        for _ in range(100):
            with suppress(StoreUnavailableError):
                opened.flush()
                break
    stored = everything_in(broker.log, ORDERS)
    known = {decode(ORDERS, r.value)["known_ts"]: r for r in stored}
    assert len(known) == len(stored) == 151
    assert set(sent) < set(known)
    for beat in heartbeats_in(broker.log):
        ends = beat.ends[ORDERS]
        assert all(us >= beat.known_ts or r.offset < ends[r.partition] for us, r in known.items())


def test_an_event_of_unknown_fate_stops_promises_for_good(dev_broker: DevBrokerService) -> None:
    opened = gateway(dev_broker.log, patience_seconds=0.2)
    opened.send("transactions", ORDER, user_id=1)
    opened.flush()
    beats = len(heartbeats_in(dev_broker.log))
    dev_broker.pause()
    opened.send("transactions", ORDER, user_id=1)
    with pytest.raises(StoreUnavailableError):
        opened.close()
    with pytest.raises(StoreUnavailableError, match="open it again"):
        opened.send("transactions", ORDER, user_id=1)
    dev_broker.resume()
    later = heartbeats_in(dev_broker.log)
    assert len(later) >= beats
    assert not any(beat.closed for beat in later)
