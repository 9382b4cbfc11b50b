"""Matured days: what became of a day's orders, and how the champion had ranked them.

Labels of every day are taken at one age, so that old and new days can be compared: chargebacks
trickle in for months, and a day of last spring would otherwise always seem more fraudulent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import as_mask, integers, pc
from ibook_assets.core.facts import FACT_OUTCOMES, FACT_TRANSACTIONS
from ibook_assets.core.ids import MISSING_ID
from ibook_assets.core.manifest import SnapshotManifest
from ibook_assets.core.monitoring.columns import Floats, Ints
from ibook_assets.core.monitoring.fraud_rate import RateDay, fraud_rate
from ibook_assets.core.monitoring.performance import JudgedDay, judged_day, performance
from ibook_assets.core.monitoring.signals import Signal
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.tables import PREDICTIONS
from ibook_assets.core.times import DAY_US, day_of, day_start_us
from ibook_assets.core.use_cases import UseCase
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promoted_models import load_promoted
from ibook_assets.stores.signal_records import signal_records
from ibook_assets.stores.skew_days import batch_vectors
from ibook_assets.stores.training_data import OUTCOME_COLUMNS, read_training_set

PROMISE_DAYS: Final = 56
"""Last days of the champion's evaluation that its promise is taken from."""
HISTORY_DAYS: Final = 84
"""Last matured days before its training set that the band of fraud is taken from."""
JUDGED_DAYS: Final = 60
"""Newest matured days that are added up, at most."""

_AGE: Final = "maturity_days"


@dataclass(frozen=True, slots=True)
class Orders:
    """Orders of one day and whether fraud was confirmed by one age of labels."""

    ids: Ints
    labels: Ints


@dataclass(frozen=True, slots=True)
class Maturity:
    """Which days are the champion's history, and which have matured since."""

    learnt: tuple[str, ...]
    """Matured days of its training set, in order."""
    since: tuple[str, ...]
    """Days that matured later, until the end of the day that is judged, in order."""


def maturity_of(lake: Lake, champion: PromotionRecord, day: str, *, maturity_days: int) -> Maturity:
    """The champion's matured days, and those since, as of the end of `day`."""
    manifest = SnapshotManifest.model_validate_json(
        lake.blobs.get(f"manifests/{champion.model.training_snapshot}.json")
    )
    learnt_until = day_of(int(manifest.parameters["as_of_us"])) - timedelta(days=maturity_days + 1)
    newest = date.fromisoformat(day) - timedelta(days=maturity_days)
    days = lake.partitions(f"facts/{FACT_TRANSACTIONS.name}")
    return Maturity(
        tuple(day for day in days if day <= learnt_until.isoformat()),
        tuple(day for day in days if learnt_until.isoformat() < day <= newest.isoformat()),
    )


def confirmed_orders(lake: Lake, days: Sequence[str], *, maturity_days: int) -> dict[str, Orders]:
    """Orders of each of `days` with their labels of exactly `maturity_days`."""
    if not days:
        return {}
    last = (date.fromisoformat(days[-1]) + timedelta(days=maturity_days)).isoformat()
    table = f"facts/{FACT_OUTCOMES.name}"
    told = [day for day in lake.partitions(table) if days[0] <= day <= last]
    outcomes = lake.read(table, told, columns=OUTCOME_COLUMNS, spec=FACT_OUTCOMES)
    fraud = integers(outcomes["is_fraud"], null=0) == 1
    ids = integers(outcomes["transaction_id"], null=MISSING_ID)[fraud]
    known = integers(outcomes["known_ts"], null=0)[fraud]
    found = {}
    for day in days:
        orders = lake.read(f"facts/{FACT_TRANSACTIONS.name}", [day], columns=["transaction_id"])
        until = day_start_us(date.fromisoformat(day)) + (1 + maturity_days) * DAY_US
        own = integers(orders["transaction_id"], null=MISSING_ID)
        found[day] = Orders(own, np.isin(own, ids[known < until]).astype(np.int64))
    return found


def fraud_rate_of(lake: Lake, champion: PromotionRecord, day: str, *, maturity_days: int) -> Signal:
    """The confirmed-fraud rate of the newest matured week against the champion's history."""
    days = maturity_of(lake, champion, day, maturity_days=maturity_days)
    wanted = [*days.learnt[-HISTORY_DAYS:], *days.since[-JUDGED_DAYS:]]
    orders = confirmed_orders(lake, wanted, maturity_days=maturity_days)
    rates = {
        name: RateDay(day=name, orders=found.labels.size, frauds=int(found.labels.sum()))
        for name, found in orders.items()
    }
    return fraud_rate(
        [rates[name] for name in days.learnt[-HISTORY_DAYS:]],
        [rates[name] for name in days.since[-JUDGED_DAYS:]],
    )


def performance_of(
    lake: Lake, use_case: UseCase, champion: PromotionRecord, day: str, *, maturity_days: int
) -> Signal:
    """How the champion ranked the days that matured since it was trained, against its promise."""
    bundle = load_promoted(lake.blobs, champion)
    days = maturity_of(lake, champion, day, maturity_days=maturity_days)
    scores = _evaluation_scores(lake, use_case, bundle)
    promise = [name for name in days.learnt if name in scores][-PROMISE_DAYS:]
    since = list(days.since[-JUDGED_DAYS:])
    orders = confirmed_orders(lake, [*promise, *since], maturity_days=maturity_days)
    rows = sum(orders[name].labels.size for name in promise)
    frauds = sum(int(orders[name].labels.sum()) for name in promise)
    if not 0 < frauds < rows:
        reason = f"{frauds} frauds in {rows} orders of the champion's evaluation: nothing to rank"
        return Signal.insufficient("performance", reason)
    share = frauds / rows
    promised = [
        _ranked(name, orders[name], _aligned(orders[name], *scores[name]), share)
        for name in promise
    ]
    known = _known(lake, use_case, champion, day, maturity_days)
    matured = [
        known.get(name) or _judged(lake, use_case, bundle, name, orders[name], fraud_share=share)
        for name in since
    ]
    signal = performance(promised, matured)
    told = {**signal.evidence, _AGE: maturity_days}
    return signal.model_copy(update={"evidence": told})


def _evaluation_scores(
    lake: Lake, use_case: UseCase, bundle: ModelBundle
) -> dict[str, tuple[Ints, Floats]]:
    """Order ids and scores of each whole training day that `bundle` never learnt from."""
    names = list(bundle.feature_names)
    rows = read_training_set(
        lake,
        use_case.name,
        bundle.info.training_snapshot,
        columns=["transaction_id", "known_ts", *names],
    )
    known_ts = integers(rows["known_ts"], null=0)
    first_us = -(-bundle.info.trained_until_us // DAY_US) * DAY_US
    unseen = np.flatnonzero(known_ts >= first_us)
    rows = rows.take(unseen)
    x = np.empty((unseen.size, len(names)), dtype=np.float32)
    for position, name in enumerate(names):
        x[:, position] = rows[name].to_numpy()
    scores = bundle.score(x)
    ids = integers(rows["transaction_id"], null=MISSING_ID)
    number = known_ts[unseen] // DAY_US
    return {
        day_of(int(today) * DAY_US).isoformat(): (ids[number == today], scores[number == today])
        for today in np.unique(number)
    }


def _known(
    lake: Lake, use_case: UseCase, champion: PromotionRecord, day: str, maturity_days: int
) -> dict[str, JudgedDay]:
    """Days that an earlier record of the same champion has judged: they do not change."""
    before = signal_records(lake.blobs, "performance", use_case.name, until=_yesterday(day), days=1)
    for record in before:
        evidence = record.signal.evidence
        same = record.champion_version == champion.model.model_version
        matured = evidence.get("matured")
        if same and evidence.get(_AGE) == maturity_days and isinstance(matured, list):
            days = [JudgedDay.model_validate(found) for found in matured]
            return {found.day: found for found in days if _told(found)}
    return {}


def _told(found: JudgedDay) -> bool:
    """Whether a day that can be ranked is known by every measure: an old record lacks some."""
    return found.average_precision is None or found.log_auc is not None


def _yesterday(day: str) -> str:
    return (date.fromisoformat(day) - timedelta(days=1)).isoformat()


def _judged(
    lake: Lake,
    use_case: UseCase,
    bundle: ModelBundle,
    day: str,
    orders: Orders,
    *,
    fraud_share: float,
) -> JudgedDay:
    """The day as the champion ranked it: by what it answered, else by what it would have."""
    batch = batch_vectors(lake, bundle.feature_names, day)
    offline = _aligned(orders, batch.transaction_ids, bundle.score(batch.values))
    logged = _aligned(orders, *_logged(lake, use_case, bundle.version, day))
    scores = np.where(np.isnan(logged), offline, logged)
    return _ranked(day, orders, scores, fraud_share, logged=int((~np.isnan(logged)).sum()))


def _ranked(
    day: str, orders: Orders, scores: Floats, fraud_share: float, *, logged: int = 0
) -> JudgedDay:
    # A day that was landed anew since may hold orders that were never scored.
    known = ~np.isnan(scores)
    return judged_day(
        day, orders.labels[known], scores[known], fraud_share=fraud_share, logged=logged
    )


def _logged(lake: Lake, use_case: UseCase, version: str, day: str) -> tuple[Ints, Floats]:
    """Orders that clients were answered for with this model, and the newest score of each."""
    table = f"raw/{PREDICTIONS.name}"
    days = [day] if day in lake.partitions(table) else []
    columns = ["transaction_id", "known_ts", "use_case", "served", "model_version", "score"]
    rows = lake.read(table, days, columns=columns, spec=PREDICTIONS)
    wanted = as_mask(rows["served"]) & as_mask(rows["transaction_id"].is_valid())
    wanted &= as_mask(pc.equal(rows["model_version"], version))
    wanted &= as_mask(pc.equal(rows["use_case"], use_case.name))
    rows = rows.filter(pa.array(wanted)).sort_by([("known_ts", "descending")])
    ids, first = np.unique(integers(rows["transaction_id"], null=MISSING_ID), return_index=True)
    return ids, np.asarray(rows["score"].to_numpy(), dtype=np.float64)[first]


def _aligned(orders: Orders, ids: Ints, scores: Floats) -> Floats:
    """Scores in the orders' own order; NaN for an order without one."""
    if not ids.size:
        return np.full(orders.ids.size, np.nan)
    order = np.argsort(ids, kind="stable")
    at = np.searchsorted(ids[order], orders.ids).clip(max=ids.size - 1)
    return np.where(ids[order][at] == orders.ids, scores[order][at], np.nan)
