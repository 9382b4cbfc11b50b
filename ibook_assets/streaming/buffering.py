"""Rows that have been read from the log and wait for the watermark to pass them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_assets.core.arrow import array, integers
from ibook_assets.core.watermark import Partition

Offsets = npt.NDArray[np.int64]


@dataclass(slots=True)
class _Waiting:
    """What one partition still holds back."""

    rows: pa.Table
    offsets: Offsets
    known_us: Offsets

    def take(self, mask: npt.NDArray[np.bool_]) -> _Waiting:
        return _Waiting(self.rows.filter(array(mask)), self.offsets[mask], self.known_us[mask])


class Buffer:
    """Rows by topic and partition, released in the order of what was known when.

    Nothing leaves the buffer until `forget`, so a commit that failed is prepared again.
    """

    def __init__(self, positions: Mapping[Partition, int]) -> None:
        """Start to read at `positions`, the next offset of each partition."""
        self.read = dict(positions)
        self._waiting: dict[Partition, list[_Waiting]] = {place: [] for place in positions}

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return sum(len(w.offsets) for chunks in self._waiting.values() for w in chunks)

    def add(self, place: Partition, rows: pa.Table, offsets: Offsets, *, next_offset: int) -> None:
        """Take rows of one partition.

        Args:
            place: the partition, one of those the buffer was made for.
            rows: sound rows, with `known_ts`.
            offsets: theirs.
            next_offset: where reading goes on; refused messages are passed over by it.
        """
        self.read[place] = next_offset
        if rows.num_rows:
            known_us = integers(rows["known_ts"], null=0)
            self._waiting[place].append(_Waiting(rows, offsets, known_us))

    def due(self, until_us: int, *, applied_us: Mapping[Partition, int]) -> dict[str, pa.Table]:
        """Rows by topic that are known before `until_us` and not yet applied, in no order."""
        found: dict[str, list[pa.Table]] = {}
        for place, chunks in self._waiting.items():
            for chunk in chunks:
                due = (chunk.known_us < until_us) & (chunk.known_us >= applied_us[place])
                if due.any():
                    found.setdefault(place[0], []).append(chunk.rows.filter(array(due)))
        return {topic: pa.concat_tables(tables) for topic, tables in found.items()}

    def positions(self, until_us: int) -> dict[Partition, int]:
        """Per partition, where a reader begins that has everything known before `until_us`."""
        return {
            place: min(
                (int(o) for c in chunks for o in c.offsets[c.known_us >= until_us][:1]),
                default=self.read[place],
            )
            for place, chunks in self._waiting.items()
        }

    def forget(self, until_us: int) -> None:
        """Drop the rows known before `until_us`: they are applied."""
        for place, chunks in self._waiting.items():
            kept = (c.take(c.known_us >= until_us) for c in chunks)
            self._waiting[place] = [c for c in kept if len(c.offsets)]
