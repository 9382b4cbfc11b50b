"""Rows 8 and 10 for the server; the long form is `python -m tests.reliability.serving`."""

from __future__ import annotations

from pathlib import Path

from tests.reliability.serving import CONNECTIONS, Fault, site_with, under
from tests.services.redis_server import RedisService


def test_every_request_is_answered_and_says_what_it_lacks(tmp_path: Path) -> None:
    RedisService.require()
    faults: tuple[Fault, ...] = ("redis frozen", "redis refused", "process killed")
    with site_with(tmp_path / "site", faults) as site, site.serving() as server:
        reports = [under(site, server, fault, seconds=2, rate=100) for fault in faults]
    *redis, killed = reports
    for report in redis:
        assert report.during.failures == {}
        assert 0.2 < report.degraded_share < 1
    # What was on its way in the killed process is lost, and nothing else.
    assert set(killed.during.failures) <= {"broken"}
    assert sum(killed.during.failures.values()) < CONNECTIONS
    assert killed.during.degraded == 0
    for report in reports:
        assert report.after.answers > 50
        assert report.after.failures == {}
        assert report.after.degraded == 0
