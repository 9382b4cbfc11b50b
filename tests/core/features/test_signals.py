"""What a bare request leaves unknown is what the kernel answers NaN for."""

import numpy as np
import pyarrow as pa

from ibook_assets.core.facts import FACT_TRANSACTIONS
from ibook_assets.core.features.catalog import ALL_FEATURES, FEATURE_VIEWS
from ibook_assets.core.features.engine import compute_view, required_sources
from ibook_assets.core.features.signals import SIGNALS, need_signals
from ibook_assets.core.features.spec import SOURCES
from ibook_assets.core.tables import TableSpec
from ibook_assets.core.times import DAY_US, HOUR_US

NOW = 400 * DAY_US


def _rows(spec: TableSpec, *, known_us: int, leave_out: frozenset[str] = frozenset()) -> pa.Table:
    """One row with a value in every column that is not left out."""
    values: dict[str, object] = {}
    for column in spec.columns:
        if pa.types.is_string(column.type):
            value: object = column.allowed[0] if column.allowed else "x"
        else:
            value = pa.types.is_boolean(column.type) or max(1, column.minimum or 0)
        values[column.name] = None if column.name in leave_out else value
    values |= {"known_ts": known_us, "starts_ts": NOW + DAY_US} if "starts_ts" in values else {}
    values["known_ts"] = known_us
    return pa.table({c.name: pa.array([values[c.name]], c.type) for c in spec.columns})


def test_exactly_the_features_that_need_signals_are_unknown_without_them() -> None:
    history = {n: _rows(spec, known_us=NOW - HOUR_US // 90) for n, spec in SOURCES.items()}
    bare = _rows(FACT_TRANSACTIONS, known_us=NOW, leave_out=SIGNALS)
    unknown = {}
    for view in FEATURE_VIEWS:
        sources = {name: history[name] for name in required_sources(view)}
        found = compute_view(view, sources, bare)
        for name in view.feature_names:
            unknown[f"{view.name}:{name}"] = bool(np.isnan(found[name].to_numpy()[0]))
    expected = dict(zip(ALL_FEATURES, need_signals(ALL_FEATURES), strict=True))
    assert {n for n, is_unknown in unknown.items() if is_unknown} == {
        n for n, needs in expected.items() if needs
    }
