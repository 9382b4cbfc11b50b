"""Going on after a log that is lost, as a development broker's is whenever it ends."""

from __future__ import annotations

from ibook_assets.core.errors import ConflictError
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.online.format import PROGRESS_KEY
from ibook_assets.stores.online.live import (
    LiveStore,
    Position,
    Progress,
    Write,
    partition_name,
    progress_of,
)
from ibook_assets.streaming.topics import ROW_TOPICS


def beginnings(files: LogFiles, partitions: int) -> dict[str, list[int]]:
    """By topic, the offset at which each partition of a new log must begin: where files end."""
    ends = {topic: files.ends(topic) for topic in ROW_TOPICS}
    return {t: [found.get(n, 0) for n in range(partitions)] for t, found in ends.items()}


def follow(store: LiveStore, begin: dict[str, list[int]]) -> None:
    """Let the live store's workers go on at `begin`: what it holds stays, nothing is read twice.

    Raises:
        ConflictError: a worker commits meanwhile; end it first.
    """
    reading = store.read([PROGRESS_KEY])
    progress = progress_of(reading.values[0])
    watermark_us = max(
        (position.applied_us for position in progress.positions.values()),
        default=progress.base_us,
    )
    positions = {
        partition_name(topic, number): Position(offset, watermark_us)
        for topic, offsets in begin.items()
        for number, offset in enumerate(offsets)
        if partition_name(topic, number) in progress.positions
    }
    moved = Progress(watermark_us, positions).encoded()
    if not store.commit(reading.version, {PROGRESS_KEY: Write(moved)}):
        msg = f"somebody writes the live store {store.address}; end its workers, then start again"
        raise ConflictError(msg)
