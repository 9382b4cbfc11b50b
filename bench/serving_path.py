"""Where a scoring request's microseconds go: each step on its own, in this process, on one thread.

`python -m bench.serving_path` prints a table and writes reports/bench/serving_path.json. CPU time
of the thread, best of several rounds; what the kernel does for a connection is not in it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.serving_stage import Stage, build_stage, fill, history
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.artefacts import load_artefact
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.online import RowsOnly, open_live
from ibook_assets.stores.promotions import PromotionLog
from ibook_serving.http.decode import PREDICT, decode_body, order_row

REPORT: Final = Path("reports/bench/serving_path.json")
BATCHES: Final = (1, 4, 16)
"""Requests that share a tick."""
ROUNDS: Final = 7


def cost_us(work: Callable[[int], object], batch: int, rows: int) -> float:
    """CPU per row of `work`, called with the first row of each batch; best round (µs)."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.thread_time_ns()
        for start in range(0, rows - batch + 1, batch):
            work(start)
        best = min(best, (time.thread_time_ns() - began) / (rows // batch * batch))
    return best / 1e3


def promoted(stage: Stage) -> ModelBundle:
    """The model that the stage promotes."""
    blobs = open_blobs(Settings(home=stage.home).lake)
    record = PromotionLog(blobs).current(FRAUD.name)
    assert record is not None
    artefact = record.model.artefact
    return ModelBundle.load(load_artefact(blobs, artefact), sha256=artefact.sha256)


def steps(stage: Stage, batch: int) -> dict[str, float]:
    """Every step's cost at `batch` requests a tick."""
    bodies = msgspec.msgpack.decode(stage.bodies.read_bytes(), type=list[bytes])[:800]
    orders = [decode_body(body, PREDICT).requests[0] for body in bodies]
    rows = [order_row(order, path="$", now_us=0) for order in orders]
    model, store, alone = (
        promoted(stage),
        open_live(Settings(home=stage.home).live_store),
        RowsOnly(),
    )
    names = model.feature_names
    x = np.ascontiguousarray(store.fetch(names, rows).values)

    def boosted(start: int) -> object:
        part = x[start : start + batch]
        return model.booster.inplace_predict(part, predict_type="margin", validate_features=False)

    def measured(work: Callable[[int], object]) -> float:
        return cost_us(work, batch, len(bodies))

    def each(values: Sequence[object], one: Callable[[int], object]) -> Callable[[int], object]:
        return lambda start: [one(i) for i in range(start, min(start + batch, len(values)))]

    found = {
        "decode and validate": measured(each(bodies, lambda i: decode_body(bodies[i], PREDICT))),
        "to the platform's units": measured(
            each(orders, lambda i: order_row(orders[i], path="$", now_us=0))
        ),
        "features of the order alone": measured(lambda i: alone.fetch(names, rows[i : i + batch])),
        "features out of LMDB": measured(lambda i: store.fetch(names, rows[i : i + batch])),
        "300 trees, flat": measured(lambda i: model.margins(x[i : i + batch])),
        "300 trees, inplace_predict": measured(boosted),
        "trees and calibration": measured(lambda i: model.score(x[i : i + batch])),
    }
    store.close()
    return found


def main() -> None:
    """Measure, print and write the report."""
    with tempfile.TemporaryDirectory(prefix="ibook-bench-") as folder:
        stage = build_stage(Path(folder))
        fill(Settings(home=stage.home).live_store, history())
        found = {batch: steps(stage, batch) for batch in BATCHES}
    table = Table("step", *(f"{batch} a tick" for batch in BATCHES), title="CPU per request (µs)")
    for name in found[BATCHES[0]]:
        table.add_row(name, *(f"{found[batch][name]:.1f}" for batch in BATCHES))
    Console().print(table)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
