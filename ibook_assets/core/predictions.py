"""The trace of one prediction: what it was made from, to the bit, and a checksum over it.

A trace is a row of PREDICTIONS, and its stored form is that row's message of the topic
`predictions`. So the server's trace store, the event log and the lake hold one thing, and each
reader verifies the same checksum. It shows damage and careless changes; whoever may write the
store could compute it anew, which the hash-chained promotion log and file hashes then contradict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from ibook_assets.core.errors import ContractError, IntegrityError
from ibook_assets.core.messages import SCHEMA

DIGEST_CHARACTERS: Final = 16
"""Characters of the vector's own hash, which tells a changed vector from other changes."""


class Trace(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    forbid_unknown_fields=False,
):
    """One prediction; the columns of PREDICTIONS, which says what each means."""

    request_id: str
    variant: str
    known_ts: int
    use_case: str
    served: bool
    transaction_id: int | None = None
    transaction_text: str | None = None
    user_id: int
    event_id: int
    experiment: str | None = None
    model_version: str
    record_sequence: int
    artefact: str
    definition: str
    training_snapshot: str
    features_as_of: int | None = None
    store: str | None = None
    positions: str | None = None
    vector: bytes
    vector_sha256: str
    score: float
    threshold: float
    decision: str
    degraded: str | None = None
    unknown: str | None = None
    latency_us: int
    row: str
    git_sha: str
    container_digest: str | None = None
    checksum: str = ""
    """Empty until the trace is sealed."""

    @property
    def features(self) -> npt.NDArray[np.float32]:
        """The vector that was scored, shape (f,), in the order of the model's features."""
        return np.frombuffer(self.vector, dtype="<f4")

    @property
    def labels(self) -> tuple[str, ...]:
        """What was missing; empty when nothing was."""
        return tuple(self.degraded.split(",")) if self.degraded else ()

    @property
    def request(self) -> dict[str, Any]:
        """The decoded request in the columns of transactions; what is unknown is left out."""
        found: dict[str, Any] = msgspec.json.decode(self.row)
        return found

    @property
    def name(self) -> str:
        """How errors call it."""
        return f"trace {self.request_id} ({self.variant})"


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Trace)
_HEAD: Final = f'{{"schema":"{SCHEMA}",'.encode()


def vector_digest(vector: bytes) -> str:
    """Prefix of the vector's SHA-256."""
    return hashlib.sha256(vector).hexdigest()[:DIGEST_CHARACTERS]


def sealed(trace: Trace) -> bytes:
    """The stored form of `trace`, which has no checksum yet: its message with one."""
    content = _ENCODER.encode(trace)
    checksum = hashlib.sha256(content).hexdigest()
    return b'%b%b,"checksum":"%b"}' % (_HEAD, content[1:-1], checksum.encode())


def unsealed(message: bytes, *, where: str) -> Trace:
    """The trace stored as `message`; `where` is named in errors.

    Raises:
        IntegrityError: it cannot be read, or is not what its checksum was made of.
    """
    try:
        trace = _DECODER.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        found = f"(no readable trace: {error})"
        raise IntegrityError(path=where, expected="that of a trace", found=found) from error
    verify(trace, where=where)
    return trace


def of_row(row: Mapping[str, Any]) -> Trace:
    """The trace in a row of PREDICTIONS, its checksum not looked at; see `verify`."""
    try:
        return msgspec.convert({k: v for k, v in row.items() if v is not None}, Trace)
    except msgspec.ValidationError as error:
        msg = f"a row of predictions is no trace ({error}); land its day again"
        raise ContractError(msg) from error


def verify(trace: Trace, *, where: str) -> None:
    """IntegrityError naming `where`, and the vector if it is at fault, unless all is as sealed."""
    if vector_digest(trace.vector) != trace.vector_sha256:
        raise IntegrityError(
            path=f"the vector of {where}",
            expected=trace.vector_sha256,
            found=vector_digest(trace.vector),
        )
    content = _ENCODER.encode(msgspec.structs.replace(trace, checksum=""))
    found = hashlib.sha256(content).hexdigest()
    if found != trace.checksum:
        raise IntegrityError(path=where, expected=trace.checksum, found=found)
