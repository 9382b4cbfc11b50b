# %% [markdown]
# # 1. Exploratory analysis
#
# What is ordered, how much of it is fraud, when one learns of it, and what is missing. Nothing
# here is hidden knowledge: `truth/*`, which only a simulated world has, is not read. Columns and
# their units are declared in `ibook_assets/core/tables.py`.

# %%
import os
from datetime import date
from pathlib import Path

import duckdb
import matplotlib.pyplot as plt
import numpy as np

import ibook_assets
from ibook_assets.core.arrow import array, integers
from ibook_assets.core.errors import NotFoundError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.maturity import admitted, labels_as_of
from ibook_assets.core.settings import Settings
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.feature_days import feature_table, featured_days
from ibook_assets.stores.lake import Lake

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
# ## The rows, their labels, and which labels to believe
#
# A label is 1 once a fraud chargeback is known. Chargebacks take weeks, so an order counts only
# when it is older than the label maturity: the training set's rules, applied by its own functions.

# %%
as_of_us = day_start_us(date.fromisoformat(days[-1])) + DAY_US
maturity_us = settings.label_maturity_days * DAY_US
facts = lake.read("facts/transactions")
outcomes = lake.read("facts/outcomes")
known_ts = integers(facts["known_ts"], null=0)
fraud = labels_as_of(integers(facts["transaction_id"], null=0), outcomes, as_of_us=as_of_us)
mature = admitted(known_ts, as_of_us=as_of_us, maturity_us=maturity_us)
orders = facts.append_column("fraud", array(fraud)).append_column("mature", array(mature))

connection = duckdb.connect()
connection.register("orders", orders)
connection.register("outcomes", outcomes)
totals = connection.sql(
    """
    SELECT count(*) AS orders, count(DISTINCT user_id) AS users, count(DISTINCT event_id) AS events,
           sum(amount_cents) / 100 AS amount, count(*) FILTER (mature) AS mature_orders,
           sum(fraud) FILTER (mature) AS mature_frauds, avg(fraud) FILTER (mature) AS fraud_rate
    FROM orders
    """
).df()
fraud_rate = float(totals["fraud_rate"].item())
totals.astype(object).T

# %% [markdown]
# ## Day by day
#
# The rate seems to fall towards the end. It does not: the frauds of the shaded days are not known
# yet. A model that took them for legitimate would learn that fraud has ended.

# %%
daily = connection.sql(
    """
    SELECT make_timestamp(known_ts)::DATE AS day, count(*) AS orders, avg(fraud) AS fraud_rate
    FROM orders GROUP BY day ORDER BY day
    """
).df()
figure, (above, below) = plt.subplots(2, sharex=True, figsize=(9, 5), layout="constrained")
above.bar(daily["day"], daily["orders"], color="#6b7280")
above.set_ylabel("orders")
below.plot(daily["day"], daily["fraud_rate"], ".-", label="known by now")
below.axhline(fraud_rate, color="#6b7280", linestyle=":", label="all mature orders")
unsettled = np.datetime64(as_of_us - maturity_us, "us")
below.axvspan(
    unsettled, np.datetime64(as_of_us, "us"), color="#ea580c", alpha=0.15, label="not mature"
)
below.set_ylabel("fraud rate")
below.legend()
below.grid(alpha=0.25)

# %% [markdown]
# ## Amounts and hours
#
# Both distributions on the same bins, each with an area of 1: where the lines part, a single
# column already tells something.

# %%
amount = integers(orders["amount_cents"], null=0) / 100
hour = known_ts // (DAY_US // 24) % 24
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
bins = np.geomspace(max(1, amount.min()), amount.max(), 50)
for value, name in ((0, "legitimate"), (1, "fraud")):
    rows = mature & (fraud == value)
    left.hist(amount[rows], bins, density=True, histtype="step", label=name)
    right.hist(hour[rows], np.arange(25), density=True, histtype="step", label=name)
left.set(xscale="log", yscale="log", xlabel="amount", ylabel="density")
right.set(xlabel="hour of the order (UTC)")
right.legend()
right.grid(alpha=0.25)

# %% [markdown]
# ## Segments
#
# Fraud rates of mature orders with 95 % Wilson intervals (Wilson 1927), which stay sensible for
# small groups. These are columns of the order itself: what an analyst could write a rule with.

# %%
segments = connection.sql(
    """
    WITH told AS (
        SELECT fraud, tier, channel, CAST(avs_match AS VARCHAR) AS address_match,
               CAST(least(quantity, 5) AS VARCHAR) AS tickets,
               CAST(least(declines, 3) AS VARCHAR) AS declines,
               CAST(least(device_accounts, 4) AS VARCHAR) AS accounts_on_device,
               CASE WHEN account_age_s < 7 * 86400 THEN 'under a week'
                    WHEN account_age_s < 90 * 86400 THEN 'under 90 days'
                    WHEN account_age_s IS NOT NULL THEN 'older' END AS account
        FROM orders WHERE mature
    ), long AS (
        FROM told UNPIVOT INCLUDE NULLS (segment FOR dimension IN
            (tier, channel, address_match, tickets, declines, accounts_on_device, account))
    )
    SELECT dimension, coalesce(segment, 'missing') AS segment, count(*) AS orders,
           avg(fraud) AS fraud_rate
    FROM long GROUP BY ALL ORDER BY ALL
    """
).df()
rates, counts = segments["fraud_rate"], segments["orders"]
z = 1.96
middle = (rates + z**2 / 2 / counts) / (1 + z**2 / counts)
half = z * np.sqrt(rates * (1 - rates) / counts + (z / 2 / counts) ** 2) / (1 + z**2 / counts)
names = segments["dimension"] + ": " + segments["segment"]
figure, axes = plt.subplots(figsize=(8, 0.24 * len(segments) + 1), layout="constrained")
axes.errorbar(middle, names, xerr=half, fmt="none", capsize=2, color="#6b7280")
axes.plot(rates, names, "o")
axes.axvline(fraud_rate, color="#6b7280", linestyle=":")
axes.set(xlabel="fraud rate of mature orders")
axes.invert_yaxis()

# %% [markdown]
# ## Label delay
#
# Days from an order to its first fraud chargeback. Only mature orders count, or short delays would
# be over-represented: a recent order can only have a short one so far. What lies right of the line
# reaches the training set later, as a corrected label.

# %%
delay_days = connection.sql(
    """
    SELECT (min(c.known_ts) - any_value(o.known_ts)) / 86400e6 AS days
    FROM orders o JOIN outcomes c USING (transaction_id)
    WHERE o.mature AND c.is_fraud = 1 GROUP BY transaction_id ORDER BY days
    """
).df()["days"]
known_in_time = float((delay_days <= settings.label_maturity_days).mean())
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.ecdf(delay_days)
axes.axvline(settings.label_maturity_days, color="#ea580c", linestyle="--", label="label maturity")
axes.set(xlabel="days from order to chargeback", ylabel="share of frauds known")
axes.legend()
print(
    f"{known_in_time:.1%} of the frauds known now were so after {settings.label_maturity_days} days"
)

# %% [markdown]
# ## What is missing
#
# Order columns that clients may leave out are missing in files and from partners; a simulated
# world always knows them. Features are missing wherever there is no history: a new card has no
# velocity. Missing is a value to the trees, so a view that is mostly empty says little about most
# orders.

# %%
absent_columns = {name: orders[name].null_count / orders.num_rows for name in orders.column_names}
absent_columns = {name: share for name, share in absent_columns.items() if share}
featured = featured_days(lake)[-1]
absent_features = {}
for view in FEATURE_VIEWS:
    values = lake.read(feature_table(view), [featured], columns=view.feature_names)
    absent_features[view.name] = float(np.isnan(np.column_stack(values.columns)).mean())
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
axes.barh(list(absent_features), list(absent_features.values()), color="#6b7280")
axes.set(xlabel=f"share of feature values missing on {featured}", xlim=(0, 1))
axes.invert_yaxis()
print(f"order columns with missing values: {absent_columns or 'none'}")
