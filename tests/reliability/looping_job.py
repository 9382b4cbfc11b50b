"""What Dagster's own processes load for the loop under kills."""

from tests.reliability.looping_world import platform

defs = platform()
