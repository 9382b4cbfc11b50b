"""The counters of all processes at one moment, as one document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ibook_serving.scoring.breaker import STATES
from ibook_serving.scoring.ports import APPROVE, REVIEW
from ibook_serving.status.api import VariantCount
from ibook_serving.telemetry.metrics import LATENCY_BUCKETS

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

PREFIX: Final = "ibook_"
BOUNDS: Final = (*LATENCY_BUCKETS, float("inf"))


@dataclass(frozen=True, slots=True)
class Counted:
    """The counters of all processes at one moment."""

    read_at: float
    since: float
    """When counting began; times are Unix times."""
    processes: int
    refusals: int
    queue_rows: int
    swaps: int
    model_age_seconds: float
    """Of the process furthest behind; 0 when none has a model."""
    feature_age_seconds: float
    """Of the process furthest behind; 0 when none has a history."""
    shadow_rows_lost: int
    predictions_unlogged: int
    breakers: dict[str, str]
    """State of each dependency's breaker, in the process where it is worst."""
    answers: dict[str, int]
    degraded: dict[str, int]
    variants: tuple[VariantCount, ...]


def counted(found: Sequence[Sample], scoring: Collection[str], *, at: float) -> Counted:
    """What `found` says of the `scoring` routes and of the processes; read at the time `at`."""
    of = _Samples(found)
    variants = {
        *of.by("predictions_total", "model_variant"),
        *of.by("request_duration_seconds_count", "model_variant", route=scoring),
    }
    return Counted(
        read_at=at,
        since=of.total("start_time_seconds"),
        processes=int(of.total("processes")),
        refusals=int(of.total("refusals")),
        queue_rows=int(of.total("queue_rows")),
        swaps=int(of.total("swaps_total")),
        model_age_seconds=of.total("model_age_seconds"),
        feature_age_seconds=of.total("feature_age_seconds"),
        shadow_rows_lost=int(of.total("shadow_rows_lost")),
        predictions_unlogged=int(of.total("predictions_unlogged")),
        breakers={
            k: STATES[int(state)] for k, state in of.by("breaker_state", "dependency").items()
        },
        answers=_whole(of.by("requests_total", "status", route=scoring)),
        degraded=_whole(of.by("degraded_predictions_total", "reason")),
        variants=tuple(_variant(of, variant, scoring) for variant in sorted(variants)),
    )


class _Samples:
    """Samples by name, and sums over those with certain labels."""

    def __init__(self, found: Sequence[Sample]) -> None:
        self._by_name: dict[str, list[Sample]] = defaultdict(list)
        for sample in found:
            self._by_name[sample.name.removeprefix(PREFIX)].append(sample)

    def total(self, name: str, **allowed: Collection[str]) -> float:
        return sum(sample.value for sample in self._with(name, allowed))

    def by(self, name: str, label: str, **allowed: Collection[str]) -> dict[str, float]:
        sums: dict[str, float] = defaultdict(float)
        for sample in self._with(name, allowed):
            sums[sample.labels[label]] += sample.value
        return dict(sorted(sums.items()))

    def _with(self, name: str, allowed: Mapping[str, Collection[str]]) -> Iterator[Sample]:
        for sample in self._by_name[name]:
            if all(sample.labels[label] in values for label, values in allowed.items()):
                yield sample


def _variant(of: _Samples, variant: str, scoring: Collection[str]) -> VariantCount:
    one = (variant,)
    within = of.by("request_duration_seconds_bucket", "le", model_variant=one, route=scoring)
    by_bound = {float(bound): int(requests) for bound, requests in within.items()}
    decided = of.by("predictions_total", "decision", model_variant=one)
    return VariantCount(
        variant=variant,
        requests=by_bound.get(float("inf"), 0),
        latency_seconds=of.total("request_duration_seconds_sum", model_variant=one, route=scoring),
        latency_buckets=tuple(by_bound.get(b, 0) for b in BOUNDS),
        approved=int(decided.get(APPROVE, 0)),
        reviewed=int(decided.get(REVIEW, 0)),
        fraud_saved_cents=of.total("fraud_saved_cents_total", model_variant=one),
        review_cost_cents=of.total("review_cost_cents_total", model_variant=one),
    )


def _whole(numbers: Mapping[str, float]) -> dict[str, int]:
    return {name: int(number) for name, number in numbers.items()}
