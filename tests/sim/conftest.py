"""One small world for the whole suite; nothing in it may be changed."""

import pyarrow as pa
import pytest

from ibook_sim.world import DayTables, World
from tests.sim.small_world import CONFIG, DAYS


@pytest.fixture(scope="session")
def world() -> World:
    return World(CONFIG)


@pytest.fixture(scope="session")
def days(world: World) -> list[DayTables]:
    return [world.day(day) for day in DAYS]


@pytest.fixture(scope="session")
def transactions(days: list[DayTables]) -> pa.Table:
    return pa.concat_tables([day.transactions for day in days])


@pytest.fixture(scope="session")
def truth(world: World) -> pa.Table:
    return pa.concat_tables(list(world.truth(DAYS).values()))
