"""A real-time run in the shape in which every run is judged and reported."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

from ibook_assets.core.arrow import integers
from ibook_sim.chaos import request_faults
from ibook_sim.judging.findings import Pace, RunResult, Seen
from ibook_sim.orders.placed import ROW_POSTERIOR, age_seconds
from ibook_sim.orders.recordings import rows_digest
from ibook_sim.realtime.recording import BROKEN, TIMED_OUT, UNANSWERED
from ibook_sim.realtime.running import Run
from ibook_sim.world.randomness import Floats

SYNTHETIC: Final = f"synthetic answers, the {ROW_POSTERIOR}"
"""Who scores when no API is asked."""


def findings(done: Run) -> RunResult:
    """What `done` found, about the requests that were begun."""
    load, recording = done.load, done.recording
    begun = slice(0, recording.issued)
    status = recording.status[begun]
    lost = np.isin(status, (UNANSWERED, TIMED_OUT, BROKEN))
    refused = (status >= 400) & (status < 500)
    orders = load.orders
    faults = request_faults(np.arange(load.due.size), load.chaos, seed=load.seed)
    seen = Seen(
        sent_seconds=recording.due[begun],
        archetype=orders.archetype[begun],
        amount_cents=integers(orders.sent["amount_cents"], null=0)[begun],
        posterior=orders.posterior[begun],
        score=recording.score[begun],
        dropped=lost,
        refused=refused,
        failed=~recording.ok[begun] & ~lost & ~refused,
        delay_ms=faults.delay_seconds[begun] * 1e3,
        freshness_seconds=_freshness(done)[begun],
        latency_ms=recording.latency() * 1e3,
        account=integers(orders.sent["user_id"], null=0)[begun],
        flagged=recording.flagged[begun],
    )
    return RunResult(
        scenario=load.scenario,
        seed=load.seed,
        duration_seconds=recording.seconds,
        scorer=f"the API at {done.api}" if done.api else SYNTHETIC,
        seen=seen,
        parts=(orders.found,),
        digest=hashlib.sha256(load.due.tobytes() + rows_digest(load.rows).encode()).hexdigest(),
        interrupted=recording.interrupted,
        pace=Pace(
            target=done.api or "synthetic answers",
            room=done.room is not None,
            rate_share=recording.rate_share(),
            logged=done.fed is not None,
            figures=done.as_dict(),
        ),
    )


def _freshness(done: Run) -> Floats:
    """From when each order happened to when the log had it; NaN where there was no log."""
    if done.fed is None:
        return np.full(done.load.due.size, np.nan)
    return age_seconds(done.load.rows) + done.fed.handed - done.load.due
