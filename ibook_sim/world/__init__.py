"""A ticketing world with known truth, day by day."""

from ibook_sim.world.config import WorldConfig
from ibook_sim.world.world import Catalogue, DayTables, World, days_from

__all__ = ["Catalogue", "DayTables", "World", "WorldConfig", "days_from"]
