"""Days that wait to be landed: none is forgotten, later ones follow a reopened one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.errors import ContractError
from ibook_assets.core.landing import LandedEnds, LandingCursor


def ends(**topics: dict[int, int]) -> LandedEnds:
    return LandedEnds(topics=topics)


def test_new_rows_make_their_days_wait_at_the_revision_of_the_ends() -> None:
    now = ends(views={0: 5})
    cursor = LandingCursor().advanced(now, new_days={"2026-01-02", "2026-01-01"}, landed_days=[])
    assert cursor.seen == now
    assert list(cursor.waiting) == ["2026-01-01", "2026-01-02"]
    assert set(cursor.waiting.values()) == {now.revision}


def test_nothing_new_changes_nothing_that_waits() -> None:
    first = LandingCursor().advanced(ends(views={0: 5}), new_days={"2026-01-01"}, landed_days=[])
    again = first.advanced(ends(views={0: 6}), new_days=(), landed_days=["2026-01-02"])
    assert again.waiting == first.waiting


def test_a_reopened_day_reopens_what_was_landed_after_it_or_waits() -> None:
    before = LandingCursor(waiting={"2026-01-06": "old", "2026-01-01": "old"})
    now = ends(views={0: 5})
    landed = ["2026-01-02", "2026-01-04", "2026-01-05"]
    after = before.advanced(now, new_days=["2026-01-03"], landed_days=landed)
    assert after.waiting == {
        "2026-01-01": "old",
        "2026-01-03": now.revision,
        "2026-01-04": now.revision,
        "2026-01-05": now.revision,
        "2026-01-06": now.revision,
    }
    assert "2026-01-03" not in after.without("2026-01-03").waiting


offsets = st.dictionaries(st.integers(0, 9), st.integers(0, 2**40), max_size=4)


@given(
    st.dictionaries(st.sampled_from(["a", "b"]), offsets), st.dictionaries(st.dates(), st.text())
)
def test_a_cursor_reads_back_as_it_was_written(
    topics: dict[str, dict[int, int]], waiting: dict[object, str]
) -> None:
    days = {str(day): at for day, at in waiting.items()}
    cursor = LandingCursor(seen=LandedEnds(topics=topics), waiting=days)
    assert LandingCursor.parse(cursor.model_dump_json()) == cursor
    assert LandingCursor.parse(None) == LandingCursor.parse("") == LandingCursor()


def test_the_revision_tells_topics_and_partitions_apart() -> None:
    found = {
        ends(a={0: 1}).revision,
        ends(b={0: 1}).revision,
        ends(a={1: 1}).revision,
        ends(a={0: 2}).revision,
    }
    assert len(found) == 4


def test_a_cursor_of_another_version_is_refused() -> None:
    with pytest.raises(ContractError, match="reset the sensor's cursor"):
        LandingCursor.parse('{"offsets": 3}')


def test_a_partition_that_became_shorter_is_new_from_its_start() -> None:
    before = ends(views={0: 5, 1: 9})
    assert before.still_standing("views", ends(views={0: 5, 1: 12})) == {0: 5, 1: 9}
    assert before.still_standing("views", ends(views={0: 2, 1: 9})) == {1: 9}
    assert before.still_standing("views", ends()) == {}
    assert before.still_standing("refunds", before) == {}
