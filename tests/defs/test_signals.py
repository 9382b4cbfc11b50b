"""The signals' assets: a record, a check, a plot and a history each; the sensor hears them."""

from pathlib import Path
from typing import Any

import dagster as dg

from ibook_assets.core.monitoring.signals import SIGNALS, SignalRecord
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.definitions import build_defs
from ibook_assets.defs.monitoring import DRIFT, MONITORING_JOB, drift_key, signal_key
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.retraining import SIGNALLED, retraining_sensors
from ibook_assets.defs.schedules import DAILY_DATA
from ibook_assets.defs.signals import signal_asset
from tests.monitored_lake import MATURITY_DAYS, ORDER_CONTEXT, TRAINED_DAYS, MonitoredLake, day_name
from tests.stores.test_signal_days import fraud_hides


def test_monitoring_is_a_job_of_its_own_and_no_part_of_the_daily_data(small: Settings) -> None:
    defs = build_defs(small)
    keys = defs.resolve_job_def(MONITORING_JOB).asset_layer.executable_asset_keys
    assert keys == {drift_key(FRAUD), *(signal_key(FRAUD, name) for name in SIGNALS)}
    daily = set(defs.resolve_job_def(DAILY_DATA).asset_layer.executable_asset_keys)
    assert daily.isdisjoint(keys)


def test_assets_keep_records_and_a_loss_makes_the_sensor_ask(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, label_maturity_days=MATURITY_DAYS, task_retries=0)
    shop = MonitoredLake(tmp_path / "lake")
    shop.train()
    day = shop.follow(16, fraud_hides)
    assets = [
        signal_asset(signal_key(FRAUD, name), name, ORDER_CONTEXT, settings, group=DRIFT)
        for name in SIGNALS
    ]
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        done = dg.materialize(
            assets,
            partition_key=day,
            instance=instance,
            resources={"lake": LakeResource(uri=settings.lake)},
        )
        checks = {c.asset_key.path[-1]: c for c in done.get_asset_check_evaluations()}
        told = {
            name: done.asset_materializations_for_node(f"fraud__{name}")[0].metadata
            for name in SIGNALS
        }
        (sensor,) = retraining_sensors(settings)
        context = dg.build_sensor_context(
            instance=instance,
            definitions=build_defs(settings),
            resources={"lake": LakeResource(uri=settings.lake)},
        )
        (request,) = sensor.evaluate_tick(context).run_requests or ()
    assert request.tags[SIGNALLED] == "performance"
    failed = {name for name, check in checks.items() if not check.passed}
    assert "performance" in failed
    assert not failed & {"fraud_rate", "data_quality"}
    metadata: dict[str, Any] = {name: entry.value for name, entry in told["performance"].items()}
    assert (metadata["state"], metadata["confirmed"], metadata["new_days"]) == ("drifted", True, 16)
    record = SignalRecord.model_validate_json(Path(metadata["record"]).read_text())
    assert record.signal.evidence["judged"] == day_name(TRAINED_DAYS + 15 - MATURITY_DAYS)
    assert "data:image/png" in metadata["history"]


def test_without_a_champion_every_signal_says_so(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, task_retries=0)
    asset = signal_asset(
        signal_key(FRAUD, "fraud_rate"), "fraud_rate", ORDER_CONTEXT, settings, group=DRIFT
    )
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        done = dg.materialize(
            [asset],
            partition_key=day_name(0),
            instance=instance,
            resources={"lake": LakeResource(uri=settings.lake)},
        )
    (told,) = done.asset_materializations_for_node("fraud__fraud_rate")
    assert told.metadata["state"].value == "insufficient_data"
    assert "no fraud model has been promoted" in str(told.metadata["reason"].value)
