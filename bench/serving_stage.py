"""What the serving benchmark serves: a promoted model, orders, a year of history about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import xgboost as xgb

from bench.online_store import BASE_US, EVENTS, Facts, facts, records
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.plan import layouts_of
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import BundleInfo, ModelBundle, model_bytes, sha256_hex
from ibook_assets.models.calibration import BetaCalibration
from ibook_assets.stores.online.opening import open_live
from ibook_sim.realtime.payloads import bodies
from ibook_sim.world import World, WorldConfig
from tests.serving.harness import promote

USERS: Final = 20_000
ORDERS_EACH: Final = 10
BODIES: Final = 4_000
TREES: Final = 300
DEPTH: Final = 6

FEATURES_OF_VIEW: Final = {
    "order_context": 12,
    "user_realtime_fraud_features": 3,
    "card_velocity": 2,
    "device_velocity": 2,
    "ip_velocity": 2,
    "event_velocity": 1,
    "user_risk": 1,
    "event_risk": 1,
    "promoter_risk": 1,
}
"""25 features: twelve of the order itself, thirteen out of the histories of six entities."""


@dataclass(frozen=True)
class Stage:
    """Where everything lies."""

    home: Path
    bodies: Path
    """One-row scoring requests, msgpack list of bytes."""
    model: Path
    """The model as XGBoost's UBJ file, for the peers."""


def build_stage(folder: Path) -> Stage:
    """A promoted model and requests in `folder`; no history is published yet."""
    stage = Stage(folder / "home", folder / "bodies.msgpack", folder / "model.ubj")
    bundle = _bundle()
    promote(Settings(home=stage.home), bundle)
    stage.model.write_bytes(bundle.files()["model.ubj"])
    stage.bodies.write_bytes(msgspec.msgpack.encode(bodies(_orders())))
    return stage


def history() -> Facts:
    """A year of USERS accounts with ORDERS_EACH orders each."""
    return facts(USERS, ORDERS_EACH, np.random.default_rng(7))


def fill(address: str, tables: Facts) -> None:
    """A live store at `address` that knows `tables`."""
    store = open_live(address)
    hashes = {view.name: view.spec_hash for view in FEATURE_VIEWS}
    generation = store.begin_generation(layouts_of(FEATURE_VIEWS), hashes, BASE_US)
    store.load(generation, records(tables))
    store.publish_generation(generation)
    store.close()


def _orders() -> pa.Table:
    """The simulator's orders, placed by the accounts that history knows."""
    config = WorldConfig(orders_per_day=2 * BODIES, users=USERS)
    rows = World(config).transactions(config.start_date).slice(0, BODIES)
    rng = np.random.default_rng(8)
    users = rng.integers(0, USERS, BODIES)
    known = {
        "user_id": users,
        "event_id": (rng.random(BODIES) ** 2 * EVENTS).astype(np.int64),
        "card_id": users * 3,
        "device_id": users * 3,
        "ip_id": users * 5,
    }
    for name, ids in known.items():
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(ids))
    return rows


def _bundle() -> ModelBundle:
    features = tuple(
        name
        for view, count in FEATURES_OF_VIEW.items()
        for name in [f for f in FRAUD.features if f.startswith(f"{view}:")][:count]
    )
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 300, (6_000, len(features))).astype(np.float32)
    x[:, 0] = rng.uniform(0, 60_000, len(x))
    x[rng.random(x.shape) < 0.2] = np.nan
    risk = np.nan_to_num(x[:, 0]) / 30_000 + np.nan_to_num(x[:, 12:16]).sum(axis=1) / 300
    y = risk + rng.normal(size=len(x)) > 5
    booster = xgb.train(
        {"objective": "binary:logistic", "max_depth": DEPTH, "min_child_weight": 0, "nthread": 1},
        xgb.DMatrix(x, y),
        num_boost_round=TREES,
    )
    model = model_bytes(booster)
    views = {name.partition(":")[0] for name in features}
    info = BundleInfo(
        use_case=FRAUD.name,
        version="bench-1",
        feature_names=features,
        spec_hashes={k: v for k, v in FRAUD.spec_hashes.items() if k in views},
        calibration=BetaCalibration(),
        # Nothing goes to review: no peer explains its scores, so ibook shall not either.
        threshold=1.5,
        training_snapshot="ab" * 32,
        trained_until_us=1,
        training_rows=len(x),
        training_frauds=int(y.sum()),
        parameters={},
        metrics={},
        libraries={},
        model_sha256=sha256_hex(model),
    )
    return ModelBundle(info, model)
