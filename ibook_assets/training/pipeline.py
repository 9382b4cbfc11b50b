"""From a training set to a verdict: search, fit, evaluate, gate. What assets and commands share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_assets.core.errors import ContractError
from ibook_assets.core.gate import GateReport, check_gate
from ibook_assets.core.maturity import TimeSplit, split_by_time, unseen
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.use_cases import UseCase
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.artefacts import load_artefact
from ibook_assets.stores.blobs import Blobs
from ibook_assets.training.evaluate import Evaluation, evaluate
from ibook_assets.training.examples import Examples
from ibook_assets.training.fit import Fitted, fit
from ibook_assets.training.select import select_features
from ibook_assets.training.trees import TreeParameters
from ibook_assets.training.tune import Fold, Tuning, tune

START: Final = TreeParameters(
    eta=0.07,
    max_depth=6,
    min_child_weight=30.0,
    subsample=0.75,
    colsample_bytree=0.3,
    reg_lambda=3.0,
    scale_pos_weight=2.0,
    max_bin=256,
)
"""Where the search starts, so that it can only find something better."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A fitted model and the search that chose its parameters."""

    tuning: Tuning
    fitted: Fitted
    split: TimeSplit

    @property
    def metrics(self) -> dict[str, float | None]:
        """Figures of the search and the fit by name."""
        return {
            "search_average_precision": self.tuning.average_precision,
            "search_trials": self.tuning.trials,
            "trees": self.fitted.rounds,
            "threshold": self.fitted.bundle.threshold,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """A model's evaluation and what the gate makes of it."""

    evaluation: Evaluation
    gate: GateReport
    bundle: ModelBundle
    examples: Examples
    """The evaluation rows."""
    oracle: npt.NDArray[np.float64] | None
    """Best possible scores of those rows; None on real data."""


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that serves now, as its promotion record describes it."""

    record: PromotionRecord
    bundle: ModelBundle


def split_of(use_case: UseCase, known_ts: npt.NDArray[np.int64]) -> TimeSplit:
    """How the rows of a training set are cut; the same rows are always cut alike."""
    return split_by_time(
        known_ts,
        evaluation_share=use_case.evaluation_share,
        calibration_share=use_case.calibration_share,
    )


def train(
    table: pa.Table,
    use_case: UseCase,
    *,
    snapshot: str,
    studies: Path,
    trials: int,
    threads: int,
) -> Trained:
    """Search and fit on the training part of `table`; its evaluation rows are not looked at.

    Args:
        table: the training set.
        use_case: features, search space, costs.
        snapshot: identity of the training set.
        studies: SQLite file of the searches; an interrupted one is continued.
        trials: trials of the search.
        threads: XGBoost's.
    """
    everything = Examples.from_table(table, use_case)
    split = split_of(use_case, everything.known_ts)
    fitting = np.flatnonzero(split.fitting(everything.known_ts))
    names = select_features(
        everything, fitting, keep=use_case.max_features, seed=use_case.seed, threads=threads
    )
    examples = Examples.from_table(table, use_case, features=names).with_bare_copies(
        fitting[:: use_case.bare_copy_every]
    )
    fold = Fold(
        fit=np.flatnonzero(split.fitting(examples.known_ts)),
        validate=np.flatnonzero(split.calibration(examples.known_ts)),
    )
    space = hashlib.sha256(repr((use_case.space, names)).encode()).hexdigest()
    tuning = tune(
        examples,
        [fold],
        use_case.space,
        study_name=f"{use_case.name}-{snapshot[:16]}-{space[:8]}-{trials}",
        storage=studies,
        trials=trials,
        seed=use_case.seed,
        threads=threads,
        starts=(START,),
    )
    fitted = fit(
        examples, split, use_case, tuning.parameters, training_snapshot=snapshot, threads=threads
    )
    return Trained(tuning, fitted, split)


def load_champion(blobs: Blobs, record: PromotionRecord | None) -> Champion | None:
    """The model behind `record`, verified; None when nothing is promoted yet."""
    if record is None:
        return None
    artefact = record.model.artefact
    return Champion(
        record, ModelBundle.load(load_artefact(blobs, artefact), sha256=artefact.sha256)
    )


def judge(
    table: pa.Table,
    use_case: UseCase,
    bundle: ModelBundle,
    *,
    champion: Champion | None,
    truth: pa.Table | None,
) -> Verdict:
    """Evaluate `bundle` beside the champion on mature rows that neither has learnt from.

    Args:
        table: the training set.
        use_case: whose gate to apply.
        bundle: the challenger.
        champion: the model to beat; None for the first one.
        truth: transaction_id and posterior of a simulated world; None for real data.

    Raises:
        ContractError: no unseen row is left, or the champion reads features that are not there.
    """
    examples = Examples.from_table(table, use_case, features=bundle.feature_names)
    seen_until = [bundle.info.trained_until_us]
    if champion is not None:
        seen_until.append(champion.bundle.info.trained_until_us)
    rows = unseen(examples.known_ts, trained_until_us=max(seen_until))
    if not rows.any():
        msg = (
            f"every mature row was seen by {use_case.name} model {bundle.version} or the champion; "
            f"materialise more days, then {use_case.name}/training_set, and judge again"
        )
        raise ContractError(msg)
    window = examples.take(rows)
    oracle = None if truth is None else _posterior(truth, window.transaction_ids)
    evaluation = evaluate(
        bundle,
        window,
        use_case,
        champion=None if champion is None else champion.bundle,
        champion_examples=_as_seen_by(champion, table, use_case, rows),
        oracle=oracle,
    )
    gate = check_gate(
        use_case.gate, evaluation.gate_evidence, use_case=use_case.name, version=bundle.version
    )
    return Verdict(evaluation, gate, bundle, window, oracle)


def _as_seen_by(
    champion: Champion | None, table: pa.Table, use_case: UseCase, rows: npt.NDArray[np.bool_]
) -> Examples | None:
    if champion is None:
        return None
    present = use_case.spec_hashes
    changed = sorted(
        view for view, seen in champion.bundle.info.spec_hashes.items() if present.get(view) != seen
    )
    if changed:
        msg = (
            f"champion {champion.bundle.version} reads feature views {changed} in definitions that "
            "the training set no longer has, so the two models cannot be compared on the same "
            "rows. Keep the old view beside the new one until the champion is replaced."
        )
        raise ContractError(msg)
    names = champion.bundle.feature_names
    return Examples.from_table(table, use_case, features=names).take(rows)


def _posterior(truth: pa.Table, transaction_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    known = np.asarray(truth["transaction_id"].to_numpy(), dtype=np.int64)
    order = np.argsort(known)
    at = np.searchsorted(known, transaction_ids, sorter=order)
    missing = (at == known.size) | (known[order[np.minimum(at, known.size - 1)]] != transaction_ids)
    if missing.any():
        msg = (
            f"truth lacks {int(missing.sum())} of {transaction_ids.size} evaluated orders, the "
            f"first is {transaction_ids[missing][0]}; materialise truth/orders for the same days"
        )
        raise ContractError(msg)
    posterior: npt.NDArray[np.float64] = np.asarray(truth["posterior"].to_numpy())[order[at]]
    return posterior
