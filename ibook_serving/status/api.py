"""What `GET /status` says: the types that are sent also make the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from ibook_serving.api import Refusal

Level = Literal["well", "warn", "bad"]
"""All is well, somebody should look, something is broken."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be."""

    level: Annotated[Level, Meta(description="`warn`: look at it; `bad`: act on it")]
    what: str
    why: Annotated[str, Meta(description="What is known of it; may be empty")]
    next_step: str


class Verdict(msgspec.Struct, frozen=True):
    """Whether all is well, in one line, and what is not."""

    level: Level
    headline: Annotated[str, Meta(description="What is served")]
    findings: tuple[Finding, ...]


class LaneStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the deployment, as the promotion record has it."""

    variant: str
    stage: Annotated[str, Meta(description="`champion`, `canary`, `treatment` or `shadow`")]
    model_version: str
    share: Annotated[float, Meta(description="Share of users it answers, or watches as a shadow")]
    threshold: Annotated[float, Meta(description="Scores at or above it go to review")]


class VariantCount(msgspec.Struct, frozen=True, kw_only=True):
    """What one variant has answered since `since`; counts only grow."""

    variant: Annotated[
        str, Meta(description="Or `mixed`: several in one request; `none`: no model answered")
    ]
    requests: int
    latency_seconds: Annotated[float, Meta(description="Time these requests took together")]
    latency_buckets: Annotated[
        tuple[int, ...],
        Meta(description="Requests that took at most each of `latency_bounds_seconds`, then all"),
    ]
    approved: Annotated[int, Meta(description="Orders")]
    reviewed: Annotated[int, Meta(description="Orders")]
    fraud_saved_cents: Annotated[float, Meta(description="Expected fraud in reviewed orders")]
    review_cost_cents: Annotated[float, Meta(description="Expected cost of the reviews")]


class DriftColumn(msgspec.Struct, frozen=True):
    """A feature of the newest drift record."""

    name: str
    deviation: Annotated[float, Meta(description="Beyond what is usual, in standard deviations")]
    drifted: bool


class DriftStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The newest day's drift record."""

    day: str
    state: Annotated[str, Meta(description="`stable`, `drifted` or `insufficient_data`")]
    confirmed: Annotated[bool, Meta(description="Drifted on this day and the one before")]
    champion_version: str | None
    score: Annotated[float | None, Meta(description="Share of columns that drifted")]
    score_threshold: float
    statistic: Annotated[float | None, Meta(description="Largest deviation of a column")]
    threshold: Annotated[float | None, Meta(description="Calibrated bound of `statistic`")]
    columns: Annotated[tuple[DriftColumn, ...], Meta(description="The most deviating")]


class Limits(msgspec.Struct, frozen=True):
    """Beyond these the page calls for attention."""

    error_share: float
    p95_seconds: float


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What all processes of this server do, without anybody's data.

    Counters cover the scoring routes and grow from `since` on: rates are differences of two
    documents, divided by the difference of their `read_at`.
    """

    use_case: str
    read_at: Annotated[float, Meta(description="When counters were read (Unix time)")]
    since: Annotated[float, Meta(description="When counting began (Unix time)")]
    verdict: Verdict
    model_version: str | None
    record_sequence: Annotated[int | None, Meta(description="Promotion record being served")]
    model_age_seconds: Annotated[float | None, Meta(description="Since the champion was promoted")]
    features_as_of: Annotated[str | None, Meta(extra_json_schema={"format": "date-time"})]
    feature_age_seconds: float | None
    online_store: Annotated[str | None, Meta(description="What history is read from")]
    processes: int
    processes_expected: int
    queue_rows: Annotated[int, Meta(description="Orders admitted and not answered")]
    swaps: int
    shadow_rows_lost: Annotated[int, Meta(description="Orders not shown to a shadow")]
    predictions_unlogged: Annotated[int, Meta(description="Orders that have no trace")]
    breakers: Annotated[
        dict[str, str], Meta(description="`closed`, `half_open` or `open`, by dependency")
    ]
    refusals: Annotated[
        tuple[Refusal, ...], Meta(description="By the process that answers this request")
    ]
    lanes: tuple[LaneStatus, ...]
    answers: Annotated[dict[str, int], Meta(description="Requests by HTTP status")]
    degraded: Annotated[dict[str, int], Meta(description="Orders by what was missing")]
    latency_bounds_seconds: tuple[float, ...]
    variants: tuple[VariantCount, ...]
    limits: Limits
    drift: Annotated[DriftStatus | None, Meta(description="Null before the first record")]
    evidence: Annotated[str, Meta(description="Changes with the promotion log and the drift")]


EXAMPLE: Final = Status(
    use_case="fraud",
    read_at=1_772_359_200.5,
    since=1_772_323_200.0,
    verdict=Verdict("well", "Serving fraud-20260301-4be1", ()),
    model_version="fraud-20260301-4be1",
    record_sequence=3,
    model_age_seconds=28_200.0,
    features_as_of="2026-03-01T09:59:58Z",
    feature_age_seconds=2.5,
    online_store="3:1024",
    processes=2,
    processes_expected=2,
    queue_rows=0,
    swaps=2,
    shadow_rows_lost=0,
    predictions_unlogged=0,
    breakers={"live_store": "closed"},
    refusals=(),
    lanes=(
        LaneStatus(
            variant="champion",
            stage="champion",
            model_version="fraud-20260301-4be1",
            share=1.0,
            threshold=0.31,
        ),
    ),
    answers={"200": 18_230},
    degraded={},
    latency_bounds_seconds=(0.005, 0.05, 0.5),
    variants=(
        VariantCount(
            variant="champion",
            requests=18_230,
            latency_seconds=34.6,
            latency_buckets=(18_101, 18_229, 18_230, 18_230),
            approved=18_010,
            reviewed=412,
            fraud_saved_cents=5_120_400.0,
            review_cost_cents=310_250.0,
        ),
    ),
    limits=Limits(error_share=0.01, p95_seconds=0.2),
    drift=None,
    evidence="9f86d081884c7d65",
)
