"""Orders as arrays: their order of arrival."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.times import DAY_US, day_start_us
from ibook_sim.world import World
from ibook_sim.world.orders import arrival_order
from tests.sim.small_world import CONFIG, DAYS

ORDERS = World(CONFIG).orders(DAYS[0])
after_midnight = st.lists(st.integers(0, 5) | st.integers(0, DAY_US - 1), max_size=60)


@given(after_midnight, st.randoms(use_true_random=False))
def test_arrival_order_is_by_time_then_identifier(when: list[int], shuffler: random.Random) -> None:
    numbers = list(range(len(when)))
    shuffler.shuffle(numbers)
    orders = ORDERS._replace(
        known_ts=np.array(when, np.int64) + day_start_us(DAYS[0]),
        transaction_id=np.array(numbers, np.int64),
    )
    assert np.array_equal(arrival_order(orders), np.lexsort((numbers, when)))


def test_rows_are_not_made_in_order_of_arrival() -> None:
    assert not np.array_equal(arrival_order(ORDERS), np.arange(ORDERS.row.size))
