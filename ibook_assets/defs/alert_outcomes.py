"""Alerts of what was decided: a rollout that was rejected, a retraining that has given up."""

from collections.abc import Iterable
from datetime import UTC

import dagster as dg

from ibook_assets.core.alerts import Alert
from ibook_assets.core.monitoring.episodes import Episode
from ibook_assets.core.rollout_log import RolloutEntry
from ibook_assets.core.use_cases import UseCase
from ibook_assets.defs.alert_sources import Alerts
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.retraining import EPISODE, episode_name
from ibook_assets.defs.runs import about_to_repeat, attempts_made
from ibook_assets.stores.rollouts import Rollouts


def rejected(entries: Iterable[RolloutEntry]) -> list[RolloutEntry]:
    """Those of `entries` that reject a model: by the gate, or as a shadow."""
    return [e for e in entries if e.state == "rejected" and e.decided == e.sequence]


def rejection(alerts: Alerts, entry: RolloutEntry) -> Alert:
    """What tells that `entry` rejects a model."""
    return alerts.make(
        "rejection",
        "warning",
        "notice",
        subject=entry.use_case,
        summary=f"{entry.actor}: {entry.version} was rejected ({entry.reason})",
        evidence={
            "version": entry.version,
            "champion": entry.champion,
            "rollout_entry": entry.sequence,
            "evidence": entry.evidence,
        },
        key=f"{entry.use_case}/rollouts/{entry.sequence}",
        event=entry.sha256,
        at=entry.at.timestamp(),
    )


def given_up(
    alerts: Alerts,
    instance: dg.DagsterInstance,
    lake: LakeResource,
    use_case: UseCase,
    episode: Episode | None,
    *,
    attempts: int,
) -> Alert | None:
    """What tells that `episode` has had its `attempts` and the champion is still the same."""
    head = lake.promotions.current(use_case.name)
    if episode is None or (head and head.model_version != episode.champion_version):
        return None
    named = episode_name(use_case, episode)
    records = instance.get_run_records(dg.RunsFilter(tags={EPISODE: named}))
    runs = [record.dagster_run for record in records]
    made = attempts_made(runs)
    standing = Rollouts(lake.blobs).standing(use_case.name)
    on_its_way = standing is not None and (standing.active or standing.pending)
    going = about_to_repeat(runs) is not None or not all(run.is_finished for run in runs)
    if made < attempts or on_its_way or going:
        return None
    # A rollout that somebody began ends the matter; rejected, it opens it again: another event.
    decided = None if standing is None else standing.entry
    ended = records[0].update_timestamp.replace(tzinfo=UTC)
    return alerts.make(
        "retraining",
        "error",
        "firing",
        subject=use_case.name,
        summary=(
            f"{made} attempts to train after the drift of {episode.day} gave no champion, and no "
            f"other follows: {use_case.name} goes on with a model that has not learnt from it."
        ),
        evidence={"episode": named, "attempts": made, "run_id": runs[0].run_id},
        key=f"retraining/{named}",
        event=f"{runs[0].run_id}@{decided.sequence if decided else 0}",
        at=max(ended, decided.at if decided else ended).timestamp(),
    )
