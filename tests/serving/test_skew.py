"""What the server scores is what the batch kernel and the bundle say, bit for bit."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import numpy as np

from ibook_assets.core.settings import Settings
from ibook_assets.core.times import from_us
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.online import OnlineStore, fetch_online_features
from ibook_serving.http.decode import PREDICT, decode_body, order_row
from ibook_serving.scoring.history import PublishedHistory
from tests.serving.harness import RunningServer
from tests.serving.history import AS_OF_US, orders, publish_history


def test_scores_are_the_bundles_on_the_online_features_bit_for_bit(
    served: RunningServer, bundle: ModelBundle
) -> None:
    asked = orders(100)
    decoded = decode_body(msgspec.json.encode({"requests": asked}), PREDICT).requests
    rows = [order_row(o, path="$", now_us=0) for o in decoded]
    store = OnlineStore.open(served.settings.online_path)
    expected = fetch_online_features(FRAUD.features, rows, store)
    scores = bundle.score(expected.values)
    assert np.isfinite(expected.values).any(axis=0).mean() > 0.9, "history reaches the features"
    assert len(set(scores)) > 30

    together = served.predict(*asked)
    alone = [served.predict(order)[0] for order in asked[:20]]
    # JSON carries the shortest text that reads back as the same float64, so == compares bits.
    assert [p["score"] for p in together] == scores.tolist()
    assert [p["score"] for p in alone] == scores[:20].tolist()
    assert [p["unknown_entities"] for p in together] == [list(u) for u in expected.unknown]
    as_of = from_us(AS_OF_US).isoformat().replace("+00:00", "Z")
    assert {p["features_as_of"] for p in together} == {as_of}
    assert {tuple(p["degraded"]) for p in together} == {()}
    assert served.readiness()["online_snapshot"] == expected.snapshot_id

    explained = served.predict(*asked, explain="true")
    shares = bundle.explain(expected.values)[:, :-1]
    for row, prediction in enumerate(explained):
        for reason in prediction["reasons"]:
            column = FRAUD.features.index(reason["feature"])
            value = expected.values[row, column]
            assert reason["contribution"] == float(shares[row, column])
            assert reason["value"] == (None if np.isnan(value) else float(value))


def test_without_history_the_order_itself_still_counts_and_the_rest_is_unknown(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path)
    publish_history(settings)
    rows = [
        order_row(o, path="$", now_us=0)
        for o in decode_body(msgspec.json.encode({"requests": orders(30)}), PREDICT).requests
    ]
    own = [n for n in FRAUD.features if n.startswith("order_context:")]
    with_history = OnlineStore.open(settings.online_path).fetch(own, rows).values
    alone = PublishedHistory(tmp_path / "nothing", FRAUD.features)
    without = asyncio.run(alone.fetch(FRAUD.features, rows))
    columns = [FRAUD.features.index(name) for name in own]
    found = without.values[:, columns]
    # The catalogue's columns are not known without a snapshot; everything else is equal.
    known = ~np.isnan(found)
    assert known.any(axis=0).sum() > 8
    np.testing.assert_array_equal(found[known], with_history[known])
    assert np.isnan(np.delete(without.values, columns, axis=1)).all()
    assert without.unknown == ((),) * 30
