# %% [markdown]
# # 2. Feature engineering
#
# A feature is a typed definition; batch, serving and SQL all compute it from that one definition
# (`docs/architecture.md`, "One feature, the same bits"). This notebook tries a new one before it
# enters the catalogue: define it, compute it as of each order, hold it against SQL, look whether
# it tells anything.

# %%
import os
from datetime import date
from pathlib import Path

import duckdb
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa

import ibook_assets
from ibook_assets.core.arrow import array, integers, pc
from ibook_assets.core.errors import NotFoundError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.catalog import view as view_named
from ibook_assets.core.features.engine import compute_view, lookback_us
from ibook_assets.core.features.families import WINDOWS
from ibook_assets.core.features.spec import Aggregation, FeatureView, Ratio
from ibook_assets.core.features.sql import join_sql
from ibook_assets.core.maturity import labels_as_of
from ibook_assets.core.metrics import average_precision
from ibook_assets.core.settings import Settings
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.feature_days import feature_days, feature_table
from ibook_assets.stores.feature_oracle import compare_with_sql
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.lookback import day_sources

# Settings, `.env` and relative paths are those of the project's root, wherever the kernel started.
os.chdir(Path(ibook_assets.__file__).parents[1])
settings = Settings()
lake = Lake(open_blobs(settings.lake, endpoint_url=settings.s3_endpoint_url))
days = lake.partitions("facts/transactions")
if len(days) <= settings.label_maturity_days:
    msg = (
        f"{lake.blobs.uri} has {len(days)} days of orders, labels mature after "
        f"{settings.label_maturity_days}: run `make demo` first, or materialise more days"
    )
    raise NotFoundError(msg)

# %% [markdown]
# ## What there is
#
# `ibook features` prints the same, `ibook features <view>` the features of one.

# %%
catalogue = pd.DataFrame(
    {
        "view": view.name,
        "entity": view.entity or "order",
        "features": len(view.feature_names),
        "look-back (days)": round(lookback_us(view) / DAY_US),
        "spec hash": view.spec_hash[:12],
    }
    for view in FEATURE_VIEWS
)
catalogue

# %% [markdown]
# ## Define a candidate
#
# Card testers put many cards through one device. The catalogue counts the users of a device, not
# its cards. Windows are finite and end before the order; the hash stands for the definition, so
# that a model is never given a feature that means something else than when it was trained.

# %%
WEEK = WINDOWS["7d"]
CANDIDATE = FeatureView(
    name="device_cards",
    entity="device",
    description="Cards and declined payments on one device.",
    features=(
        Aggregation(
            name="order_count_7d",
            entity="device",
            source="transactions",
            function="count",
            window_us=WEEK,
            emit=False,
        ),
        Aggregation(
            name="distinct_cards_7d",
            entity="device",
            source="transactions",
            function="distinct",
            column="card_id",
            window_us=WEEK,
        ),
        Aggregation(
            name="declines_7d",
            entity="device",
            source="transactions",
            function="sum",
            column="declines",
            window_us=WEEK,
        ),
        Ratio(
            name="cards_per_order_7d",
            numerator=("distinct_cards_7d",),
            denominator="order_count_7d",
        ),
    ),
)
CANDIDATE.spec_hash

# %% [markdown]
# ## Compute it, and let SQL disagree
#
# The kernel computes one mature day's orders; DuckDB runs SQL that was generated from the same
# definition and joins every order with its rows. Values are compared bit by bit, two missing ones
# being alike. The second comparison is the one that the asset check `equals_sql` makes of what is
# stored.

# %%
mature_days = days[: len(days) - settings.label_maturity_days]
day = mature_days[-1]
orders = lake.read("facts/transactions", [day])
sources = day_sources(lake, CANDIDATE, day, orders)
computed = compute_view(CANDIDATE, sources, orders)

connection = duckdb.connect()
tables = {**sources, "queries": orders.append_column("query_row", array(range(orders.num_rows)))}
for name, table in tables.items():
    connection.register(name, table)
text = join_sql(CANDIDATE, {name: table.column_names for name, table in tables.items()})
told = connection.sql(text).to_arrow_table()
differing = 0
for name in CANDIDATE.feature_names:
    ours, theirs = (np.asarray(t[name].to_numpy(), dtype=np.float32) for t in (computed, told))
    alike = (ours.view(np.int32) == theirs.view(np.int32)) | (np.isnan(ours) & np.isnan(theirs))
    differing += int((~alike).sum())
equal_to_sql = differing == 0

stored = compare_with_sql(lake, view_named("device_velocity"), day, duckdb.connect(), sample=200)
print(f"candidate: {differing} of {orders.num_rows * len(CANDIDATE.feature_names):,} values differ")
print(f"device_velocity as stored: {stored.mismatches} of {stored.values:,} differ")

# %% [markdown]
# ## As of each order, and nothing later
#
# The busiest device of the day, order by order. An order does not count itself, and whatever is
# known at or after its time does not count either: computed from facts cut at that very moment,
# the value is the same.

# %%
busiest = orders["device_id"].to_pandas().value_counts().idxmax()
rows = pc.equal(orders["device_id"], busiest)
history = computed.filter(rows)
as_of_each = pa.concat_tables(
    compute_view(
        CANDIDATE,
        {
            name: t.filter(pc.less(t["known_ts"], query["known_ts"][0]))
            for name, t in sources.items()
        },
        query,
    )
    for query in (orders.filter(rows).slice(at, 1) for at in range(history.num_rows))
)
pd.testing.assert_frame_equal(history.to_pandas(), as_of_each.to_pandas(), check_exact=True)
history.to_pandas().assign(known=lambda shown: pd.to_datetime(shown["known_ts"], unit="us"))

# %% [markdown]
# ## What a join by name would have done
#
# Outcomes are the tempting case: a user's share of fraudulent orders, joined by user, knows the
# very outcome that is to be predicted, and every later one. It looks wonderful and is worth
# nothing. The catalogue's `user_risk` counts outcomes by the time they became *known*, so that
# training sees what serving will see.

# %%
window = mature_days[-28:]
asked = lake.read("facts/transactions", window, columns=["transaction_id", "known_ts", "user_id"])
as_of_us = day_start_us(date.fromisoformat(days[-1])) + DAY_US
outcomes = lake.read("facts/outcomes", columns=["transaction_id", "known_ts", "is_fraud"])
labels = labels_as_of(integers(asked["transaction_id"], null=0), outcomes, as_of_us=as_of_us)
base_rate = float(labels.mean())

_, account = np.unique(asked["user_id"].to_numpy(), return_inverse=True)
leaking = (np.bincount(account, labels) / np.bincount(account))[account]
honest = np.nan_to_num(
    lake.read(feature_table("user_risk"), window, columns=["fraud_share_30d"])
    .column("fraud_share_30d")
    .to_numpy()
    .astype(np.float64)
)
leak = {
    "share of all the user's orders": average_precision(labels, leaking),
    "user_risk:fraud_share_30d": average_precision(labels, honest),
    "no skill (base rate)": base_rate,
}
pd.Series(leak, name="average precision").to_frame()

# %% [markdown]
# ## Does the candidate tell anything?
#
# Over the last four weeks whose labels are mature: how much of the fraud, and of the rest, reaches
# each value, and the average precision of each feature alone, in either direction. A feature that
# ranks no better than the base rate may still help a tree; one that does is worth a training run:
# put the view into `ibook_assets/core/features/catalog.py` (`docs/how-to.md`, "Add a feature").

# %%
candidate = pa.concat_tables(table for _, table in feature_days(lake, CANDIDATE, window))
lift = {}
figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
for axes, name in zip(panels, CANDIDATE.feature_names, strict=True):
    values = candidate[name].to_numpy().astype(np.float64)
    scores = np.nan_to_num(values, nan=-1.0)
    lift[name] = max(average_precision(labels, s) for s in (scores, -scores)) / base_rate
    for value, told_as in ((0, "legitimate"), (1, "fraud")):
        axes.ecdf(scores[labels == value], complementary=True, label=told_as)
    axes.set(xlabel=name, yscale="log")
panels[0].set_ylabel("share of orders above")
panels[0].legend()
pd.Series(lift, name="average precision by base rate").to_frame()
