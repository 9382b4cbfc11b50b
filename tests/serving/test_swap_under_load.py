"""Swaps, kills and a restart under load: every answer is one model's, and right."""

from __future__ import annotations

from ibook_assets.core.settings import Settings
from tests.reliability.swapping import MODELS, Plan, swap_under_load


def test_no_answer_is_wrong_and_none_is_lost_but_in_a_dying_process(settings: Settings) -> None:
    plan = Plan(10.0, promotions=6, rollbacks=2, challenges=2, requests_per_second=150)
    found = swap_under_load(settings, plan)
    assert (found.promotions, found.rollbacks, found.challenges) == (6, 2, 2)
    assert (found.api_kills, found.recorder_kills, found.restarts) == (1, 1, 1)
    assert (found.wrong, found.mixed, found.traces_wrong, found.failed) == (0, 0, 0, 0)
    assert found.failed_while_restarting == 0
    assert found.versions_seen == MODELS
    assert found.predictions > found.requests > 0
    assert found.untraced < found.predictions / 2
    # A client has one request in flight: more cannot die with one process.
    assert found.failed_in_killed_process <= plan.clients
