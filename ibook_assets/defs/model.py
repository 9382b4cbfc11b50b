"""Model assets, made from each use case's spec: training set, model, evaluation, promotion."""

import dagster as dg

from ibook_assets.core.settings import Settings
from ibook_assets.core.times import from_us
from ibook_assets.core.use_cases import USE_CASES, UseCase
from ibook_assets.defs.metadata import preview
from ibook_assets.defs.partitions import ML_PLATFORM
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import fails_fast, live_run_check, training_retries


def model_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Four assets a use case."""
    return [
        make(use_case, settings)
        for use_case in USE_CASES.values()
        for make in (_training_set, _model, _evaluation, _promotion)
    ]


def _training_set(use_case: UseCase, settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=[use_case.name, "training_set"],
        deps=[
            ["facts", "transactions"],
            ["facts", "outcomes"],
            *(["features", view] for view in use_case.views),
        ],
        group_name=use_case.name,
        owners=[ML_PLATFORM],
        kinds={"parquet"},
        description=(
            "Point-in-time features and labels of every order whose label had time to arrive, as of "
            "the end of the last day. Its data version is the hash of the manifest that names every "
            "file it was read from."
        ),
        retry_policy=training_retries(settings),
    )
    @fails_fast
    def training_set(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> dg.MaterializeResult[None]:
        from ibook_assets.stores.training_data import read_training_data, store_training_data

        data = read_training_data(lake.tables, use_case, maturity_days=settings.label_maturity_days)
        commit = live_run_check(context)
        receipt = store_training_data(lake.tables, use_case, data, precommit=commit)
        frauds = int(data.table[use_case.label].to_numpy().sum())
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": receipt.rows,
                "frauds": frauds,
                "fraud_share": frauds / receipt.rows,
                "as_of": from_us(data.as_of_us).isoformat(),
                "snapshot_id": data.manifest.snapshot_id,
                "files": len(data.manifest.entries),
                "preview": preview(data.table.select(data.table.column_names[:8])),
            },
            data_version=dg.DataVersion(data.manifest.snapshot_id),
        )

    return training_set
