"""Scenarios as data: every module of this package with a `SCENARIO` is one."""

from ibook_sim.scenarios.registry import mixed, parse_weights, scenario, scenarios
from ibook_sim.scenarios.spec import Objectives, Part, Scenario

__all__ = [
    "Objectives",
    "Part",
    "Scenario",
    "mixed",
    "parse_weights",
    "scenario",
    "scenarios",
]
