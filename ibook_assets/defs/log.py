"""The event log as Dagster sees it: what has landed of each topic, observed."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import dagster as dg

from ibook_assets.core.errors import IbookError
from ibook_assets.core.landing import LandedEnds
from ibook_assets.core.messages import topic_of
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import (
    EVENTS,
    EXPERIMENT_OUTCOMES,
    FEATURE_LOG,
    PREDICTIONS,
    RAW_TABLES,
    TableSpec,
)
from ibook_assets.core.times import SECOND_US
from ibook_assets.defs.partitions import DATA_PLATFORM, LOG
from ibook_assets.defs.resources import LakeResource
from ibook_assets.stores.log_files import LogFiles

LOGGED: Final = (*RAW_TABLES, EVENTS, FEATURE_LOG)
"""Tables of the platform's days whose rows come through the log."""

SERVED: Final = (PREDICTIONS, EXPERIMENT_OUTCOMES)
"""Tables that servers write; no other day depends on theirs."""

DATA_VERSION: Final = "dagster/data_version"

BrokerEnds = Mapping[str, Mapping[int, int]]


def log_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """One observable asset for each topic that carries rows."""

    @dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]  # as Dagster ships it
        name="log_topics",
        specs=[
            dg.AssetSpec(
                topic_key(spec),
                group_name=LOG,
                owners=[DATA_PLATFORM],
                kinds={"kafka", "parquet"},
                description=f"Topic `{topic(spec)}` as the sink landed it in the lake.",
            )
            for spec in (*LOGGED, *SERVED)
        ],
        can_subset=True,
    )
    def log_topics(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.ObserveResult]:
        known = (*LOGGED, *SERVED)
        chosen = [spec for spec in known if topic_key(spec) in context.selected_asset_keys]
        for seen in observed(LogFiles(lake.blobs), chosen, settings):
            yield dg.ObserveResult(
                asset_key=seen.asset_key,
                metadata=seen.metadata,
                data_version=dg.DataVersion(seen.tags[DATA_VERSION]),
            )

    return [log_topics]


def topic_key(spec: TableSpec) -> dg.AssetKey:
    """The asset that stands for the topic of `spec`."""
    return dg.AssetKey([LOG, spec.name])


def topic(spec: TableSpec) -> str:
    """Name of the topic that carries rows of `spec`."""
    return topic_of(spec.name)


def landed_ends(files: LogFiles, specs: Sequence[TableSpec] = LOGGED) -> LandedEnds:
    """How far the topics of `specs` have landed."""
    topics = [topic(spec) for spec in specs]
    return LandedEnds(topics={name: files.ends(name) for name in topics})


def observed(
    files: LogFiles, specs: Sequence[TableSpec], settings: Settings
) -> list[dg.AssetObservation]:
    """What has landed of the topics of `specs`, and how far the broker is ahead of it.

    A broker that does not answer is a line in the metadata, not a failure.
    """
    try:
        broker, trouble = _broker_ends(settings, specs), None
    except IbookError as error:
        broker, trouble = {}, str(error)
    return [_observation(files, spec, broker, trouble) for spec in specs]


def _observation(
    files: LogFiles, spec: TableSpec, broker: BrokerEnds, trouble: str | None
) -> dg.AssetObservation:
    name = topic(spec)
    ends = files.ends(name)
    landed = files.files(name)
    metadata: dict[str, Any] = {
        "landed_offsets": {str(number): end for number, end in ends.items()},
        "files": len(landed),
        "dagster/row_count": sum(file.rows for file in landed),
        "refused_rows": sum(file.refused for file in landed),
        **_freshness([file.last_known_ts for file in landed]),
        **_lag(ends, broker.get(name), trouble),
    }
    version = LandedEnds(topics={name: ends}).revision
    return dg.AssetObservation(topic_key(spec), metadata=metadata, tags={DATA_VERSION: version})


def _freshness(known_ts: Sequence[int | None]) -> dict[str, Any]:
    newest_us = max((known for known in known_ts if known is not None), default=None)
    if newest_us is None:
        return {}
    return {
        "newest_known": dg.MetadataValue.timestamp(newest_us / SECOND_US),
        "freshness_seconds": time.time() - newest_us / SECOND_US,
    }


def _lag(
    landed: Mapping[int, int], broker: Mapping[int, int] | None, trouble: str | None
) -> dict[str, Any]:
    if broker is None:
        return {"broker": trouble or "the broker has no such topic"}
    return {
        "broker_offsets": {str(number): end for number, end in broker.items()},
        "lag": sum(max(0, end - landed.get(number, 0)) for number, end in broker.items()),
    }


def _broker_ends(settings: Settings, specs: Sequence[TableSpec]) -> BrokerEnds:
    """The broker's own next offsets, of the topics it has; StoreUnavailableError without it."""
    from ibook_assets.stores.log import (
        LogAddress,
        answering,
        end_offsets,
        open_consumer,
        partitions_of,
    )

    address = LogAddress(settings.kafka_bootstrap)
    consumer = open_consumer(address)
    try:
        with answering(address):
            there = consumer.topics()
        partitions = [
            partition
            for name in map(topic, specs)
            if name in there
            for partition in partitions_of(address, consumer, name)
        ]
        found: dict[str, dict[int, int]] = {}
        for partition, end in end_offsets(address, consumer, partitions).items():
            found.setdefault(partition.topic, {})[partition.partition] = end
        return found
    finally:
        consumer.close()
