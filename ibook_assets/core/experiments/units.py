"""From answers to units: each user once, in the arm of the first answer, followed for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_assets.core.arrow import Array, as_mask, integers, one_chunk, pc
from ibook_assets.core.experiments.definition import Experiment, Run
from ibook_assets.core.experiments.metrics import METRICS, Facts, Mask
from ibook_assets.core.tables import (
    EXPERIMENT_OUTCOMES,
    OUTCOMES,
    PREDICTIONS,
    Column,
    TableSpec,
)

Ints = npt.NDArray[np.int64]

ANSWER_COLUMNS: Final = (
    "request_id",
    "variant",
    "known_ts",
    "use_case",
    "served",
    "transaction_id",
    "user_id",
    "experiment",
    "record_sequence",
    "decision",
    "degraded",
)
"""Columns of PREDICTIONS that an experiment reads."""

_USER: Final = PREDICTIONS.column("user_id")

EXPOSURES: Final = TableSpec(
    name="exposures",
    description="Users of an experiment: when each was first answered in it, and by which arm.",
    key=("user_id",),
    time_column="exposed_ts",
    columns=(
        _USER,
        Column("exposed_ts", pa.int64(), "First answer in the experiment (microseconds, UTC)"),
        Column("treated", pa.bool_(), "Whether treatment gave it; control otherwise"),
        Column("designed", pa.bool_(), "Whether the promotion entry served was as defined"),
        Column("switched", pa.bool_(), "Whether the other arm answered the user, too"),
    ),
)

UNITS: Final = TableSpec(
    name="outcomes",
    description=(
        "What became of the users of an experiment within their follow-up: answers they got, and "
        "how many of them each metric counts."
    ),
    key=("user_id",),
    time_column="exposed_ts",
    columns=(
        *EXPOSURES.columns,
        Column("as_of_ts", pa.int64(), "What was known before it counts (microseconds, UTC)"),
        Column("answers", pa.int64(), "Answers within the follow-up", minimum=0),
        *(Column(m.name, pa.int64(), m.description, minimum=0) for m in METRICS.values()),
    ),
)


@dataclass(frozen=True, slots=True)
class Answers:
    """Served answers of one experiment, oldest first; one entry each."""

    user_id: Ints
    known_ts: Ints
    treated: Mask
    designed: Mask
    reviewed: Mask
    degraded: Mask
    request_id: Array
    transaction_id: Ints
    """-1 where the client named none."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Outcomes; each is about an answer, the latest known counts."""

    answer: Ints
    """Position of the answer."""
    known_ts: Ints
    fraud: Mask


@dataclass(frozen=True, slots=True)
class Units:
    """Users of an experiment in the order they came, one entry each."""

    user_id: Ints
    exposed_ts: Ints
    treated: Mask
    designed: Mask
    switched: Mask
    answers: Ints
    """Answers within the follow-up."""
    events: Mapping[str, Ints]
    """Metric to how many of those answers it counts."""

    def where(self, chosen: Mask) -> Units:
        """Some of the users."""
        return Units(
            self.user_id[chosen],
            self.exposed_ts[chosen],
            self.treated[chosen],
            self.designed[chosen],
            self.switched[chosen],
            self.answers[chosen],
            {name: events[chosen] for name, events in self.events.items()},
        )


def answers_of(rows: pa.Table, experiment: Experiment, run: Run) -> Answers:
    """The experiment's answers among `rows`, which have ANSWER_COLUMNS, each once."""
    mine = rows.filter(
        (pc.field("experiment") == experiment.id)
        & (pc.field("use_case") == experiment.use_case)
        & pc.field("served")
    )
    mine = mine.sort_by([("known_ts", "ascending"), ("request_id", "ascending")])
    return Answers(
        user_id=integers(mine["user_id"], null=-1),
        known_ts=integers(mine["known_ts"], null=0),
        treated=as_mask(pc.equal(mine["variant"], experiment.treatment)),
        designed=np.isin(integers(mine["record_sequence"], null=0), sorted(run.designed)),
        reviewed=as_mask(pc.equal(mine["decision"], "review")),
        degraded=as_mask(pc.is_valid(mine["degraded"])),
        request_id=one_chunk(mine["request_id"]),
        transaction_id=integers(mine["transaction_id"], null=-1),
    )


def exposures_of(answers: Answers, *, until_us: int) -> pa.Table:
    """First exposure of each user met before `until_us`, as rows of EXPOSURES."""
    users, first, position = np.unique(answers.user_id, return_index=True, return_inverse=True)
    other = answers.treated != answers.treated[first][position]
    switched = np.bincount(position, weights=other, minlength=users.size) > 0
    exposed = answers.known_ts[first]
    order = np.lexsort((users, exposed))
    order = order[exposed[order] < until_us]
    chosen = first[order]
    return pa.table(
        [
            pa.array(column)
            for column in (
                users[order],
                exposed[order],
                answers.treated[chosen],
                answers.designed[chosen],
                switched[order],
            )
        ],
        schema=EXPOSURES.schema,
    )


def reported_labels(rows: pa.Table, answers: Answers) -> Labels:
    """What rows of EXPERIMENT_OUTCOMES say about `answers`, by request or by order."""
    known, fraud = integers(rows["known_ts"], null=0), as_mask(pc.equal(rows["outcome"], "fraud"))
    ids = integers(rows["transaction_id"], null=-1)
    parts = [
        _pairs(*_codes(answers.request_id, one_chunk(rows["request_id"]))),
        _pairs(answers.transaction_id, ids),
    ]
    answer = np.concatenate([mine for mine, _ in parts])
    row = np.concatenate([theirs for _, theirs in parts])
    return Labels(answer, known[row], fraud[row])


def chargeback_labels(rows: pa.Table, answers: Answers) -> Labels:
    """What rows of OUTCOMES say about `answers`, by order."""
    ids = integers(rows["transaction_id"], null=-1)
    answer, row = _pairs(answers.transaction_id, ids)
    known, fraud = integers(rows["known_ts"], null=0), integers(rows["is_fraud"], null=0) == 1
    return Labels(answer, known[row], fraud[row])


LABEL_COLUMNS: Final[Mapping[str, tuple[TableSpec, tuple[str, ...]]]] = {
    "reported": (
        EXPERIMENT_OUTCOMES,
        ("outcome_id", "known_ts", "experiment", "request_id", "transaction_id", "outcome"),
    ),
    "chargebacks": (OUTCOMES, ("transaction_id", "known_ts", "is_fraud")),
}
"""Table and columns of each source of outcomes."""


def labels_of(rows: pa.Table, answers: Answers, experiment: Experiment) -> Labels:
    """What `rows` of the experiment's source of outcomes say about `answers`."""
    if experiment.outcomes == "chargebacks":
        return chargeback_labels(rows, answers)
    return reported_labels(rows.filter(pc.field("experiment") == experiment.id), answers)


def followed(
    exposures: pa.Table,
    answers: Answers,
    labels: Labels,
    *,
    follow_up_us: int,
    as_of_us: int,
) -> pa.Table:
    """What each exposed user got within the follow-up, as rows of UNITS.

    Outcomes count as they are known at the follow-up's end, so that what a complete user shows
    never changes again.

    Args:
        exposures: rows of EXPOSURES.
        answers: the experiment's, of all users.
        labels: what became of `answers`.
        follow_up_us: how long after the exposure anything counts.
        as_of_us: the moment up to which `answers` and `labels` are complete.
    """
    users = integers(exposures["user_id"], null=-1)
    ends = integers(exposures["exposed_ts"], null=0) + follow_up_us
    order = np.argsort(users)
    place = np.searchsorted(users[order], answers.user_id)
    place = np.minimum(place, max(0, users.size - 1))
    unit = order[place] if users.size else np.empty(0, np.int64)
    here = np.zeros(answers.user_id.size, np.bool_)
    if users.size:
        here = (users[unit] == answers.user_id) & (answers.known_ts <= ends[unit])
    cutoff = np.where(here, ends[unit] if users.size else 0, -1)
    facts = _facts(answers, labels, cutoff)
    as_of = np.full(users.size, as_of_us, np.int64)
    columns = [as_of, np.bincount(unit[here], minlength=users.size)]
    for metric in METRICS.values():
        counted = unit[here & metric.happened(facts)]
        columns.append(np.bincount(counted, minlength=users.size))
    counts = [pa.array(column.astype(np.int64)) for column in columns]
    return pa.table([*(one_chunk(c) for c in exposures.columns), *counts], schema=UNITS.schema)


def units_of(rows: pa.Table) -> Units:
    """Rows of UNITS as arrays."""
    return Units(
        user_id=integers(rows["user_id"], null=-1),
        exposed_ts=integers(rows["exposed_ts"], null=0),
        treated=as_mask(rows["treated"]),
        designed=as_mask(rows["designed"]),
        switched=as_mask(rows["switched"]),
        answers=integers(rows["answers"], null=0),
        events={name: integers(rows[name], null=0) for name in METRICS},
    )


def _facts(answers: Answers, labels: Labels, cutoff: Ints) -> Facts:
    """Facts about answers, their outcomes as known at `cutoff`."""
    in_time = labels.known_ts <= cutoff[labels.answer]
    answer, fraud = labels.answer[in_time], labels.fraud[in_time]
    # Of two outcomes of one moment fraud counts: it is what somebody noticed.
    order = np.lexsort((fraud, labels.known_ts[in_time], answer))
    last = np.append(answer[order][1:] != answer[order][:-1], True)[: order.size]
    newest = order[last]
    said = np.zeros((2, answers.user_id.size), np.bool_)
    said[0, answer[newest]] = fraud[newest]
    said[1, answer[newest]] = ~fraud[newest]
    return Facts(answers.reviewed, answers.degraded, fraud=said[0], legitimate=said[1])


def _pairs(mine: Ints, theirs: Ints) -> tuple[Ints, Ints]:
    """Positions of every equal pair, in `mine` and in `theirs`; negative numbers equal nothing."""
    order = np.argsort(mine, kind="stable")
    first = np.searchsorted(mine[order], theirs, side="left")
    count = np.searchsorted(mine[order], theirs, side="right") - first
    count[theirs < 0] = 0
    row = np.repeat(np.arange(theirs.size), count)
    within = np.arange(row.size) - np.repeat(np.cumsum(count) - count, count)
    return order[first[row] + within], row


def _codes(mine: Array, theirs: Array) -> tuple[Ints, Ints]:
    """Texts as numbers, equal ones alike; null as -1."""
    if theirs.null_count == len(theirs):
        # Nothing to find: most experiments have far more answers than outcomes.
        return np.full(len(mine), -1), np.full(len(theirs), -1)
    encoded = pa.concat_arrays([mine, theirs]).dictionary_encode()
    codes = integers(encoded.indices, null=-1)
    return codes[: len(mine)], codes[len(mine) :]
