"""Units, promotion logs and answers made by hand for the experiments' tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ibook_assets.core.experiments.definition import Experiment, Run
from ibook_assets.core.experiments.metrics import METRICS
from ibook_assets.core.experiments.units import Units
from ibook_assets.core.promotion import (
    ChallengeDraft,
    Challenger,
    PromotionRecord,
)
from ibook_assets.core.promotion_chain import challenge_record, next_record
from ibook_assets.core.tables import PREDICTIONS
from ibook_assets.core.times import to_us
from tests.promotion_drafts import a_draft
from tests.traces import a_trace

STARTED: Final = datetime(2026, 3, 1, tzinfo=UTC)
STARTED_US: Final = to_us(STARTED)
SOUND: Final = Run(
    named_us=STARTED_US,
    started_us=STARTED_US,
    withdrawn_us=None,
    designed=frozenset({2}),
    models=(("fraud-v1",), ("fraud-v2",)),
    deviations=(),
)


def an_experiment(**changes: Any) -> Experiment:
    """Review rate 10 %, two points wanted, the first answer counts."""
    fields: dict[str, Any] = {
        "id": "fees",
        "description": "A test.",
        "salt": "fees",
        "metric": "review_rate",
        "direction": "decrease",
        "baseline_rate": 0.10,
        "minimal_effect": 0.02,
        "follow_up_hours": 0,
        "horizon_days": 28,
        "looks": 8,
    }
    return Experiment(**(fields | changes))


def units(
    users: int,
    *,
    rates: tuple[float, float] = (0.1, 0.1),
    share: float = 0.5,
    seed: int = 1,
    seconds_apart: int = 60,
    other: Mapping[str, tuple[float, float]] | None = None,
) -> Units:
    """Users one after the other, one answer each, with the event at the rates of both arms."""
    rng = np.random.default_rng(seed)
    treated = rng.random(users) < share
    events = {name: np.zeros(users, np.int64) for name in METRICS}
    for name, (control, treatment) in {"review_rate": rates, **(other or {})}.items():
        events[name] = (rng.random(users) < np.where(treated, treatment, control)).astype(np.int64)
    return Units(
        user_id=np.arange(users),
        exposed_ts=STARTED_US + np.arange(1, users + 1) * seconds_apart * 1_000_000,
        treated=treated,
        designed=np.ones(users, np.bool_),
        switched=np.zeros(users, np.bool_),
        answers=np.ones(users, np.int64),
        events=events,
    )


def challenged(
    log: Sequence[PromotionRecord],
    *,
    share: float = 0.5,
    salt: str = "fees",
    experiment: str | None = "fees",
    variant: str = "treatment",
    version: str = "fraud-v2",
    hours: float = 0,
) -> list[PromotionRecord]:
    """`log` with an entry that runs an experiment; `experiment` None withdraws all challengers."""
    challengers: tuple[Challenger, ...] = ()
    if experiment is not None:
        model = a_draft(version).model
        challengers = (Challenger(variant=variant, stage="treatment", share=share, model=model),)
    draft = ChallengeDraft(
        use_case="fraud",
        challengers=challengers,
        salt=salt if challengers else None,
        experiment=experiment,
        actor="ana",
        reason="test",
    )
    at = datetime.fromtimestamp(STARTED.timestamp() + hours * 3_600, UTC)
    return [*log, challenge_record(draft, previous=log[-1], promoted_at=at)]


def promoted() -> list[PromotionRecord]:
    """A log with its first champion."""
    return [next_record(a_draft("fraud-v1"), previous=None, promoted_at=STARTED)]


def answer(request_id: str, **changes: Any) -> dict[str, Any]:
    """A served answer of the experiment `fees`, as a row of PREDICTIONS."""
    fields: dict[str, Any] = {
        "experiment": "fees",
        "variant": "control",
        "known_ts": STARTED_US,
        "record_sequence": 2,
    }
    trace = a_trace(request_id, **(fields | changes))
    return {name: getattr(trace, name) for name in PREDICTIONS.column_names}


def rows(*answers: Mapping[str, Any]) -> pa.Table:
    """Rows of PREDICTIONS."""
    return pa.Table.from_pylist([dict(a) for a in answers], schema=PREDICTIONS.schema)
