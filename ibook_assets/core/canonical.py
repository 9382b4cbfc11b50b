"""One JSON text per value, so that its sha256 can stand for it."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel


def sha256_hex(data: bytes | memoryview) -> str:
    """SHA-256 of `data` as hex."""
    return hashlib.sha256(data).hexdigest()


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
    return sha256_hex(canonical_json(model))
