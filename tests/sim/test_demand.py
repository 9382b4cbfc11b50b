"""Expected sales: against arithmetic, against simulation, and against the world's own sales."""

import itertools

import numpy as np
import pytest
from scipy.stats import poisson

from ibook_assets.core.errors import ContractError
from ibook_sim.world import World, WorldConfig
from ibook_sim.world.demand import expected_sales
from ibook_sim.world.emissions import QUANTITIES, QUANTITY
from ibook_sim.world.plan import Plan
from ibook_sim.world.randomness import Floats
from tests.sim.small_world import CONFIG, DAYS

SIZES = np.arange(1, QUANTITIES + 1)


def test_one_seat_goes_to_the_first_order_if_it_wants_one_ticket() -> None:
    # The sale closes at the first order that wants more, so only the first can be served:
    # P(an order by the end of day 1) = 1 - e^-2, by the end of day 2: 1 - e^-3.
    one = QUANTITY[0, 0]
    orders, tickets = expected_sales(np.array([2.0, 1.0]), 1)
    assert orders == pytest.approx(
        [one * (1 - np.exp(-2)), one * (np.exp(-2) - np.exp(-3))], rel=1e-12
    )
    assert tickets == pytest.approx(orders)


def test_two_seats_by_enumeration() -> None:
    # One order is served if it wants 1 or 2; a second only if both want 1.
    one, two = QUANTITY[0, :2]
    some, several = poisson.sf(0, 1.5), poisson.sf(1, 1.5)
    (orders,), (tickets,) = expected_sales(np.array([1.5]), 2)
    assert orders == pytest.approx(some * (one + two) + several * one**2, rel=1e-12)
    assert tickets == pytest.approx(some * (one + 2 * two) + several * one**2, rel=1e-12)


def test_with_seats_enough_everybody_is_served() -> None:
    rate = np.array([5.0, 0.0, 40.0, 2.0])
    orders, tickets = expected_sales(rate, 2_000)
    assert orders == pytest.approx(rate, rel=1e-9, abs=1e-9)
    assert tickets == pytest.approx(rate * (QUANTITY[0] @ SIZES), rel=1e-9, abs=1e-9)


def test_no_seats_no_sales() -> None:
    assert expected_sales(np.array([3.0, 1.0]), 0)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("room", [7, 60])
def test_means_of_a_sale_played_order_by_order(room: int) -> None:
    rate, rounds = np.array([9.0, 4.0, 14.0]), 4_000
    played = np.array([_played(rate, room, seed) for seed in range(rounds)])
    expected = np.stack(expected_sales(rate, room))
    error = played.std(axis=0) / np.sqrt(rounds) + 1e-9
    assert (np.abs(played.mean(axis=0) - expected) < 4.5 * error).all()


def _played(rate: Floats, room: int, seed: int) -> Floats:
    """Shape (2, days): orders and tickets of one sale, first come first served."""
    g = np.random.default_rng(seed)
    out, left = np.zeros((2, rate.size)), room
    for day, mean in enumerate(rate):
        for size in g.choice(SIZES, g.poisson(mean), p=QUANTITY[0]):
            if size > left:
                return out
            out[:, day] += 1, size
            left -= size
    return out


def test_the_world_sells_what_it_is_expected_to() -> None:
    # All events whose sale begins and ends within the days; phases of the sale apart, and events
    # that run out apart from those that do not. Events are independent, so the mean error of each
    # group has the standard error of its events.
    days = 260
    worlds = [WorldConfig(seed=s, users=6_000, events=400, orders_per_day=200) for s in (1, 2)]
    errors: dict[tuple[str, bool], list[float]] = {}
    for config in worlds:
        sold, world = _sold(config, days), World(config)
        events = Plan(config).book.source.until(sold.shape[0])
        inside = (events.on_sale_day >= 0) & (events.on_sale_day + events.lead_days <= days)
        for event in np.flatnonzero(inside):
            mean = world.expected_sales(int(event))
            first = (mean.first_day - config.start_date).days
            seen = sold[event, first : first + mean.orders.size] - mean.orders
            runs_out = bool(mean.orders.sum() < 0.98 * mean.wanted.sum())
            for phase, part in (("opens", seen[:4]), ("goes on", seen[4:-7]), ("ends", seen[-7:])):
                errors.setdefault((phase, runs_out), []).append(float(part.sum()))
    for group, seen_errors in errors.items():
        error = np.array(seen_errors)
        assert error.size > 60, group
        assert abs(error.mean()) < 4 * error.std() / np.sqrt(error.size), group


def _sold(config: WorldConfig, days: int) -> Floats:
    """Shape (events, days): legitimate orders of each event and day."""
    plan = Plan(config)
    plan.day(days)
    out = np.zeros((plan.book.source.first_number(days), days))
    for day in range(days):
        sales = plan.day(day).sales
        np.add.at(out[:, day], sales.event, sales.orders)
    return out


def test_a_sale_is_as_long_as_the_catalogue_says(world: World) -> None:
    events = world.catalogue(DAYS[-1]).events.to_pylist()
    for event in itertools.islice(events, 40, 50):
        mean = world.expected_sales(event["event_id"])
        until_start = event["starts_ts"] - event["on_sale_ts"]
        assert mean.wanted.size == until_start // 86_400_000_000
        assert mean.tickets.sum() <= 0.9 * event["capacity"]


def test_an_event_that_cannot_exist_is_refused() -> None:
    with pytest.raises(ContractError, match="event -1 does not exist"):
        World(CONFIG).expected_sales(-1)
