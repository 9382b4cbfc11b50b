"""A scenario day by day: what arrives of its world, drifted and spoilt, and the truth beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import array, integers
from ibook_assets.core.errors import ContractError
from ibook_assets.core.tables import TableSpec
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_sim.chaos import deliver, longest_delay_us
from ibook_sim.drift import DriftedWorld
from ibook_sim.scenarios import Scenario, scenarios
from ibook_sim.world import DayTables


def scenarios_with_days() -> list[str]:
    """Names of the scenarios that are one world; a mix is several, and a recording none."""
    return [name for name, item in scenarios().items() if not (item.parts or item.recorded)]


class ScenarioDays:
    """The days of one scenario.

    Any day may be asked for, in any order and process: the rows depend on the scenario, the seed
    and the first day alone. What was delivered is kept as long as the next day may need it.
    """

    def __init__(self, item: Scenario, *, seed: int, start_date: date | None = None) -> None:
        """Days of `item` under `seed`, from `start_date` (else the scenario's own) on.

        Raises:
            ContractError: `item` is a mix or a recording.
        """
        if item.parts:
            msg = (
                f"{item.name!r} mixes worlds whose identifiers would meet, so it has no days; "
                f"take those of its parts: {', '.join(part.scenario for part in item.parts)}"
            )
            raise ContractError(msg)
        if item.recorded:
            msg = f"{item.name!r} plays recorded days; read those, they are what it sends"
            raise ContractError(msg)
        self.scenario = item
        self.seed = seed
        config = item.config(seed)
        if start_date is not None:
            config = config.model_copy(update={"start_date": start_date})
        self.world = DriftedWorld(config, item.drift)
        self._day: tuple[date, DayTables] | None = None
        self._later: dict[str, dict[date, dict[date, pa.Table]]] = {}
        """By table and day sent: rows that arrive on a later day, by that day."""

    def arriving(self, spec: TableSpec, day: date) -> pa.Table:
        """Rows of the daily table `spec` that arrive on `day`, by (known_ts, key).

        Raises:
            ContractError: `day` is before the first day.
        """
        start = self.world.config.start_date
        longest_us = longest_delay_us(spec, self.scenario.chaos)
        first = start if longest_us is None else day - timedelta(days=-(-longest_us // DAY_US))
        first = min(max(first, start), day)
        kept = self._later.setdefault(spec.name, {})
        for old in [sent for sent in kept if sent < first]:
            del kept[old]
        today = self._deliver(spec, day)
        parts = [spec.schema.empty_table(), today.pop(day, spec.schema.empty_table())]
        # Rows that arrived on the day they were sent are not needed again, so only others are kept.
        kept[day] = today
        for sent in (first + timedelta(days=n) for n in range((day - first).days)):
            if sent not in kept:
                kept[sent] = self._deliver(spec, sent)
                kept[sent].pop(sent, None)
            if day in kept[sent]:
                parts.append(kept[sent][day])
        rows = pa.concat_tables(parts)
        return rows.sort_by(
            [(name, "ascending") for name in dict.fromkeys(("known_ts", *spec.key))]
        )

    def truth(self, days: Sequence[date]) -> Mapping[date, pa.Table]:
        """Truth of the orders sent on each of `days`, whether or not they arrive."""
        return self.world.truth(days)

    def _deliver(self, spec: TableSpec, day: date) -> dict[date, pa.Table]:
        """Rows of `spec` sent on `day`, by the day they arrive on."""
        if self._day is None or self._day[0] != day:
            # The tables of a day are asked for one after the other.
            self._day = (day, self.world.day(day))
        sent = dict(self._day[1].items())[spec.name]
        rows = deliver(sent, spec, self.scenario.chaos, seed=self.seed).rows
        number = (integers(rows["known_ts"], null=0) - day_start_us(day)) // DAY_US
        return {
            day + timedelta(days=int(n)): rows.filter(array(number == n)) for n in np.unique(number)
        }
