"""The topics of the event log, as everything that writes or reads them needs them."""

from __future__ import annotations

from typing import Final

from ibook_assets.core.messages import DEAD_LETTERS, DERIVED_TOPICS, HEARTBEATS, TOPICS
from ibook_assets.stores.log import LogAddress, ensure_topics

ROW_TOPICS: Final = tuple(topic.name for topic in TOPICS.values() if topic.spec is not None)
"""Topics that carry rows of tables; the sink lands these."""

PROMISED_TOPICS: Final = tuple(name for name in ROW_TOPICS if name not in DERIVED_TOPICS)
"""Topics whose rows a gateway makes known: the ones that its heartbeats promise."""


def create_log(address: LogAddress, partitions: int) -> None:
    """Create the topics that do not exist.

    Args:
        address: the log.
        partitions: of each topic with rows; equal, so that a user's events share a number.

    Raises:
        ContractError: a topic exists with another number of partitions.
        StoreUnavailableError: no broker answers.
    """
    ensure_topics(address, ROW_TOPICS, partitions)
    ensure_topics(address, (HEARTBEATS, DEAD_LETTERS), 1)
