"""When labels come: outcomes as chaos delivers them, against when the world knows them."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Final

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import integers, pc
from ibook_assets.core.tables import OUTCOMES
from ibook_assets.core.times import DAY_US
from ibook_sim.chaos import Chaos, deliver
from ibook_sim.judging.findings import Labels
from ibook_sim.world import World
from ibook_sim.world.randomness import Floats, Ints

GRACE_DAYS: Final = 1
"""Days after a label matures from which it counts as late."""


def labels_of(
    orders: pa.Table, days: list[date], world: World, chaos: Chaos, *, seed: int
) -> Labels:
    """How late the labels of `orders`, placed on `days`, become known under `chaos`.

    An order's label is the first outcome about it: a chargeback, or `settled` once it matures.
    """
    maturity = world.config.label_maturity_days
    last = (days[-1] - days[0]).days + maturity + GRACE_DAYS
    known = pa.concat_tables(
        [world.day(days[0] + timedelta(days=number)).outcomes for number in range(last + 1)]
    )
    about = pc.is_in(known["transaction_id"], value_set=orders["transaction_id"].combine_chunks())
    sent = known.filter(about)
    order_of = _position_of(orders)
    expected = _first_known(sent, order_of)
    came = _first_known(deliver(sent, OUTCOMES, chaos, seed=seed).rows, order_of)
    labelled = np.isfinite(expected)
    due = integers(orders["occurred_ts"], null=0) + (maturity + GRACE_DAYS) * DAY_US
    late_days = (came - expected)[labelled] / DAY_US
    return Labels(
        in_time_share=float((came <= due)[labelled].mean()) if labelled.any() else np.nan,
        delay_p95_days=(
            float(np.quantile(late_days, 0.95, method="higher")) if labelled.any() else np.nan
        ),
    )


def _position_of(orders: pa.Table) -> tuple[Ints, Ints]:
    """Identifiers, ascending, and the row of each."""
    identifiers = integers(orders["transaction_id"], null=0)
    rows = np.argsort(identifiers)
    return identifiers[rows], rows


def _first_known(outcomes: pa.Table, order_of: tuple[Ints, Ints]) -> Floats:
    """When the first outcome of each order is known (microseconds); infinite for one without."""
    identifiers, rows = order_of
    found = np.full(identifiers.size, np.inf)
    about = np.searchsorted(identifiers, integers(outcomes["transaction_id"], null=0))
    known = integers(outcomes["known_ts"], null=0).astype(np.float64)
    np.minimum.at(found, rows[about], known)
    return found
