"""The retraining sensor: a drift episode becomes one training run, retried within bounds."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

import dagster as dg

from ibook_assets.core.monitoring.episodes import (
    FEATURE_DRIFT,
    Episode,
    EpisodeCursor,
    Observation,
)
from ibook_assets.core.monitoring.signals import SIGNALS, SignalName
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import USE_CASES, UseCase
from ibook_assets.defs.monitoring import (
    CHAMPION,
    CONFIRMED,
    DAY,
    NEW_DAYS,
    SCORE,
    STATE,
    drift_key,
    signal_key,
)

EPISODE: Final = "ibook/drift_episode"
"""Tag of a run: the episode that asked for it."""
UNTIL: Final = "ibook/training_until"
"""Tag of a run: the newest day of the window it trains on."""
SIGNALLED: Final = "ibook/signals"
"""Tag of a run: the signals of the episode as it was asked for."""

_HEARD: Final = tuple(
    name for name, spec in SIGNALS.items() if spec.consequence in {"retrain", "shadow", "block"}
)
"""Signals beside column drift that say whether to train, or not to."""

TRAINING_JOB: Final = "training"

SECONDS_BETWEEN: Final = 30
READ_AT_ONCE: Final = 200

_IN_FLIGHT: Final = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_HOUR: Final = 3_600.0
_MINUTE: Final = 60.0

Clock = Callable[[], float]


def retraining_sensors(
    settings: Settings, *, clock: Clock = time.time
) -> list[dg.SensorDefinition]:
    """One sensor a use case; `clock` gives seconds since 1970."""
    return [_retraining(use_case, settings, clock) for use_case in USE_CASES.values()]


def _retraining(use_case: UseCase, settings: Settings, clock: Clock) -> dg.SensorDefinition:
    @dg.sensor(
        job_name=TRAINING_JOB,
        name=f"{use_case.name}_retraining",
        minimum_interval_seconds=SECONDS_BETWEEN,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Trains {use_case.name} anew when its features have drifted from what the champion "
            "learnt from, when it ranks worse than promised, or when fraud left its band: one run "
            "an episode, whatever the signals, retried when it fails."
        ),
    )
    def retraining(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        cursor = EpisodeCursor.parse(context.cursor)
        for seen in all_observations(context.instance, use_case, cursor.storage_id):
            cursor = cursor.after(seen)
        step = _next_step(context.instance, cursor, use_case, settings, now=clock())
        return dg.SensorResult(
            run_requests=[step] if isinstance(step, dg.RunRequest) else None,
            skip_reason=step if isinstance(step, str) else None,
            cursor=cursor.model_dump_json(),
        )

    return retraining


def all_observations(
    instance: dg.DagsterInstance, use_case: UseCase, after: int
) -> list[Observation]:
    """What all signals have said since the event `after`, in the order they said it."""
    told = [list(observations(instance, drift_key(use_case), after))]
    told += [
        list(observations(instance, signal_key(use_case, name), after, signal=name))
        for name in _HEARD
    ]
    # Events of one signal are read so many at a time: what another said after the last of them
    # has to wait for the rest.
    full = [seen[-1].storage_id for seen in told if len(seen) == READ_AT_ONCE]
    until = min(full, default=None)
    merged = sorted(chain.from_iterable(told), key=lambda seen: seen.storage_id)
    return [seen for seen in merged if until is None or seen.storage_id <= until]


def observations(
    instance: dg.DagsterInstance, key: dg.AssetKey, after: int, *, signal: SignalName | None = None
) -> Iterator[Observation]:
    """What the asset at `key` has said since the event `after`, oldest first.

    `signal` names the signal it is of; None is column drift.
    """
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key, after_storage_id=after or None),
        limit=READ_AT_ONCE,
        ascending=True,
    )
    for record in found.records:
        materialisation = record.asset_materialization
        if materialisation is not None:
            yield _observation(record.storage_id, signal, materialisation.metadata)


def _observation(
    storage_id: int,
    signal: SignalName | None,
    metadata: Any,  # noqa: ANN401 - Dagster's mapping
) -> Observation:
    told = {
        name: metadata[name].value
        for name in (DAY, STATE, CHAMPION, CONFIRMED, NEW_DAYS)
        if name in metadata
    }
    if DAY not in told or STATE not in told:
        # Reported by hand, not by the asset: it says nothing, and must not stop the sensor.
        return Observation(storage_id=storage_id, day="", state="insufficient_data")
    score = metadata[SCORE].value if SCORE in metadata else None
    asked = "retrain" if signal is None else SIGNALS[signal].consequence
    named = {"signal": signal or FEATURE_DRIFT, "consequence": asked}
    return Observation.model_validate({"storage_id": storage_id, "score": score, **named, **told})


def _next_step(
    instance: dg.DagsterInstance,
    cursor: EpisodeCursor,
    use_case: UseCase,
    settings: Settings,
    *,
    now: float,
) -> dg.RunRequest | str:
    """The training run that is due, or why none is."""
    episode, newest = cursor.episode, cursor.newest
    if episode is None or newest is None:
        return "no drift episode is open"
    named = episode_name(use_case, episode)
    attempts = instance.get_run_records(dg.RunsFilter(tags={EPISODE: named}))
    if any(record.dagster_run.status is dg.DagsterRunStatus.SUCCESS for record in attempts):
        return f"{named} has been trained for; it ends when the drift does or another model serves"
    if newest.new_days < 1:
        return f"{named} waits: the champion has learnt from every day that is mature"
    if cursor.blocked is not None:
        return (
            f"{named} waits: the features of {cursor.blocked.day} are broken, see "
            f"{use_case.name}/{cursor.blocked.signal}. Mend them and materialise the day again"
        )
    return _waits(instance, named, attempts, settings, now=now) or dg.RunRequest(
        # A run key never starts a second run, so an attempt has a key of its own.
        run_key=f"{named}#{len(attempts) + 1}",
        tags={EPISODE: named, UNTIL: newest.day, SIGNALLED: ",".join(sorted(episode.signals))},
        run_config=_beside_the_champion(use_case) if episode.shadow_only else None,
    )


def _beside_the_champion(use_case: UseCase) -> dict[str, Any]:
    """Run config of a training whose model enters as a shadow."""
    return {"ops": {f"{use_case.name}__promotion": {"config": {"target": "shadow"}}}}


def episode_name(use_case: UseCase, episode: Episode) -> str:
    """What the episode's runs are tagged with under `EPISODE`."""
    return f"{use_case.name}@{episode.storage_id}"


def _waits(
    instance: dg.DagsterInstance,
    named: str,
    attempts: Sequence[dg.RunRecord],
    settings: Settings,
    *,
    now: float,
) -> str | None:
    """Why the next attempt must wait; None when it need not."""
    running = instance.get_runs(dg.RunsFilter(job_name=TRAINING_JOB, statuses=_IN_FLIGHT), limit=1)
    if running:
        return f"{named} waits for training run {running[0].run_id}"
    if len(attempts) >= settings.retraining_attempts:
        return (
            f"{named}: {len(attempts)} training runs failed, the last is "
            f"{attempts[0].dagster_run.run_id}. Mend what it says and re-execute it"
        )
    if attempts:
        wait = settings.retraining_retry_minutes * _MINUTE * 2 ** (len(attempts) - 1)
        due = attempts[0].update_timestamp.timestamp() + wait
        if now < due:
            return f"{named}: the next attempt is in {due - now:.0f} s, after a failed one"
    trained = instance.get_run_records(
        dg.RunsFilter(job_name=TRAINING_JOB, statuses=[dg.DagsterRunStatus.SUCCESS]),
        limit=1,
        order_by="update_timestamp",
    )
    if trained:
        due = trained[0].update_timestamp.timestamp() + settings.retraining_cooldown_hours * _HOUR
        if now < due:
            return f"{named} waits {due - now:.0f} s more: a training run has just succeeded"
    return None
