"""A watermark never passes an event that is still unread, and never waits for the dead."""

from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.watermark import Promise, Watermark

A, B = ("raw.transactions", 0), ("raw.transactions", 1)


def _promise(known_us: int, *ends: int, closed: bool = False) -> Promise:
    return Promise(known_us, {"raw.transactions": ends}, closed)


def test_the_watermark_waits_until_all_that_was_promised_is_read() -> None:
    watermark = Watermark(start_us=5, silence_seconds=10)
    watermark.hear("one", _promise(100, 3, 4), now_seconds=0)
    assert watermark.advance({A: 3, B: 3}, now_seconds=0) == 5
    assert watermark.advance({A: 3, B: 4}, now_seconds=0) == 100


def test_only_the_readers_own_partitions_count() -> None:
    watermark = Watermark(start_us=0, silence_seconds=10)
    watermark.hear("one", _promise(100, 3, 4), now_seconds=0)
    assert watermark.advance({A: 3}, now_seconds=0) == 100


def test_it_waits_for_the_slowest_of_two_gateways() -> None:
    watermark = Watermark(start_us=0, silence_seconds=10)
    watermark.hear("one", _promise(100, 3, 4), now_seconds=0)
    watermark.hear("two", _promise(60, 9, 4), now_seconds=0)
    assert watermark.advance({A: 3, B: 4}, now_seconds=0) == 0
    assert watermark.advance({A: 9, B: 4}, now_seconds=0) == 60


def test_a_gateway_that_closed_holds_nobody_back_once_its_last_event_is_read() -> None:
    watermark = Watermark(start_us=0, silence_seconds=10)
    watermark.hear("one", _promise(100, 3, 4), now_seconds=0)
    watermark.hear("two", _promise(60, 2, 9, closed=True), now_seconds=0)
    assert watermark.advance({A: 3, B: 4}, now_seconds=0) == 0
    assert watermark.advance({A: 3, B: 9}, now_seconds=0) == 100


def test_the_last_gateways_closing_word_counts() -> None:
    watermark = Watermark(start_us=0, silence_seconds=10)
    watermark.hear("one", _promise(100, 3, 4, closed=True), now_seconds=0)
    assert watermark.advance({A: 3, B: 4}, now_seconds=0) == 100


def test_a_silent_gateway_is_forgotten_while_another_lives() -> None:
    watermark = Watermark(start_us=0, silence_seconds=10)
    watermark.hear("dead", _promise(50, 0, 0), now_seconds=0)
    watermark.hear("alive", _promise(100, 0, 0), now_seconds=11)
    assert watermark.advance({A: 0, B: 0}, now_seconds=11) == 100


@given(
    events=st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from(["x", "y"])), max_size=60),
    beats=st.sets(st.integers(0, 60)),
    reads=st.lists(st.integers(0, 1), max_size=200),
)
def test_no_unread_event_is_ever_before_the_watermark(
    events: list[tuple[int, str]], beats: set[int], reads: list[int]
) -> None:
    """Events are said at times 1, 2, 3 …; heartbeats come after some of them."""
    log: list[list[int]] = [[], []]
    heard: list[tuple[str, Promise]] = []
    for time, (partition, _) in enumerate(events, start=1):
        log[partition].append(time)
        if time in beats:
            ends = len(log[0]), len(log[1])
            heard.extend((gateway, _promise(time + 1, *ends)) for gateway in ("x", "y"))
    watermark = Watermark(start_us=0, silence_seconds=10)
    for gateway, promise in heard:
        watermark.hear(gateway, promise, now_seconds=0)
    position = {A: 0, B: 0}
    for which in reads:
        place = (A, B)[which]
        position[place] = min(position[place] + 1, len(log[which]))
        reached = watermark.advance(position, now_seconds=0)
        unread = log[0][position[A] :] + log[1][position[B] :]
        assert all(time >= reached for time in unread)
