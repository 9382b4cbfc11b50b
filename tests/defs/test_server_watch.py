"""The watch over the scoring server, tick by tick: real metrics over HTTP, a real receiver."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr

from ibook_assets.core.alerts import parse_destinations
from ibook_assets.core.settings import Settings
from ibook_assets.defs.alerting import alert_sensors
from ibook_assets.defs.resources import LakeResource
from ibook_assets.stores.alerting import AlertOutbox
from tests.services.receiver import Receiver, receiving

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
HALF_A_MINUTE = timedelta(seconds=30)

METRICS = """\
# TYPE ibook_requests_total counter
ibook_requests_total{{route="/predict",status="200"}} {good}
ibook_requests_total{{route="/predict",status="500"}} {failed}
# TYPE ibook_request_duration_seconds histogram
ibook_request_duration_seconds_bucket{{route="/predict",model_variant="a",le="0.2"}} {in_200}
ibook_request_duration_seconds_bucket{{route="/predict",model_variant="a",le="0.5"}} {in_500}
ibook_request_duration_seconds_bucket{{route="/predict",model_variant="a",le="+Inf"}} {all}
ibook_request_duration_seconds_count{{route="/predict",model_variant="a"}} {all}
ibook_request_duration_seconds_sum{{route="/predict",model_variant="a"}} 1
# TYPE ibook_feature_age_seconds gauge
ibook_feature_age_seconds {age}
# TYPE ibook_start_time_seconds gauge
ibook_start_time_seconds 1772000000
"""


class Watched:
    """A platform that watches a server whose metrics are made up, and tells a real receiver."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, net: Receiver) -> None:
        self.net = net
        self.settings = settings.model_copy(
            update={
                "alert_webhooks": SecretStr(
                    f"ops=generic:{net.url}/hook,chat=slack:{net.url}/chat,pager=pagerduty:{net.url}/pager"
                ),
                "pagerduty_routing_key": SecretStr("r0uting"),
                "rollout_metrics_url": f"{net.url}/metrics",
            }
        )
        self.instance = instance
        self.lake = LakeResource(uri=settings.lake)
        self.now = START
        self.cursor: str | None = None
        self.counted = {"good": 0, "failed": 0, "in_200": 0, "in_500": 0, "all": 0}
        self.age = 0.0
        self.tick()

    def tick(self) -> str:
        """Half a minute later: what the sensor says."""
        self.now += HALF_A_MINUTE
        sensors = {s.name: s for s in alert_sensors(self.settings, clock=lambda: self.now)}
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"lake": self.lake}
        )
        found = sensors["server_watch"](context)
        assert isinstance(found, dg.SensorResult)
        assert found.skip_reason is not None
        self.cursor = found.cursor
        return str(found.skip_reason.skip_message)

    def serves(self, good: int, *, failed: int = 0, slow: int = 0, very_slow: int = 0) -> str:
        for name, more in {
            "good": good,
            "failed": failed,
            "in_200": good + failed - slow,
            "in_500": good + failed - very_slow,
            "all": good + failed,
        }.items():
            self.counted[name] += more
        self.net.pages["/metrics"] = METRICS.format(age=self.age, **self.counted).encode()
        return self.tick()

    def is_down(self) -> str:
        self.net.pages.clear()
        return self.tick()

    def deliver(self) -> list[tuple[str, str, str]]:
        """Kind, severity and status of what the generic destination has got so far."""
        outbox = AlertOutbox(self.lake.blobs, clock=lambda: self.now)
        to = parse_destinations(self.settings.alert_webhooks, self.settings.pagerduty_routing_key)
        outbox.deliver(to, seconds=30)
        return [(body["kind"], body["severity"], body["status"]) for body in self.bodies("/hook")]

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [b for b, p in zip(self.net.bodies, self.net.paths, strict=True) if p == path]


@pytest.fixture
def watched(small: Settings) -> Iterator[Watched]:
    with receiving() as net, dg.DagsterInstance.ephemeral() as instance:
        yield Watched(small, instance, net)


def test_a_server_that_never_ran_is_not_missed(watched: Watched) -> None:
    assert "never answered" in [watched.is_down() for _ in range(5)][-1]
    assert watched.deliver() == []


def test_a_server_that_stops_pages_until_it_is_back(watched: Watched) -> None:
    watched.serves(100)
    for _ in range(4):
        watched.is_down()
    assert watched.deliver() == [("service-down", "critical", "firing")]
    assert "has not answered" in watched.bodies("/hook")[0]["summary"]
    watched.serves(100)
    assert watched.deliver()[1:] == [("service-down", "critical", "resolved")]
    assert [body["event_action"] for body in watched.bodies("/pager")] == ["trigger", "resolve"]
    assert watched.bodies("/pager")[0]["payload"]["severity"] == "critical"
    assert "FIRING critical" in watched.bodies("/chat")[0]["text"]


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        ({"good": 1_000, "failed": 2}, []),
        ({"good": 1_000, "failed": 30}, [("service-errors", "error")]),
        (
            {"good": 1_000, "failed": 90},
            [("service-errors", "error"), ("service-errors", "critical")],
        ),
        ({"good": 1_000, "slow": 30}, [("service-latency", "error")]),
        (
            {"good": 1_000, "slow": 90, "very_slow": 90},
            [("service-latency", "error"), ("service-latency", "critical")],
        ),
    ],
    ids=["healthy", "errors", "many errors", "p99", "p95"],
)
def test_errors_and_latency_are_told_by_how_bad_they_are(
    watched: Watched, served: dict[str, int], expected: list[tuple[str, str]]
) -> None:
    watched.serves(0)
    watched.serves(**served)
    told = watched.deliver()
    assert sorted((kind, severity) for kind, severity, _ in told) == sorted(expected)
    assert {status for _, _, status in told} <= {"firing"}


def test_errors_are_told_once_and_end_with_the_errors(watched: Watched) -> None:
    watched.serves(0)
    for _ in range(3):
        watched.serves(970, failed=30)
    assert len(watched.deliver()) == 1
    assert "3.0% of the last 1,000 requests" in watched.bodies("/hook")[0]["summary"]
    for _ in range(25):
        watched.serves(1_000)
    assert [status for _, _, status in watched.deliver()] == ["firing", "resolved"]


def test_a_stream_that_stops_shows_in_the_age_of_features(watched: Watched) -> None:
    watched.age = 5.0
    # Longer than one snapshot stays fresh.
    for _ in range(12):
        watched.serves(100)
    watched.age = 301.0
    watched.serves(100)
    assert watched.deliver() == [("freshness", "error", "firing")]
    assert "5 minutes old" in watched.bodies("/hook")[0]["summary"]
    watched.age = 20.0
    watched.serves(100)
    assert watched.deliver()[1:] == [("freshness", "error", "resolved")]


def test_old_snapshots_without_a_stream_are_no_news(watched: Watched) -> None:
    watched.age = 90_000.0
    assert watched.serves(100).endswith("nothing is wrong")
    assert watched.deliver() == []


def test_a_lost_cursor_neither_repeats_nor_ends_what_is_open(watched: Watched) -> None:
    watched.serves(100)
    for _ in range(4):
        watched.is_down()
    for lost in (None, "{", '{"of": "another release"}'):
        watched.cursor = lost
        assert watched.is_down().endswith("down")
    assert watched.deliver() == [("service-down", "critical", "firing")]
    watched.serves(100)
    assert watched.deliver()[1:] == [("service-down", "critical", "resolved")]


def test_whoever_turns_the_watch_off_ends_its_alerts(watched: Watched) -> None:
    watched.serves(100)
    for _ in range(4):
        watched.is_down()
    watched.settings = watched.settings.model_copy(update={"watch_server": False})
    assert "not watched" in watched.is_down()
    assert [status for _, _, status in watched.deliver()] == ["firing", "resolved"]
    assert watched.bodies("/hook")[1]["summary"] == "The server is not watched any more."
