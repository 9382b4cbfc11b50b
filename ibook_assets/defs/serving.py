"""What serving reads beside the model: the online snapshot of recent facts."""

import dagster as dg

from ibook_assets.core.facts import FACT_TABLES
from ibook_assets.core.settings import Settings
from ibook_assets.defs.partitions import ML_PLATFORM, SERVING
from ibook_assets.defs.resources import LakeResource, OnlineResource
from ibook_assets.defs.runs import fails_fast, feature_retries, live_run_check


def serving_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The online snapshot."""
    return [_online_snapshot(settings)]


def _online_snapshot(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=["serving", "online_snapshot"],
        deps=[["raw", "events"], *(["facts", spec.name] for spec in FACT_TABLES)],
        group_name=SERVING,
        owners=[ML_PLATFORM],
        kinds={"lmdb"},
        description=(
            "Recent facts of every user, event, promoter, card, device and address, packed for "
            "the point query: what the scoring server computes features from."
        ),
        retry_policy=feature_retries(settings),
    )
    @fails_fast
    def online_snapshot(
        context: dg.AssetExecutionContext, lake: LakeResource, online: OnlineResource
    ) -> dg.MaterializeResult[None]:
        from ibook_assets.stores.online.facts import read_online_facts

        facts = read_online_facts(lake.tables)
        published = online.writer.publish(
            facts.sources,
            facts.events,
            as_of_us=facts.as_of_us,
            precommit=live_run_check(context),
        )
        return dg.MaterializeResult(
            metadata={
                "as_of": dg.MetadataValue.timestamp(published.as_of_us / 1_000_000),
                "entities": published.entities,
                "bytes": published.bytes,
                "dagster/row_count": sum(t.num_rows for t in facts.sources.values()),
            },
            data_version=dg.DataVersion(published.snapshot_id),
        )

    return online_snapshot
