"""Search, fit, select: seeded, resumable, blind to evaluation rows; bundles score alike."""

from pathlib import Path

import numpy as np
import pytest

from ibook_assets.core.errors import ContractError, IntegrityError
from ibook_assets.core.maturity import TimeSplit, split_by_time
from ibook_assets.core.metrics import average_precision
from ibook_assets.core.use_cases import FRAUD, TreeSpace
from ibook_assets.models.bundle import MODEL_FILE, ModelBundle
from ibook_assets.training.evaluate import evaluate
from ibook_assets.training.examples import Examples
from ibook_assets.training.fit import Fitted, fit
from ibook_assets.training.select import select_features
from ibook_assets.training.trees import TreeParameters
from ibook_assets.training.tune import Fold, tune

SPACE = TreeSpace(max_rounds=30, patience=5, max_bin=(64,))


@pytest.fixture(scope="module")
def split(examples: Examples) -> TimeSplit:
    return split_by_time(examples.known_ts)


@pytest.fixture(scope="module")
def fitted(examples: Examples, split: TimeSplit) -> Fitted:
    return learn(examples, split)


def learn(examples: Examples, split: TimeSplit) -> Fitted:
    return fit(
        examples, split, FRAUD, TreeParameters(max_bin=64), training_snapshot="s" * 8, threads=1
    )


def test_a_fitted_model_ranks_rows_it_has_not_seen(
    examples: Examples, split: TimeSplit, fitted: Fitted
) -> None:
    unseen = examples.take(split.evaluation(examples.known_ts))
    found = average_precision(unseen.labels, fitted.bundle.score(unseen.x))
    assert found > 5 * unseen.frauds / unseen.rows


def test_the_same_rows_give_the_same_version(
    examples: Examples, split: TimeSplit, fitted: Fitted
) -> None:
    again = learn(examples, split)
    assert again.bundle.version == fitted.bundle.version
    assert again.bundle.files() == fitted.bundle.files()


def test_evaluation_rows_do_not_enter_the_model(
    examples: Examples, split: TimeSplit, fitted: Fitted
) -> None:
    rows = split.evaluation(examples.known_ts)
    labels = np.where(rows, 1 - examples.labels, examples.labels).astype(np.int8)
    x = np.where(rows[:, None], np.float32(0), examples.x)
    changed = Examples(
        feature_names=examples.feature_names,
        x=x,
        labels=labels,
        known_ts=examples.known_ts,
        transaction_ids=examples.transaction_ids,
        entity_ids=examples.entity_ids,
        amount_cents=examples.amount_cents,
        attributes=examples.attributes,
    )
    assert learn(changed, split).bundle.version == fitted.bundle.version


def test_a_model_is_bound_to_the_views_it_reads(fitted: Fitted) -> None:
    views = {"order_context", "user_risk", "ip_velocity"}
    assert set(fitted.bundle.info.spec_hashes) == views


def test_a_bundle_scores_alike_after_storage_and_row_by_row(
    examples: Examples, fitted: Fitted
) -> None:
    bundle = fitted.bundle
    loaded = ModelBundle.load(bundle.files(), sha256=bundle.sha256())
    x = examples.x[:50]
    together = bundle.score(x)
    assert loaded.score(x).tobytes() == together.tobytes()
    alone = np.concatenate([loaded.score(x[i : i + 1]) for i in range(len(x))])
    assert alone.tobytes() == together.tobytes()


def test_contributions_add_up_to_the_margin(examples: Examples, fitted: Fitted) -> None:
    x = examples.x[:20]
    sums = fitted.bundle.explain(x).sum(axis=1)
    assert sums == pytest.approx(fitted.bundle.margins(x), abs=1e-4)


def test_a_changed_file_is_refused_before_it_is_parsed(fitted: Fitted) -> None:
    files = fitted.bundle.files()
    damaged = bytearray(files[MODEL_FILE])
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(IntegrityError, match=MODEL_FILE):
        ModelBundle.load({**files, MODEL_FILE: bytes(damaged)}, sha256=fitted.bundle.sha256())


def test_a_model_is_not_judged_on_rows_it_learnt_from(examples: Examples, fitted: Fitted) -> None:
    with pytest.raises(ContractError, match="trained on"):
        evaluate(fitted.bundle, examples, FRAUD)


def test_an_oracle_that_is_the_model_gives_a_share_of_one(
    examples: Examples, split: TimeSplit, fitted: Fitted
) -> None:
    unseen = examples.take(split.evaluation(examples.known_ts))
    judged = evaluate(fitted.bundle, unseen, FRAUD, oracle=fitted.bundle.score(unseen.x))
    assert judged.oracle_share is not None
    assert judged.oracle_share.value == pytest.approx(1.0)


def test_selection_keeps_the_signal_and_drops_the_noise(
    examples: Examples, split: TimeSplit
) -> None:
    rows = np.flatnonzero(split.fitting(examples.known_ts))
    names = select_features(examples, rows, keep=3, seed=1, threads=1)
    assert names == examples.feature_names[:3]


def test_an_interrupted_search_ends_like_one_in_one_go(
    examples: Examples, split: TimeSplit, tmp_path: Path
) -> None:
    fold = Fold(
        fit=np.flatnonzero(split.fitting(examples.known_ts)),
        validate=np.flatnonzero(split.calibration(examples.known_ts)),
    )

    def search(storage: str, trials: int) -> tuple[TreeParameters, tuple[tuple[int, float], ...]]:
        found = tune(
            examples,
            [fold],
            SPACE,
            study_name="s",
            storage=tmp_path / storage,
            trials=trials,
            seed=5,
            threads=1,
        )
        return found.parameters, found.history

    search("interrupted.db", 2)
    assert search("interrupted.db", 4) == search("whole.db", 4)
