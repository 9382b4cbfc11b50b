"""Worlds at drift level 0 never make the platform retrain, at 0.5 and above they always do."""

from collections.abc import Iterable

import pytest

from ibook_assets.core.monitoring import DriftDecision
from ibook_assets.core.monitoring.decision import persists
from ibook_assets.core.monitoring.episodes import EpisodeCursor, Observation
from ibook_assets.core.monitoring.record import PERSISTENCE
from ibook_sim.drift import Drift
from tests.sim.drifting import Features

CALM_DAYS = 6


def episode_of(decisions: Iterable[DriftDecision]) -> int | None:
    """Which of the days' decisions made the retraining sensor open an episode."""
    cursor = EpisodeCursor()
    seen: list[DriftDecision] = []
    for number, decision in enumerate(decisions):
        seen.append(decision)
        assert decision.state != "insufficient_data", decision.reason
        cursor = cursor.after(
            Observation(
                storage_id=number + 1,
                day=f"2026-01-{number + 1:02d}",
                state=decision.state,
                score=decision.score,
                champion_version="v1",
                confirmed=persists(seen, PERSISTENCE),
            )
        )
    return None if cursor.episode is None else cursor.episode.storage_id - 1


@pytest.mark.parametrize("seed", [3, 5])
def test_an_undrifted_world_never_fires(seed: int) -> None:
    calm = Features(seed, days=CALM_DAYS)
    assert episode_of(calm.judged(n) for n in range(CALM_DAYS)) is None


@pytest.mark.parametrize("level", [0.5, 0.7, 1.0])
def test_a_world_drifted_by_half_or_more_fires_as_soon_as_it_persists(level: float) -> None:
    drifted = Features(3, days=PERSISTENCE, drift=Drift(level=level))
    decisions = [drifted.judged(n) for n in range(PERSISTENCE)]
    assert episode_of(decisions) == PERSISTENCE - 1
    # The prices of orders are what has drifted most, and the evidence says so.
    assert {d.columns[0].name for d in decisions} == {"order_context:amount_to_list_price"}
