"""A model card as Markdown, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from ibook_assets.core.model_card import Estimate, Measured, ModelCard, ProvenanceCard
from ibook_assets.core.times import from_us

NOT_MEASURED: Final = "not measured"

_CENTS: Final = 100


def card_page(card: ModelCard) -> bytes:
    """The card for people: the same card, the same bytes."""
    return ("\n".join(_markdown(card)).rstrip() + "\n").encode()


def _markdown(card: ModelCard) -> Iterator[str]:
    newest = card.entries[-1]
    yield f"# Model card: {card.use_case} {card.version}\n"
    yield f"{card.description}\n"
    yield f"Release: {card.release or 'none, it has not been the champion'}.\n"
    yield f"Entry {newest.sequence} of the promotion log: {newest.what}, {_moment(newest.at)}.\n"
    yield f"## Intended use\n\n{card.intended_use or NOT_MEASURED}\n"
    yield from _training(card)
    yield from _quality(card)
    yield from _gate(card)
    yield from _decisions(card)
    yield "## Limits and known failure modes\n"
    yield from (f"- {limit}" for limit in card.limits)
    yield "\n## History\n"
    yield from _table(
        ("entry", "what", "actor", "reason", "when"),
        [(e.sequence, e.what, e.actor, e.reason, _moment(e.at)) for e in card.entries],
    )
    yield from _provenance(card.provenance)


def _training(card: ModelCard) -> Iterator[str]:
    data, views = card.training_data, card.features.by_view
    days = f"{data.first_day} to {data.last_day}" if data.first_day else "its manifest is gone"
    maturity = data.label_maturity_days
    yield "## Training data\n"
    yield from _table(
        ("", ""),
        [
            ("days of orders", days),
            ("snapshot", f"`{data.snapshot_id}`"),
            ("files", _or_not(data.files)),
            ("labels mature after", _or_not(None if maturity is None else f"{maturity:g} days")),
            ("learnt from orders until", _moment(data.learnt_until)),
            ("rows learnt from", f"{data.rows:,}"),
            ("frauds among them", f"{data.frauds:,} ({data.frauds / data.rows:.2%})"),
        ],
    )
    yield f"## Features\n\n{card.features.count} features of {len(views)} views.\n"
    yield from _table(("view", "features"), sorted(views.items()))


def _quality(card: ModelCard) -> Iterator[str]:
    found = card.measured
    yield "## Quality\n"
    if found is None:
        yield f"{NOT_MEASURED}: no evaluation of this version is stored.\n"
        return
    window = f"{_moment(from_us(found.from_us))} to {_moment(from_us(found.until_us))}"
    yield (
        f"{found.rows:,} mature orders that the model has not learnt from, {found.frauds:,} of "
        f"them fraud, {window}. Intervals are bootstrapped over entities.\n"
    )
    if not card.evaluation_is_the_gates:
        yield (
            "The gate was judged again when the model was promoted, on other orders or against "
            "another champion: its figures below are not these.\n"
        )
    yield from _table(("figure", "value", "interval"), _figures(found))
    yield "### Calibration\n"
    yield from _table(
        ("orders", "predicted", "observed"),
        [(f"{c.rows:,}", _number(c.predicted), _number(c.observed)) for c in found.calibration],
    )
    yield "### Sub-populations\n"
    yield from _table(
        ("orders with", "orders", "frauds", "average precision", "recall", "held", "predicted"),
        [
            (
                s.name,
                f"{s.rows:,}",
                s.frauds,
                *map(_number, (s.average_precision, s.recall, s.flagged_share, s.predicted_rate)),
            )
            for s in found.sub_populations
        ],
    )


def _figures(found: Measured) -> list[tuple[str, str, str]]:
    level = f"{found.average_precision.level:.0%}"
    rows = [
        ("average precision", *_estimate(found.average_precision)),
        ("ROC AUC", *_estimate(found.roc_auc)),
        (f"recall at {found.max_fpr:.1%} false positives", *_estimate(found.recall_at_fpr)),
        ("calibration error", _number(found.calibration_error), ""),
        ("Brier score", _number(found.brier), ""),
        ("precision of the 100 riskiest entities a day", _number(found.top_entity_precision), ""),
    ]
    if found.difference is not None:
        champion = f"average precision beyond {found.champion_version}"
        rows.append((champion, *_estimate(found.difference)))
    else:
        rows.append(("against a champion", f"{NOT_MEASURED}: there was none", ""))
    if found.oracle_share is not None:
        share = "share of the best possible average precision (simulated truth)"
        rows.append((share, *_estimate(found.oracle_share)))
    else:
        rows.append(("share of the best possible", f"{NOT_MEASURED}: no truth is known", ""))
    return [(name, value, f"{told} ({level})" if told else "") for name, value, told in rows]


def _gate(card: ModelCard) -> Iterator[str]:
    against = card.gate.champion_version or "the floors alone"
    yield f"## Gate\n\nJudged when it was promoted, against {against}.\n"
    yield from _table(
        ("rule", "value", "bound", "holds", "evidence"),
        [
            (r.name, _number(r.value), f"{r.comparison} {_number(r.bound)}", r.passed, r.evidence)
            for r in card.gate.rules
        ],
    )


def _decisions(card: ModelCard) -> Iterator[str]:
    costs, found = card.costs, card.measured
    rows: list[tuple[object, ...]] = [
        ("threshold: held at or above", f"{card.threshold:.4f}"),
        ("lost of a fraudulent order that passes", f"{costs.loss_share:.0%} of its amount"),
        ("fee of a chargeback", _money(costs.chargeback_fee_cents)),
        ("review of a held order", _money(costs.review_cents)),
        ("lost of a legitimate order that is held", f"{costs.friction_share:.0%} of its amount"),
    ]
    if found is None:
        rows.append(("orders held, precision, recall, money saved", NOT_MEASURED))
    else:
        saved = found.saved_cents
        rows += [
            ("orders held", _number(found.decisions.held_share)),
            ("precision of holding", _number(found.decisions.precision)),
            ("recall of holding", _number(found.decisions.recall)),
            (
                "saved on the evaluation orders",
                f"{_money(saved.value)} [{_money(saved.low)}, {_money(saved.high)}]",
            ),
        ]
    yield "## Threshold and costs\n"
    yield from _table(("", ""), rows)


def _provenance(found: ProvenanceCard) -> Iterator[str]:
    yield "## Provenance\n"
    files = [(f"file `{name}`", f"`{sha}`") for name, sha in sorted(found.files_sha256.items())]
    yield from _table(
        ("", ""),
        [
            ("git commit", f"`{found.git_sha}`"),
            ("MLflow run", f"`{found.mlflow_run_id}`" if found.mlflow_run_id else "none"),
            ("artefact", f"`{found.artefact}`"),
            *files,
            ("promotion entry", f"`{found.record_sha256}`"),
            ("evaluation", f"`{found.evaluation}`" if found.evaluation else NOT_MEASURED),
            ("its sha256", f"`{found.evaluation_sha256}`" if found.evaluation_sha256 else ""),
            ("parameters", _pairs(found.parameters)),
            ("libraries", _pairs(found.libraries)),
        ],
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(_cell(value) for value in row) + " |"
    yield ""


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    # Text of people: a line break or a bar would end the cell.
    return " ".join(str(value).split()).replace("|", "\\|")


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items()))


def _estimate(found: Estimate) -> tuple[str, str]:
    if found.low is None or found.high is None:
        return _number(found.value), ""
    return _number(found.value), f"{found.low:.4f} to {found.high:.4f}"


def _number(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    # Counts come as floats, too; 0 and 1 may be either and are told as figures.
    return f"{value:,.0f}" if value == int(value) and abs(value) > 1 else f"{value:.4f}"


def _money(cents: float | None) -> str:
    return NOT_MEASURED if cents is None else f"{cents / _CENTS:,.2f}"


def _or_not(value: object) -> object:
    return NOT_MEASURED if value is None else value


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
