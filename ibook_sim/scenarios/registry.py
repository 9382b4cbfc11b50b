"""Finds scenarios by name."""

from __future__ import annotations

import difflib
import functools
import pkgutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from ibook_assets.core.errors import ContractError
from ibook_sim.scenarios.spec import Part, Scenario


@functools.cache
def scenarios() -> Mapping[str, Scenario]:
    """All scenarios by name; ContractError when two have one name or a mix names an unknown one."""
    found: dict[str, Scenario] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        item = getattr(import_module(f"ibook_sim.scenarios.{module.name}"), "SCENARIO", None)
        if not isinstance(item, Scenario):
            continue
        if item.name in found:
            msg = f"two scenarios are called {item.name!r}; rename the one in {module.name}.py"
            raise ContractError(msg)
        found[item.name] = item
    for item in found.values():
        for part in item.parts:
            _lookup(part.scenario, found)
    return MappingProxyType(found)


def scenario(name: str) -> Scenario:
    """The scenario called `name`; ContractError, with the nearest name, when there is none."""
    return _lookup(name, scenarios())


def mixed(parts: Sequence[Part]) -> Scenario:
    """The `mix` scenario with `parts` in place of its own."""
    for part in parts:
        if scenario(part.scenario).parts:
            msg = f"{part.scenario!r} is itself a mix; name its parts instead"
            raise ContractError(msg)
        if scenario(part.scenario).recorded:
            msg = f"{part.scenario!r} plays recorded days; a mix is made of worlds"
            raise ContractError(msg)
    return scenario("mix").model_copy(update={"parts": tuple(parts)})


def parse_weights(text: str) -> tuple[Part, ...]:
    """Parts of `a:40,b:60`; ContractError when it is not written so."""
    parts = []
    for item in text.split(","):
        name, colon, weight = item.strip().partition(":")
        try:
            number = float(weight)
        except ValueError:
            number = 0.0
        if not colon or not 0.0 < number < float("inf"):
            msg = f"{item.strip()!r} is no part of a mix: write name:weight,name:weight"
            raise ContractError(msg)
        parts.append(Part(scenario=name, weight=number))
    if len({part.scenario for part in parts}) < len(parts):
        msg = f"a scenario is named twice in {text!r}; add its weights up"
        raise ContractError(msg)
    return tuple(parts)


def _lookup(name: str, known: Mapping[str, Scenario]) -> Scenario:
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    msg = f"no scenario is called {name!r}; there are {', '.join(sorted(known))}.{hint}"
    raise ContractError(msg)
