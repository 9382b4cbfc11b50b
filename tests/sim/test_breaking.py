"""Every objective of every scenario can fail: each is broken by a scenario, or by spoilt records.

What holds by construction, whatever the scenario, is broken by altering what the run found.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ibook_sim.chaos import Chaos
from ibook_sim.datasets.export import day_path
from ibook_sim.drift import Drift, DriftedShare
from ibook_sim.judging.findings import RunResult
from ibook_sim.judging.validators import Check, judged
from ibook_sim.offline.running import planned, run
from ibook_sim.orders.placed import days_holding
from ibook_sim.orders.recordings import Recording, record
from ibook_sim.realtime.driving import open_loop
from ibook_sim.realtime.events import Fed
from ibook_sim.realtime.findings import findings
from ibook_sim.realtime.load import simulated
from ibook_sim.realtime.recording import Answer
from ibook_sim.realtime.running import Run
from ibook_sim.report import page
from ibook_sim.scenarios import Scenario, mixed, parse_weights, scenario, scenarios
from ibook_sim.scenarios.spec import Service
from ibook_sim.world import World
from tests.sim.small_world import ints
from tests.sim.virtual_time import run_virtually

ORDERS = 3_000
LATE = Chaos(late_label_share=0.5, late_label_days=40.0)

BY_SCENARIO: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    # 20 orders a second of 60 ms each are too many for one worker.
    "latency": ("normal-traffic", {"service": Service(workers=1, service_ms=60.0)}),
    "errors": ("normal-traffic", {"chaos": Chaos(error_share=0.02)}),
    "freshness": (
        "normal-traffic",
        {"chaos": Chaos(disorder_share=0.05, disorder_seconds=120.0)},
    ),
    "accuracy": ("normal-traffic", {"drift": Drift(level=1.0, axes=("concept",))}),
    "fraud saved": ("normal-traffic", {"drift": Drift(level=1.0, axes=("concept",))}),
    "revenue": ("normal-traffic", {"world": scenario("fraud-attack").world}),
    "no drift": ("normal-traffic", {"drift": Drift(level=0.9)}),
    "drift seen": ("drift", {"drift": Drift(level=0.0)}),
    "platform rings": ("drift", {"drift": Drift(level=0.0)}),
    "labels in time": ("system-degradation", {"chaos": LATE}),
    "label delay": ("system-degradation", {"chaos": LATE}),
}
"""Check → a scenario that has it, and what to change there to break it."""


def _dearer(orders: pa.Table, _: pa.Table) -> pa.Table:
    return _with(orders, "amount_cents", ints(orders, "amount_cents") + 1)


def _more_than_seats(orders: pa.Table, events: pa.Table) -> pa.Table:
    """One event's orders take, together, more tickets than it has seats, at the right price."""
    about, quantity = ints(orders, "event_id"), ints(orders, "quantity")
    event = np.bincount(about).argmax()
    mine = about == event
    factor = int(ints(events, "capacity")[event] // quantity[mine].sum() + 1)
    for name in ("quantity", "amount_cents"):
        values = ints(orders, name)
        orders = _with(orders, name, np.where(mine, values * factor, values))
    return orders


BY_RECORD: Final[dict[str, Callable[[pa.Table, pa.Table], pa.Table]]] = {
    "seats": _more_than_seats,
    "money": _dearer,
    "recording": _dearer,
}
"""Check → what to do to recorded orders to break it when they are replayed."""


def _lost(result: RunResult) -> RunResult:
    books = result.parts[0].books
    return _altered(result, books=replace(books, arrived=books.arrived - 1))


def _off(axis: Any) -> Callable[[RunResult], RunResult]:
    # 3,000 coins at .5 have a deviation of .009; .56 is over six of them away.
    return lambda result: _altered(result, drifted=(DriftedShare(axis, 1_680, 3_000),))


BY_FINDING: Final[dict[str, tuple[str, Callable[[RunResult], RunResult]]]] = {
    "messages": ("normal-traffic", _lost),
    "covariate size": ("drift", _off("covariate")),
    "concept size": ("drift", _off("concept")),
}
"""Check that no scenario can break → a scenario that has it, and a finding that breaks it."""

BY_PACE: Final = frozenset({"rate"})
"""Checks that only runs in real time have."""


def _altered(result: RunResult, **found: object) -> RunResult:
    return replace(result, parts=(replace(result.parts[0], **found),))  # type: ignore[arg-type]


def _with(rows: pa.Table, name: str, values: Any) -> pa.Table:
    index = rows.column_names.index(name)
    return rows.set_column(index, rows.schema.field(index), pa.array(values))


def check(result: RunResult, name: str) -> Check:
    (found,) = [check for check in judged(result) if check.name == name]
    return found


def offline(item: Scenario, orders: int = ORDERS) -> RunResult:
    return run(planned(item, seed=7, orders=orders))


@pytest.fixture(scope="module")
def sound() -> Callable[[str], RunResult]:
    """The run of a scenario as it is, played once."""
    kept: dict[str, RunResult] = {}

    def of(name: str) -> RunResult:
        if name not in kept:
            kept[name] = offline(scenario(name))
        return kept[name]

    return of


@pytest.mark.parametrize("name", BY_SCENARIO)
def test_a_scenario_breaks_it(name: str, sound: Callable[[str], RunResult]) -> None:
    base, change = BY_SCENARIO[name]
    assert check(sound(base), name).passed
    broken = Scenario.model_validate(scenario(base).model_copy(update=change).model_dump())
    assert not check(offline(broken), name).passed


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    config = scenario("replay").config(7)
    return record(config, days_holding(World(config), 1_000), tmp_path_factory.mktemp("recorded"))


@pytest.mark.parametrize("name", BY_RECORD)
def test_spoilt_records_break_it(name: str, recorded: Recording, tmp_path: Path) -> None:
    assert check(run(planned(scenario("replay"), seed=7, recording=recorded)), name).passed
    for path in recorded.folder.rglob("*.parquet"):
        copy = tmp_path / path.relative_to(recorded.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    orders = day_path(tmp_path, "transactions", recorded.days[0])
    rows = pq.ParquetFile(orders).read()
    pq.write_table(BY_RECORD[name](rows, recorded.events()), orders)
    spoilt = replace(recorded, folder=tmp_path)
    assert not check(run(planned(scenario("replay"), seed=7, recording=spoilt)), name).passed


@pytest.mark.parametrize("name", BY_FINDING)
def test_a_finding_breaks_it(name: str, sound: Callable[[str], RunResult]) -> None:
    base, alter = BY_FINDING[name]
    assert check(sound(base), name).passed
    assert not check(alter(sound(base)), name).passed


def paced(
    slots: int, *, service_seconds: float = 0.01, fed_after: float | None = None
) -> RunResult:
    """A real-time run on a virtual clock, whose generator has `slots` connections."""
    load = simulated(scenario("normal-traffic"), seed=7, rps=100.0, seconds=20.0)

    async def main() -> Run:
        places = asyncio.Semaphore(slots)

        async def send(number: int) -> Answer:
            async with places:
                sent_at = asyncio.get_running_loop().time()
                await asyncio.sleep(service_seconds)
                score = float(load.orders.score[number])
                return Answer(200, sent_at, bool(load.flagged[number]), score)

        recording = await open_loop(load.due, load.seconds, send, stop=asyncio.Event())
        fed = None if fed_after is None else Fed(load.due + fed_after, load.due.size)
        return Run(load, None, None, recording, fed)

    return findings(run_virtually(main()))


def test_a_generator_that_falls_behind_breaks_the_rate() -> None:
    assert check(paced(1_000), "rate").passed
    # One connection at 12.5 ms a request sends 80 of the 100 a second.
    late = paced(1, service_seconds=0.0125)
    assert not check(late, "rate").passed
    assert "INVALID" in page(late)
    assert not check(late, "latency").passed


def test_a_slow_server_breaks_the_latency_of_a_real_time_run() -> None:
    assert check(paced(1_000), "latency").passed
    slow = paced(1_000, service_seconds=0.4)
    assert not check(slow, "latency").passed
    assert check(slow, "rate").passed


def test_a_slow_log_breaks_the_freshness_of_a_real_time_run() -> None:
    assert "freshness" not in {check.name for check in judged(paced(1_000))}
    assert check(paced(1_000, fed_after=0.05), "freshness").passed
    assert not check(paced(1_000, fed_after=30.0), "freshness").passed


def test_every_objective_of_every_scenario_is_broken_above(
    sound: Callable[[str], RunResult],
) -> None:
    runs = [sound(name) for name in scenarios()] + [paced(1_000, fed_after=0.05)]
    names = {check.name.partition(": ")[0] for result in runs for check in judged(result)}
    assert names == {*BY_SCENARIO, *BY_RECORD, *BY_FINDING, *BY_PACE}


def test_each_part_of_a_mix_is_judged_by_itself() -> None:
    result = offline(mixed(parse_weights("normal-traffic:50,drift:50")))
    plain, moved = result.parts
    lost = replace(moved, books=replace(moved.books, arrived=0))
    swapped = replace(plain, divergences=moved.divergences)
    spoilt = replace(result, parts=(swapped, lost))
    before, after = ({c.name for c in judged(r) if not c.passed} for r in (result, spoilt))
    assert after - before == {"no drift: normal-traffic", "messages: drift"}
