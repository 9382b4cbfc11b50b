# %% [markdown]
# # 3. Training
#
# A fraud model from the stored training set by the functions that the asset `fraud/model` calls,
# on fewer features, trials and rounds, so that an idea is judged in a minute. Nothing is kept:
# neither the lake nor MLflow learns of it. What proves itself goes into
# `ibook_assets/core/use_cases.py`, and the graph trains it (`docs/how-to.md`, "Retrain and promote
# by hand").

# %%
import dataclasses
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ibook_assets
from ibook_assets.core.metrics import calibration_bins
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.training_data import newest_snapshot, read_training_set
from ibook_assets.training.examples import Examples
from ibook_assets.training.pipeline import judge, load_champion, split_of, train

# Settings, `.env` and relative paths are those of the project's root, wherever the kernel started.
os.chdir(Path(ibook_assets.__file__).parents[1])
settings = Settings()
lake = Lake(open_blobs(settings.lake, endpoint_url=settings.s3_endpoint_url))
record = PromotionLog(lake.blobs).require_current(FRAUD.name)

# %% [markdown]
# ## The training set, cut in time
#
# Every row is an order as of its own time, with a label that had time to arrive. Parts follow each
# other in time and never overlap: a random split would let the model learn next week's fraud rings
# and promise what it cannot keep. The snapshot's id is the hash of a manifest of all files that
# the rows came from, so that any version of the data can be read again, by that id.

# %%
snapshot = newest_snapshot(lake, FRAUD.name)
table = read_training_set(lake, FRAUD.name, snapshot)
examples = Examples.from_table(table, FRAUD)
split = split_of(FRAUD, examples.known_ts)
parts = {
    "fitting": split.fitting(examples.known_ts),
    "calibration": split.calibration(examples.known_ts),
    "evaluation": split.evaluation(examples.known_ts),
}
pd.DataFrame(
    {
        "part": name,
        "from": np.datetime64(int(examples.known_ts[rows].min()), "us"),
        "until": np.datetime64(int(examples.known_ts[rows].max()), "us"),
        "orders": int(rows.sum()),
        "frauds": int(examples.labels[rows].sum()),
        "fraud rate": float(examples.labels[rows].mean()),
    }
    for name, rows in parts.items()
)

# %% [markdown]
# ## Search and fit
#
# A quick first model chooses the features, Optuna searches parameters on the calibration rows,
# early stopping finds the number of trees; then probabilities are calibrated and the threshold is
# the one of least expected cost. Evaluation rows are not looked at. Change the use case here and
# run on.

# %%
quick = dataclasses.replace(
    FRAUD,
    max_features=40,
    space=dataclasses.replace(FRAUD.space, max_rounds=120, patience=15),
)
with TemporaryDirectory() as folder:
    trained = train(
        table,
        quick,
        snapshot=snapshot,
        studies=Path(folder) / "studies.db",
        trials=3,
        threads=settings.training_threads,
    )
fitted, bundle = trained.fitted, trained.fitted.bundle
pd.Series(bundle.info.parameters, name="chosen").to_frame()

# %% [markdown]
# ## Learning curve and gain
#
# The curve is judged on the calibration rows; it ends where it stopped rising. Gain says what the
# trees split on, not what is true of the world: of two features that say the same, one takes it
# all.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
left.plot(np.arange(1, len(fitted.validation_curve) + 1), fitted.validation_curve)
left.axvline(fitted.rounds, color="#ea580c", linestyle="--", label=f"{fitted.rounds} trees kept")
left.set(xlabel="trees", ylabel="area under precision-recall, calibration rows")
left.legend()
gains = pd.Series(
    {
        bundle.feature_names[int(name[1:])]: float(np.max(gain))
        for name, gain in bundle.booster.get_score(importance_type="total_gain").items()
    }
)
top = (gains / gains.sum()).nlargest(15)[::-1]
right.barh(top.index, top, color="#2563eb")
right.set_xlabel("share of total gain")
right.tick_params(axis="y", labelsize=7)

# %% [markdown]
# ## Calibration
#
# Costs are weighed with the probability itself, so it must mean what it says. Ten bins of about
# equal size, on evaluation rows.

# %%
rows = parts["evaluation"]
probabilities = bundle.score(
    Examples.from_table(table, FRAUD, features=bundle.feature_names).take(rows).x
)
bins = calibration_bins(examples.labels[rows], probabilities)
figure, axes = plt.subplots(figsize=(4.2, 4), layout="constrained")
predicted, observed = [b.predicted for b in bins], [b.observed for b in bins]
axes.plot(predicted, observed, "o-", label="model")
axes.plot(predicted, predicted, color="#6b7280", linestyle=":", label="perfect")
axes.set(xlabel="predicted fraud rate", ylabel="observed fraud rate", xscale="log", yscale="log")
axes.legend()
axes.grid(alpha=0.25)

# %% [markdown]
# ## Beside the champion
#
# Both on the rows that neither has learnt from, the difference by a bootstrap over users with the
# same draws for both, and the gate that a promotion would have to pass.

# %%
verdict = judge(table, FRAUD, bundle, champion=load_champion(lake.blobs, record), truth=None)
evaluation = verdict.evaluation
difference = evaluation.difference
assert difference is not None
print(
    f"average precision {evaluation.average_precision.value:.3f}, "
    f"champion {record.model_version} {evaluation.champion_average_precision:.3f}, "
    f"difference {difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f}); "
    f"the gate {'opens' if verdict.gate.passed else 'stays closed'}"
)
pd.DataFrame(verdict.gate.as_dict()["rules"])
