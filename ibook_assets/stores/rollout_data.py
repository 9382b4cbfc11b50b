"""What a rollout is judged on: predictions in the lake, and what the server counts of requests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, TypeAdapter

from ibook_assets.core.analysis.eprocess import Counts
from ibook_assets.core.analysis.objectives import LATENCY_BOUNDS
from ibook_assets.core.analysis.units import Pairs, Requests, Users
from ibook_assets.core.arrow import Column, as_mask, integers, pc
from ibook_assets.core.assignment import CHAMPION
from ibook_assets.core.errors import NotFoundError, StoreUnavailableError
from ibook_assets.core.maturity import admitted, labels_as_of
from ibook_assets.core.times import DAY_US
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.first_answers import answers_until, answers_with_unseen
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.rollout_checkpoints import Watched, first_answers

METRICS_SECONDS: Final = 2.0
"""How long the server may take to tell its metrics."""
CANARY: Final = "canary"
SHADOW: Final = "shadow"

_SERVER_STAGES: Final = ("internal", "admission")
"""Stages of errors that are the server's, not the client's."""


def first_orders(
    blobs: Blobs, watched: Watched, *, until_us: int, maturity_days: int, now_us: int
) -> Users:
    """The first order of each user that champion or challenger answered, before `until_us`."""
    rows = answers_until(first_answers(blobs, watched), until_us)
    known_us = integers(rows["known_ts"], null=0)
    mature = admitted(known_us, as_of_us=now_us, maturity_us=maturity_days * DAY_US)
    orders = integers(rows["transaction_id"], null=-1)
    mature &= orders >= 0
    return Users(
        known_us,
        as_mask(rows["challenged"]),
        _floats(rows["score"]),
        as_mask(rows["held"]),
        mature,
        mature & _frauds(blobs, orders, now_us=now_us) if mature.any() else np.zeros_like(mature),
    )


def paired_orders(blobs: Blobs, watched: Watched, *, until_us: int) -> Pairs:
    """The first order of each user that the champion answered, with what the shadow said of it."""
    rows = answers_with_unseen(first_answers(blobs, watched), until_us)
    return Pairs(
        integers(rows["known_ts"], null=0),
        _floats(rows["score"]),
        as_mask(rows["held"]),
        _floats(rows["score_unseen"]),
        as_mask(rows["held_unseen"]),
    )


def _frauds(blobs: Blobs, orders: Counts, *, now_us: int) -> npt.NDArray[np.bool_]:
    try:
        columns = ["transaction_id", "known_ts", "is_fraud"]
        outcomes = Lake(blobs).read("facts/outcomes", columns=columns)
    except NotFoundError:
        return np.zeros(len(orders), bool)
    return labels_as_of(orders, outcomes, as_of_us=now_us).astype(bool)


def _floats(column: Column) -> npt.NDArray[np.float64]:
    return np.asarray(pc.fill_null(column, math.nan), dtype=np.float64)


ByVariant: TypeAlias = dict[str, int]


class Look(BaseModel):
    """What the server had counted at one moment, by variant: a shadow's are batches it scored."""

    model_config = ConfigDict(frozen=True)

    at_us: int
    since: float
    """When its counting began (Unix time): another one means that it was started anew."""
    answered: ByVariant
    errors: ByVariant
    slower: dict[float, ByVariant]
    """By latency (seconds): requests that took longer."""


_DURATIONS: Final = ("request_duration_seconds", "shadow_duration_seconds")
"""Histograms by variant: of requests, and of batches that were shown to a shadow."""
_COUNTS: Final = frozenset(f"{name}_count" for name in _DURATIONS)
_BUCKETS: Final = frozenset(f"{name}_bucket" for name in _DURATIONS)

_LOOKS: Final = TypeAdapter(list[Look])


def look(url: str, *, at_us: int) -> Look:
    """What the server at `url` has counted; StoreUnavailableError when it does not say."""
    import httpx
    from prometheus_client.parser import text_string_to_metric_families

    try:
        answer = httpx.get(url, timeout=METRICS_SECONDS).raise_for_status()
        families = list(text_string_to_metric_families(answer.text))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        msg = f"{url} did not tell its metrics within {METRICS_SECONDS:g} s: {error}"
        raise StoreUnavailableError(msg) from error
    since = 0.0
    answered: ByVariant = {}
    errors: ByVariant = {}
    within: dict[float, ByVariant] = {bound: {} for bound in LATENCY_BOUNDS}
    for sample in (sample for family in families for sample in family.samples):
        name, labels = sample.name.removeprefix("ibook_"), sample.labels
        if name == "start_time_seconds":
            since = sample.value
        elif name in _COUNTS:
            _add(answered, labels, sample.value)
        elif name == "errors_total" and labels["stage"] in _SERVER_STAGES:
            _add(errors, labels, sample.value)
        elif name in _BUCKETS and float(labels["le"]) in within:
            _add(within[float(labels["le"])], labels, sample.value)
    slower = {
        bound: {variant: count - fast.get(variant, 0) for variant, count in answered.items()}
        for bound, fast in within.items()
    }
    return Look(at_us=at_us, since=since, answered=answered, errors=errors, slower=slower)


def _add(counts: ByVariant, labels: Mapping[str, str], value: float) -> None:
    variant = labels["model_variant"]
    counts[variant] = counts.get(variant, 0) + int(value)


def keep_look(blobs: Blobs, use_case: str, decided: int, found: Look) -> None:
    """Keep a look at the step that rollout entry `decided` began."""
    looks = [*looks_of(blobs, use_case, decided), found]
    blobs.put(_looks_key(use_case, decided), _LOOKS.dump_json(looks))


def looks_of(blobs: Blobs, use_case: str, decided: int) -> list[Look]:
    """The looks at a step, oldest first."""
    try:
        return _LOOKS.validate_json(blobs.get(_looks_key(use_case, decided)))
    except NotFoundError:
        return []


def requests_between(looks: Iterable[Look], *, challenger: str = CANARY) -> Requests:
    """Requests of the champion and of the variant `challenger` between looks."""
    steps: list[tuple[Look, Look | None]] = []
    before: Look | None = None
    for look in looks:
        if before is not None:
            # A server that was started anew has counted from nothing.
            steps.append((look, before if before.since == look.since else None))
        before = look
    arms = (CHAMPION, challenger)
    return Requests(
        tuple(look.at_us for look, _ in steps),
        _counts(arms, ((look.answered, then.answered if then else {}) for look, then in steps)),
        _counts(arms, ((look.errors, then.errors if then else {}) for look, then in steps)),
        {
            bound: _counts(
                arms,
                ((look.slower[bound], then.slower[bound] if then else {}) for look, then in steps),
            )
            for bound in LATENCY_BOUNDS
        },
    )


def _counts(arms: tuple[str, str], steps: Iterable[tuple[ByVariant, ByVariant]]) -> Counts:
    found = [
        [max(0, later.get(arm, 0) - then.get(arm, 0)) for arm in arms] for later, then in steps
    ]
    return np.array(found, np.int64).reshape(-1, 2)


def _looks_key(use_case: str, decided: int) -> str:
    return f"rollouts/{use_case}/looks/{decided}.json"
