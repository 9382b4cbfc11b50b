"""Rows 1, 2, 3: sinks are killed, frozen and race over a log full of bad messages; all of it lands.

Named crash points first, one sink at a time; then three sinks race, each a group of its own, so
that all of them want every file, while they are killed or frozen at random moments and replaced.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from kafka import KafkaProducer

from ibook_assets.core.messages import MAX_MESSAGE_BYTES, encode, spec_of
from ibook_assets.core.quarantine import reason_counts
from ibook_assets.core.times import DAY_US, MINUTE_US, SECOND_US
from ibook_assets.stores.blobs import Blobs, open_blobs
from ibook_assets.stores.contracts import validate
from ibook_assets.stores.intake import LogRecord, intake
from ibook_assets.stores.log import LogAddress, flush, open_producer
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.streaming.topics import create_log
from tests.reliability.nursery import Nursery
from tests.streaming.log_reading import everything_in, letters_in

Kind = Literal["sound", "duplicate", "late", "poison", "corrupt", "oversized", "future"]
Point = Literal["before", "in write", "after write", "after create", "after commit"]

TOPIC: Final = "raw.transactions"
DAY: Final = date(2026, 1, 5)
NOON_US: Final = 1_767_614_400_000_000
PARTITIONS: Final = 3
RACERS: Final = 3
MESSAGES_PER_KILL: Final = 100
POINTS: Final[tuple[Point, ...]] = (
    "before",
    "in write",
    "after write",
    "after create",
    "after commit",
)
_BAD: Final[tuple[Kind, ...]] = ("duplicate", "late", "poison", "corrupt", "oversized", "future")
_POISON: Final = (
    b"",
    b"\xff\xfe",
    b"[" * 50_000,
    b"null",
    b'{"schema":"7.1"}',
    b'{"schema":"1.0"}',
)


@dataclass(slots=True)
class Figures:
    """What happened; from `lost` on all must be zero."""

    messages: int = 0
    sound: int = 0
    refused: int = 0
    duplicates: int = 0
    files: int = 0
    named_kills: int = 0
    random_kills: int = 0
    freezes: int = 0
    sent: Counter[str] = field(default_factory=Counter[str])
    reasons: Counter[str] = field(default_factory=Counter[str])
    lost: int = 0
    twice: int = 0
    """Offsets that more than one file holds."""
    wrong: int = 0
    """Offsets whose row or refusal is not what was sent."""
    unexplained: int = 0
    """Refused messages without a dead letter of their reason, and letters of sound ones."""


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is landed, where, and who is killed."""

    nursery: Nursery
    log: LogAddress
    lake: tuple[str, str | None]
    rng: np.random.Generator
    figures: Figures

    def start(self, name: str, point: Point | None = None, target: int | None = None) -> int:
        """A sink in a process of its own, and in a group of its own."""
        return self.nursery.start("land", self.lake, self.log.bootstrap, name, point, target)


def land_and_kill(
    nursery: Nursery,
    log: LogAddress,
    uri: str,
    rng: np.random.Generator,
    *,
    endpoint_url: str | None = None,
    named: int,
    at_random: int,
) -> Figures:
    """Feed the log, and kill sinks `named` times at named points and `at_random` times at any."""
    create_log(log, PARTITIONS)
    figures = Figures()
    scene = _Scene(nursery, log, (uri, endpoint_url), rng, figures)
    with closing(open_producer(log)) as producer:
        feed = _feed(log, producer, rng, figures)
        for kill in range(named):
            next(feed)
            child = scene.start(f"named-{kill}", POINTS[kill % len(POINTS)])
            assert nursery.wait(child) == -signal.SIGKILL
            figures.named_kills += 1
        _race(scene, feed, at_random)
    _judge(log, open_blobs(uri, endpoint_url=endpoint_url), figures)
    return figures


def _race(scene: _Scene, feed: Iterator[None], kills: int) -> None:
    rng, figures = scene.rng, scene.figures
    racers = [scene.start(f"racer-{number}") for number in range(RACERS if kills else 0)]
    for kill in range(kills):
        next(feed)
        time.sleep(rng.random() * 0.5)
        victim = int(rng.integers(RACERS))
        if kill % 5 == 4:
            # A zombie: it wakes up when others have gone on, and must not get in their way.
            os.kill(racers[victim], signal.SIGSTOP)
            time.sleep(rng.random())
            os.kill(racers[victim], signal.SIGCONT)
            time.sleep(rng.random() * 0.2)
            figures.freezes += 1
        scene.nursery.kill(racers[victim])
        figures.random_kills += 1
        racers[victim] = scene.start(f"racer-{RACERS + kill}")
    last = scene.start("last", target=sum(figures.sent.values()))
    assert scene.nursery.wait(last) == 0
    for racer in racers:
        scene.nursery.kill(racer)


def _feed(
    log: LogAddress, producer: KafkaProducer, rng: np.random.Generator, figures: Figures
) -> Iterator[None]:
    """Each step sends some messages, one in a hundred of each bad kind."""
    while True:
        for _ in range(MESSAGES_PER_KILL):
            number = sum(figures.sent.values())
            kind: Kind = _BAD[number % 100] if number % 100 < len(_BAD) else "sound"
            figures.sent[kind] += 1
            producer.send(
                TOPIC,
                _message(number, kind, rng),
                key=str(number % 40).encode(),
                timestamp_ms=NOON_US // 1_000,
            )
        flush(log, producer, seconds=60)
        yield


def _message(number: int, kind: Kind, rng: np.random.Generator) -> bytes:
    known_us = NOON_US + number
    row: dict[str, Any] = {
        "transaction_id": number, "occurred_ts": known_us - SECOND_US, "known_ts": known_us,
        "user_id": number % 40, "event_id": 3, "amount_cents": 500, "tier": "vip",
    }  # fmt: skip
    if kind == "duplicate":
        # Known later than the one it repeats, as when a client tries again.
        row["transaction_id"] = number - 1 if number else 99
        row["occurred_ts"] = known_us - 1 - SECOND_US if number else NOON_US + 99 - SECOND_US
        row["user_id"] = row["transaction_id"] % 40
    if kind == "late":
        row["occurred_ts"] = known_us - 3 * DAY_US
    if kind == "future":
        ahead = "occurred_ts" if rng.random() < 0.5 else "known_ts"
        row[ahead] = known_us + 30 * MINUTE_US
    if kind == "poison":
        return _POISON[int(rng.integers(len(_POISON)))]
    if kind == "oversized":
        return encode(TOPIC, row) + b" " * MAX_MESSAGE_BYTES
    message = encode(TOPIC, row)
    return message[: int(rng.integers(1, len(message)))] if kind == "corrupt" else message


def _judge(log: LogAddress, blobs: Blobs, figures: Figures) -> None:
    """Compare every offset of the lake with the log, and the refused ones with the letters."""
    files = LogFiles(blobs)
    landed = files.files(TOPIC)
    rows, quarantine = files.day(TOPIC, spec_of(TOPIC), DAY)
    records: dict[int, list[LogRecord]] = {place: [] for place in range(PARTITIONS)}
    for r in everything_in(log, TOPIC):
        records[r.partition].append(LogRecord(r.partition, r.offset, r.timestamp, r.key, r.value))
    offsets = Counter((f.partition, o) for f in landed for o in range(f.start, f.end))
    expected = [intake(TOPIC, records[place]) for place in range(PARTITIONS)]
    refused = [message for taken in expected for message in taken.refused]
    sound = pa.concat_tables([taken.rows for taken in expected])
    figures.messages = sum(len(messages) for messages in records.values())
    figures.files = len(landed)
    figures.sound, figures.refused = rows.num_rows, quarantine.num_rows
    figures.lost = sum((p, r.offset) not in offsets for p, rs in records.items() for r in rs)
    figures.twice = sum(count > 1 for count in offsets.values())
    figures.wrong = 0 if rows.equals(sound.combine_chunks()) else 1
    figures.wrong += [
        (source, offset) != (f"{TOPIC}/{m.partition}", m.offset) or reason != m.reason
        for source, offset, reason, m in zip(
            quarantine["source"].to_pylist(),
            quarantine["source_row"].to_pylist(),
            quarantine["reason"].to_pylist(),
            refused,
            strict=True,
        )
    ].count(True)
    letters = {source: letter.reason for source, letter in letters_in(log).items()}
    wanted = {f"{TOPIC}/{m.partition}/{m.offset}": m.reason for m in refused}
    figures.unexplained = len(set(letters.items()) ^ set(wanted.items()))
    figures.reasons = Counter(reason_counts(quarantine))
    checked = validate(rows, spec_of(TOPIC), source="log", day=DAY, one_delivery=False)
    assert checked.counts == {}
    figures.duplicates = checked.repeated
