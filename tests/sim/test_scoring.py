"""A trained model as the scorer of a run: features as the assets compute them, nothing too soon."""

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import xgboost as xgb
from typer.testing import CliRunner

from ibook_assets.core.arrow import array, integers, pc
from ibook_assets.core.errors import ContractError, IntegrityError, NoPromotedModelError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EVENTS, RAW_TABLES
from ibook_assets.core.times import DAY_US, day_of, day_start_us
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle, model_bytes, sha256_hex
from ibook_assets.stores.contracts import validate
from ibook_assets.stores.fact_days import FACT_DAYS
from ibook_assets.stores.feature_days import feature_days, feature_table
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_sim.chaos import NO_CHAOS, Chaos, deliver
from ibook_sim.cli import app
from ibook_sim.judging.validators import oracle_precision
from ibook_sim.offline.running import planned, run
from ibook_sim.offline.scoring import HISTORY_DAYS, ModelScorer, champion, model_in, model_scorer
from ibook_sim.scenarios import Scenario, scenario
from ibook_sim.world import World, WorldConfig, days_from
from ibook_sim.world.randomness import Floats
from tests.defs.conftest import run as materialise
from tests.serving.harness import promote, small_bundle

SHOP = Scenario(
    name="small-shop",
    description="An ordinary stream in a small shop.",
    world={"users": 4_000, "events": 80, "orders_per_day": 300},
)
"""Small enough to be played in a second."""


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    """A model that reads every feature there is."""
    return small_bundle("fraud-v1", seed=1)


@pytest.fixture(scope="module")
def scorer(bundle: ModelBundle) -> ModelScorer:
    return ModelScorer(bundle, "a model of everything")


def orders_of(world: World, first: int, days: int) -> pa.Table:
    dates = days_from(world.config.start_date, first + days)[first:]
    return pa.concat_tables([world.transactions(day) for day in dates])


def same_bits(found: npt.NDArray[np.float32], expected: pa.Table, name: str) -> None:
    column = FRAUD.features.index(name)
    wanted = expected[name.partition(":")[2]].to_numpy()
    assert found[:, column].tobytes() == wanted.tobytes(), name


def test_features_are_those_of_the_batch_assets(scorer: ModelScorer, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, sim_users=400, sim_events=20, sim_orders_per_day=60, label_maturity_days=5
    )
    daily = [
        *([group, spec.name] for group in ("raw", "facts") for spec in RAW_TABLES),
        *(["features", item.name] for item in FEATURE_VIEWS),
    ]
    materialise(settings, [["raw", "events"], *daily], days=("2026-01-01", "2026-01-09"))
    lake = Lake(LocalBlobs(settings.lake))
    world = World(WorldConfig.from_settings(settings))
    orders = orders_of(world, 7, 2)
    found = scorer.features(orders, world=world, chaos=NO_CHAOS)
    assert np.isfinite(found).any(axis=0).mean() > 0.9
    for item in FEATURE_VIEWS:
        stored = lake.read(feature_table(item), ["2026-01-08", "2026-01-09"])
        assert stored["transaction_id"].equals(orders["transaction_id"])
        for name in item.qualified_names:
            same_bits(found, stored, name)


def test_features_under_chaos_are_those_of_what_arrived(
    scorer: ModelScorer, tmp_path: Path
) -> None:
    chaos = scenario("system-degradation").chaos.model_copy(update={"late_label_share": 0.5})
    config = WorldConfig(users=1_000, events=40, orders_per_day=120, label_maturity_days=10)
    world = World(config)
    orders = orders_of(world, 20, 2)
    days = [day.isoformat() for day in days_from(config.start_date, 22)]
    lake = landed(world, chaos, days, Lake(LocalBlobs(tmp_path)))
    found = scorer.features(orders, world=world, chaos=chaos)
    facts = lake.read("facts/transactions", days[-2:])
    # Features of an order are as of its arrival: compare those that arrived as they were sent.
    moved = integers(orders["known_ts"], null=0)
    sent = dict(zip(integers(orders["transaction_id"], null=0), moved, strict=True))
    ids, arrived = (integers(facts[name], null=0) for name in ("transaction_id", "known_ts"))
    same = np.array([sent.get(key) == at for key, at in zip(ids, arrived, strict=True)])
    assert 0.9 < same.mean() < 1.0
    at = {key: row for row, key in enumerate(sent)}
    rows = np.array([at[key] for key in ids[same]])
    for item in FEATURE_VIEWS:
        values = pa.concat_tables([table for _, table in feature_days(lake, item, days[-2:])])
        for name in item.qualified_names:
            same_bits(found[rows], values.filter(array(same)), name)


def landed(world: World, chaos: Chaos, days: list[str], lake: Lake) -> Lake:
    """A lake with what arrived and the facts made of it, a day at a time, as the assets do it."""
    tables = [dict(world.day(date.fromisoformat(day)).items()) for day in days]
    for spec in RAW_TABLES:
        rows = pa.concat_tables([table[spec.name] for table in tables])
        arrived = deliver(rows, spec, chaos, seed=world.config.seed).rows
        # A day at a time would refuse and drop the same rows: none is conflicting.
        kept = validate(arrived, spec, source="test", one_delivery=False).accepted
        known_on = integers(kept["known_ts"], null=0) // DAY_US
        for day in days:
            number = day_start_us(date.fromisoformat(day)) // DAY_US
            lake.write(f"raw/{spec.name}", day, kept.filter(array(known_on == number)), spec=spec)
    catalogue = world.catalogue(date.fromisoformat(days[-1])).events
    lake.write(f"raw/{EVENTS.name}", None, catalogue, spec=EVENTS)
    for spec in RAW_TABLES:
        for day, facts in FACT_DAYS[spec.name](lake, days):
            lake.write(f"facts/{spec.name}", day, facts.table)
    return lake


def test_a_label_counts_from_when_it_became_known(scorer: ModelScorer) -> None:
    world = World(SHOP.config(7))
    orders = orders_of(world, 60, 1)
    known = FRAUD.features.index("promoter_risk:known_outcomes_30d")
    in_time = scorer.features(orders, world=world, chaos=NO_CHAOS)[:, known]
    # Half a year late on average: of 60 days' labels hardly any is known.
    late = Chaos(late_label_share=1.0, late_label_days=180.0)
    too_late = scorer.features(orders, world=world, chaos=late)[:, known]
    assert (too_late <= in_time).all()
    assert too_late.sum() < 0.2 * in_time.sum()


def test_what_comes_after_an_order_changes_nothing(scorer: ModelScorer) -> None:
    world = World(SHOP.config(7))
    orders = orders_of(world, 50, 2)
    together = scorer.features(orders, world=world, chaos=NO_CHAOS)
    alone = scorer.features(orders.slice(0, 40), world=world, chaos=NO_CHAOS)
    assert together[:40].tobytes() == alone.tobytes()


@dataclass
class Witness:
    """Scores nothing, but remembers what it was asked."""

    model: ModelScorer
    asked: list[tuple[pa.Table, World, Chaos]]
    name = "witness"

    def warm_up_days(self, start: date) -> int:
        return self.model.warm_up_days(start)

    def score(self, orders: pa.Table, *, world: World, chaos: Chaos) -> Floats:
        self.asked.append((orders, world, chaos))
        return np.zeros(orders.num_rows)


@pytest.mark.parametrize(("learnt_days", "first"), [(20, HISTORY_DAYS), (99.5, 100)])
def test_no_order_is_judged_that_the_model_may_have_learnt_from(
    bundle: ModelBundle, learnt_days: float, first: int
) -> None:
    start = date(2026, 1, 1)
    until_us = day_start_us(start) + int(learnt_days * DAY_US)
    info = bundle.info.model_copy(update={"trained_until_us": until_us})
    model = ModelScorer(ModelBundle(info, bundle.files()["model.ubj"]), "late learner")
    witness = Witness(model, [])
    run(planned(SHOP, seed=7, orders=200), scorer=witness)
    ((orders, world, chaos),) = witness.asked
    assert (world.config, chaos) == (SHOP.config(7), SHOP.chaos)
    earliest = pc.min(orders["known_ts"]).as_py()
    assert (day_of(earliest) - start).days == first
    assert earliest >= until_us


def test_a_trained_model_comes_much_closer_to_the_bound_than_the_row_alone(
    scorer: ModelScorer, bundle: ModelBundle
) -> None:
    taught = World(SHOP.config(1))
    days = days_from(taught.config.start_date, HISTORY_DAYS + 40)[HISTORY_DAYS:]
    x = scorer.features(orders_of(taught, HISTORY_DAYS, 40), world=taught, chaos=NO_CHAOS)
    truth = pa.concat_tables(list(taught.truth(days).values()))
    labels = integers(truth["archetype"], null=0) > 0
    booster = xgb.train(
        {"objective": "binary:logistic", "max_depth": 4, "eta": 0.15, "nthread": 1,
         "colsample_bytree": 0.3, "seed": 1},
        xgb.DMatrix(x, labels),
        num_boost_round=60,
    )  # fmt: skip
    trees = model_bytes(booster)
    info = bundle.info.model_copy(update={"model_sha256": sha256_hex(trees)})
    model = ModelScorer(ModelBundle(info, trees), "forty days' model")
    plan = planned(SHOP, seed=2, orders=9_000)
    own, bound = oracle_precision(run(plan, scorer=model).seen)
    row, row_bound = oracle_precision(run(plan).seen)
    assert own / bound > 0.65
    assert row / row_bound < 0.55


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("IBOOK_HOME", str(tmp_path / "home"))
    return Settings()


def test_without_a_promoted_model_the_next_step_is_named(home: Settings) -> None:
    with pytest.raises(NoPromotedModelError):
        champion(home)
    done = CliRunner().invoke(app, ["run", "drift", "--model", "champion"])
    assert done.exit_code == 2
    assert "make demo" in done.output


def test_the_run_names_the_promoted_model(home: Settings, bundle: ModelBundle) -> None:
    promote(home, bundle)
    asked = ["run", "null", "--drift-transactions", "150", "--model", "champion", "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code in {0, 1}, done.output
    assert json.loads(done.stdout)["scorer"] == "promoted fraud model fraud-v1"


def test_recorded_days_are_left_out_when_a_model_is_judged() -> None:
    asked = ["run-all", "--dry-run", "--json"]
    alone, with_model = (
        {plan["scenario"] for plan in json.loads(CliRunner().invoke(app, [*asked, *more]).stdout)}
        for more in ([], ["--model", "champion"])
    )
    assert alone - with_model == {"replay"}


def test_a_damaged_promoted_model_scores_nothing(home: Settings, bundle: ModelBundle) -> None:
    record = promote(home, bundle)
    trees = Path(home.lake) / record.model.artefact.uri / "model.ubj"
    trees.write_bytes(trees.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match="sha256"):
        champion(home)


def test_a_model_of_other_feature_definitions_is_refused(bundle: ModelBundle) -> None:
    old = {**FRAUD.spec_hashes, "user_risk": "0" * 64}
    info = bundle.info.model_copy(update={"spec_hashes": old})
    with pytest.raises(ContractError, match=r"trained with user_risk.*retrain"):
        ModelScorer(ModelBundle(info, bundle.files()["model.ubj"]), "old")


def test_a_folder_with_a_model_scores_as_the_promoted_one_does(
    home: Settings, bundle: ModelBundle, tmp_path: Path
) -> None:
    promote(home, bundle)
    for name, data in bundle.files().items():
        (tmp_path / name).write_bytes(data)
    plan = planned(SHOP, seed=7, orders=300)
    digests = {run(plan, scorer=s).digest for s in (champion(home), model_in(tmp_path))}
    assert len(digests) == 1
    (tmp_path / "model.ubj").write_bytes(b"other trees")
    with pytest.raises(IntegrityError):
        model_in(tmp_path)


def test_a_folder_without_a_model_is_explained(home: Settings, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"no bundle\.json and no model\.ubj: give 'champion'"):
        model_scorer(str(tmp_path), home)
