"""A trained model as the scorer of an offline run.

Every order gets the features that the platform's batch engine computes for it, as of the moment it
became known, out of the run's own past: the world's days up to it, spoilt as the scenario's chaos
says, held against their contracts, made into facts. A label counts from when it became known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import array, integers
from ibook_assets.core.errors import ContractError
from ibook_assets.core.fact_rules import (
    ORDER_COLUMNS,
    build_outcomes,
    build_refunds,
    build_transactions,
    build_views,
)
from ibook_assets.core.features.catalog import view
from ibook_assets.core.features.engine import compute_view, required_sources
from ibook_assets.core.features.spec import FeatureView
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import RAW_TABLES, VIEWS, TableSpec
from ibook_assets.core.times import DAY_US, day_of, day_start_us
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import FILE_NAMES, Matrix, ModelBundle, sha256_hex
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.contracts import validate
from ibook_assets.stores.lookback import lookback_days
from ibook_assets.stores.promoted_models import check_features, load_promoted
from ibook_assets.stores.promotions import PromotionLog
from ibook_sim.chaos import Chaos, deliver
from ibook_sim.world import World, days_from
from ibook_sim.world.randomness import Floats

CHAMPION: Final = "champion"
"""Name of the promoted model on the command line."""
HISTORY_DAYS: Final = 90
"""Days of a world before a model is asked: labels settle after 45, and risk features then look
back over 30 days of them. From here on a model's mean score no longer moves as windows fill up."""

_NO_IDS: Final = array([], pa.int64())


class ModelScorer:
    """Scores orders with a model bundle and features of the run's own past."""

    def __init__(self, bundle: ModelBundle, name: str) -> None:
        """Wrap `bundle`; ContractError when its features are defined otherwise by now."""
        check_features(bundle)
        self._bundle = bundle
        self._name = name

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self._name

    def warm_up_days(self, start: date) -> int:
        """Days until the past is long enough, and the orders are none that it has learnt from.

        A world of the seed the model was trained on holds its training rows.
        """
        learnt_us = self._bundle.info.trained_until_us - day_start_us(start)
        return max(HISTORY_DAYS, -(-learnt_us // DAY_US))

    def score(self, orders: pa.Table, *, world: World, chaos: Chaos) -> Floats:
        """Probability of fraud of each row of `orders`, by what was known when it was placed."""
        return self._bundle.score(self.features(orders, world=world, chaos=chaos))

    def features(self, orders: pa.Table, *, world: World, chaos: Chaos) -> Matrix:
        """The model's features of each row of `orders`, shape (n, features).

        Args:
            orders: `tables.TRANSACTIONS` as sent, by (known_ts, transaction_id).
            world: where they come from.
            chaos: what goes wrong on the way to the platform.
        """
        names = [name.split(":") for name in self._bundle.feature_names]
        views = [view(name) for name in dict.fromkeys(name for name, _ in names)]
        known = integers(orders["known_ts"], null=0)
        first, last = day_of(int(known[0])), day_of(int(known[-1]))
        events = world.catalogue(last).events
        facts = facts_of(_raw(world, first, last, views, chaos), events)
        queries = build_transactions(orders, earlier_ids=_NO_IDS, events=events).table
        tables = {item.name: compute_view(item, facts, queries) for item in views}
        x = np.empty((queries.num_rows, len(names)), np.float32)
        for j, (view_name, feature) in enumerate(names):
            x[:, j] = tables[view_name][feature].to_numpy()
        return x


def model_scorer(model: str, settings: Settings) -> ModelScorer:
    """The scorer that `model` names: `champion`, or a folder with a model's files.

    Raises:
        NoPromotedModelError: nothing is promoted in the lake of `settings`.
        ContractError: there is no such folder, or a file or a feature is not as it was.
    """
    return champion(settings) if model == CHAMPION else model_in(Path(model))


def champion(settings: Settings) -> ModelScorer:
    """The promoted fraud model of the lake of `settings`, verified as serving verifies it."""
    blobs = open_blobs(settings.lake, endpoint_url=settings.s3_endpoint_url)
    record = PromotionLog(blobs).require_current(FRAUD.name)
    bundle = load_promoted(blobs, record)
    return ModelScorer(bundle, f"promoted {FRAUD.name} model {bundle.version}")


def model_in(folder: Path) -> ModelScorer:
    """The fraud model whose files lie in `folder`; its trees are compared with their hash."""
    missing = [name for name in FILE_NAMES if not (folder / name).is_file()]
    if missing:
        msg = (
            f"{folder} has no {' and no '.join(missing)}: give {CHAMPION!r}, or the folder of a "
            "trained model, such as models/fraud/<version> of the lake"
        )
        raise ContractError(msg)
    files = {name: (folder / name).read_bytes() for name in FILE_NAMES}
    bundle = ModelBundle.load(files, sha256={n: sha256_hex(data) for n, data in files.items()})
    if bundle.info.use_case != FRAUD.name:
        msg = f"{folder} holds a {bundle.info.use_case} model; orders are scored by {FRAUD.name}"
        raise ContractError(msg)
    return ModelScorer(bundle, f"{FRAUD.name} model {bundle.version} (not promoted)")


def facts_of(
    raw: Mapping[str, pa.Table], events: pa.Table, *, before: Mapping[str, pa.Table] | None = None
) -> dict[str, pa.Table]:
    """Fact tables of consecutive days, all at once: the rows that day after day would give.

    Args:
        raw: accepted rows by table, from the world's first day on, or following `before`: a refund
            is its buyer's only if the order is known. An id that returns does so within a second,
            and an outcome comes within the look-back for its order.
        events: the catalogue by the last of those days.
        before: facts of the days before them; they come first in what is returned.
    """
    orders = build_transactions(raw["transactions"], earlier_ids=_NO_IDS, events=events).table
    known = orders if before is None else pa.concat_tables([before["transactions"], orders])
    entities = known.select(list(ORDER_COLUMNS))
    facts = {
        "transactions": orders,
        "views": build_views(raw["views"]).table,
        "refunds": build_refunds(raw["refunds"], earlier_ids=_NO_IDS, orders=entities).table,
        "outcomes": build_outcomes(raw["outcomes"], orders=entities).table,
    }
    if before is None:
        return facts
    return {name: pa.concat_tables([before[name], table]) for name, table in facts.items()}


def _raw(
    world: World, first: date, last: date, views: Sequence[FeatureView], chaos: Chaos
) -> dict[str, pa.Table]:
    """Raw rows of the world's days up to `last`, as the platform accepts them.

    Looks at event pages outnumber all else and count for minutes or hours: only those that orders
    from `first` on can reach are kept.
    """
    reach = [lookback_days(v, VIEWS.name, first.isoformat())[0] for v in views if _reads_looks(v)]
    looks_from = min(reach, default=(last.isoformat()))
    parts: dict[str, list[pa.Table]] = {spec.name: [] for spec in RAW_TABLES}
    for day in days_from(world.config.start_date, (last - world.config.start_date).days + 1):
        for name, rows in world.day(day).items():
            if name != VIEWS.name or day.isoformat() >= looks_from:
                parts[name].append(rows)
    return {
        spec.name: _accepted(pa.concat_tables(parts[spec.name]), spec, chaos, world.config.seed)
        for spec in RAW_TABLES
    }


def _reads_looks(item: FeatureView) -> bool:
    return VIEWS.name in required_sources(item)


def _accepted(rows: pa.Table, spec: TableSpec, chaos: Chaos, seed: int) -> pa.Table:
    if not chaos.spoils_rows:
        return rows
    arrived = deliver(rows, spec, chaos, seed=seed).rows
    return validate(arrived, spec, source="simulated run", one_delivery=False).accepted
