"""Figures of an evaluation as PNG bytes, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ibook_assets.core.costs import cost_curve
from ibook_assets.core.gate import GateReport
from ibook_assets.core.metrics import CalibrationBin, Interval, Ranking
from ibook_assets.core.times import from_us
from ibook_assets.core.use_cases import UseCase
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.training.evaluate import Evaluation
from ibook_assets.training.examples import Examples

Floats = npt.NDArray[np.float64]

EXPLAINED_ROWS: Final = 500
"""Rows whose exact contributions are worked out for the importance figure; 2 ms each."""

TOP_FEATURES: Final = 20
_BLUE, _ORANGE, _GREY = "#2563eb", "#ea580c", "#6b7280"


def figures(
    bundle: ModelBundle, examples: Examples, use_case: UseCase, *, oracle: Floats | None = None
) -> dict[str, bytes]:
    """PNG files by name, drawn from the evaluation rows; equal input gives equal bytes.

    Args:
        bundle: the model.
        examples: evaluation rows in the model's feature order.
        use_case: costs and seed.
        oracle: shape (n,), the best possible scores where the world is simulated.
    """
    probabilities = bundle.score(examples.x)
    return {
        "precision_recall.png": precision_recall(examples.labels, probabilities, oracle=oracle),
        "score_histogram.png": score_histogram(
            examples.labels, probabilities, threshold=bundle.threshold
        ),
        "cost_curve.png": cost_figure(examples, probabilities, use_case, bundle.threshold),
        "contributions.png": contributions(bundle, examples, seed=use_case.seed),
    }


def all_figures(
    evaluation: Evaluation,
    bundle: ModelBundle,
    examples: Examples,
    use_case: UseCase,
    *,
    oracle: Floats | None = None,
) -> dict[str, bytes]:
    """`figures` and the calibration plot of the evaluation."""
    drawn = figures(bundle, examples, use_case, oracle=oracle)
    return {**drawn, "calibration.png": calibration_plot(evaluation.calibration)}


def precision_recall(
    labels: npt.NDArray[np.int8], probabilities: Floats, *, oracle: Floats | None = None
) -> bytes:
    """Precision against recall, with the no-skill line and the oracle's curve if there is one."""
    figure, axes = _blank("Recall", "Precision")
    named = [("model", probabilities, _BLUE)]
    if oracle is not None:
        named.append(("oracle", oracle, _GREY))
    for name, scores, colour in named:
        positive, negative = Ranking.of(labels, scores).cumulative(np.ones((1, labels.size)))
        recall = positive[0] / positive[0, -1]
        axes.step(
            recall, positive[0] / (positive[0] + negative[0]), colour, where="pre", label=name
        )
    axes.axhline(float(labels.mean()), color=_ORANGE, linestyle=":", label="no skill")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend()
    return _png(figure)


def calibration_plot(bins: Sequence[CalibrationBin]) -> bytes:
    """Observed against predicted fraud rate, both logarithmic; the diagonal is perfect."""
    figure, axes = _blank("Predicted fraud rate", "Observed fraud rate")
    predicted = np.array([b.predicted for b in bins])
    observed = np.array([b.observed for b in bins])
    floor = max(1e-5, 0.5 * float(predicted.min()))
    axes.plot([floor, 1], [floor, 1], color=_GREY, linestyle=":", label="perfect")
    shown = np.maximum(observed, floor)
    axes.plot(np.maximum(predicted, floor), shown, "o-", color=_BLUE, label="model")
    axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1))
    axes.legend()
    return _png(figure)


def score_histogram(
    labels: npt.NDArray[np.int8], probabilities: Floats, *, threshold: float
) -> bytes:
    """How scores of fraud and legitimate orders lie beside the threshold."""
    figure, axes = _blank("Fraud probability", "Orders")
    edges: list[float] = np.linspace(0, 1, 51).tolist()
    for value, name, colour in ((0, "legitimate", _BLUE), (1, "fraud", _ORANGE)):
        axes.hist(probabilities[labels == value], edges, color=colour, alpha=0.6, label=name)
    axes.axvline(min(threshold, 1.0), color="black", linestyle="--", label="threshold")
    axes.set_yscale("symlog")
    axes.legend()
    return _png(figure)


def cost_figure(
    examples: Examples, probabilities: Floats, use_case: UseCase, threshold: float
) -> bytes:
    """Total cost against the share of orders held, with the threshold in use."""
    figure, axes = _blank("Share of orders held", "Cost (1,000 units of currency)")
    curve = cost_curve(examples.labels, probabilities, examples.amount_cents, use_case.costs)
    axes.plot(curve.held / examples.rows, curve.cost_cents / 1e5, color=_BLUE, label="model")
    held = float((probabilities >= threshold).mean())
    axes.axvline(held, color="black", linestyle="--", label="threshold in use")
    axes.set_xlim(0, min(1.0, max(0.2, 4 * held)))
    axes.legend()
    return _png(figure)


def contributions(bundle: ModelBundle, examples: Examples, *, seed: int) -> bytes:
    """SHAP summary: a dot for each explained order and feature, its colour the feature's value."""
    rows = np.sort(
        np.random.default_rng(seed).choice(
            examples.rows, size=min(EXPLAINED_ROWS, examples.rows), replace=False
        )
    )
    x = examples.x[rows]
    values = bundle.explain(x)[:, :-1]
    strongest = np.argsort(-np.abs(values).mean(axis=0), kind="stable")[:TOP_FEATURES][::-1]
    figure, axes = _blank("Contribution to the log-odds of fraud", "", height=6.5)
    jitter = np.random.default_rng(seed).uniform(-0.3, 0.3, size=rows.size)
    for at, column in enumerate(strongest):
        axes.scatter(
            values[:, column],
            at + jitter,
            c=_ranks(x[:, column]),
            cmap="coolwarm",
            s=5,
            vmin=0,
            vmax=1,
        )
    axes.set_yticks(range(strongest.size), [bundle.feature_names[j] for j in strongest], fontsize=7)
    axes.axvline(0, color=_GREY, linewidth=0.8)
    return _png(figure)


def _ranks(values: npt.NDArray[np.float32]) -> Floats:
    """0 (smallest) to 1 (largest); missing values are in the middle."""
    order = np.searchsorted(np.sort(values), values, side="left") / max(1, values.size - 1)
    return np.where(np.isnan(values), 0.5, np.minimum(order, 1.0))


def _blank(x_label: str, y_label: str, *, height: float = 4.0) -> tuple[Figure, Axes]:
    # Figure without pyplot: no global state, no display, safe in any thread.
    figure = Figure(figsize=(6.4, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def html_report(
    evaluation: Evaluation,
    bundle: ModelBundle,
    drawn: Mapping[str, bytes],
    *,
    gate: GateReport | None = None,
) -> str:
    """One page with the verdict, the figures, sub-populations and where the model comes from."""
    title = f"{evaluation.use_case} model {evaluation.version}"
    window = f"{from_us(evaluation.from_us):%Y-%m-%d} to {from_us(evaluation.until_us):%Y-%m-%d}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        (
            f"<p>{evaluation.rows:,} orders with mature labels known {window} (UTC), "
            f"{evaluation.frauds:,} of them fraud. The model learnt from nothing after "
            f"{from_us(bundle.info.trained_until_us):%Y-%m-%d %H:%M}.</p>"
        ),
        *([_gate_table(gate)] if gate else []),
        "<h2>Quality</h2>",
        _table(("Figure", "Value", "95 % interval"), _quality_rows(evaluation)),
        *(
            f'<figure><img alt="{html.escape(_caption(name))}" src="data:image/png;base64,'
            f'{base64.b64encode(image).decode()}"><figcaption>{html.escape(_caption(name))}'
            "</figcaption></figure>"
            for name, image in drawn.items()
        ),
        "<h2>Sub-populations</h2>",
        _table(_SUB_HEAD, _sub_rows(evaluation)),
        "<h2>Origin</h2>",
        _table(("What", "Value"), _origin_rows(bundle)),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;text-align:left;"
    "border-bottom:1px solid #ddd}figure{display:inline-block;margin:.5rem}img{max-width:32rem}"
    "figcaption{color:#555;font-size:.85rem}.no{color:#b91c1c}.yes{color:#15803d}"
)
_SUB_HEAD: Final = (
    "Attribute", "Value", "Orders", "Frauds", "Base rate", "Average precision", "AUC",
    "Predicted rate", "Held", "Recall",
)  # fmt: skip


def _caption(name: str) -> str:
    return name.removesuffix(".png").replace("_", " ").capitalize()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _gate_table(gate: GateReport) -> str:
    verdict = '<span class="yes">open</span>' if gate.passed else '<span class="no">closed</span>'
    rows = [
        (rule.name, _number(rule.value), f"{rule.comparison} {_number(rule.bound)}",
         "holds" if rule.passed else "does not hold", rule.evidence)
        for rule in gate.rules
    ]  # fmt: skip
    return f"<h2>Gate: {verdict}</h2>" + _table(("Rule", "Value", "Bound", "", "Evidence"), rows)


def _quality_rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    intervals: list[tuple[str, Interval | None]] = [
        ("Average precision", evaluation.average_precision),
        ("Area under the ROC curve", evaluation.roc_auc),
        (f"Recall at FPR {evaluation.max_fpr:.0%}", evaluation.recall_at_fpr),
        ("Cost saved (cents)", evaluation.saved_cents),
        (f"Gain over champion {evaluation.champion_version}", evaluation.difference),
        ("Share of the oracle's average precision", evaluation.oracle_share),
    ]
    rows = [
        (name, _number(found.value), f"{_number(found.low)} to {_number(found.high)}")
        for name, found in intervals
        if found is not None
    ]
    plain = [
        ("Base rate", evaluation.base_rate),
        ("Expected calibration error", evaluation.calibration_error),
        ("CP@100", evaluation.top_entity_precision),
        ("Decision threshold", evaluation.decisions.threshold),
        ("Orders held", evaluation.decisions.held_share),
        ("Precision at the threshold", evaluation.decisions.precision),
        ("Recall at the threshold", evaluation.decisions.recall),
        ("Share of possible savings", evaluation.decisions.money.share_of_possible),
    ]
    return rows + [(name, _number(value), "") for name, value in plain]


def _sub_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    return [
        (
            s.dimension, s.value, f"{s.rows:,}", f"{s.frauds:,}", _number(s.base_rate),
            _number(s.average_precision), _number(s.roc_auc), _number(s.predicted_rate),
            _number(s.flagged_share), _number(s.recall),
        )
        for s in evaluation.sub_populations
    ]  # fmt: skip


def _origin_rows(bundle: ModelBundle) -> list[tuple[str, str]]:
    info = bundle.info
    return [
        ("Training snapshot", info.training_snapshot),
        ("Training rows", f"{info.training_rows:,} with {info.training_frauds:,} frauds"),
        ("Trees", info.model_sha256),
        *((f"Parameter {name}", str(value)) for name, value in info.parameters.items()),
        *((f"Library {name}", value) for name, value in info.libraries.items()),
    ]


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
