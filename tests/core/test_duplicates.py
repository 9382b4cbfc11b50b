"""Repeated rows: the first known one counts, whatever order they arrive in."""

import random

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ibook_assets.core.duplicates import deduplicate
from ibook_assets.core.tables import EVENTS, OUTCOMES, REFUNDS

refunds = st.lists(
    st.fixed_dictionaries(
        {
            "refund_id": st.integers(0, 5),
            "occurred_ts": st.integers(0, 2),
            "known_ts": st.integers(0, 3),
            "transaction_id": st.integers(0, 1),
            "amount_cents": st.integers(0, 1),
        }
    ),
    max_size=30,
)


def _kept(rows: list[dict[str, int]]) -> list[dict[str, int]]:
    table = pa.Table.from_pylist(rows, schema=REFUNDS.schema)
    return table.take(deduplicate(table, REFUNDS).kept).to_pylist()


@settings(deadline=None)
@given(refunds)
def test_equals_the_definition(rows: list[dict[str, int]]) -> None:
    table = pa.Table.from_pylist(rows, schema=REFUNDS.schema)
    split = deduplicate(table, REFUNDS)
    content = [name for name in REFUNDS.column_names if name != "known_ts"]
    kept: dict[int, dict[str, int]] = {}
    for row in sorted(rows, key=lambda r: (r["known_ts"], *(r[n] for n in REFUNDS.column_names))):
        kept.setdefault(row["refund_id"], row)
    expected = sorted(kept.values(), key=lambda r: (r["known_ts"], r["refund_id"]))
    assert table.take(split.kept).to_pylist() == expected
    says_same = [
        all(rows[i][name] == kept[rows[i]["refund_id"]][name] for name in content)
        for i in (*split.repeated, *split.conflicting)
    ]
    assert says_same == [True] * len(split.repeated) + [False] * len(split.conflicting)
    assert sorted([*split.kept, *split.repeated, *split.conflicting]) == list(range(len(rows)))


@settings(deadline=None)
@given(refunds, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(
    rows: list[dict[str, int]], shuffler: random.Random
) -> None:
    shuffled = rows.copy()
    shuffler.shuffle(shuffled)
    assert _kept(shuffled) == _kept(rows)


@settings(deadline=None)
@given(refunds)
def test_sending_everything_twice_changes_nothing(rows: list[dict[str, int]]) -> None:
    assert _kept(rows + rows) == _kept(rows)


def test_a_retry_that_became_known_later_is_a_repetition() -> None:
    row = {
        "refund_id": 1,
        "occurred_ts": 0,
        "known_ts": 5,
        "transaction_id": 2,
        "amount_cents": 3,
    }
    table = pa.Table.from_pylist([{**row, "known_ts": 9}, row], schema=REFUNDS.schema)
    split = deduplicate(table, REFUNDS)
    assert (split.kept.tolist(), split.repeated.tolist()) == ([1], [0])


def test_two_outcomes_of_an_order_at_different_times_both_count() -> None:
    rows = [
        {"transaction_id": 1, "known_ts": t, "is_fraud": t // 9, "amount_cents": 5} for t in (3, 9)
    ]
    table = pa.Table.from_pylist(rows, schema=OUTCOMES.schema)
    assert deduplicate(table, OUTCOMES).kept.tolist() == [0, 1]


def test_a_table_without_time_and_without_rows() -> None:
    split = deduplicate(EVENTS.schema.empty_table(), EVENTS)
    assert split.kept.size == split.repeated.size == split.conflicting.size == 0
