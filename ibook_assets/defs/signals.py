"""Assets of the signals beside column drift: one a signal and use case, all made alike."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import dagster as dg

from ibook_assets.core.monitoring.signals import SIGNALS, Signal, SignalName, SignalRecord
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import PREDICTIONS
from ibook_assets.core.use_cases import UseCase
from ibook_assets.defs.metadata import daily_plot
from ibook_assets.defs.partitions import ML_PLATFORM, RAW, daily
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import fails_fast, live_run_check, monitoring_retries
from ibook_assets.stores.lake import Lake

DAYS_SHOWN: Final = 60
"""Days whose figures are plotted."""

_BY_LABELS: Final = frozenset({"performance", "fraud_rate"})
_KINDS: Final[Mapping[SignalName, set[str]]] = {
    "domain_drift": {"numpy", "xgboost"},
    "attribution_drift": {"numpy", "xgboost"},
}
_TOLD: Final[Mapping[SignalName, str]] = {
    "performance": (
        "How the champion ranked the orders that have matured since it was trained, day by day, "
        "against what it promised on its evaluation rows: a CUSUM of average precision."
    ),
    "fraud_rate": (
        "The share of confirmed fraud among the newest matured week's orders, and the control "
        "band that the champion's history gives it."
    ),
    "data_quality": (
        "Features of the day that lost values, hold infinities, codes never seen or are not there. "
        "Keeps the retraining sensor from learning from such a day."
    ),
    "score_drift": "The champion's scores of the day against those of orders it never learnt from.",
    "domain_drift": (
        "Whether gradient-boosted trees tell the day's features from the reference's: it sees what "
        "no single column shows."
    ),
    "attribution_drift": (
        "How far the features that the champion decides by are from those of its reference."
    ),
}


def check_name(name: SignalName) -> str:
    """What the check of a signal's asset is called."""
    return f"{name}_holds"


def signal_asset(
    key: dg.AssetKey, name: SignalName, use_case: UseCase, settings: Settings, *, group: str
) -> dg.AssetsDefinition:
    """The asset of one signal: record, check, plot, history."""
    spec = SIGNALS[name]
    facts = [["facts", "transactions"], ["facts", "outcomes"]] if name in _BY_LABELS else []
    answered = [[RAW, PREDICTIONS.name]] if name == "performance" else []

    @dg.asset(
        key=key,
        deps=[
            [use_case.name, "training_set"],
            *facts,
            *answered,
            *(["features", view] for view in use_case.views if name != "fraud_rate"),
        ],
        group_name=group,
        owners=[ML_PLATFORM],
        kinds=_KINDS.get(name, {"numpy"}),
        description=f"{_TOLD[name]} When it drifts: {spec.consequence}.",
        partitions_def=daily(settings),
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
        retry_policy=monitoring_retries(settings),
        check_specs=[dg.AssetCheckSpec(check_name(name), asset=key, description=spec.says)],
    )
    @fails_fast
    def signal_of_the_day(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        from ibook_assets.stores.signal_records import (
            new_days,
            signal_record,
            signal_records,
            store_signal,
        )

        day = context.partition_key
        champion = lake.promotions.current(use_case.name)
        record = signal_record(
            lake.blobs,
            _judged(
                lake.tables,
                use_case,
                name,
                champion,
                day,
                maturity_days=settings.label_maturity_days,
            ),
            use_case=use_case.name,
            day=day,
            champion=champion,
            new_days=new_days(lake.blobs, champion, day),
        )
        stored = store_signal(lake.blobs, record, precommit=live_run_check(context))
        history = signal_records(lake.blobs, name, use_case.name, until=day, days=DAYS_SHOWN)
        yield dg.MaterializeResult(
            metadata={
                **shown(record),
                "record": dg.MetadataValue.path(lake.blobs.location(stored)),
                "summary": dg.MetadataValue.md(_summary(record)),
                "evidence": dg.MetadataValue.json(json.loads(record.signal.model_dump_json())),
                "history": _history(history),
            },
            check_results=[_verdict(key, record)],
        )

    return signal_of_the_day


def _judged(
    lake: Lake,
    use_case: UseCase,
    name: SignalName,
    champion: PromotionRecord | None,
    day: str,
    *,
    maturity_days: int,
) -> Signal:
    if champion is None:
        reason = f"no {use_case.name} model has been promoted: there is nothing to compare with"
        return Signal.insufficient(name, reason)
    # Each needs other stores and libraries: only the signal that is made loads them.
    if name in _BY_LABELS:
        from ibook_assets.stores.labelled_days import fraud_rate_of, performance_of

        if name == "fraud_rate":
            return fraud_rate_of(lake, champion, day, maturity_days=maturity_days)
        return performance_of(lake, use_case, champion, day, maturity_days=maturity_days)
    if name == "domain_drift":
        from ibook_assets.training.domain import domain_drift_of

        return domain_drift_of(lake, use_case, champion, day)
    if name == "attribution_drift":
        from ibook_assets.training.attribution import attribution_drift_of

        return attribution_drift_of(lake, use_case, champion, day)
    from ibook_assets.stores.feature_windows import data_quality_of, score_drift_of

    judge = data_quality_of if name == "data_quality" else score_drift_of
    return judge(lake, use_case, champion, day)


def shown(record: SignalRecord) -> dict[str, Any]:
    """What says it all in a line, and what the retraining sensor acts on."""
    signal = record.signal
    told = {
        "statistic": signal.statistic,
        "statistic_threshold": signal.threshold,
        "champion_version": record.champion_version,
        "reason": signal.reason,
    }
    return {
        "day": record.day,
        "state": signal.state,
        "confirmed": record.confirmed,
        "new_days": record.new_days,
        "consequence": SIGNALS[signal.name].consequence,
        **{name: value for name, value in told.items() if value is not None},
    }


def _summary(record: SignalRecord) -> str:
    signal, spec = record.signal, SIGNALS[record.signal.name]
    if signal.statistic is None or signal.threshold is None:
        return f"**No verdict**: {signal.reason}."
    verdict = (
        f"{signal.state} and confirmed: {spec.consequence}" if record.confirmed else signal.state
    )
    return (
        f"**{verdict}**: {signal.statistic:.3f}, threshold {signal.threshold:.3f} (false alarms: "
        f"{signal.false_alarm_rate:.0%}, per {signal.alarms_per})."
    )


def _history(found: list[SignalRecord]) -> dg.MetadataValue:
    judged = [record for record in found if record.signal.statistic is not None]
    if not judged:
        return dg.MetadataValue.md("No day has been judged yet.")
    return daily_plot(
        [record.day for record in judged],
        {
            "statistic": [record.signal.statistic or 0.0 for record in judged],
            "its threshold": [record.signal.threshold or 0.0 for record in judged],
        },
    )


def _verdict(key: dg.AssetKey, record: SignalRecord) -> dg.AssetCheckResult:
    signal, spec = record.signal, SIGNALS[record.signal.name]
    # Where a sensor acts by itself people are warned; where they must act it is an error.
    asks = spec.consequence in {"block", "alert"} and record.confirmed
    return dg.AssetCheckResult(
        check_name=check_name(signal.name),
        asset_key=key,
        passed=not signal.drifted,
        severity=dg.AssetCheckSeverity.ERROR if asks else dg.AssetCheckSeverity.WARN,
        description=signal.reason,
        metadata={
            "state": signal.state,
            "confirmed": record.confirmed,
            "persistence_days": spec.persistence,
            "consequence": spec.consequence,
        },
    )
