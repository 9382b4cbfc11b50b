"""Topics of the broker: made, found and deleted by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from ibook_assets.streaming.broker.codes import Code, RefusedError
from ibook_assets.streaming.broker.partition_log import PartitionLog

MAX_PARTITIONS: Final = 1_000
"""Partitions one topic may have."""

NOWHERE: Final[Mapping[str, Sequence[int]]] = MappingProxyType({})
"""Begin every topic at offset 0."""

_NAME: Final = re.compile(r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}$")


class Topics:
    """Every topic with the logs of its partitions."""

    def __init__(
        self,
        *,
        default_partitions: int,
        retention_bytes: int,
        begin: Mapping[str, Sequence[int]] = NOWHERE,
    ) -> None:
        self._begin = begin
        self._default = default_partitions
        self._retention = retention_bytes
        self._logs: dict[str, list[PartitionLog]] = {}

    def names(self) -> list[str]:
        """Names of all topics, sorted."""
        return sorted(self._logs)

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has; 0 when it does not exist."""
        return len(self._logs.get(topic, ()))

    def log(self, topic: str, partition: int) -> PartitionLog:
        """The log of one partition; RefusedError when there is none."""
        logs = self._logs.get(topic, [])
        if not 0 <= partition < len(logs):
            msg = f"there is no partition {partition} of a topic {topic[:249]!r}"
            raise RefusedError(Code.UNKNOWN_TOPIC_OR_PARTITION, msg)
        return logs[partition]

    def create(self, name: str, partitions: int, replicas: int, *, dry_run: bool = False) -> int:
        """Make a topic (`partitions` -1: the default number); returns its partitions.

        Raises:
            RefusedError: the name is taken or not allowed, or the numbers are.
        """
        count = self._default if partitions == -1 else partitions
        if not _NAME.match(name):
            msg = f"topic name {name[:249]!r} is not 1 to 249 letters, digits and '._-'"
            raise RefusedError(Code.INVALID_TOPIC, msg)
        if name in self._logs:
            raise RefusedError(Code.TOPIC_ALREADY_EXISTS, f"topic {name} exists already")
        if not 1 <= count <= MAX_PARTITIONS:
            msg = f"{count} partitions were asked, 1 to {MAX_PARTITIONS} are possible"
            raise RefusedError(Code.INVALID_PARTITIONS, msg)
        if replicas not in {-1, 1}:
            msg = f"replication factor {replicas} was asked, this broker is alone: use 1"
            raise RefusedError(Code.INVALID_REPLICATION_FACTOR, msg)
        if not dry_run:
            begin = [*self._begin.get(name, ()), *[0] * count]
            self._logs[name] = [
                PartitionLog(f"{name}/{number}", self._retention, begin[number])
                for number in range(count)
            ]
        return count

    def delete(self, name: str) -> None:
        """Remove a topic and everything in it; RefusedError when there is none."""
        if name not in self._logs:
            msg = f"there is no topic {name[:249]!r}"
            raise RefusedError(Code.UNKNOWN_TOPIC_OR_PARTITION, msg)
        for log in self._logs.pop(name):
            log.wake()
