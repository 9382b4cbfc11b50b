"""Dead letters: where a refused message is told of before the log moves on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer

from ibook_assets.core.messages import DEAD_LETTERS, dead_letter, encode_dead_letter
from ibook_assets.stores.intake import Refused
from ibook_assets.stores.log import LogAddress, answering, failure, flush


def post_refused(
    address: LogAddress, producer: KafkaProducer, topic: str, refused: Sequence[Refused]
) -> None:
    """Put refused messages of `topic` into the dead letters; they are there when this returns.

    Posted twice, a message is there twice, under one key.

    Raises:
        StoreUnavailableError: the log did not acknowledge them.
    """
    if not refused:
        return
    with answering(address):
        futures = [_post(producer, topic, message) for message in refused]
    flush(address, producer)
    for future in futures:
        if future.failed():
            raise failure(address, future.exception)


def _post(producer: KafkaProducer, topic: str, message: Refused) -> Any:  # noqa: ANN401 - untyped
    letter = dead_letter(
        f"{topic}/{message.partition}/{message.offset}",
        topic,
        message.reason,
        message.payload,
        timestamp_ms=message.timestamp_ms,
        partition=message.partition,
        offset=message.offset,
    )
    return producer.send(DEAD_LETTERS, value=encode_dead_letter(letter), key=letter.source.encode())
