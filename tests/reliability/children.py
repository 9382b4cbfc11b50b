"""What the killed processes do."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kafka import KafkaConsumer

from ibook_assets.core.errors import ConflictError, StoreUnavailableError
from ibook_assets.core.promotion import Artefact, PromotionDraft, PromotionRecord
from ibook_assets.core.rollout import Entrant, entering, withdrawing
from ibook_assets.core.rollout_log import following
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.log import LogAddress
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.parquet import encode
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.rollouts import Rollouts
from ibook_assets.stores.s3_blobs import S3Blobs
from ibook_assets.streaming.sink import Sink
from tests.promotion_drafts import a_draft
from tests.reliability.crash_points import CrashPoint, When, watch_io

TABLE = "facts/transactions"
ORDERS = "raw.transactions"
DAY = "2026-01-05"
ROWS = 2_000
LOOKS = ("go on", "go on", "take back")
"""Of those who race about a rollout: two watchers that find all sound, and one that finds harm."""


def version_of(number: int, rows: int = ROWS) -> pa.Table:
    """The content of version `number`: a reader can tell it from any mix."""
    noise = np.random.default_rng(number).random(rows)
    return pa.table({"version": pa.array(np.full(rows, number)), "noise": pa.array(noise)})


def warm_up() -> None:
    """Import what is imported on first use, so that no child has to."""
    encode(version_of(0), table=TABLE)
    open_blobs("s3://bucket", endpoint_url="http://127.0.0.1:9")
    open_blobs(".")


def materialise(
    uri: str,
    endpoint_url: str | None,
    number: int,
    crash: tuple[int, When] | None = None,
    report: str | None = None,
) -> None:
    """Write version `number` of the day, dying at `crash`; I/O calls are listed in `report`."""
    data = version_of(number)
    lake = Lake(open_blobs(uri, endpoint_url=endpoint_url))
    seen = watch_io(CrashPoint(*crash) if crash else None)
    lake.write(TABLE, DAY, data)
    if report is not None:
        calls = list(seen)
        Path(report).write_text(json.dumps(calls), encoding="utf-8")


def promote_until(
    uri: str,
    endpoint_url: str | None,
    artefact: dict[str, Any],
    target: int,
    notes: str,
) -> None:
    """Promote, challenge, withdraw and roll back until the log has `target` entries.

    `won <sequence> <sha256>` is noted after an entry was written, `lost` after a conflict. Each
    attempt has a reason of its own.
    """
    worker = Path(notes).name
    log = PromotionLog(open_blobs(uri, endpoint_url=endpoint_url))
    descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    attempt = 0
    while True:
        head = log.current("fraud")
        if head is not None and head.sequence >= target:
            return
        attempt += 1
        name = f"{worker}-{attempt}"
        draft = a_draft(name, artefact=Artefact.model_validate(artefact), actor=worker, reason=name)
        try:
            record = _append(log, head, draft, attempt)
        except ConflictError:
            os.write(descriptor, b"lost\n")
        else:
            os.write(descriptor, f"won {record.sequence} {record.sha256}\n".encode())


def _append(
    log: PromotionLog, head: PromotionRecord | None, draft: PromotionDraft, attempt: int
) -> PromotionRecord:
    """An entry after `head`: a promotion, or, two attempts of three, another action.

    Rollbacks are rare, for each reads the whole log.
    """
    if head is None or attempt % 3 == 0:
        return log.promote(draft, expected_parent=head.sha256 if head else None)
    parent, who = head.sha256, {"actor": draft.actor, "reason": draft.reason}
    if attempt % 10 == 1:
        first = log.history("fraud")[0].model_version
        if head.model_version != first:
            return log.rollback("fraud", to=first, expected_parent=parent, **who)
    if head.challengers:
        return log.challenge(withdrawing(head, None, **who), expected_parent=parent)
    canary = entering(head, draft.model, Entrant("canary"), **who)
    return log.challenge(canary, expected_parent=parent)


def race(uri: str, role: str, artefact: dict[str, Any], start: str, note: str) -> None:
    """Decide about the rollout, or write the promotion log, once the file `start` is there.

    `won`, or `lost <what the error says>`, is noted afterwards.
    """
    blobs, name = open_blobs(uri), Path(note).name
    log, rollouts = PromotionLog(blobs), Rollouts(blobs)
    head, entry = log.require_current("fraud"), rollouts.newest("fraud")
    assert entry is not None
    who = {"actor": name, "reason": role}
    draft = a_draft(name, artefact=Artefact.model_validate(artefact), actor=name, reason=role)
    parent = head.sha256

    def decide(place: int) -> None:
        rollouts.decide(entry, following(entry)[place][0], actor=name, reason=role)
        rollouts.carry_out("fraud")

    act: Callable[[], object] = {
        "go on": lambda: decide(0),
        "take back": lambda: decide(1),
        "promote": lambda: log.promote(draft, expected_parent=parent),
        "roll back": lambda: log.rollback("fraud", expected_parent=parent, **who),
        "withdraw": lambda: log.challenge(withdrawing(head, None, **who), expected_parent=parent),
    }[role]
    Path(f"{note}.ready").touch()
    while not Path(start).exists():
        pass
    # A look writes two logs: without a head start people would nearly always be first.
    time.sleep(0.0 if role in LOOKS else random.Random(name).random() * 0.2)
    try:
        act()
    except ConflictError as error:
        Path(note).write_text(f"lost {error}")
    else:
        Path(note).write_text("won")


def land(
    lake: tuple[str, str | None],
    bootstrap: str,
    group: str,
    point: str | None,
    target: int | None = None,
) -> None:
    """Land the log, dying at the crash point, or until `target` messages have landed."""
    blobs = open_blobs(lake[0], endpoint_url=lake[1])
    files = LogFiles(blobs)
    with closing(
        Sink(LogAddress(bootstrap), blobs, (ORDERS,), group=group, max_rows=40, max_seconds=0.05)
    ) as sink:
        if point is not None:
            die_at(point)
        while target is None or sum(files.ends(ORDERS).values()) < target:
            with suppress(StoreUnavailableError):
                sink.turn()


def die_at(point: str) -> None:
    """Make the next landing of this process end with SIGKILL at `point`."""
    create, commit, write = LogFiles.create, KafkaConsumer.commit, os.write

    def crash(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    def crash_after(call: Any) -> Any:
        return lambda *args, **options: (call(*args, **options), crash())

    def half(descriptor: int, data: memoryview) -> Any:
        write(descriptor, data[: len(data) // 2])
        crash()

    def crash_in(*patches: tuple[Any, str, Any]) -> Any:
        def creating(*args: Any, **options: Any) -> Any:
            for owner, name, call in patches:
                setattr(owner, name, call)
            return create(*args, **options)

        return creating

    stored = crash_after(S3Blobs.create)
    creating: dict[str, Any] = {
        "before": crash,
        # A folder writes a temporary file and then links it; S3 has one request for both.
        "in write": crash_in((os, "write", half), (S3Blobs, "create", crash)),
        "after write": crash_in((os, "link", crash), (S3Blobs, "create", stored)),
        "after create": crash_after(create),
    }
    if point == "after commit":
        KafkaConsumer.commit = crash_after(commit)
    else:
        setattr(LogFiles, "create", creating[point])  # noqa: B010 - mypy forbids the plain way
