"""Every experiment, defined once: add one here, then `ibook promote … --as treatment`.

A definition is fixed once its treatment answers anybody: what is changed afterwards shows as
another `definition` in its summary. The next experiment gets an id of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ibook_assets.core.errors import NotFoundError
from ibook_assets.core.experiments.definition import Experiment, Guardrail

_DEFINED: Final = (
    Experiment(
        id="champion-aa",
        description=(
            "The champion against itself: assignment, exposure and statistics find nothing where "
            "there is nothing."
        ),
        salt="champion-aa",
        metric="review_rate",
        direction="decrease",
        baseline_rate=0.03,
        minimal_effect=0.01,
        follow_up_hours=0,
        horizon_days=28,
    ),
    Experiment(
        id="fewer-reviews",
        description="A model that sends fewer users to review and misses no more fraud.",
        salt="fewer-reviews",
        metric="review_rate",
        direction="decrease",
        baseline_rate=0.03,
        minimal_effect=0.005,
        guardrails=(
            Guardrail(metric="fraud_missed_rate", worst_difference=0.005),
            Guardrail(metric="degraded_rate", worst_difference=0.02),
        ),
        follow_up_hours=7 * 24,
        horizon_days=56,
    ),
    Experiment(
        id="fewer-missed-frauds",
        description="A model that misses less fraud and stops few honest buyers more.",
        salt="fewer-missed-frauds",
        metric="fraud_missed_rate",
        direction="decrease",
        baseline_rate=0.02,
        minimal_effect=0.005,
        guardrails=(
            Guardrail(metric="approval_rate", worst_difference=0.01),
            Guardrail(metric="degraded_rate", worst_difference=0.02),
        ),
        follow_up_hours=45 * 24,
        outcomes="chargebacks",
        horizon_days=56,
    ),
)

EXPERIMENTS: Final[Mapping[str, Experiment]] = MappingProxyType({e.id: e for e in _DEFINED})
"""Every experiment by its id."""


def experiment_named(name: str) -> Experiment:
    """The experiment called `name`; NotFoundError listing all when there is none."""
    if name not in EXPERIMENTS:
        msg = (
            f"no experiment {name} is defined; defined: {', '.join(EXPERIMENTS)}. Define it in "
            "ibook_assets/core/experiments/catalog.py"
        )
        raise NotFoundError(msg)
    return EXPERIMENTS[name]
