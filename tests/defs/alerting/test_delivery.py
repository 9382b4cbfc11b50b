"""Alerts reach their destinations once: after crashes, after failures, or not at all."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import pytest
from pydantic import SecretStr

from ibook_assets.core.errors import ContractError
from ibook_assets.core.settings import Settings
from ibook_assets.definitions import build_defs
from ibook_assets.defs.alerting import ALERTS, alert_sensors
from ibook_assets.defs.retraining import TRAINING_JOB
from tests.defs.alerting.ticked import Platform
from tests.services.receiver import Receiver


def test_the_sensors_belong_to_the_platform_and_are_on(small: Settings) -> None:
    defs = build_defs(small)
    for name in ("alerts", "alert_delivery"):
        sensor = defs.resolve_sensor_def(name)
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_a_wrong_destination_ends_the_start_without_its_address(small: Settings) -> None:
    wrong = small.model_copy(update={"alert_webhooks": SecretStr("ops=fax:https://x.org/secret")})
    with pytest.raises(ContractError, match="unknown format") as refused:
        build_defs(wrong)
    assert "secret" not in str(refused.value)


def test_a_crash_between_storing_and_the_cursor_tells_nothing_twice(
    platform: Platform, receiver: Receiver
) -> None:
    platform.drift("2026-03-01", 0.45)
    platform.run(TRAINING_JOB, well=False)
    platform.check("2026-03-01", passed=False)
    for _ in range(3):
        platform.tick("alerts", remember=False)
        platform.tick("alert_delivery", remember=False)
    assert len(receiver.bodies) == 3
    platform.cursors["alerts"] = "not a cursor"
    platform.ticks()
    assert len(receiver.bodies) == 3


def test_what_happened_long_ago_is_no_news(platform: Platform, receiver: Receiver) -> None:
    platform.run(TRAINING_JOB, well=False)
    platform.check("2026-03-01", passed=False)
    platform.ahead = timedelta(days=8)
    platform.ticks()
    assert receiver.bodies == []


def test_a_delivery_that_keeps_failing_is_shown_and_made_later(
    platform: Platform, receiver: Receiver
) -> None:
    receiver.will_answer(500, 500, body=b"down for maintenance")
    platform.run(TRAINING_JOB, well=False)
    shown = platform.ticks()
    assert shown is not None
    assert shown.asset_key == ALERTS
    assert (shown.metadata["open"].value, shown.metadata["waiting"].value) == (1, 1)
    table = shown.metadata["alerts"]
    assert isinstance(table, dg.TableMetadataValue)
    undelivered = table.records[0].data["undelivered"]
    assert undelivered == "ops waiting after 1: 500 Internal Server Error down for maintenance"
    assert receiver.url.removeprefix("http://") in str(shown.metadata["destinations"].value)
    assert "/hook" not in str(shown.metadata)
    # Not due yet: nothing is sent and nothing new is shown.
    assert platform.ticks() is None
    platform.ahead = timedelta(minutes=1)
    platform.ticks()
    platform.ahead = timedelta(minutes=5)
    shown = platform.ticks()
    assert len(receiver.bodies) == 3
    assert shown is not None
    assert (shown.metadata["open"].value, shown.metadata["waiting"].value) == (1, 0)


def test_without_destinations_alerts_are_kept_and_shown(
    small: Settings, instance: dg.DagsterInstance
) -> None:
    platform = Platform(small, instance, "http://127.0.0.1:1")
    quiet = alert_sensors(small)
    platform.sensors = {sensor.name: sensor for sensor in quiet}
    platform.run(TRAINING_JOB, well=False)
    shown = platform.ticks()
    assert shown is not None
    assert shown.metadata["open"].value == 1
    assert shown.metadata["destinations"].value == "none"
