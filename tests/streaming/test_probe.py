"""The probe on a real broker: every order in effect is logged once, as batch would compute it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ibook_assets.core.arrow import array, integers
from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.plan import layouts_of
from ibook_assets.core.messages import FEATURES_LOG, decode
from ibook_assets.core.skew import definition_of, sampled
from ibook_assets.core.tables import TRANSACTIONS
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.log import LogAddress
from ibook_assets.stores.online.format import LATENESS_US
from ibook_assets.stores.online.live import LiveStore, Position
from ibook_assets.stores.online.opening import open_live
from ibook_assets.streaming.applying import Applier
from ibook_assets.streaming.gateway import Gateway
from ibook_assets.streaming.probe import Probe
from tests.services.brokers import BrokerService, DevBrokerService
from tests.services.redis_server import RedisService
from tests.streaming.log_reading import everything_in

START_US = 1_767_614_400_000_000
TURNS = 600
"""Turns of a probe, of 50 ms and more, after which it counts as stuck."""


class Stream:
    """A gateway with a clock of its own, and a store that is told what the gateway was."""

    def __init__(self, log: LogAddress, store: LiveStore) -> None:
        hashes = {view.name: view.spec_hash for view in FEATURE_VIEWS}
        generation = store.begin_generation(layouts_of(FEATURE_VIEWS), hashes, START_US)
        store.publish_generation(generation)
        self.log = log
        self.store = store
        self.now_us = START_US
        self._at = Position(0, START_US)
        self._rows = TRANSACTIONS.schema.empty_table()
        self.gateway = Gateway(
            log, gateway_id="door", partitions=2, clock=lambda: self.now_us, heartbeat_seconds=60
        )

    def order(self, *ids: int) -> list[int]:
        """Send orders; when they became known."""
        rows = pa.Table.from_pylist(
            [
                {
                    "transaction_id": i,
                    "occurred_ts": self.now_us,
                    "known_ts": 0,
                    "user_id": i % 5,
                    "event_id": i % 3,
                    "amount_cents": 100 + i,
                }
                for i in ids
            ],
            schema=TRANSACTIONS.schema,
        )
        known = self.gateway.send_rows("transactions", rows, [i % 5 for i in ids]).known_us
        self.gateway.flush()
        self.now_us = max(self.now_us, int(known[-1]) + 1)
        at = rows.column_names.index("known_ts")
        rows = rows.set_column(at, rows.schema.field(at), array(known))
        self._rows = pa.concat_tables([self._rows, rows])
        return [int(us) for us in known]

    def apply(self, until_us: int | None = None) -> None:
        """Have the store know everything that is known before a time, now unless given."""
        after = Position(0, self.now_us if until_us is None else until_us)
        known_us = integers(self._rows["known_ts"], null=0)
        due = (known_us >= self._at.applied_us) & (known_us < after.applied_us)
        Applier(self.store).commit(
            {"transactions": self._rows.filter(array(due))},
            before={"x/0": self._at},
            after={"x/0": after},
        )
        self._at = after

    def logged(self) -> list[dict[str, Any]]:
        """What has been logged, in the order of the orders."""
        found = [dict(decode(FEATURES_LOG, r.value)) for r in everything_in(self.log, FEATURES_LOG)]
        return sorted(found, key=lambda row: int(row["known_ts"]))

    def logged_ids(self) -> list[int]:
        """The orders that have been logged."""
        return [row["transaction_id"] for row in self.logged()]


@contextmanager
def stream_on(log: LogAddress, address: str) -> Iterator[Stream]:
    with closing(open_live(address, timeout_seconds=0.5)) as store:
        stream = Stream(log, store)
        with stream.gateway:
            yield stream


def probe_of(stream: Stream, share: float = 1.0) -> Probe:
    return Probe(stream.log, stream.store, FRAUD.features, share=share)


def turn_until(probe: Probe, logged: int) -> None:
    for _ in range(TURNS):
        probe.turn()
        if probe.logged >= logged:
            return
    raise AssertionError(probe.logged)


def test_every_order_in_effect_is_logged_once_as_of_when_it_was_known(
    broker: BrokerService, tmp_path: Path
) -> None:
    with stream_on(broker.log, str(tmp_path)) as stream:
        known = stream.order(*range(1, 21))
        stream.order(3, 4, 4)
        known += stream.order(*range(21, 31))
        stream.apply()
        with closing(probe_of(stream)) as probe:
            turn_until(probe, 30)
            for _ in range(5):
                probe.turn()
        logged = stream.logged()
        assert [row["transaction_id"] for row in logged] == list(range(1, 31))
        assert [row["known_ts"] for row in logged] == known
        assert {row["definition"] for row in logged} == {definition_of(FRAUD.features)}
        vectors = np.stack([np.frombuffer(row["vector"], "<f4") for row in logged])
        asked = [
            {"transaction_id": i, "user_id": i % 5, "event_id": i % 3, "amount_cents": 100 + i}
            for i in range(1, 31)
        ]
        again = stream.store.fetch_as_of(FRAUD.features, asked, np.array(known))
        np.testing.assert_array_equal(vectors.view(np.uint32), again.view(np.uint32))
        assert len(np.unique(vectors, axis=0)) == 30


def test_an_order_waits_until_the_watermark_has_passed_it(
    dev_broker: DevBrokerService, tmp_path: Path
) -> None:
    with stream_on(dev_broker.log, str(tmp_path)) as stream, closing(probe_of(stream)) as probe:
        known = stream.order(1, 2, 3)
        # A watermark at the very time of an order says nothing of that order yet.
        stream.apply(until_us=known[1])
        turn_until(probe, 1)
        for _ in range(5):
            probe.turn()
        assert stream.logged_ids() == [1]
        stream.apply()
        turn_until(probe, 3)
        assert stream.logged_ids() == [1, 2, 3]


def test_a_share_of_the_orders_is_logged(dev_broker: DevBrokerService, tmp_path: Path) -> None:
    ids = np.arange(1, 201)
    expected = ids[sampled(ids, 0.25)].tolist()
    assert 20 < len(expected) < 80
    with stream_on(dev_broker.log, str(tmp_path)) as stream, closing(probe_of(stream, 0.25)) as p:
        stream.order(*ids.tolist())
        stream.apply()
        turn_until(p, len(expected))
        assert sorted(stream.logged_ids()) == expected


def test_the_next_probe_goes_on_where_the_last_one_was(
    broker: BrokerService, tmp_path: Path
) -> None:
    with stream_on(broker.log, str(tmp_path)) as stream:
        known = stream.order(*range(1, 11))
        stream.apply(until_us=known[5])
        with closing(probe_of(stream)) as first:
            turn_until(first, 5)
        stream.order(*range(11, 16))
        stream.apply()
        with closing(probe_of(stream)) as second:
            turn_until(second, 10)
        assert second.logged == 10, "what was logged is not logged again"
        assert stream.logged_ids() == list(range(1, 16))


def test_two_probes_that_share_the_partitions_log_everything(
    broker: BrokerService, tmp_path: Path
) -> None:
    with stream_on(broker.log, str(tmp_path)) as stream, closing(probe_of(stream)) as first:
        stream.order(*range(1, 101))
        stream.apply()
        turn_until(first, 100)
        # The second one joins while the first one works: what that commits meanwhile is refused.
        with closing(probe_of(stream)) as second:
            sent = 100
            while not second.logged and sent < 2_000:
                stream.order(*range(sent + 1, sent + 11))
                stream.apply()
                sent += 10
                for probe in (second, first):
                    probe.turn()
            assert second.logged
            for _ in range(TURNS):
                for probe in (second, first):
                    probe.turn()
                if set(stream.logged_ids()) == set(range(1, sent + 1)):
                    break
        logged = stream.logged()
        assert {row["transaction_id"] for row in logged} == set(range(1, sent + 1))
        assert len({(row["transaction_id"], row["vector"]) for row in logged}) == sent


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_while_the_store_is_away_orders_wait(
    fault: str, dev_broker: DevBrokerService, durable_redis: RedisService
) -> None:
    with (
        stream_on(dev_broker.log, durable_redis.url) as stream,
        closing(probe_of(stream)) as probe,
    ):
        stream.order(1, 2, 3)
        stream.apply()
        if fault == "killed":
            durable_redis.kill()
        else:
            durable_redis.pause()
        for _ in range(3):
            with pytest.raises(StoreUnavailableError, match=durable_redis.address):
                probe.turn()
        durable_redis.restore()
        turn_until(probe, 3)
        assert stream.logged_ids() == [1, 2, 3]


def test_while_the_log_is_away_the_probe_says_so_and_then_goes_on(
    broker: BrokerService, tmp_path: Path
) -> None:
    with stream_on(broker.log, str(tmp_path)) as stream, closing(probe_of(stream)) as probe:
        stream.order(1, 2, 3)
        stream.apply()
        turn_until(probe, 3)
        broker.pause()
        with pytest.raises(StoreUnavailableError, match=broker.address):
            turn_until(probe, 4)
        broker.resume()
        stream.order(4, 5)
        stream.apply()
        for _ in range(TURNS):
            with suppress(StoreUnavailableError):
                probe.turn()
            if probe.logged == 5:
                break
        assert stream.logged_ids() == [1, 2, 3, 4, 5]


def test_a_probe_ends_while_the_log_is_away(dev_broker: DevBrokerService, tmp_path: Path) -> None:
    with stream_on(dev_broker.log, str(tmp_path)) as stream:
        probe = probe_of(stream)
        stream.order(1)
        stream.apply()
        turn_until(probe, 1)
        dev_broker.pause()
        # As a vector that is under way.
        probe._producer.send(FEATURES_LOG, b"waits")
        probe.close()
        dev_broker.resume()


def test_orders_that_the_store_has_forgotten_are_counted_and_passed_over(
    dev_broker: DevBrokerService, tmp_path: Path
) -> None:
    with stream_on(dev_broker.log, str(tmp_path)) as stream:
        stream.order(1, 2)
        stream.now_us += LATENESS_US
        stream.order(3)
        stream.apply()
        with closing(probe_of(stream)) as probe:
            turn_until(probe, 1)
            assert probe.forgotten == 2
        assert stream.logged_ids() == [3]
