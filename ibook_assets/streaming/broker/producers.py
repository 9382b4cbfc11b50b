"""Idempotent producers of one partition: each batch is stored once and in order.

Source: Apache Kafka, `ProducerAppendInfo.checkSequence` and `ProducerStateEntry`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from ibook_assets.streaming.broker.batches import Batch
from ibook_assets.streaming.broker.codes import Code, RefusedError

_REMEMBERED: Final = 5
"""Batches remembered per producer: a client has at most as many requests in flight."""


@dataclass(slots=True)
class _Producer:
    epoch: int
    recent: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """First and last sequence number and base offset of the latest batches."""


class Producers:
    """Sequence numbers seen so far."""

    def __init__(self) -> None:
        self._known: dict[int, _Producer] = {}

    def duplicate_of(self, batch: Batch) -> int | None:
        """The base offset of a batch that is stored already, None when `batch` is next in line.

        Raises:
            RefusedError: the batch leaves a gap, repeats an old one, or its epoch was fenced.
        """
        known = self._known.get(batch.producer_id)
        if batch.producer_id < 0 or known is None:
            # Whatever an unknown producer sends first is accepted, as after retention.
            return None
        if batch.producer_epoch < known.epoch:
            msg = f"producer epoch {batch.producer_epoch} was replaced by {known.epoch}"
            raise RefusedError(Code.INVALID_PRODUCER_EPOCH, msg)
        for first, last, offset in known.recent:
            if (known.epoch, first, last) == (
                batch.producer_epoch,
                batch.sequence,
                batch.last_sequence,
            ):
                return offset
        expected = (known.recent[-1][1] + 1) % 2**31 if batch.producer_epoch == known.epoch else 0
        if batch.sequence != expected:
            msg = (
                f"producer {batch.producer_id} sent sequence {batch.sequence}, "
                f"expected was {expected}"
            )
            raise RefusedError(Code.OUT_OF_ORDER_SEQUENCE_NUMBER, msg)
        return None

    def remember(self, batch: Batch, offset: int) -> None:
        """Note that `batch` was stored at `offset`."""
        if batch.producer_id < 0:
            return
        known = self._known.get(batch.producer_id)
        if known is None or known.epoch != batch.producer_epoch:
            known = self._known[batch.producer_id] = _Producer(batch.producer_epoch)
        known.recent.append((batch.sequence, batch.last_sequence, offset))
