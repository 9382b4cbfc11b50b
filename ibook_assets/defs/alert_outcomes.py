"""Alerts of decisions: a rejected model, a rollout that gets none, retraining that has given up, a
log of them that cannot be read."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from ibook_assets.core.alerts import Alert
from ibook_assets.core.canonical import sha256_hex
from ibook_assets.core.errors import ContractError
from ibook_assets.core.monitoring.episodes import Episode
from ibook_assets.core.rollout_log import RolloutEntry, Standing
from ibook_assets.core.use_cases import UseCase
from ibook_assets.defs.alert_sources import Alerts
from ibook_assets.defs.retraining import EPISODE, episode_name
from ibook_assets.defs.rollout import ROLLOUT, rollout_key
from ibook_assets.defs.runs import about_to_repeat, attempts_made

STALLED_AFTER: Final = 3
"""Times the planned watch time that a rollout may stay undecided before somebody is told."""
STALLED_AT_LEAST: Final = timedelta(hours=1)
"""Nobody is told sooner, however short the plan, or where nothing is watched."""


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
    use_case: UseCase,
    episode: Episode | None,
    standing: Standing | None,
    *,
    champion: str | None,
    attempts: int,
    now: datetime,
) -> Alert | None:
    """What tells that `episode` has had its `attempts` and the `champion` is still the same."""
    if episode is None or champion not in (None, episode.champion_version):
        return None
    named = episode_name(use_case, episode)
    runs = instance.get_runs(dg.RunsFilter(tags={EPISODE: named}))
    made = attempts_made(runs)
    going = about_to_repeat(runs) is not None or not all(run.is_finished for run in runs)
    if made < attempts or going or (standing is not None and standing.on_its_way):
        return None
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
        event=runs[0].run_id,
        # When it is seen: a rollout may end the matter and, by a promotion entry that is dated
        # before anybody looked, open it again.
        at=now.timestamp(),
    )


def damaged_log(alerts: Alerts, use_case: str, error: ContractError, *, now: datetime) -> Alert:
    """What tells that the promotion or rollout log of `use_case` is damaged, as `error` says."""
    return alerts.make(
        "damaged-log",
        "critical",
        "firing",
        subject=use_case,
        summary=(
            f"What was decided about {use_case} cannot be read: {error}. Servers go on with what "
            "they have loaded; until then nothing is promoted, rolled out or rolled back."
        ),
        evidence={},
        key=f"{use_case}/logs",
        event=sha256_hex(str(error).encode()),
        at=now.timestamp(),
    )


def stalled(
    alerts: Alerts,
    instance: dg.DagsterInstance,
    use_case: UseCase,
    standing: Standing | None,
    *,
    now: datetime,
) -> Alert | None:
    """What tells that the rollout of that `standing` has waited for its next decision too long."""
    if standing is None or not standing.on_its_way:
        return None
    entry, effect = standing.entry, standing.effect
    since = entry.since if effect is None else max(entry.since, effect.promoted_at)
    undecided, planned = now - since, _planned(standing)
    if undecided < max(STALLED_AFTER * planned, STALLED_AT_LEAST):
        return None
    return alerts.make(
        "stalled-rollout",
        "warning",
        "firing",
        subject=use_case.name,
        summary=(
            f"The rollout of {entry.version} has been {entry.title} for {_whole(undecided)}, "
            f"planned were {_whole(planned)}; nothing is trained meanwhile. {_way_on(standing)}. "
            f"{_last_look(instance, use_case, since=since)}"
        ),
        evidence={
            "version": entry.version,
            "champion": entry.champion,
            "rollout_entry": entry.sequence,
            "since": since.isoformat(),
            "paused_by": f"{entry.actor} ({entry.reason})" if entry.paused else None,
        },
        # A step is one matter, whoever pauses and resumes it.
        key=f"{entry.use_case}/rollouts/{entry.decided}/stalled",
        event=entry.sha256,
        at=now.timestamp(),
    )


def _planned(standing: Standing) -> timedelta:
    """What the plan gives a step until the last of what is watched can be looked at."""
    entry, plan = standing.entry, standing.entry.plan
    if standing.pending or not entry.watch_seconds:
        return timedelta(0)
    return timedelta(seconds=entry.watch_seconds + plan.window_seconds + plan.settle_seconds)


def _way_on(standing: Standing) -> str:
    entry, command = standing.entry, "`ibook rollout"
    name = entry.use_case
    if standing.pending:
        return f"{command} look {name}` carries out what was decided"
    if entry.paused:
        return f"{command} resume {name}` lets it go on, {command} abort {name}` ends it"
    return f"{command} status {name}` shows what it waits for, {command} abort {name}` ends it"


def _last_look(instance: dg.DagsterInstance, use_case: UseCase, *, since: datetime) -> str:
    event = instance.get_latest_materialization_event(rollout_key(use_case))
    told = None if event is None else event.asset_materialization
    if event is None or told is None or event.timestamp < since.timestamp():
        return (
            f"No look has been made since: is the sensor {use_case.name}_rollout on, and do the "
            f"runs of {ROLLOUT} succeed?"
        )
    at = datetime.fromtimestamp(event.timestamp, UTC)
    return f"The last look, {at:%Y-%m-%d %H:%M} UTC, said: {told.metadata['note'].value}."


def _whole(time: timedelta) -> timedelta:
    """That time in whole seconds, for people."""
    return timedelta(seconds=round(time.total_seconds()))
