"""Episodes open, close with hysteresis and are not opened by history; which features count."""

import pytest

from ibook_assets.core.features.catalog import ALL_FEATURES
from ibook_assets.core.monitoring.decision import State
from ibook_assets.core.monitoring.episodes import DRIFT_CLEAR_SCORE, EpisodeCursor, Observation
from ibook_assets.core.monitoring.feature_columns import (
    CALENDAR,
    FEW_SUBJECTS,
    LATE_OUTCOMES,
    LONG_MEMORY,
    REDEFINED,
    feature_columns,
)
from ibook_assets.core.use_cases import FRAUD


def seen(
    number: int,
    score: float | None,
    *,
    day: str | None = None,
    champion: str = "v1",
    confirmed: bool = False,
    state: State = "stable",
) -> Observation:
    return Observation(
        storage_id=number,
        day=day or f"2026-03-{number:02d}",
        state=state,
        score=score,
        champion_version=champion,
        confirmed=confirmed,
        new_days=3,
    )


def after(*observations: Observation) -> EpisodeCursor:
    cursor = EpisodeCursor()
    for observation in observations:
        # Through its text each time, as between two ticks.
        cursor = EpisodeCursor.parse(cursor.after(observation).model_dump_json())
    return cursor


def opened(cursor: EpisodeCursor) -> int | None:
    return cursor.episode.storage_id if cursor.episode else None


def test_the_score_opens_at_its_threshold_and_not_below() -> None:
    assert opened(after(seen(1, 0.29))) is None
    assert opened(after(seen(1, 0.30))) == 1


def test_the_verdict_opens_once_it_is_confirmed() -> None:
    assert opened(after(seen(1, 0.05, state="drifted"))) is None
    assert opened(after(seen(1, 0.05, state="drifted", confirmed=True))) == 1


def test_an_episode_stays_open_between_the_two_thresholds() -> None:
    assert opened(after(seen(1, 0.35), seen(2, DRIFT_CLEAR_SCORE), seen(3, 0.31))) == 1
    assert opened(after(seen(1, 0.35), seen(2, 0.19))) is None
    assert opened(after(seen(1, 0.35), seen(2, 0.19), seen(3, 0.4))) == 3


def test_a_low_score_does_not_close_while_the_verdict_says_drifted() -> None:
    assert opened(after(seen(1, 0.35), seen(2, 0.01, state="drifted"))) == 1


def test_another_champion_ends_the_episode_and_is_judged_afresh() -> None:
    assert opened(after(seen(1, 0.35), seen(2, 0.25, champion="v2"))) is None
    assert opened(after(seen(1, 0.35), seen(2, 0.35, champion="v2"))) == 2


def test_insufficient_data_neither_opens_nor_closes() -> None:
    nothing = seen(2, None, state="insufficient_data")
    assert opened(after(seen(1, 0.35), nothing)) == 1
    cursor = after(nothing)
    assert (opened(cursor), cursor.storage_id) == (None, 2)


def test_a_day_computed_again_is_history_and_no_news() -> None:
    old = seen(9, 0.9, day="2026-03-01")
    assert opened(after(seen(5, 0.0), old)) is None
    assert opened(after(seen(5, 0.0), seen(6, 0.9, day="2026-03-05"))) == 6


@pytest.mark.parametrize("text", [None, "", "{", '{"storage_id": "x"}', '{"sid": 3}'])
def test_a_cursor_that_cannot_be_read_begins_anew(text: str | None) -> None:
    assert EpisodeCursor.parse(text) == EpisodeCursor()


def test_each_feature_is_compared_or_has_a_reason() -> None:
    found = feature_columns(FRAUD.features, reference_days=28)
    assert set(found.kinds) | set(found.left_out) == set(ALL_FEATURES)
    assert not set(found.kinds) & set(found.left_out)
    assert found.kinds["order_context:amount_to_list_price"] == "numeric"
    assert found.kinds["order_context:tier_code"] == "categorical"
    assert found.left_out["order_context:day_of_week"] == CALENDAR
    assert found.left_out["user_risk:fraud_share_1d"] == LATE_OUTCOMES
    assert found.left_out["event_velocity:order_count_1d"] == FEW_SUBJECTS
    assert found.left_out["user_realtime_fraud_features:amount_mean_30d"] == LONG_MEMORY


def test_a_longer_reference_can_tell_of_longer_windows() -> None:
    month = "user_realtime_fraud_features:amount_mean_30d"
    assert month not in feature_columns([month], reference_days=239).kinds
    assert month in feature_columns([month], reference_days=240).kinds


def test_a_view_defined_anew_is_left_out() -> None:
    found = feature_columns(
        FRAUD.features, reference_days=28, redefined=["order_context", "user_recent_orders"]
    )
    assert found.left_out["order_context:amount"] == REDEFINED
    assert not [name for name in found.kinds if name.startswith("order_context:")]
