"""Outboxes: what was acknowledged survives a kill, ships in order, and is evicted only then."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibook_assets.core.errors import IntegrityError, StoreUnavailableError
from ibook_assets.core.predictions import unsealed
from ibook_assets.stores.outbox import Entry, Outbox, open_environment
from ibook_assets.stores.traces import TraceStore
from tests.traces import KNOWN_US, a_trace

ROOT = Path(__file__).parents[2]
BYTES = 2**24

WRITER = """
import sys
from pathlib import Path
from ibook_assets.stores.traces import TraceStore
from tests.traces import a_trace

store = TraceStore(Path(sys.argv[1]), max_bytes=2**26)
for batch in range(10_000):
    store.append([a_trace(f"{sys.argv[2]}-{batch}-{i}") for i in range(7)])
    sys.stdout.write(f"{batch}\\n")
    sys.stdout.flush()
"""


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(open_environment(tmp_path, BYTES), "letters")


def entries(*keys: str, known_us: int = 5) -> list[Entry]:
    return [Entry(key, known_us, f"to {key}".encode()) for key in keys]


def test_messages_come_back_by_key_and_in_order(outbox: Outbox) -> None:
    outbox.append(entries("a", "b", "ab"))
    outbox.append(entries("a", known_us=9))
    assert [(s.number, s.known_us) for s in outbox.find("a")] == [(1, 5), (4, 9)]
    assert outbox.find("a")[0].message == b"to a"
    assert outbox.find("") == outbox.find("abc") == outbox.find("x" * 600) == []
    assert [s.key for s in outbox.newest(3)] == ["a", "ab", "b"]


def test_what_is_shipped_is_not_shipped_again_and_stays_for_look_up(outbox: Outbox) -> None:
    outbox.append(entries("a", "b", "c"))
    assert [s.key for s in outbox.unshipped(2)] == ["a", "b"]
    outbox.mark_shipped(2)
    outbox.mark_shipped(1)
    assert [s.key for s in outbox.unshipped(9)] == ["c"]
    assert outbox.backlog() == 1
    assert len(outbox.find("a")) == 1


def test_a_key_that_must_be_new_is_kept_once(outbox: Outbox) -> None:
    assert [outbox.append_new(e) for e in entries("a", "b", "a")] == [True, True, False]
    assert outbox.backlog() == 2


def test_age_evicts_what_was_shipped_only(outbox: Outbox) -> None:
    outbox.append(entries("old", "older", known_us=5) + entries("young", known_us=50))
    assert outbox.evict(before_us=50) == 0
    outbox.mark_shipped(1)
    assert outbox.evict(before_us=50) == 1
    assert outbox.find("old") == []
    outbox.mark_shipped(3)
    assert outbox.evict(before_us=50) == 1
    assert [s.key for s in outbox.newest(9)] == ["young"]
    outbox.append(entries("next"))
    assert outbox.find("next")[0].number == 4


def test_size_evicts_the_oldest_that_was_shipped_and_a_full_store_says_what_to_do(
    tmp_path: Path,
) -> None:
    environment = open_environment(tmp_path, BYTES)
    outbox = Outbox(environment, "letters")
    big = [Entry(str(i), i, b"x" * 4_000) for i in range(1_000)]

    def fill() -> None:
        for _ in range(20):
            outbox.append(big)

    with pytest.raises(StoreUnavailableError, match="IBOOK_TRACE_STORE_BYTES"):
        fill()
    kept = outbox.backlog()
    assert kept % len(big) == 0, "a batch is kept as a whole or not at all"
    assert outbox.evict(before_us=0) == 0
    outbox.mark_shipped(kept)
    assert outbox.evict(before_us=0) > 0
    assert environment.used_bytes() <= BYTES
    outbox.append(big)
    assert [s.number for s in outbox.unshipped(1)] == [kept + 1]


@settings(max_examples=20)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=5), max_size=6))
def test_every_number_is_given_out_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[str]]
) -> None:
    outbox = Outbox(open_environment(tmp_path_factory.mktemp("box"), BYTES), "letters")
    for batch in batches:
        outbox.append(entries(*batch))
    keys = [key for batch in batches for key in batch]
    assert [(s.number, s.key) for s in outbox.unshipped(99)] == list(enumerate(keys, start=1))


def test_a_damaged_trace_is_named_and_ships_as_it_is(tmp_path: Path) -> None:
    store = TraceStore(tmp_path, max_bytes=BYTES)
    store.append([a_trace("r-1"), a_trace("r-2")])
    messages = store.environment.database(b"traces")
    with store.environment.writing() as transaction:
        place = (1).to_bytes(8, "big")
        kept = bytearray(transaction.get(place, db=messages) or b"")
        kept[-100] ^= 1
        transaction.put(place, bytes(kept), db=messages)
    with pytest.raises(IntegrityError, match=r"trace r-1 \(number 1\)"):
        store.find("r-1")
    assert [t.request_id for t in store.find("r-2")] == ["r-2"]
    with store.environment.writing() as transaction:
        transaction.put((2).to_bytes(8, "big"), b"\xff" * 12, db=messages)
    with pytest.raises(IntegrityError, match="message 2 of traces"):
        store.find("r-2")
    assert [s.key for s in store.predictions.unshipped(9)] == ["r-1", ""]


def test_what_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1_000)
    with pytest.raises(StoreUnavailableError, match="cannot be used as a trace store"):
        open_environment(tmp_path, BYTES)


def test_processes_killed_while_writing_lose_nothing_they_had_acknowledged(tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    for run in range(5):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path), f"w{run}{n}"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(2)
        ]
        for n, writer in enumerate(writers):
            assert writer.stdout is not None
            for _ in range(3 + 5 * run):
                acknowledged[f"w{run}{n}"] = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            acknowledged[f"w{run}{n}"] += len(writer.stdout.read().splitlines())
            writer.wait()
            writer.stdout.close()
    store = TraceStore(tmp_path, max_bytes=2**26)
    kept = store.predictions.unshipped(10**6)
    assert [s.number for s in kept] == list(range(1, len(kept) + 1))
    found: dict[str, set[str]] = {}
    for stored in kept:
        trace = unsealed(stored.message, where=stored.key)
        assert trace.known_ts == KNOWN_US
        writer_name, batch, _ = trace.request_id.split("-")
        found.setdefault(f"{writer_name}-{batch}", set()).add(trace.request_id)
    assert {len(batch) for batch in found.values()} == {7}, "batches are whole"
    for writer_name, last in acknowledged.items():
        assert all(f"{writer_name}-{batch}" in found for batch in range(last + 1))
