"""Traces for tests that are not about how they are made."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ibook_assets.core.predictions import Trace, vector_digest

KNOWN_US: Final = 1_780_000_000_000_000


def a_trace(request_id: str = "r-1", **changes: Any) -> Trace:
    """A champion's prediction, with `changes`."""
    vector = changes.pop("vector", np.array([0.5, np.nan, -1.0], "<f4").tobytes())
    fields: dict[str, Any] = {
        "request_id": request_id,
        "variant": "champion",
        "known_ts": KNOWN_US,
        "use_case": "fraud",
        "served": True,
        "user_id": 1042,
        "event_id": 17,
        "model_version": "fraud-v1",
        "record_sequence": 1,
        "artefact": "a" * 64,
        "definition": "b" * 16,
        "training_snapshot": "c" * 64,
        "features_as_of": KNOWN_US - 1,
        "store": "snapshot-1",
        "vector": vector,
        "vector_sha256": vector_digest(vector),
        "score": 0.25,
        "threshold": 0.5,
        "decision": "approve",
        "latency_us": 900,
        "row": '{"user_id":1042,"event_id":17,"amount_cents":12050}',
        "git_sha": "0" * 40,
    }
    return Trace(**(fields | changes))
