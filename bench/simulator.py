"""Orders a second: the world's kernels against a Python loop and SimPy, in the same run.

All contenders make the same kind of order on one core: who, when, which event, and the columns of
the TRANSACTIONS table, from the same plan and distributions. The loop and SimPy draw from
Python's own generator, one order after the other, as a simulation is usually written, and keep
their orders in a list: nothing is sorted or written.
`python -m bench.simulator` prints a table and writes reports/bench/simulator.json.
"""

from __future__ import annotations

import argparse
import bisect
import functools
import json
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import simpy
from rich.console import Console
from rich.table import Table

from ibook_assets.stores.parquet import encode
from ibook_sim.datasets.export import write_table
from ibook_sim.world import World, WorldConfig, days_from
from ibook_sim.world.clock import CLOCK
from ibook_sim.world.emissions import CHECKOUT, GEO, TABLES
from ibook_sim.world.orders import TIER_PERCENT
from ibook_sim.world.plan import Plan

REPORT = Path("reports/bench/simulator.json")
LOOP_ORDERS = 60_000
LARGE = WorldConfig(users=400_000, events=3_000, orders_per_day=80_000)
ARRAYS_AIM, PARQUET_AIM = 1_500_000, 1_000_000
"""Orders a second and core that the simulator should reach."""


@dataclass(frozen=True)
class Contender:
    """Work that makes orders and returns how many; `aim` is the rate it should reach."""

    name: str
    work: Callable[[], int]
    aim: int | None = None


@dataclass(frozen=True)
class Measured:
    """One contender's best of several rounds."""

    contender: str
    orders: int
    cpu_seconds: float
    wall_seconds: float
    aim: int | None

    @property
    def per_cpu_second(self) -> float:
        """Orders a CPU second."""
        return self.orders / self.cpu_seconds


def measure(contender: Contender) -> Measured:
    """One round."""
    cpu, wall = time.process_time(), time.perf_counter()
    orders = contender.work()
    spent = time.process_time() - cpu, time.perf_counter() - wall
    return Measured(contender.name, orders, *spent, contender.aim)


class Loop:
    """The same orders, one at a time, in plain Python."""

    def __init__(self, config: WorldConfig, plan: Plan) -> None:
        self._random = random.Random(config.seed)
        activity = np.cumsum(plan.slots.activity[:, None] * plan.slots.taste, axis=0)
        self._users = [activity[:, c].tolist() for c in range(4)]
        self._clock = CLOCK.tolist()
        self._created = plan.slots.created_us.tolist()
        self._category = plan.events.category.tolist()
        self._price = plan.events.list_price_cents.tolist()
        self._tables = {name: table[0].tolist() for name, table in TABLES._asdict().items()}
        self._percent = TIER_PERCENT.tolist()

    def order(self, event: int, quantity: int, start_us: int) -> tuple[object, ...]:
        """A legitimate order of `event`."""
        draw, tables = self._random.random, self._tables
        users = self._users[self._category[event]]
        user = bisect.bisect(users, draw() * users[-1])
        share = draw()
        hour = bisect.bisect(self._clock, share) - 1
        width = self._clock[hour + 1] - self._clock[hour]
        known = start_us + int((hour + (share - self._clock[hour]) / width) * 3.6e9)
        tier = bisect.bisect(tables["tier"], draw())
        crowd = bisect.bisect(tables["devices"], draw())
        avs = draw() < tables["avs"][0]
        declines = bisect.bisect(tables["declines"], draw())
        channel = bisect.bisect(tables["channel"], draw())
        checkout = int(1e3 * math.exp(self._random.gauss(*CHECKOUT[0])))
        geo = int(1e3 * math.exp(self._random.gauss(*GEO[0])))
        occurred = known - 20_000 - int(self._random.expovariate(1 / 80_000))
        age = (occurred - self._created[user]) // 1_000_000
        device = 4 * user + (draw() < 0.15)
        card = 4 * user + (draw() < 0.20)
        ip = 4 * user + (draw() < 0.25)
        amount = quantity * (self._price[event] * self._percent[tier] // 100)
        return (
            self._random.getrandbits(48), occurred, known, user, event, card, device, ip, amount,
            quantity, tier, channel, declines, avs, crowd + 1, checkout, geo, age,
        )  # fmt: skip

    def orders(self, plan: Plan, days: int) -> Iterator[tuple[int, int, int]]:
        """(event, quantity, start of day) of the plan's legitimate orders."""
        for day in range(days):
            planned = plan.day(day)
            sales = planned.sales
            for event, quantity, n in zip(
                sales.event.tolist(), sales.quantity.tolist(), sales.orders.tolist(), strict=True
            ):
                for _ in range(n):
                    yield event, quantity, planned.start_us


def python_loop(loop: Loop, plan: Plan, days: int) -> int:
    """Orders made one after the other, kept in a list."""
    rows = [loop.order(*what) for what in loop.orders(plan, days)]
    return len(rows)


def simpy_loop(loop: Loop, plan: Plan, days: int) -> int:
    """Orders made by a SimPy process that waits from each order to the next."""
    environment = simpy.Environment()
    rows = []

    def sale() -> Generator[simpy.Event, None, None]:
        for what in loop.orders(plan, days):
            yield environment.timeout(1.0)
            rows.append(loop.order(*what))

    environment.process(sale())
    environment.run()
    return len(rows)


def arrays(world: World, days: int) -> int:
    """Orders as arrays, before sorting."""
    return sum(world.orders(day).row.size for day in days_from(world.config.start_date, days))


def parquet(world: World, days: int, out: Path) -> int:
    """Orders in the lake's order, as Arrow tables, one file a day: zstd, checksums, fsync."""
    return sum(
        write_table(world.transactions(day), out / f"{day}.parquet")
        for day in days_from(world.config.start_date, days)
    )


def lake(world: World, days: int, out: Path) -> int:
    """The same files in the encoding of the platform's lake."""
    rows = 0
    for day in days_from(world.config.start_date, days):
        table = world.transactions(day)
        with (out / f"{day}.lake").open("wb") as file:
            file.write(encode(table, table="transactions"))
            os.fsync(file.fileno())
        rows += table.num_rows
    return rows


def contenders(days: int, out: Path) -> list[Contender]:
    """All contenders; what is made once and kept (plans, compiled code) is made here."""
    found = []
    for name, config, count in (
        ("3,600 a day", WorldConfig(), days),
        ("80,000 a day", LARGE, max(1, days // 10)),
    ):
        world = World(config)
        parquet(world, count, out)
        lake(world, count, out)
        aims = (ARRAYS_AIM, PARQUET_AIM) if config is LARGE else (None, None)
        make = functools.partial
        found += [
            Contender(f"{name}: arrays", make(arrays, world, count), aims[0]),
            Contender(f"{name}: sorted, Parquet", make(parquet, world, count, out), aims[1]),
            Contender(f"{name}: sorted, lake", make(lake, world, count, out)),
            Contender(f"{name}: a new plan", make(planned, config, count)),
        ]
    config = WorldConfig()
    plan = Plan(config)
    few = next(d for d in range(1, 400) if sum(plan.day(i).rows for i in range(d)) > LOOP_ORDERS)
    loop = Loop(config, plan)
    return [
        *found,
        Contender("Python loop", lambda: python_loop(loop, plan, few)),
        Contender("SimPy", lambda: simpy_loop(loop, plan, few)),
    ]


def planned(config: WorldConfig, days: int) -> int:
    """Orders of a plan made from nothing; a world makes its plan once."""
    plan = Plan(config)
    return sum(plan.day(day).rows for day in range(days))


def compare(rounds: int, days: int) -> list[Measured]:
    """Every contender's best round; the rounds take turns, so that all meet the same noise."""
    with tempfile.TemporaryDirectory() as folder:
        entered = contenders(days, Path(folder))
        seen = [[measure(contender) for contender in entered] for _ in range(rounds)]
    return [max(turns, key=lambda m: m.per_cpu_second) for turns in zip(*seen, strict=True)]


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--days", type=int, default=60)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    found = compare(options.rounds, options.days)
    base = next(m for m in found if m.contender == "Python loop").per_cpu_second
    table = Table(title="Simulator: orders a second on one core (best round, CPU time)")
    for column in ("contender", "orders", "CPU s", "orders/s", "aim", "against the loop"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for m in found:
        table.add_row(
            m.contender, f"{m.orders:,}", f"{m.cpu_seconds:.3f}", f"{m.per_cpu_second:,.0f}",
            f"{m.aim:,}" if m.aim else "", f"{m.per_cpu_second / base:.1f} x",
        )  # fmt: skip
    Console().print(table)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(m) | {"orders_per_cpu_second": m.per_cpu_second} for m in found]
    REPORT.write_text(
        json.dumps({"python_loop_orders_per_second": base, "results": rows}, indent=2)
    )


if __name__ == "__main__":
    main()
