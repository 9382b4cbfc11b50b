"""From what somebody asks for to a run's plan: one meaning of the options, whoever takes them."""

from __future__ import annotations

from ibook_assets.core.errors import ContractError
from ibook_sim.drift import AXES, Drift
from ibook_sim.durations import seconds_of
from ibook_sim.offline.running import RunPlan, planned
from ibook_sim.orders.recordings import Recording
from ibook_sim.scenarios import Scenario, scenario


def plan_of(
    name: str,
    *,
    seed: int,
    duration: str | None = None,
    drift_level: float | None = None,
    drift_seed: int | None = None,
    drift_transactions: int | None = None,
    recording: Recording | None = None,
) -> RunPlan:
    """The run of the scenario called `name`; what is not given is the scenario's own.

    Raises:
        ContractError: there is no such scenario, the options contradict each other, or `duration`
            (a bare number counts minutes) is none.
    """
    if duration is not None and drift_transactions is not None:
        msg = "--duration and --drift-transactions both set the number of orders; give one"
        raise ContractError(msg)
    item = scenario(name)
    return planned(
        item,
        seed=seed,
        duration_seconds=seconds_asked(duration),
        orders=drift_transactions,
        drift=_drift(item, drift_level, drift_seed),
        recording=recording,
    )


def seconds_asked(duration: str | None) -> float | None:
    """Seconds of a duration whose bare number counts minutes; None when none is given."""
    return None if duration is None else seconds_of(duration, bare="m")


def _drift(item: Scenario, level: float | None, seed: int | None) -> Drift | None:
    if level is None and seed is None:
        return None
    if item.parts:
        msg = "a mix drifts as its parts do; run one scenario to set its drift"
        raise ContractError(msg)
    # A scenario that does not drift by itself drifts along every axis when asked to.
    axes = item.drift.axes if item.drift.level else AXES
    return Drift(
        level=item.drift.level if level is None else level,
        axes=axes,
        seed=item.drift.seed if seed is None else seed,
    )
