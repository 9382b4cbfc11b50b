"""One JSON text per value, so that its sha256 can stand for it."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel


def canonical_json(model: BaseModel) -> bytes:
    """`model` as UTF-8 JSON: sorted keys, no spaces; ValueError for NaN and infinity."""
    return json.dumps(
        model.model_dump(mode="json"),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    ).encode()


def canonical_sha256(model: BaseModel) -> str:
    """SHA-256 (hex) of the canonical JSON of `model`."""
    return hashlib.sha256(canonical_json(model)).hexdigest()
