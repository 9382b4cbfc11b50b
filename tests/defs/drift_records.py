"""Monitoring's records of a day, reported to an instance as the assets report them."""

from __future__ import annotations

import dagster as dg

from ibook_assets.core.monitoring.signals import SignalName
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.defs.monitoring import drift_key, signal_key


def report_drift(
    instance: dg.DagsterInstance,
    day: str,
    score: float,
    *,
    champion: str = "v1",
    confirmed: bool = False,
    state: str = "stable",
    new_days: int = 2,
) -> None:
    """A drift record is materialised."""
    metadata: dict[str, str | float | bool] = {
        "day": day,
        "state": state,
        "drift_score": score,
        "champion_version": champion,
        "confirmed": confirmed,
        "new_days": new_days,
    }
    instance.report_runless_asset_event(
        dg.AssetMaterialization(asset_key=drift_key(FRAUD), partition=day, metadata=metadata)
    )


def report_signal(
    instance: dg.DagsterInstance,
    name: SignalName,
    day: str,
    *,
    confirmed: bool = False,
    state: str = "drifted",
) -> None:
    """A signal's record is materialised."""
    metadata: dict[str, str | float | bool] = {
        "day": day,
        "state": state,
        "champion_version": "v1",
        "confirmed": confirmed,
        "new_days": 2,
    }
    instance.report_runless_asset_event(
        dg.AssetMaterialization(asset_key=signal_key(FRAUD, name), partition=day, metadata=metadata)
    )
