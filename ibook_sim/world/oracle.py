"""The best possible answer: the probability that an order is fraud, given all there is to know.

`posterior` is exact Bayes for the model that generates the world. It conditions on

1. the parameters of the world, the day's legitimate orders by event, the seats that those of the
   whole sale leave (fraudulent orders come last, and go away without one), and every event's hype;
2. the account: when it was opened, and its latent activity and tastes (drawn alike for all);
3. all orders of the account up to and including this one in `known_ts` order: their times,
   events and published columns;
4. the refunds and chargebacks of the account's earlier orders known by this order's `known_ts`,
   and the absence of others.

Identifiers of cards, devices and addresses, views, amounts and other accounts' orders are
conditionally independent of the archetype given these, so no model that sees only what is
published before the order can beat it. It is more than a model can see (2 is latent), hence a
bound, not a promise. An account's chance to be chosen for one of a day's orders is treated as a
Poisson rate (relative error: its share of the orders). That an abuser may have tried before and
found no seat (`DayPlan.unserved`, none in the default world) is ignored: where a sixth of the
frauds go away so, the posterior is 2 to 3 % low.

`row_posterior` conditions on the world's parameters, the event and the order's own columns only;
an abuser's age is taken as its age at its first order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ibook_assets.core.times import DAY_US
from ibook_sim.world.clock import elapsed
from ibook_sim.world.config import (
    GAP_DAYS,
    ORDERS_PER_ABUSER,
    TAKEOVER_DAYS,
    TAKEOVER_ORDERS_PER_DAY,
    WorldConfig,
)
from ibook_sim.world.emissions import BOT_HYPE, REFUNDED, abuser_age_density, likelihood
from ibook_sim.world.fates import (
    CHARGEBACK_LAW,
    CHARGEBACK_LIMIT_DAYS,
    NEVER,
    REFUND_LAW,
    chargeback_share,
    fates,
)
from ibook_sim.world.filter import Evidence, Links, Priors, posteriors
from ibook_sim.world.orders import Orders, OrderSource
from ibook_sim.world.plan import DayPlan, Plan
from ibook_sim.world.randomness import Bools, Floats, Ints

_CACHED_ROWS: Final = 1_500_000


@dataclass(frozen=True, slots=True)
class DayTruth:
    """Ground truth of one day's orders, in row order."""

    transaction_id: Ints
    known_ts: Ints
    archetype: Ints
    posterior: Floats
    row_posterior: Floats


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the filter needs of one day's orders."""

    day: Ints
    account: Ints
    transaction_id: Ints
    archetype: Ints
    known_us: Ints
    time: Floats
    exposure: Floats
    rate: Floats
    """Shape (n, 5): likelihood of the columns times the rate at which each type orders this."""
    chargeback_us: Ints
    refund_us: Ints
    row_posterior: Floats

    def take(self, rows: Ints) -> _Seen:
        """The chosen rows."""
        return _Seen(*(getattr(self, f)[rows] for f in self.__slots__))

    @classmethod
    def join(cls, parts: Sequence[_Seen]) -> _Seen:
        """All parts in order."""
        return cls(*(np.concatenate([getattr(p, f) for p in parts]) for f in cls.__slots__))


class Oracle:
    """Posteriors of a world's orders."""

    def __init__(self, config: WorldConfig, plan: Plan, orders: OrderSource) -> None:
        self._config = config
        self._plan = plan
        self._orders = orders
        self._cache: OrderedDict[int, _Seen] = OrderedDict()

    def truth(self, days: Sequence[int]) -> dict[int, DayTruth]:
        """Truth of each of `days`; handles all orders from day 0 to the last of them."""
        if not days:
            return {}
        last = max(days)
        self._plan.day(last)
        wanted = np.zeros(last + 1, np.bool_)
        wanted[list(days)] = True
        seen = self._history(wanted)
        order = np.lexsort((seen.transaction_id, seen.known_us, seen.account))
        seen = seen.take(order)
        ask = wanted[seen.day]
        score = posteriors(*self._problem(seen, ask))
        out = {}
        for day in sorted(set(days)):
            rows = np.flatnonzero(seen.day == day)
            rows = rows[np.lexsort((seen.transaction_id[rows], seen.known_us[rows]))]
            out[day] = DayTruth(
                transaction_id=seen.transaction_id[rows],
                known_ts=seen.known_us[rows],
                archetype=seen.archetype[rows],
                posterior=score[rows],
                row_posterior=seen.row_posterior[rows],
            )
        return out

    def row_posterior(self, day: int) -> Floats:
        """P(fraud | the order's own columns) of each order of `day`, in row order."""
        orders = self._orders.rows(day)
        return self._row_posterior(self._looked(self._plan.day(day), orders), orders)

    def look(self, orders: Orders) -> Floats:
        """Shape (n, 5): P(columns | archetype) up to a factor common to the archetypes."""
        return likelihood(
            quantity=orders.quantity,
            tier=orders.tier,
            channel=orders.channel,
            device_accounts=orders.device_accounts,
            avs_match=orders.avs_match,
            declines=orders.declines,
            checkout_ms=orders.checkout_ms,
            geo_distance_m=orders.geo_distance_m,
        )

    def _looked(self, planned: DayPlan, orders: Orders) -> Floats:
        look = self.look(orders)
        look[:, 2] *= self._bot_lift(planned, orders)
        look[:, 1:] *= _seated(planned, orders)[:, None]
        return look

    def _history(self, wanted: Bools) -> _Seen:
        """All orders, up to the last wanted day, of accounts that order on a wanted day."""
        last = wanted.size - 1
        parts = [self._seen(day) for day in range(last, -1, -1)]
        asked = np.zeros(self._plan.register.size, np.bool_)
        for part, day in zip(parts, range(last, -1, -1), strict=True):
            if wanted[day]:
                asked[part.account] = True
        if not wanted.all():
            parts = [part.take(np.flatnonzero(asked[part.account])) for part in parts]
        return _Seen.join(parts)

    def _seen(self, day: int) -> _Seen:
        if day in self._cache:
            self._cache.move_to_end(day)
            return self._cache[day]
        seen = self._observe(self._plan.day(day), self._orders.rows(day))
        self._cache[day] = seen
        while sum(s.day.size for s in self._cache.values()) > _CACHED_ROWS:
            self._cache.popitem(last=False)
        return seen

    def _observe(self, planned: DayPlan, orders: Orders) -> _Seen:
        config, register = self._config, self._plan.register
        share = elapsed(orders.known_ts - planned.start_us)
        pull = planned.pull + share[:, None] * planned.pull_of_day
        activity, taste = register.activity[orders.account], register.taste[orders.account]
        fate = fates(config, planned.day, orders.row, orders.archetype)
        look = self._looked(planned, orders)
        kind = self._plan.events.category[orders.event_id]
        pull_of_kind = self._plan.slots.pull[kind]
        rate = look.copy()
        legit = activity * taste[np.arange(kind.size), kind] / pull_of_kind
        rate[:, 0] *= config.legit_per_day * legit
        rate[:, 1] *= TAKEOVER_ORDERS_PER_DAY
        return _Seen(
            day=np.full(orders.row.size, planned.day),
            account=orders.account,
            transaction_id=orders.transaction_id,
            archetype=orders.archetype.astype(np.int64),
            known_us=orders.known_ts,
            time=planned.time + share * planned.pace,
            exposure=activity * (taste * pull).sum(axis=1),
            rate=rate,
            chargeback_us=_moment(orders.known_ts, fate.chargeback_us),
            refund_us=_moment(orders.known_ts, fate.refund_us),
            row_posterior=self._row_posterior(look, orders),
        )

    def _bot_lift(self, planned: DayPlan, orders: Orders) -> Floats:
        hype = self._plan.events.hype[orders.event_id]
        return np.exp(BOT_HYPE * hype) * planned.legit_orders / planned.bot_weight

    def _row_posterior(self, look: Floats, orders: Orders) -> Floats:
        config = self._config
        age = (orders.known_ts - orders.created_us) / DAY_US
        hazard = -np.log1p(-config.renewal_per_day)
        weight = look * np.array([config.legit_per_day, *config.fraud_per_day])
        weight[:, :2] *= (hazard * np.exp(-hazard * age))[:, None]
        weight[:, 2:] *= abuser_age_density(age)
        return np.asarray(1.0 - weight[:, 0] / weight.sum(axis=1))

    def _problem(self, seen: _Seen, ask: Bools) -> tuple[Ints, Bools, Evidence, Links, Priors]:
        """The filter's inputs for orders sorted by (account, known time)."""
        first = np.ones(seen.account.size, np.bool_)
        first[1:] = seen.account[1:] != seen.account[:-1]
        config = self._config
        evidence = Evidence(
            known_us=seen.known_us,
            rate=seen.rate,
            chargeback_us=seen.chargeback_us,
            refund_us=seen.refund_us,
            charged=chargeback_share(config),
            refunded=REFUNDED,
            chargeback_law=CHARGEBACK_LAW,
            refund_law=REFUND_LAW,
            horizon_us=CHARGEBACK_LIMIT_DAYS * DAY_US,
        )
        starts = np.flatnonzero(first)
        links = self._links(seen, starts)
        return (
            np.append(starts, seen.account.size),
            ask,
            evidence,
            links,
            self._priors(seen, starts),
        )

    def _links(self, seen: _Seen, starts: Ints) -> Links:
        """What may have happened since the account's order before, or since it was opened."""
        config = self._config
        opened = self._opened_day(seen.account[starts])
        begun = np.minimum(opened, seen.day[starts])
        days = [self._plan.day(d) for d in range(int(seen.day.max()) + 1)]
        pulls, times = np.array([d.pull for d in days]), np.array([d.time for d in days])
        time = np.diff(seen.time, prepend=0.0)
        exposure = np.diff(seen.exposure, prepend=0.0)
        nights = np.diff(seen.day, prepend=0).astype(np.float64)
        account = seen.account[starts]
        taste, activity = self._plan.register.taste[account], self._plan.register.activity[account]
        time[starts] = seen.time[starts] - times[begun]
        exposure[starts] = seen.exposure[starts] - activity * (taste * pulls[begun]).sum(axis=1)
        nights[starts] = seen.day[starts] - begun
        time = np.maximum(time, 0.0)
        survival = np.exp(-np.maximum(exposure, 0.0))
        survival *= (1.0 - config.renewal_per_day) ** nights
        first = np.zeros(seen.day.size, np.bool_)
        first[starts] = True
        return Links(
            takeover_steps(config, time),
            survival,
            abuser_steps(time),
            np.cumsum(first) - 1,
            first,
        )

    def _opened_day(self, account: Ints) -> Ints:
        """First day the account could order, were it legitimate."""
        created = self._plan.register.created_us[account] - self._plan.start_us
        return np.where(created < 0, 0, created // DAY_US + 1)

    def _priors(self, seen: _Seen, starts: Ints) -> Priors:
        """Densities of an account's opening and first order, per day and operational day."""
        config, account = self._config, seen.account[starts]
        created = self._plan.register.created_us[account]
        hazard = -np.log1p(-config.renewal_per_day)
        before = (self._plan.start_us - created) / DAY_US
        owner = np.where(
            before > 0, hazard * np.exp(-hazard * before.clip(0)), config.renewal_per_day
        )
        owner = owner * config.users * (self._opened_day(account) <= seen.day[starts])
        taken = np.where(before > 0, config.taken_over_share, 0.0)
        age = (seen.known_us[starts] - created) / DAY_US
        later = np.exp(-seen.time[starts, None] / np.array(GAP_DAYS))
        arrivals = np.array(config.abuser_arrivals)
        arrivals = arrivals * (1.0 + (np.array(ORDERS_PER_ABUSER) - 1.0) * later)
        return Priors(owner * (1.0 - taken), owner * taken, arrivals * abuser_age_density(age))


def _seated(planned: DayPlan, orders: Orders) -> Bools:
    """Which orders would find seats if they were fraudulent."""
    seats = planned.seats[np.searchsorted(planned.sales.event, orders.event_id)]
    fraud = planned.fraud
    # Events and moments of a day on one line, so that one search finds both.
    began = orders.event_id * (2 * DAY_US)
    at = fraud.event * (2 * DAY_US) + fraud.known_us - planned.start_us
    order = np.argsort(at, kind="stable")
    before = np.searchsorted(at[order], began + orders.known_ts - planned.start_us)
    taken = np.append(0, np.cumsum(fraud.quantity[order]))
    gone = taken[before] - taken[np.searchsorted(at[order], began)]
    return np.asarray(seats - gone >= orders.quantity)


def _moment(known_us: Ints, delay_us: Ints) -> Ints:
    return np.where(delay_us == NEVER, NEVER, known_us + delay_us)


def takeover_steps(config: WorldConfig, time: Floats) -> Floats:
    """Shape (n, 2, 2): P(state after `time`, no fraudulent order meanwhile | state before).

    State 0 is clean, 1 taken over: exp([[-h, h], [m, -m - f]] * time) in closed form.
    """
    h, m, f = config.takeover_rate, 1.0 / TAKEOVER_DAYS, TAKEOVER_ORDERS_PER_DAY
    a, d = -h, -m - f
    s = (a + d) / 2
    q = np.sqrt(((a - d) / 2) ** 2 + h * m)
    grow = np.exp(s * time)
    ch, sh = grow * np.cosh(q * time), grow * np.sinh(q * time) / q
    steps = np.empty((time.size, 2, 2))
    steps[:, 0, 0], steps[:, 0, 1] = ch + (a - s) * sh, h * sh
    steps[:, 1, 0], steps[:, 1, 1] = m * sh, ch + (d - s) * sh
    return steps


def abuser_steps(time: Floats) -> Floats:
    """Shape (n, 3): density of an abuser's next order `time` after its last."""
    rate = 1.0 / np.array(GAP_DAYS)
    again = 1.0 - 1.0 / np.array(ORDERS_PER_ABUSER)
    return np.asarray(again * rate * np.exp(-rate * time[:, None]))
