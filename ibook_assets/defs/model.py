"""Model assets, made from each use case's spec: training set, model, evaluation, promotion."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import dagster as dg
from pydantic import Field

from ibook_assets.core.errors import ConflictError
from ibook_assets.core.rollout import Entrant, Target, entrant
from ibook_assets.core.rollout_plan import plan_of
from ibook_assets.core.settings import Settings
from ibook_assets.core.times import from_us
from ibook_assets.core.use_cases import USE_CASES, UseCase
from ibook_assets.defs.metadata import png, preview, records
from ibook_assets.defs.partitions import FRAUD_SCIENCE, ML_PLATFORM
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import actor_of, fails_fast, live_run_check, training_retries
from ibook_assets.defs.tracking import TrackingResource
from ibook_assets.stores.code_version import git_sha
from ibook_assets.stores.rollouts import Rollouts

Place = Literal[Target, "rollout"]
"""What a run may ask for its model."""

ROLLED_OUT: Final = "rollout"
"""Asks for a rollout, which ends at the champion's place; the first model has that at once."""


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
            "Point-in-time features and labels of every order whose label had time to arrive, "
            "as of the end of the last day. Its data version is the hash of the manifest that "
            "names every file it was read from."
        ),
        retry_policy=training_retries(settings),
    )
    @fails_fast
    def training_set(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> dg.MaterializeResult[None]:
        from ibook_assets.stores.training_data import read_training_data, store_training_data

        _require_place(context, lake, use_case, settings)
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


def _model(use_case: UseCase, settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=[use_case.name, "model"],
        deps=[[use_case.name, "training_set"]],
        group_name=use_case.name,
        owners=[FRAUD_SCIENCE],
        kinds={"xgboost", "optuna", "mlflow"},
        description=(
            f"{use_case.description} Trees searched by Optuna on a later slice of the training "
            "rows, then calibrated; the threshold minimises the expected cost."
        ),
        retry_policy=training_retries(settings),
    )
    @fails_fast
    def model(
        context: dg.AssetExecutionContext, lake: LakeResource, tracking: TrackingResource
    ) -> dg.MaterializeResult[None]:
        from ibook_assets.stores.training_data import newest_snapshot, read_training_set
        from ibook_assets.training.candidates import new_candidate, store_candidate
        from ibook_assets.training.pipeline import train

        _require_place(context, lake, use_case, settings)
        snapshot = newest_snapshot(lake.tables, use_case.name)
        trained = train(
            read_training_set(lake.tables, use_case.name, snapshot),
            use_case,
            snapshot=snapshot,
            studies=settings.home / "optuna" / "studies.db",
            trials=settings.tuning_trials,
            threads=settings.training_threads,
        )
        bundle = trained.fitted.bundle
        with tracking.run(context, use_case.name) as (_, run):
            run.log(parameters=bundle.info.parameters, metrics=trained.metrics)
            registered = run.register(bundle, model_name=use_case.name)
        live_run_check(context)()
        candidate = new_candidate(bundle, git_sha=git_sha(settings), mlflow_run_id=run.run_id)
        store_candidate(lake.blobs, bundle, candidate)
        return dg.MaterializeResult(
            metadata={
                "version": bundle.version,
                "training_rows": bundle.info.training_rows,
                "training_frauds": bundle.info.training_frauds,
                "training_snapshot": snapshot,
                "trees": trained.fitted.rounds,
                "threshold": bundle.threshold,
                "mlflow_run_id": run.run_id,
                "registry_version": registered.version,
                "parameters": records([dict(bundle.info.parameters)]),
                **{name: value for name, value in trained.metrics.items() if value is not None},
            },
            data_version=dg.DataVersion(bundle.version),
        )

    return model


def _evaluation(use_case: UseCase, settings: Settings) -> dg.AssetsDefinition:
    key = dg.AssetKey([use_case.name, "evaluation"])

    @dg.asset(
        key=key,
        deps=[
            [use_case.name, "model"],
            [use_case.name, "training_set"],
            *([["truth", "orders"]] if settings.source == "simulator" else []),
        ],
        group_name=use_case.name,
        owners=[FRAUD_SCIENCE],
        kinds={"mlflow"},
        description=(
            "The newest model beside the champion on mature orders that neither has learnt from, "
            "with confidence intervals, sub-populations and, on simulated data, the share of the "
            "best possible average precision."
        ),
        retry_policy=training_retries(settings),
        check_specs=[
            dg.AssetCheckSpec("gate", asset=key, description="Every rule of the gate holds.")
        ],
    )
    @fails_fast
    def evaluation(
        context: dg.AssetExecutionContext, lake: LakeResource, tracking: TrackingResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        from ibook_assets.training.candidates import find_candidate
        from ibook_assets.training.promote import judge_candidate
        from ibook_assets.training.verdicts import store_verdict

        candidate = find_candidate(lake.blobs, use_case.name)
        verdict = judge_candidate(lake.tables, use_case, candidate)
        stored = store_verdict(lake.blobs, use_case, verdict)
        with tracking.run(context, use_case.name, mlflow_run_id=candidate.mlflow_run_id) as (
            _,
            run,
        ):
            run.log(
                metrics=verdict.evaluation.headline,
                files={**stored.figures, "evaluation.html": stored.page.encode()},
            )
        rules = records(verdict.gate.as_dict()["rules"])
        shown = {k: v for k, v in verdict.evaluation.headline.items() if v is not None}
        yield dg.MaterializeResult(
            metadata={
                "version": candidate.version,
                "report": dg.MetadataValue.path(stored.report),
                "precision_recall": png(
                    stored.figures["precision_recall.png"], "Precision, recall"
                ),
                "calibration": png(stored.figures["calibration.png"], "Calibration"),
                "gate": rules,
                **shown,
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name="gate",
                    passed=verdict.gate.passed,
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata={"rules": rules},
                )
            ],
        )

    return evaluation


class PromotionConfig(dg.Config):
    """The place a run gives the newest model; the champion's by default."""

    target: Place = Field(
        default="champion",
        description=(
            "`champion`, `canary`, `shadow`, `treatment`, or `rollout`: one after the other, each "
            "judged. Without a champion a rollout's model becomes the first."
        ),
    )
    share: float | None = Field(
        default=None, ge=0, le=1, description="Share of users beside the champion."
    )
    experiment: str | None = Field(
        default=None, description="Experiment that a treatment belongs to."
    )

    @property
    def beside(self) -> Entrant | None:
        """The place beside the champion; None asks for another's. ContractError: it is none."""
        target: Target = "champion" if self.target == ROLLED_OUT else self.target
        return entrant(target, share=self.share, experiment=self.experiment)


def promotion_step(use_case: UseCase) -> str:
    """Name of the step that a run's config gives the model's place."""
    return f"{use_case.name}__promotion"


def _require_place(
    context: dg.AssetExecutionContext, lake: LakeResource, use_case: UseCase, settings: Settings
) -> None:
    """End a run before it trains a model that could not have the place its config asks for."""
    from ibook_assets.training.promote import require_place

    asked: Mapping[str, Any] = context.run.run_config
    given = asked.get("ops", {}).get(promotion_step(use_case), {}).get("config", {})
    config = PromotionConfig(**given)
    beside = config.beside
    if beside is not None:
        require_place(lake.tables, use_case, beside)
    if config.target == ROLLED_OUT:
        plan_of(settings)
        obstacle = Rollouts(lake.blobs).obstacle(use_case.name)
        if obstacle is not None:
            msg = f"{use_case.name}: {obstacle}"
            raise ConflictError(msg)


def _promotion(use_case: UseCase, settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=[use_case.name, "promotion"],
        # The model and the rows it judges, too: with evaluation left out of a selection the order
        # of the other steps would be open, and the model before would be promoted.
        deps=[[use_case.name, name] for name in ("training_set", "model", "evaluation")],
        group_name=use_case.name,
        owners=[ML_PLATFORM],
        kinds={"json"},
        description=(
            "The newest entry of the promotion log: which model serves, and which stand beside it. "
            "The gate is judged here once more, on the stored model, before the entry is written. "
            "A run's config can give another place (`target: canary`, `share: 0.05`), or begin a "
            "rollout by itself (`target: rollout`), as runs do that a sensor or schedule asked for."
        ),
        retry_policy=training_retries(settings),
    )
    @fails_fast
    def promotion(
        context: dg.AssetExecutionContext,
        config: PromotionConfig,
        lake: LakeResource,
        tracking: TrackingResource,
    ) -> dg.MaterializeResult[None]:
        from ibook_assets.core.model_card import card_key
        from ibook_assets.core.model_card_page import card_page
        from ibook_assets.training.candidates import find_candidate
        from ibook_assets.training.cards import write_card
        from ibook_assets.training.promote import promote_candidate

        beside = config.beside
        if config.target == ROLLED_OUT and lake.promotions.current(use_case.name) is not None:
            return _rollout_begun(context, lake, use_case, settings)
        candidate = find_candidate(lake.blobs, use_case.name)
        record = promote_candidate(
            lake.tables,
            use_case,
            candidate,
            actor=actor_of(context.run.run_id),
            reason="the gate opened",
            beside=beside,
            precommit=live_run_check(context),
        )
        registry = tracking.registry(use_case.name)
        registry.mirror_champion(lake.promotions.history(use_case.name))
        entered = next(m for m in record.models if m.model_version == candidate.version)
        card = write_card(lake.blobs, use_case, candidate.version)
        kept = card_key(use_case.name, card.version, suffix="md")
        return dg.MaterializeResult(
            metadata={
                "sequence": record.sequence,
                "entry": record.subject,
                "version": entered.model_version,
                "champion": record.model_version,
                "previous_version": record.previous_version or "none",
                "actor": record.actor,
                "reason": record.reason,
                "threshold": entered.threshold,
                "training_snapshot": entered.training_snapshot,
                "gate": records(rule.model_dump() for rule in entered.gate.rules),
                "card": dg.MetadataValue.md(card_page(card).decode()),
                "card_file": dg.MetadataValue.path(lake.blobs.location(kept)),
                "roll_back": dg.MetadataValue.md(f"`ibook rollback {use_case.name} --reason …`"),
                "withdraw": dg.MetadataValue.md(f"`ibook withdraw {use_case.name} --reason …`"),
            },
            data_version=dg.DataVersion(record.sha256),
        )

    return promotion


def _rollout_begun(
    context: dg.AssetExecutionContext, lake: LakeResource, use_case: UseCase, settings: Settings
) -> dg.MaterializeResult[None]:
    """The newest model as the candidate of a rollout, which judges the gate next."""
    from ibook_assets.training.candidates import find_candidate
    from ibook_assets.training.rollout import enter_rollout

    candidate = find_candidate(lake.blobs, use_case.name)
    entered = enter_rollout(
        lake.tables,
        candidate,
        plan_of(settings),
        actor=actor_of(context.run.run_id),
        reason=f"trained by {context.run.job_name}",
        precommit=live_run_check(context),
    )
    if entered.entry is None:
        context.log.warning(entered.note)
    record = lake.promotions.require_current(use_case.name)
    return dg.MaterializeResult(
        metadata={
            "note": entered.note,
            "version": candidate.version,
            "champion": record.model_version,
            "sequence": record.sequence,
            "entry": record.subject,
            "follow": dg.MetadataValue.md(f"`ibook rollout status {use_case.name}`"),
        },
        data_version=dg.DataVersion(record.sha256),
    )
