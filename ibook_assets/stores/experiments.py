"""Experiments in the lake: what the promotion log, answers and outcomes say about a definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Final

import msgspec
import pyarrow as pa

from ibook_assets.core.arrow import pc
from ibook_assets.core.errors import ContractError, NotFoundError
from ibook_assets.core.experiments.catalog import EXPERIMENTS
from ibook_assets.core.experiments.definition import Experiment, Run, run_of
from ibook_assets.core.experiments.summarising import summarise
from ibook_assets.core.experiments.summary import ExperimentSummary
from ibook_assets.core.experiments.units import (
    ANSWER_COLUMNS,
    LABEL_COLUMNS,
    Answers,
    Labels,
    answers_of,
    exposures_of,
    followed,
    labels_of,
    units_of,
)
from ibook_assets.core.tables import EXPERIMENT_OUTCOMES, OUTCOMES, PREDICTIONS
from ibook_assets.core.times import DAY_US, day_of, day_start_us
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.served_days import ServedDays

FOLDER: Final = "experiments"
"""Where everything about experiments lies."""

_CHARGEBACKS: Final = f"raw/{OUTCOMES.name}"


@dataclass(frozen=True, slots=True)
class Known:
    """An experiment that is defined or that the promotion log names."""

    name: str
    experiment: Experiment | None
    """None where it is not defined: the log names it all the same."""
    run: Run | None


class ExperimentReader:
    """Reads what belongs to experiments. All methods raise StoreUnavailableError without a lake."""

    def __init__(self, blobs: Blobs, *, landed_only: bool = False) -> None:
        """Make a reader.

        Args:
            blobs: the lake.
            landed_only: read landed days alone, not what servers have shipped since.
        """
        self._lake = Lake(blobs)
        self._promotions = PromotionLog(blobs)
        self._answers = ServedDays(blobs, PREDICTIONS)
        self._reported = ServedDays(blobs, EXPERIMENT_OUTCOMES)
        self._landed_only = landed_only

    def known(self) -> list[Known]:
        """Every experiment, defined ones first."""
        logs = {name: self._promotions.history(name) for name in self._promotions.use_cases()}
        defined = [
            Known(e.id, e, run_of(e, logs.get(e.use_case, []))) for e in EXPERIMENTS.values()
        ]
        named = {record.experiment for log in logs.values() for record in log}
        strangers = sorted(name for name in named if name and name not in EXPERIMENTS)
        return [*defined, *(Known(name, None, None) for name in strangers)]

    def run(self, experiment: Experiment) -> Run:
        """How the promotion log ran it."""
        return run_of(experiment, self._promotions.history(experiment.use_case))

    def known_until_us(self, experiment: Experiment, run: Run, *, now_us: int) -> int:
        """The moment up to which everything about it is there to be read."""
        ends = [now_us]
        if self._landed_only:
            ends.append(_end_of(self._answers.landed(), run))
        if experiment.needs_outcomes and experiment.outcomes == "chargebacks":
            ends.append(_end_of(self._lake.partitions(_CHARGEBACKS), run))
        elif experiment.needs_outcomes and self._landed_only:
            ends.append(_end_of(self._reported.landed(), run))
        return min(ends)

    def answers(self, experiment: Experiment, run: Run) -> Answers:
        """Its served answers."""
        rows = self._answers.rows(
            _days_of(experiment, run),
            columns=ANSWER_COLUMNS,
            wanted=pc.field("experiment") == experiment.id,
            landed_only=self._landed_only,
        )
        return answers_of(rows, experiment, run)

    def labels(self, experiment: Experiment, run: Run, answers: Answers) -> Labels:
        """What became of them."""
        spec, columns = LABEL_COLUMNS[experiment.outcomes]
        of_day = _days_of(experiment, run)
        if not experiment.needs_outcomes:
            rows = spec.schema.empty_table().select(list(columns))
        elif spec is OUTCOMES:
            days = [day for day in self._lake.partitions(_CHARGEBACKS) if of_day(day)]
            rows = self._lake.read(_CHARGEBACKS, days, columns=columns, spec=spec)
        else:
            rows = self._reported.rows(
                of_day,
                columns=columns,
                wanted=pc.field("experiment") == experiment.id,
                landed_only=self._landed_only,
            )
        return labels_of(rows, answers, experiment)

    def exposures(self, experiment: Experiment, run: Run, answers: Answers) -> pa.Table:
        """First exposure of each user, as rows of EXPOSURES."""
        if run.started_us is None:
            return exposures_of(answers, until_us=0)
        return exposures_of(answers, until_us=run.started_us + experiment.horizon_us)

    def units(
        self,
        experiment: Experiment,
        run: Run,
        exposures: pa.Table,
        answers: Answers,
        *,
        as_of_us: int,
    ) -> pa.Table:
        """What became of exposed users, as rows of UNITS."""
        labels = self.labels(experiment, run, answers)
        return followed(
            exposures,
            answers,
            labels,
            follow_up_us=experiment.follow_up_us,
            as_of_us=as_of_us,
        )

    def summary(
        self, experiment: Experiment, *, window_hours: int, now_us: int
    ) -> ExperimentSummary:
        """Where it stands now."""
        run = self.run(experiment)
        as_of_us = self.known_until_us(experiment, run, now_us=now_us)
        answers = self.answers(experiment, run)
        exposures = self.exposures(experiment, run, answers)
        rows = self.units(experiment, run, exposures, answers, as_of_us=as_of_us)
        return summarise(
            experiment, run, units_of(rows), as_of_us=as_of_us, window_hours=window_hours
        )


def store_summary(
    blobs: Blobs, summary: ExperimentSummary, *, precommit: Callable[[], None]
) -> str:
    """Keep `summary` as its experiment's newest; the key it lies under."""
    key = f"{FOLDER}/summary/{summary.experiment}.json"
    precommit()
    blobs.put(key, msgspec.json.encode(summary, order="sorted"))
    return key


def stored_summary(blobs: Blobs, name: str) -> ExperimentSummary | None:
    """The newest summary that was kept; None before the first.

    Raises:
        ContractError: it cannot be read.
    """
    key = f"{FOLDER}/summary/{name}.json"
    try:
        return msgspec.json.decode(blobs.get(key), type=ExperimentSummary)
    except NotFoundError:
        return None
    except msgspec.DecodeError as error:
        msg = (
            f"{blobs.location(key)} is no summary of an experiment ({error}); materialise "
            f"{FOLDER}/summary, partition {name}, again"
        )
        raise ContractError(msg) from error


def _days_of(experiment: Experiment, run: Run) -> Callable[[str], bool]:
    """Which days can hold anything of it."""
    if run.named_us is None or run.started_us is None:
        return lambda _day: False
    last_us = run.started_us + experiment.horizon_us + experiment.follow_up_us
    first, last = day_of(run.named_us).isoformat(), day_of(last_us).isoformat()
    return lambda day: first <= day <= last


def _end_of(days: list[str], run: Run) -> int:
    """The end of the last of `days`; the start of `run` without any."""
    if not days:
        return run.started_us or 0
    return day_start_us(date.fromisoformat(days[-1])) + DAY_US
