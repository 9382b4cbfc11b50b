"""What one development broker holds, whatever connection asks for it."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ibook_assets.streaming.broker.groups import Group
from ibook_assets.streaming.broker.topics import NOWHERE, Topics

NODE_ID: Final = 1
CLUSTER_ID: Final = "ibook-development"


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of the broker."""

    message_bytes: int = 1_048_588
    """Bytes of one batch of messages; more is refused. The default is Apache Kafka's."""
    retention_bytes: int = 256 * 2**20
    """Bytes each partition keeps in memory; beyond them the oldest messages are dropped."""
    default_partitions: int = 4
    """Partitions of a topic whose creator asks for no number."""


class Broker:
    """Topics, consumer groups and producer ids of one process, at the address it advertises."""

    def __init__(
        self,
        host: str,
        port: int,
        limits: Limits,
        begin: Mapping[str, Sequence[int]] = NOWHERE,
    ) -> None:
        self.host = host
        self.port = port
        self.limits = limits
        self.topics = Topics(
            default_partitions=limits.default_partitions,
            retention_bytes=limits.retention_bytes,
            begin=begin,
        )
        self.groups: defaultdict[str, Group] = defaultdict(Group)
        # A producer outlives the broker's memory: its id must not be given to another one.
        self._last_producer_id = secrets.randbits(46) << 16

    def next_producer_id(self) -> int:
        """An id that no producer has."""
        self._last_producer_id += 1
        return self._last_producer_id

    def delete_topic(self, name: str) -> None:
        """Remove a topic and what groups committed for it; RefusedError when there is none."""
        self.topics.delete(name)
        for group in self.groups.values():
            group.forget_topic(name)

    def close(self) -> None:
        """End every wait of every group."""
        for group in self.groups.values():
            group.close()
