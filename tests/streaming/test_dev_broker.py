"""What only the development broker promises: loopback, memory, an end without loss of answers."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from ibook_assets.core.errors import ContractError
from ibook_assets.stores.log import LogAddress, ensure_topics, open_consumer, partitions_of
from ibook_assets.streaming.broker.batches import parse
from ibook_assets.streaming.broker.codes import Code, RefusedError
from ibook_assets.streaming.broker.partition_log import PartitionLog
from ibook_assets.streaming.broker.server import DevBroker, loopback
from tests.streaming.wire import a_batch

COMMAND = [sys.executable, "-m", "ibook_assets.streaming.broker"]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "example.com", ""])
def test_other_machines_are_not_served(host: str) -> None:
    with pytest.raises(ContractError, match="listens on loopback only"):
        DevBroker(host)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1"])
def test_loopback_addresses_are_taken(host: str) -> None:
    assert loopback(host) in {host, "127.0.0.1"}


def test_the_command_refuses_a_public_address() -> None:
    done = subprocess.run(
        [*COMMAND, "--host", "0.0.0.0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "listens on loopback only" in done.stderr


def test_help_says_that_memory_is_all() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    assert "lost when the broker stops" in " ".join(done.stdout.split())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_command_prints_its_address_and_ends_on_sigterm(host: str) -> None:
    if host == "::1" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    command = [*COMMAND, "--host", host, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            address = LogAddress(line.split(" on ")[1].split(". ")[0])
            ensure_topics(address, ["raw.views"], 2)
            with closing(open_consumer(address)) as consumer:
                assert len(partitions_of(address, consumer, "raw.views")) == 2
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert "lost when the broker stops" in line


def test_the_oldest_messages_go_when_a_partition_is_full() -> None:
    batch = parse(a_batch(bytes(1_000), bytes(1_000)), max_bytes=10_000)
    log = PartitionLog("raw.views/0", retention_bytes=3 * len(batch.data))
    assert [log.append(batch) for _ in range(5)] == [0, 2, 4, 6, 8]
    # Three batches of two messages fit: offsets 4 to 9.
    assert (log.start, log.end) == (4, 10)
    with pytest.raises(RefusedError) as refused:
        log.read(3, 1)
    assert refused.value.code is Code.OFFSET_OUT_OF_RANGE
    assert len(log.read(4, 2**20)) == 3 * len(batch.data)
    assert log.offset_at(1_001) == (5, 1_001)


def test_a_single_batch_over_the_limit_is_kept() -> None:
    batch = parse(a_batch(bytes(1_000)), max_bytes=10_000)
    log = PartitionLog("raw.views/0", retention_bytes=10)
    log.append(batch)
    log.append(batch)
    assert (log.start, log.end) == (1, 2)


def test_what_comes_between_looking_and_waiting_ends_the_wait() -> None:
    async def look_then_wait() -> bool:
        log = PartitionLog("raw.views/0", retention_bytes=1_000)
        waiting = asyncio.ensure_future(log.changed())
        # The task has not begun yet.
        log.wake()
        return await waiting

    assert asyncio.run(look_then_wait())
