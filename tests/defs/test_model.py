"""Training set to promotion through Dagster, on a small world with enough frauds for a verdict."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner, Result

from ibook_assets.cli import app
from ibook_assets.core.canonical import sha256_hex
from ibook_assets.core.errors import ContractError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.manifest import SnapshotManifest
from ibook_assets.core.model_card_page import card_page
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD, USE_CASES
from ibook_assets.stores.feature_days import feature_table
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.registry import CHALLENGER, CHAMPION, RELEASE, ModelRegistry
from ibook_assets.stores.rollouts import Rollouts
from ibook_assets.stores.training_data import newest_snapshot
from ibook_assets.training.candidates import find_candidate
from ibook_assets.training.cards import read_card
from tests.defs.conftest import run
from tests.quick_fraud import QUICK
from tests.serving.harness import promote, small_bundle

pytestmark = [
    # MLflow's own, at its first database and model of a process.
    pytest.mark.filterwarnings("ignore:.*``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

DAILY = [
    ["truth", "orders"],
    *(["raw", name] for name in ("transactions", "views", "refunds", "outcomes")),
    *(["facts", name] for name in ("transactions", "views", "refunds", "outcomes")),
    *(["features", view.name] for view in FEATURE_VIEWS),
]
TRAINING_SET, MODEL, EVALUATION, PROMOTION = (
    ["fraud", name] for name in ("training_set", "model", "evaluation", "promotion")
)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fraud use case with an open gate and few trees."""
    monkeypatch.setitem(USE_CASES, "fraud", QUICK)


def settings_in(home: Path) -> Settings:
    return Settings(
        home=home,
        sim_users=2_000,
        sim_events=30,
        sim_orders_per_day=400,
        label_maturity_days=5,
        tuning_trials=1,
        training_threads=1,
        task_retries=0,
    )


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw rows, facts and features of thirty days."""
    home = tmp_path_factory.mktemp("month")
    run(settings_in(home), [["raw", "events"], *DAILY], days=("2026-01-01", "2026-01-30"))
    return home / "lake"


@pytest.fixture
def shop(month: Path, tmp_path: Path) -> Iterator[Settings]:
    """A platform of its own with the month's data and nothing trained."""
    home = tmp_path / "home"
    shutil.copytree(month, home / "lake", copy_function=os.link)
    yield settings_in(home)
    import mlflow

    assert "MLFLOW_TRACKING_URI" not in os.environ, "settings built later would inherit it"
    assert mlflow.active_run() is None, "a step left its MLflow run open for the next one"


def lake_of(settings: Settings) -> Lake:
    return Lake(LocalBlobs(settings.lake))


def history(settings: Settings) -> list[PromotionRecord]:
    return PromotionLog(lake_of(settings).blobs).history("fraud")


def mlflow_states(settings: Settings) -> list[str]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=settings.tracking_uri)
    experiment = client.get_experiment_by_name("fraud")
    assert experiment is not None
    return [found.info.status for found in client.search_runs([experiment.experiment_id])]


def data_version(result: dg.ExecuteInProcessResult, key: list[str]) -> str:
    tags = result.asset_materializations_for_node("__".join(key))[0].tags
    assert tags is not None
    return tags["dagster/data_version"]


@pytest.mark.usefixtures("lenient")
def test_training_set_to_promotion_and_nothing_is_promoted_twice(shop: Settings) -> None:
    result = run(shop, [TRAINING_SET, MODEL, EVALUATION, PROMOTION])
    lake = lake_of(shop)

    snapshot = newest_snapshot(lake, "fraud")
    stored = lake.blobs.get(f"manifests/{snapshot}.json")
    manifest = SnapshotManifest.model_validate_json(stored)
    assert data_version(result, TRAINING_SET) == snapshot == manifest.snapshot_id
    assert sha256_hex(stored) == snapshot
    lake.verify(manifest.entries)
    tables = {entry.table for entry in manifest.entries}
    features = {feature_table(view) for view in FEATURE_VIEWS}
    assert tables == {"facts/transactions", "facts/outcomes", *features}
    # 30 days of outcomes; of orders and features the 25 whose labels had 5 days to arrive.
    assert len(manifest.entries) == 30 + 25 * (1 + len(FEATURE_VIEWS))

    candidate = find_candidate(lake.blobs, "fraud")
    (record,) = history(shop)
    assert data_version(result, MODEL) == candidate.version == record.model.model_version
    assert data_version(result, PROMOTION) == record.sha256
    assert record.model.training_snapshot == snapshot
    card = read_card(lake.blobs, FRAUD)
    assert card.provenance.record_sha256 == record.sha256
    assert card.measured is not None
    assert card.evaluation_is_the_gates is True
    assert (card.training_data.first_day, card.training_data.last_day) == (
        "2026-01-01",
        "2026-01-25",
    )
    (promoted,) = result.asset_materializations_for_node("fraud__promotion")
    assert promoted.metadata["card"].value == card_page(card).decode()
    assert record.model.mlflow_run_id == candidate.mlflow_run_id
    assert mlflow_states(shop) == ["FINISHED"]
    registry = ModelRegistry(shop.tracking_uri, "fraud")
    assert registry.version_of("fraud", CHALLENGER) == "1"
    assert registry.version_of("fraud", CHAMPION) == "1"

    # The same snapshot gives the same model, and a model that serves is not promoted anew.
    again = run(shop, [MODEL, PROMOTION])
    assert data_version(again, MODEL) == candidate.version
    assert data_version(again, PROMOTION) == record.sha256
    assert history(shop) == [record]


@pytest.mark.usefixtures("lenient")
def test_a_second_model_is_compared_with_the_champion_and_can_be_rolled_back(
    shop: Settings,
) -> None:
    run(shop, [TRAINING_SET, MODEL, PROMOTION])
    # Chargebacks take weeks: it is February before those of late January are known.
    run(shop, DAILY, days=("2026-01-31", "2026-02-18"))
    run(shop, [TRAINING_SET, MODEL, PROMOTION])
    first, second = history(shop)
    assert second.model.model_version != first.model.model_version
    assert second.model.training_snapshot != first.model.training_snapshot
    assert second.model.gate.champion_version == first.model.model_version
    assert "gain_over_champion" in {rule.name for rule in second.model.gate.rules}
    registry = ModelRegistry(shop.tracking_uri, "fraud")
    assert registry.version_of("fraud", CHAMPION) == "2"

    command = ["rollback", "fraud", "--reason", "too many reviews", "--actor", "ana", "--json"]
    answer = CliRunner().invoke(app, command, env={"IBOOK_HOME": str(shop.home)})
    assert answer.exit_code == 0, answer.output
    rolled_back = history(shop)[-1]
    assert (rolled_back.sequence, rolled_back.action, rolled_back.restores) == (3, "rollback", 1)
    assert (rolled_back.actor, rolled_back.reason) == ("ana", "too many reviews")
    assert rolled_back.model == first.model
    (told,) = json.loads(answer.stdout)
    served = first.model.model_version
    assert set(told.pop("cards")) == set(told.pop("artefacts")) == {served}
    assert told.pop("releases") == {served: "v1.0.0"}
    assert told == rolled_back.model_dump(mode="json")
    assert registry.version_of("fraud", CHAMPION) == "1"
    releases = {version: held.tags[RELEASE] for version, held in registry.held("fraud").items()}
    assert releases == {served: "v1.0.0", second.model.model_version: "v1.1.0"}


@pytest.mark.usefixtures("lenient")
def test_a_run_can_start_a_rollout_and_the_command_line_goes_on_with_it(shop: Settings) -> None:
    def ibook(*command: str) -> Result:
        return CliRunner().invoke(app, list(command), env={"IBOOK_HOME": str(shop.home)})

    canary = {"fraud__promotion": {"target": "canary", "share": 0.2}}
    alone = run(shop, [TRAINING_SET, MODEL, PROMOTION], config=canary, raise_on_error=False)
    (failed,) = alone.get_step_failure_events()
    assert failed.step_key == "fraud__training_set", "asked before anything was trained"
    assert "a canary stands beside a champion and there is none" in str(failed.event_specific_data)
    assert history(shop) == []

    run(shop, [TRAINING_SET, MODEL])
    first = promote(shop, small_bundle("fraud-old", seed=1))
    result = run(shop, [PROMOTION], config=canary)
    candidate = find_candidate(lake_of(shop).blobs, "fraud")
    (_, entry) = history(shop)
    (challenger,) = entry.challengers
    assert data_version(result, PROMOTION) == entry.sha256
    assert (entry.action, entry.model) == ("challenge", first.model)
    assert (challenger.model.model_version, challenger.share) == (candidate.version, 0.2)
    assert challenger.model.gate.champion_version == "fraud-old"
    run(shop, [PROMOTION], config=canary)
    assert history(shop) == [first, entry], "what has its place already is left alone"

    grown = ibook("promote", "fraud", "--as", "canary", "--share", "0.5", "--reason", "well")
    assert grown.exit_code == 0, grown.output
    newest = history(shop)[-1]
    assert (newest.challengers[0].share, newest.salt) == (0.5, entry.salt)
    assert newest.challengers[0].model == challenger.model, "judged once"
    shown = json.loads(ibook("history", "fraud", "--json").stdout)
    assert [len(row.get("challengers", [])) for row in shown] == [0, 1, 1]
    assert "canary" in ibook("history", "fraud").stdout

    taken = ibook("withdraw", "fraud", "--variant", "shadow", "--reason", "slow")
    assert (taken.exit_code, taken.stdout) == (1, "")
    assert "shadow challenges; challengers are ['canary']" in taken.stderr
    assert ibook("withdraw", "fraud", "--reason", "slow").exit_code == 0
    assert history(shop)[-1].challengers == ()
    experiment = ("--as", "treatment", "--experiment", "exp-1", "--variant", "treatment-b")
    assert ibook("promote", "fraud", *experiment, "--reason", "worth it").exit_code == 0
    newest = history(shop)[-1]
    assert (newest.experiment, newest.challengers[0].variant) == ("exp-1", "treatment-b")
    assert ibook("promote", "fraud", "--reason", "it won").exit_code == 0
    newest = history(shop)[-1]
    assert (newest.model_version, newest.challengers) == (candidate.version, ())


@pytest.mark.usefixtures("lenient")
def test_a_run_that_asks_for_a_rollout_trains_a_candidate_and_promotes_nothing(
    shop: Settings,
) -> None:
    rolled_out = {"fraud__promotion": {"target": "rollout"}}
    steps = [TRAINING_SET, MODEL, PROMOTION]
    run(shop, steps, config=rolled_out)
    (first,) = history(shop)
    rollouts = Rollouts(lake_of(shop).blobs)
    assert rollouts.newest("fraud") is None, "the first model is the champion at once"

    run(shop, DAILY, days=("2026-01-31", "2026-02-05"))
    result = run(shop, steps, config=rolled_out)
    candidate = find_candidate(lake_of(shop).blobs, "fraud")
    (entry,) = rollouts.history("fraud")
    assert (entry.version, entry.state, entry.champion) == (
        candidate.version,
        "candidate",
        first.model_version,
    )
    assert entry.actor == f"dagster run {result.run_id}"
    # A step that is run again after a crash begins nothing twice.
    run(shop, [PROMOTION], config=rolled_out)
    again = run(shop, [PROMOTION], config=rolled_out)
    (told,) = again.asset_materializations_for_node("fraud__promotion")
    assert (
        told.metadata["note"].value == f"{candidate.version} was rolled out before and is candidate"
    )
    assert (rollouts.history("fraud"), history(shop)) == ([entry], [first])

    taken = run(shop, steps, config=rolled_out, raise_on_error=False)
    (failed,) = taken.get_step_failure_events()
    assert failed.step_key == "fraud__training_set"
    assert f"the rollout of {candidate.version} is on its way" in str(failed.event_specific_data)


def test_a_closed_gate_ends_the_run_and_promotes_nothing(
    shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No model of the world recalls every fraud at 1 % false positives.
    gate = dataclasses.replace(QUICK.gate, min_recall=1.0)
    strict = dataclasses.replace(QUICK, gate=gate)
    monkeypatch.setitem(USE_CASES, "fraud", strict)
    keys = [TRAINING_SET, MODEL, EVALUATION, PROMOTION]
    result = run(shop.model_copy(update={"task_retries": 2}), keys, raise_on_error=False)

    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("gate", False)
    (failed,) = result.get_step_failure_events()
    assert failed.step_key == "fraud__promotion"
    assert "GateClosedError: fraud: the gate is closed: needs recall_at_fpr" in str(
        failed.event_specific_data
    )
    assert dg.DagsterEventType.STEP_UP_FOR_RETRY not in {e.event_type for e in result.all_events}
    assert history(shop) == []
    assert ModelRegistry(shop.tracking_uri, "fraud").version_of("fraud", CHAMPION) is None


@pytest.mark.usefixtures("lenient")
def test_a_failure_while_logging_leaves_the_mlflow_run_failed_and_no_candidate(
    shop: Settings,
) -> None:
    blocked = shop.home / "mlflow" / "artifacts"
    blocked.parent.mkdir()
    blocked.write_text("a file where MLflow wants its folder")
    result = run(shop, [TRAINING_SET, MODEL], raise_on_error=False)
    assert not result.success
    assert mlflow_states(shop) == ["FAILED"]
    with pytest.raises(ContractError, match="Materialise fraud/model first"):
        find_candidate(lake_of(shop).blobs, "fraud")

    blocked.unlink()
    run(shop, [MODEL])
    assert sorted(mlflow_states(shop)) == ["FAILED", "FINISHED"]
