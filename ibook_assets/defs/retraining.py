"""What asks for training: the sensor, one run a drift episode, retried within bounds; the week.

While a rollout is on its way neither trains another model: there would be no place for it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from ibook_assets.defs.model import ROLLED_OUT, Place, promotion_step
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
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import IN_FLIGHT, about_to_repeat, actor_of, attempts_made
from ibook_assets.stores.rollouts import Rollouts

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

SECONDS_BETWEEN: Final = 10
READ_AT_ONCE: Final = 200

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
    def retraining(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
        cursor = EpisodeCursor.parse(context.cursor)
        for seen in all_observations(context.instance, use_case, cursor.storage_id):
            cursor = cursor.after(seen)
        step = _next_step(context.instance, lake, cursor, use_case, settings, now=clock())
        return dg.SensorResult(
            run_requests=[step] if isinstance(step, dg.RunRequest) else None,
            skip_reason=step if isinstance(step, str) else None,
            cursor=cursor.model_dump_json(),
        )

    return retraining


def weekly_training(settings: Settings) -> dg.ScheduleDefinition:
    """Trains every week, what the newest days teach; switched off at first."""

    @dg.schedule(
        job_name=TRAINING_JOB,
        cron_schedule="0 2 * * 0",
        name="weekly_training",
        description="Trains on Sundays, unless a model is trained or rolled out already.",
    )
    def weekly(
        context: dg.ScheduleEvaluationContext, lake: LakeResource
    ) -> dg.RunRequest | dg.SkipReason:
        rollouts = Rollouts(lake.blobs)
        running = _in_flight(context.instance)
        waits = None if running is None else f"training run {running} is on its way"
        for name in USE_CASES:
            waits = waits or rollouts.obstacle(name)
        if waits is not None:
            return dg.SkipReason(waits)
        target: Place = ROLLED_OUT if settings.rollout_automatic else "champion"
        return dg.RunRequest(run_config=_place(target, *USE_CASES.values()))

    return weekly


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
    lake: LakeResource,
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
    head = lake.promotions.current(use_case.name)
    if head is not None and head.model_version != episode.champion_version:
        return f"{named} ends with the next day that is judged: {head.model_version} serves by now"
    attempts = _Attempts(named, instance.get_run_records(dg.RunsFilter(tags={EPISODE: named})))
    waits = (
        _unfit(named, cursor, use_case)
        or _on_its_way(instance, lake, named, use_case)
        or attempts.repeated()
        or attempts.after_training(lake, use_case, newest.day, settings, now=now)
        or attempts.after_failure(settings, now=now)
        or _cooling(instance, named, settings, now=now)
    )
    direct: Place = "shadow" if episode.shadow_only else "champion"
    target = ROLLED_OUT if settings.rollout_automatic else direct
    return waits or dg.RunRequest(
        # A run key never starts a second run, so an attempt has a key of its own.
        run_key=f"{named}#{attempts.made + 1}",
        tags={EPISODE: named, UNTIL: newest.day, SIGNALLED: ",".join(sorted(episode.signals))},
        run_config=_place(target, use_case),
    )


def _place(target: Place, *use_cases: UseCase) -> dict[str, Any]:
    """Run config of a training whose models get that place."""
    return {
        "ops": {promotion_step(use_case): {"config": {"target": target}} for use_case in use_cases}
    }


def episode_name(use_case: UseCase, episode: Episode) -> str:
    """What the episode's runs are tagged with under `EPISODE`."""
    return f"{use_case.name}@{episode.storage_id}"


def _unfit(named: str, cursor: EpisodeCursor, use_case: UseCase) -> str | None:
    """Why there is nothing to learn from; None when there is."""
    if cursor.newest is None or cursor.newest.new_days < 1:
        return f"{named} waits: the champion has learnt from every day that is mature"
    if cursor.blocked is not None:
        return (
            f"{named} waits: the features of {cursor.blocked.day} are broken, see "
            f"{use_case.name}/{cursor.blocked.signal}. Mend them and materialise the day again"
        )
    return None


def _on_its_way(
    instance: dg.DagsterInstance, lake: LakeResource, named: str, use_case: UseCase
) -> str | None:
    """What is in the way of another model; None when nothing is."""
    running = _in_flight(instance)
    if running is not None:
        return f"{named} waits for training run {running}"
    obstacle = Rollouts(lake.blobs).obstacle(use_case.name)
    return None if obstacle is None else f"{named} waits: {obstacle}"


def _in_flight(instance: dg.DagsterInstance) -> str | None:
    runs = instance.get_runs(dg.RunsFilter(job_name=TRAINING_JOB, statuses=IN_FLIGHT), limit=1)
    return runs[0].run_id if runs else None


def _cooling(
    instance: dg.DagsterInstance, named: str, settings: Settings, *, now: float
) -> str | None:
    """Why it is too soon after another training; None when it is not."""
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


@dataclass(frozen=True, slots=True)
class _Attempts:
    """Runs that an episode asked for, newest first."""

    named: str
    records: Sequence[dg.RunRecord]

    @property
    def made(self) -> int:
        """How often it asked."""
        return attempts_made(record.dagster_run for record in self.records)

    def repeated(self) -> str | None:
        """Why Dagster's own repetition of a run that crashed is waited for; None without one."""
        run_id = about_to_repeat(record.dagster_run for record in self.records)
        return None if run_id is None else f"{self.named}: Dagster is about to repeat run {run_id}"

    def after_training(
        self, lake: LakeResource, use_case: UseCase, day: str, settings: Settings, *, now: float
    ) -> str | None:
        """Why an episode that was trained for waits; None when it was not, or is to be again.

        The champion is the one it began with and no rollout is on its way: no model of the episode
        was accepted. Only a later day can teach another one.
        """
        trained = [record for record in self.records if _succeeded(record)]
        actors = {actor_of(record.dagster_run.run_id) for record in self.records}
        outcome = Rollouts(lake.blobs).outcome(use_case.name, begun_by=actors)
        if not trained and outcome is None:
            return None
        told = "its model was not rolled out"
        if outcome is not None:
            told = f"{outcome.version} is {outcome.state.replace('_', ' ')} ({outcome.reason})"
        if self.made >= settings.retraining_attempts:
            return f"{self.named}: {self.made} attempts gave no champion; {told}. Look into it"
        until = max(record.dagster_run.tags[UNTIL] for record in trained or self.records)
        if day <= until:
            return f"{self.named} has been trained for up to {until}; {told}. A later day may help"
        due = settings.retraining_cooldown_hours * _HOUR
        due += 0.0 if outcome is None else outcome.at.timestamp()
        if now < due:
            return f"{self.named} waits {due - now:.0f} s more: {told}"
        return None

    def after_failure(self, settings: Settings, *, now: float) -> str | None:
        """Why the next attempt after failed ones must wait; None when it need not."""
        if not self.records or _succeeded(self.records[0]):
            return None
        last = self.records[0]
        if self.made >= settings.retraining_attempts:
            return (
                f"{self.named}: {self.made} training runs failed, the last is "
                f"{last.dagster_run.run_id}. Mend what it says and re-execute it"
            )
        wait = settings.retraining_retry_minutes * _MINUTE * 2 ** (self.made - 1)
        due = last.update_timestamp.timestamp() + wait
        if now < due:
            return f"{self.named}: the next attempt is in {due - now:.0f} s, after a failed one"
        return None


def _succeeded(record: dg.RunRecord) -> bool:
    return record.dagster_run.status is dg.DagsterRunStatus.SUCCESS
