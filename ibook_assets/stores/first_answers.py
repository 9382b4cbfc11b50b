"""The first answer to each user in a step of a rollout, folded out of the prediction log.

Rows may be folded in any order and any portions: `folded` of everything is `folded` of what was
folded before and the rest. Of several rows of one moment the one that the log has first counts.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import Column, array, as_mask, integers, nulls, pc

HELD: Final = "review"
"""The decision that holds an order."""

_COLUMNS: Final[dict[str, tuple[pa.DataType, bool]]] = {
    "served": (pa.bool_(), False),
    "user_id": (pa.int64(), False),
    "known_ts": (pa.int64(), False),
    "partition": (pa.int32(), False),
    "offset": (pa.int64(), False),
    "request_id": (pa.string(), True),
    "transaction_id": (pa.int64(), True),
    "challenged": (pa.bool_(), False),
    "score": (pa.float64(), False),
    "held": (pa.bool_(), False),
}
FIRST_ANSWERS: Final = pa.schema([pa.field(n, *of) for n, of in _COLUMNS.items()])
"""A row is the first that a user was answered with (`served`), or a score of the challenger that
nobody saw and that may belong to such an answer: only then requests have to be told apart, and
`request_id`, which is most of a row's size, is not null."""

LOGGED: Final = (
    *("use_case", "served", "user_id", "known_ts", "request_id", "transaction_id"),
    *("model_version", "record_sequence", "score", "decision"),
)
"""What of a prediction is needed."""

_NEVER: Final = np.iinfo(np.int64).max


def rows_of(
    predictions: pa.Table, *, partition: int, offsets: Column, challenger: str, shadow: bool
) -> pa.Table:
    """`predictions` of a step, with the columns `LOGGED`, in the form of `FIRST_ANSWERS`.

    Args:
        predictions: what the log has in `partition` at `offsets`.
        partition: of the log.
        offsets: one for each row.
        challenger: version of the model that is compared with the champion.
        shadow: whether it scores unseen.
    """
    columns: dict[str, Column] = {
        **{name: predictions[name] for name in _COLUMNS if name in LOGGED},
        **({} if shadow else {"request_id": nulls(predictions.num_rows, pa.string())}),
        "partition": array(np.full(predictions.num_rows, partition, np.int32)),
        "offset": offsets,
        "challenged": pc.equal(predictions["model_version"], challenger),
        "held": pc.equal(predictions["decision"], HELD),
    }
    return pa.table({name: columns[name] for name in _COLUMNS}).cast(FIRST_ANSWERS)


def folded(rows: pa.Table) -> pa.Table:
    """What of `rows` is a first answer, or may turn out to belong to one, sorted by user and time.

    An unseen score belongs to an answer of the same moment. It stays as long as none is known
    that is earlier: the answer may be read later, and be the first.
    """
    by = ("offset", "partition", "known_ts", "user_id")
    order = np.lexsort([integers(rows[name], null=-1) for name in by])
    users, known_us = (integers(rows[name], null=-1)[order] for name in ("user_id", "known_ts"))
    served = as_mask(rows["served"])[order]
    answers = np.flatnonzero(served)
    first = answers[np.diff(users[answers], prepend=-1) != 0]
    of = np.searchsorted(users[first], users)
    # What lies behind the last user with an answer has none.
    answered = np.append(users[first], -1)[of] == users
    until_us = np.where(answered, np.append(known_us[first], _NEVER)[of], _NEVER)
    keep = ~served & (known_us <= until_us)
    keep[first] = True
    return rows.take(array(order[keep])).combine_chunks()


def answers_until(first_answers: pa.Table, until_us: int) -> pa.Table:
    """The first answers known before `until_us`, in the order of their time."""
    chosen = pc.field("served") & (pc.field("known_ts") < until_us)
    return _in_time(first_answers.filter(chosen))


def answers_with_unseen(first_answers: pa.Table, until_us: int) -> pa.Table:
    """The same with `score_unseen` and `held_unseen`, null where the challenger said nothing."""
    by = ["user_id", "known_ts", "request_id"]
    unseen = first_answers.filter(~pc.field("served")).group_by(by, use_threads=False)
    # A repeated row says the same again.
    once = unseen.aggregate([("score", "first"), ("held", "first")])
    named = once.rename_columns({"score_first": "score_unseen", "held_first": "held_unseen"})
    answers = answers_until(first_answers, until_us)
    return _in_time(answers.join(named, keys=by, join_type="left outer"))


def _in_time(rows: pa.Table) -> pa.Table:
    return rows.sort_by([(name, "ascending") for name in ("known_ts", "partition", "offset")])
