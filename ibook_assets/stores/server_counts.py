"""What a scoring server has counted of its requests, read from its metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.core.service_levels import LATENCIES, Counted
from ibook_assets.core.use_cases import USE_CASES

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

ANSWER_SECONDS: Final = 5.0
"""How long the server may take to tell its metrics; one that takes longer is as good as down."""

SCORING: Final = frozenset({"/predict", *(use_case.endpoint for use_case in USE_CASES.values())})
"""Routes that count: health checks and scrapes would thin out what clients meet."""

_PREFIX: Final = "ibook_"
_SERVER_ERROR: Final = 500


def read_counts(url: str, *, at: float) -> Counted:
    """What the server whose metrics are at `url` has counted, read at the time `at`.

    Raises:
        StoreUnavailableError: it did not answer in time, or not with metrics of ours.
    """
    import httpx
    from prometheus_client.parser import text_string_to_metric_families

    try:
        answer = httpx.get(url, timeout=ANSWER_SECONDS).raise_for_status()
        families = list(text_string_to_metric_families(answer.text))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        msg = f"{url} did not tell its metrics within {ANSWER_SECONDS:g} s: {error}"
        raise StoreUnavailableError(msg) from error
    found = [sample for family in families for sample in family.samples]
    since = _total(found, "start_time_seconds")
    if not since:
        msg = f"{url} told no metrics of a scoring server: ibook_start_time_seconds is not there"
        raise StoreUnavailableError(msg)
    by_status = [s for s in found if s.name == f"{_PREFIX}requests_total" and _scores(s)]
    return Counted(
        at=at,
        since=since,
        requests=int(sum(s.value for s in by_status)),
        errors=int(sum(s.value for s in by_status if int(s.labels["status"]) >= _SERVER_ERROR)),
        slower=(_slower(found, LATENCIES[0]), _slower(found, LATENCIES[1])),
        # 0 says that no process has a history yet.
        feature_age_seconds=_total(found, "feature_age_seconds") or None,
    )


def _scores(sample: Sample) -> bool:
    return sample.labels.get("route") in SCORING


def _slower(found: Iterable[Sample], bound: float) -> int:
    """Requests that took longer than `bound` seconds."""
    told, within = 0.0, 0.0
    for sample in found:
        if not _scores(sample):
            continue
        if sample.name == f"{_PREFIX}request_duration_seconds_count":
            told += sample.value
        elif (
            sample.name == f"{_PREFIX}request_duration_seconds_bucket"
            and float(sample.labels["le"]) == bound
        ):
            within += sample.value
    return int(told - within)


def _total(found: Iterable[Sample], name: str) -> float:
    return sum(sample.value for sample in found if sample.name == f"{_PREFIX}{name}")
