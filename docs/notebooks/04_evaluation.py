# %% [markdown]
# # 4. Model evaluation
#
# What the model that serves is worth, on orders that it has not learnt from. It is read through
# the promotion log, its files compared with the recorded hashes before they are parsed. The report
# that the graph stores beside every model has the same figures; here they can be questioned.

# %%
import os
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ibook_assets
from ibook_assets.core.costs import cost_curve, savings
from ibook_assets.core.metrics import Ranking, bootstrap_weights
from ibook_assets.core.settings import Settings
from ibook_assets.core.times import from_us
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.drift_days import drift_records, report_folder
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promoted_models import load_promoted
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.training_data import read_training_set
from ibook_assets.training.pipeline import judge

# Settings, `.env` and relative paths are those of the project's root, wherever the kernel started.
os.chdir(Path(ibook_assets.__file__).parents[1])
settings = Settings()
lake = Lake(open_blobs(settings.lake, endpoint_url=settings.s3_endpoint_url))
record = PromotionLog(lake.blobs).require_current(FRAUD.name)
champion = load_promoted(lake.blobs, record)
print(
    f"{FRAUD.name} {champion.version}, promoted {record.promoted_at:%Y-%m-%d} by {record.actor}; "
    f"learnt from {champion.info.training_rows:,} orders until "
    f"{from_us(champion.info.trained_until_us):%Y-%m-%d}"
)

# %% [markdown]
# ## Headline
#
# Rows come from the newest training set, from the time on at which the champion stopped learning.
# Where the world is simulated, the exact posterior is known, and with it the best that any model
# could do: `oracle_share`.

# %%
simulated = bool(lake.partitions("truth/orders"))
truth = lake.read("truth/orders", columns=["transaction_id", "posterior"]) if simulated else None
table = read_training_set(lake, FRAUD.name)
verdict = judge(table, FRAUD, champion, champion=None, truth=truth)
evaluation, rows = verdict.evaluation, verdict.examples
probabilities = champion.score(rows.x)
pd.Series(evaluation.headline, dtype=object, name=evaluation.version).to_frame()

# %% [markdown]
# ## Precision and recall, and how sure one can be
#
# The band holds 95 % of bootstrap curves. Users are drawn, not orders: a user's orders stand or
# fall together, and drawing them apart would claim more than was seen.

# %%
ranking = Ranking.of(rows.labels, probabilities)
grid = np.linspace(0.01, 1, 100)
curves = []
for weights in bootstrap_weights(
    rows.rows, rng=np.random.default_rng(FRAUD.seed), replicates=200, clusters=rows.entity_ids
):
    for caught, passed in zip(*ranking.cumulative(weights), strict=True):
        if caught[-1] == 0:
            continue  # a draw without fraud has no curve
        at = np.searchsorted(caught, grid * caught[-1])
        curves.append(caught[at] / (caught[at] + passed[at]))
low, high = np.quantile(curves, [0.025, 0.975], axis=0)
(caught,), (passed,) = ranking.cumulative(np.ones((1, rows.rows)))

figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
axes.fill_between(grid, low, high, alpha=0.25, label="95 % of bootstrap curves")
axes.step(caught / caught[-1], caught / (caught + passed), where="pre", label="champion")
if verdict.oracle is not None:
    (best,), (others,) = Ranking.of(rows.labels, verdict.oracle).cumulative(np.ones((1, rows.rows)))
    axes.step(best / best[-1], best / (best + others), color="#6b7280", label="best possible")
axes.axhline(evaluation.base_rate, color="#ea580c", linestyle=":", label="no skill")
axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
axes.legend()
average_precision = evaluation.average_precision
print(
    f"average precision {average_precision.value:.3f} "
    f"({average_precision.low:.3f} to {average_precision.high:.3f})"
)

# %% [markdown]
# ## Threshold and cost
#
# Each held order costs a review and perhaps a buyer, each fraud that passes costs the order and a
# fee (`CostModel` in `ibook_assets/core/costs.py`). The threshold was chosen before these rows
# existed; the distance to the cheapest one in hindsight is what that cost.

# %%
curve = cost_curve(rows.labels, probabilities, rows.amount_cents, FRAUD.costs)
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
axes.plot(curve.thresholds, curve.cost_cents / 1e5)
axes.axvline(champion.threshold, color="black", linestyle="--", label="in use")
axes.axvline(curve.best_threshold, color="#ea580c", linestyle=":", label="cheapest in hindsight")
axes.set(xscale="log", xlabel="threshold", ylabel="cost (1,000 units of currency)")
axes.legend()
thresholds = {
    "half": champion.threshold / 2,
    "in use": champion.threshold,
    "double": champion.threshold * 2,
    "cheapest in hindsight": curve.best_threshold,
}
decisions = pd.DataFrame(
    {
        "threshold": threshold,
        "held": float(held.mean()),
        "precision": float(rows.labels[held].mean()) if held.any() else float("nan"),
        "recall": float(rows.labels[held].sum() / rows.frauds),
        "saved": savings(
            rows.labels, probabilities, rows.amount_cents, threshold=threshold, costs=FRAUD.costs
        ).saved_cents
        / 100,
    }
    for threshold in thresholds.values()
    for held in (probabilities >= threshold,)
)
decisions.set_axis(list(thresholds))

# %% [markdown]
# ## Sub-populations
#
# A good average can hide a group that is treated badly. Left: does the mean score match the fraud
# rate of each group? Right: how much of its fraud is held.

# %%
groups = pd.DataFrame([asdict(group) for group in evaluation.sub_populations])
groups["name"] = groups["dimension"] + ": " + groups["value"]
figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 0.25 * len(groups) + 1), sharey=True, layout="constrained"
)
left.plot(groups["base_rate"], groups["name"], "o", label="fraud rate")
left.plot(groups["predicted_rate"], groups["name"], "x", label="mean score")
left.legend()
right.barh(groups["name"], groups["recall"], color="#2563eb", label="recall at the threshold")
right.axvline(evaluation.decisions.recall, color="#6b7280", linestyle=":")
right.set(xlabel="recall at the threshold", xlim=(0, 1))
right.invert_yaxis()

# %% [markdown]
# ## Does it still see the world it learnt?
#
# Evaluation ends where labels are mature. Since then only drift can tell (`docs/monitoring.md`);
# its newest record, and Evidently's page of that day, if the job `drift_monitoring` has run.

# %%
newest = drift_records(lake.blobs, FRAUD.name, until="9999-12-31", days=1)
for drift in newest:
    page = f"{report_folder(FRAUD.name, drift.day)}/evidently.html"
    print(f"{drift.day}: {drift.decision.state}, page {lake.blobs.location(page)}")
if not newest:
    last = lake.partitions("facts/transactions")[-1]
    print(f"no day is judged yet: run the job drift_monitoring for the partition {last}")
