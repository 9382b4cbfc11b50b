"""Looks that go on from what earlier ones kept find what reading everything finds."""

from __future__ import annotations

import base64
import json
import re
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.rollout_looks import every_answer, every_pair
from ibook_assets.core.analysis.comparing import canary_findings, shadow_findings
from ibook_assets.core.analysis.findings import Analysis
from ibook_assets.core.analysis.objectives import LATENCY_BOUNDS, Objectives
from ibook_assets.core.analysis.units import Pairs, Requests, Users
from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.core.messages import PREDICTION_LOG
from ibook_assets.core.tables import OUTCOMES, PREDICTIONS
from ibook_assets.core.times import DAY_US, SECOND_US, day_of
from ibook_assets.stores import rollout_checkpoints
from ibook_assets.stores.blob_terms import Data
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.rollout_checkpoints import Watched
from ibook_assets.stores.rollout_data import first_orders, paired_orders
from tests.stores.rollout_steps import (
    KINDS,
    SINCE_US,
    Row,
    Seen,
    Shipped,
    from_scratch,
    looked,
    ship,
    watched,
)

END_US: Final = SINCE_US + 1_000 * SECOND_US
KEPT: Final = "rollouts/fraud/answers/3.parquet"

Told: TypeAlias = tuple[int, list[tuple[int, str]] | str]
"""A partition and the rows of a file, or the end of a look and what befell before it."""

orders = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20)), min_size=1, max_size=12)
portions = st.lists(
    st.tuples(st.integers(0, 11), st.sampled_from(sorted(KINDS))), min_size=1, max_size=8
)
damages = st.sampled_from(["none", "none", "none", "lost", "torn", "emptied", "changed"])
ships = st.tuples(st.integers(0, 2), portions)
looks = st.tuples(st.integers(0, 22), damages)


def damage(blobs: LocalBlobs, how: str) -> None:
    """What may become of a checkpoint."""
    if how == "none" or not blobs.exists(KEPT):
        return
    data = bytearray(blobs.get(KEPT))
    data[len(data) // 3] ^= 1
    if how == "lost":
        blobs.delete(KEPT)
    else:
        left = {"torn": data[: len(data) // 2], "emptied": b"", "changed": data}
        blobs.put(KEPT, bytes(left[how]))


@pytest.mark.parametrize("step", [watched(), watched(shadow=True)], ids=["canary", "shadow"])
@settings(max_examples=40)
@given(orders, st.lists(st.one_of(ships, ships, looks), min_size=1, max_size=10), st.data())
def test_any_order_of_files_and_looks_finds_what_reading_everything_finds(
    step: Watched,
    orders: list[tuple[int, int]],
    story: list[Told],
    data: st.DataObject,
) -> None:
    log: list[Shipped] = []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # A few rows are a long look here.
        patch.setattr(rollout_checkpoints, "FOLDED_ROWS", data.draw(st.integers(1, 10)))
        patch.setattr(rollout_checkpoints, "KEPT_MESSAGES", data.draw(st.integers(1, 20)))
        blobs = LocalBlobs(folder)
        told: list[Told] = [*story, (1_000, "none")]
        for number, what in told:
            if isinstance(what, str):
                damage(blobs, what)
                until_us = SINCE_US + number * SECOND_US
                found = looked(blobs, step, until_us)
                assert found == sorted(found, key=lambda seen: seen[0])
                assert sorted(found) == sorted(from_scratch(log, until_us, shadow=step.shadow))
                continue
            rows = [
                Row(order % len(orders), *orders[order % len(orders)], kind) for order, kind in what
            ]
            file = ship(blobs, rows, partition=number)
            log += [Shipped(number, file.start + at, row) for at, row in enumerate(rows)]


def test_a_later_file_with_an_earlier_order_moves_the_users_first(blobs: Blobs) -> None:
    step = watched()
    ship(blobs, [Row(1, user=7, second=5, kind="answered")])
    later = Row(1, user=7, second=5, kind="answered")
    assert looked(blobs, step, END_US) == [
        (later.known_us, False, later.score, later.held, -1.0, False)
    ]
    earlier = Row(0, user=7, second=3, kind="challenged")
    ship(blobs, [earlier, Row(2, user=8, second=40, kind="answered")], partition=12)
    seen = (earlier.known_us, True, earlier.score, earlier.held, -1.0, False)
    assert looked(blobs, step, SINCE_US + 30 * SECOND_US) == [seen]
    found = looked(blobs, step, END_US)
    assert (found[0], len(found)) == (seen, 2)
    # What is looked at up to an earlier moment is not gone for a later one.
    assert looked(blobs, step, SINCE_US + 4 * SECOND_US) == [seen]


def test_a_shadows_score_finds_its_answer_whichever_comes_first(blobs: Blobs) -> None:
    step = watched(shadow=True)
    first, second = (Row(n, user=7, second=5 + n, kind="answered") for n in (0, 1))
    said = first._replace(kind="unseen")
    ship(blobs, [second._replace(kind="unseen"), second])
    ship(blobs, [said], partition=12)
    (seen,) = looked(blobs, step, END_US)
    assert seen[2] == second.score
    assert seen[4] == second._replace(kind="unseen").score
    # Only now it turns out what the shadow's earlier score was for.
    ship(blobs, [first])
    assert looked(blobs, step, END_US) == [
        (first.known_us, False, first.score, first.held, said.score, said.held)
    ]


def many(rng: np.random.Generator, rows: int) -> list[list[Row]]:
    """Files with orders of few users at moments of their own, most of them about in order."""
    moments = np.argsort(np.arange(rows) + rng.integers(0, 30, rows), kind="stable")
    found = []
    for order, second in enumerate(moments.tolist()):
        user = int(rng.integers(0, rows // 4))
        kind = "challenged" if user % 3 == 0 else "answered"
        found.append(Row(order, user, second, kind))
        if rng.random() < 0.9:
            found.append(Row(order, user, second, "unseen"))
    cuts = np.sort(rng.integers(0, len(found), 12)).tolist()
    files = [found[a:b] for a, b in zip([0, *cuts], [*cuts, len(found)], strict=True)]
    return [file for file in files if file]


@pytest.mark.parametrize("landed_after", [8, 1_000], ids=["landed", "log"])
def test_findings_are_those_of_the_whole_log_read_at_once(
    tmp_path: Path, landed_after: int
) -> None:
    blobs = LocalBlobs(tmp_path)
    rng = np.random.default_rng(11)
    canary, shadow = watched(), watched(shadow=True, decided=4)
    for number, rows in enumerate(many(rng, 600)):
        ship(blobs, rows, partition=number % 3)
        if number == landed_after:
            # The step spans midnight: its first day lands while it is watched.
            land(blobs)
        if number % 3 < 2:
            continue
        until_us = SINCE_US + int(rng.integers(300, 650)) * SECOND_US
        users = first_orders(blobs, canary, until_us=until_us, maturity_days=9, now_us=END_US)
        assert told(users) == told(every_answer(blobs, canary, until_us=until_us))
        pairs = paired_orders(blobs, shadow, until_us=until_us)
        assert told(pairs) == told(every_pair(blobs, shadow, until_us=until_us))


def told(found: Users | Pairs) -> str:
    """Everything that an analysis says of what was found, and what it was found in."""
    none = np.empty((0, 2), np.int64)
    window_us, objectives = 30 * SECOND_US, Objectives(minimum_units=50)
    requests = Requests((), none, none, dict.fromkeys(LATENCY_BOUNDS, none))
    if isinstance(found, Pairs):
        findings = shadow_findings(found, requests, objectives, window_us=window_us)
    else:
        findings = canary_findings(found, requests, objectives, window_us=window_us)
    analysis = Analysis("step", "fraud-v2", "fraud-v1", SINCE_US, END_US, 0.01, findings)
    columns = {column.name: getattr(found, column.name).tolist() for column in fields(found)}
    return json.dumps(analysis.as_dict() | columns)


def land(blobs: LocalBlobs) -> None:
    """Land the day on which the step begins."""
    day = day_of(SINCE_US)
    rows, _ = LogFiles(blobs).day(PREDICTION_LOG, PREDICTIONS, day)
    Lake(blobs).write("raw/predictions", day.isoformat(), rows, spec=PREDICTIONS)


def test_a_look_reads_no_file_again(tmp_path: Path) -> None:
    blobs, step = LocalBlobs(tmp_path), watched()
    files = [ship(blobs, [Row(n, user=n, second=n, kind="answered")]) for n in range(4)]
    assert len(looked(blobs, step, END_US)) == 4
    blobs.put(files[1].key, b"damaged")
    ship(blobs, [Row(4, user=4, second=4, kind="answered")])
    assert len(looked(blobs, step, END_US)) == 5
    blobs.delete(KEPT)
    with pytest.raises(ContractError, match="is damaged"):
        looked(blobs, step, END_US)


def test_what_was_before_the_step_is_never_read(tmp_path: Path) -> None:
    blobs, step = LocalBlobs(tmp_path), watched()
    before = Row(0, user=1, second=-2 * 3_600, kind="before")
    old = ship(blobs, [before])
    ship(blobs, [before])
    blobs.put(old.key, b"damaged")
    ship(blobs, [Row(1, user=1, second=1, kind="answered")])
    assert len(looked(blobs, step, END_US)) == 1


def test_a_new_step_begins_anew_and_the_earlier_ones_rows_go(tmp_path: Path) -> None:
    blobs, step = LocalBlobs(tmp_path), watched()
    ship(blobs, [Row(0, user=1, second=1, kind="answered")])
    assert len(looked(blobs, step, END_US)) == 1
    following = watched(decided=10, sequence=6)
    assert looked(blobs, following, END_US) == []
    assert blobs.list("rollouts/fraud/answers/") == ["rollouts/fraud/answers/10.parquet"]
    # Somebody who was slow still finds what there is.
    assert len(looked(blobs, step, END_US)) == 1


def test_rows_of_another_comparison_are_not_taken_for_the_steps(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    ours, theirs = (Row(n, n, 1, kind) for n, kind in enumerate(("answered", "other model")))
    ship(blobs, [ours, theirs])
    assert [seen[2] for seen in looked(blobs, watched(), END_US)] == [ours.score]
    other = watched(champion="fraud-v0")
    assert [seen[2] for seen in looked(blobs, other, END_US)] == [theirs.score]


def test_of_one_moments_orders_the_one_that_the_log_has_first_counts(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    late, first, next_to_it = (Row(n, user=7, second=5, kind="answered") for n in range(3))
    elsewhere = Row(3, user=8, second=1, kind="answered")
    ship(blobs, [late], partition=1)
    assert [seen[2] for seen in looked(blobs, watched(), END_US)] == [late.score]
    ship(blobs, [elsewhere, first, next_to_it], partition=0)
    assert [seen[2] for seen in looked(blobs, watched(), END_US)] == [elsewhere.score, first.score]


def test_whatever_byte_of_a_checkpoint_is_changed_a_look_finds_the_same(tmp_path: Path) -> None:
    blobs, step = LocalBlobs(tmp_path), watched(shadow=True)
    ship(blobs, [Row(n, user=n, second=n, kind="answered") for n in range(50)])
    expected = looked(blobs, step, END_US)
    whole = blobs.get(KEPT)
    for at in range(0, len(whole), len(whole) // 100):
        changed = bytearray(whole)
        changed[at] ^= 0x10
        blobs.put(KEPT, bytes(changed))
        assert looked(blobs, step, END_US) == expected


def test_another_log_under_the_same_names_is_read_from_its_beginning(tmp_path: Path) -> None:
    blobs, step = LocalBlobs(tmp_path), watched()
    for n in range(3):
        ship(blobs, [Row(2 * n + at, user=n, second=n, kind="answered") for at in (0, 1)])
    assert len(looked(blobs, step, END_US)) == 3
    for key in blobs.list(f"log/{PREDICTION_LOG}/"):
        blobs.delete(key)
    ship(blobs, [Row(9, user=9, second=9, kind="answered")])
    assert [seen[2] for seen in looked(blobs, step, END_US)] == [
        Row(9, user=9, second=9, kind="answered").score
    ]


def test_a_footer_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    ship(blobs, [Row(0, user=0, second=0, kind="answered")])
    looked(blobs, watched(), END_US)
    whole = blobs.get(KEPT)
    ship(blobs, [Row(1, user=1, second=1, kind="answered")])
    # Arrow keeps what is noted in the footer in its own form of the schema.
    (schema,) = re.findall(rb"[A-Za-z0-9+/]{400,}=*", whole)
    read, more = (f'"read":{{"90000":{end}}}'.encode() for end in (1, 2))
    assert read in base64.b64decode(schema)
    changed = base64.b64encode(base64.b64decode(schema).replace(read, more))
    blobs.put(KEPT, whole.replace(schema, changed))
    assert len(looked(blobs, watched(), END_US)) == 2


class Overtaken(LocalBlobs):
    """A lake in which somebody else looks, at more, while the first look keeps what it found."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.others: list[Seen] = []

    def put(self, key: str, data: Data) -> None:
        if key == KEPT and not self.others:
            ship(self, [Row(1, user=1, second=1, kind="answered")])
            self.others.append(looked(LocalBlobs(self.uri), watched(), END_US))
        super().put(key, data)


def test_of_two_looks_at_once_neither_loses_or_repeats_a_file(tmp_path: Path) -> None:
    blobs = Overtaken(tmp_path)
    ship(blobs, [Row(0, user=0, second=0, kind="answered")])
    assert len(looked(blobs, watched(), END_US)) == 1
    assert [len(found) for found in blobs.others] == [2]
    # The slower look has put what it read over the other's: one file is read again.
    ship(blobs, [Row(2, user=2, second=2, kind="answered")])
    assert len(looked(blobs, watched(), END_US)) == 3


def test_looks_race_with_each_other_and_with_recorders(tmp_path: Path) -> None:
    blobs, step = LocalBlobs(tmp_path), watched(shadow=True)
    files = many(np.random.default_rng(3), 300)
    log: list[Shipped] = []
    done = threading.Event()

    def look_on() -> None:
        while not done.is_set():
            looked(LocalBlobs(tmp_path), step, END_US)

    with ThreadPoolExecutor(3) as pool:
        lookers = [pool.submit(look_on) for _ in range(3)]
        try:
            for number, rows in enumerate(files):
                file = ship(blobs, rows, partition=number % 2)
                log += [Shipped(number % 2, file.start + at, row) for at, row in enumerate(rows)]
        finally:
            done.set()
    for looker in lookers:
        looker.result()
    assert looked(blobs, step, END_US) == from_scratch(log, END_US, shadow=True)


class Failing(LocalBlobs):
    """A lake that goes away when one of its objects is asked for."""

    def __init__(self, root: Path, key: str) -> None:
        super().__init__(root)
        self._key = key

    def get(self, key: str) -> bytes:
        if key == self._key:
            msg = f"{key} did not answer"
            raise StoreUnavailableError(msg)
        return super().get(key)


def test_a_long_look_that_ends_in_the_middle_is_not_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_checkpoints, "KEPT_MESSAGES", 2)
    blobs, step = LocalBlobs(tmp_path), watched()
    files = [ship(blobs, [Row(n, user=n, second=n, kind="answered")]) for n in range(5)]
    with pytest.raises(StoreUnavailableError):
        looked(Failing(tmp_path, files[3].key), step, END_US)
    blobs.put(files[0].key, b"nobody reads it again")
    assert len(looked(blobs, step, END_US)) == 5


class Refusing(LocalBlobs):
    """A lake that may only be read below rollouts/."""

    def put(self, key: str, data: Data) -> None:
        if key.startswith("rollouts/"):
            msg = f"{key} is refused"
            raise ContractError(msg)
        super().put(key, data)


def test_whoever_may_only_read_looks_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blobs = Refusing(tmp_path)
    ship(blobs, [Row(0, user=0, second=0, kind="answered")])
    assert len(looked(blobs, watched(), END_US)) == 1
    assert "was not kept" in caplog.text
    assert blobs.list("rollouts/") == []


def test_frauds_are_those_of_first_orders_whose_labels_are_mature(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    ship(blobs, [Row(n, user=n % 3, second=n, kind="answered") for n in range(4)])
    outcomes = {"transaction_id": [1, 2, 3], "is_fraud": [1, 0, 1], "amount_cents": [5, 5, 5]}
    known = {"known_ts": [SINCE_US + DAY_US + n for n in range(3)]}
    table = OUTCOMES.schema.empty_table().from_pydict(outcomes | known, schema=OUTCOMES.schema)
    Lake(blobs).write("facts/outcomes", "2026-03-02", table, spec=OUTCOMES)
    now_us = SINCE_US + 2 * DAY_US + 2 * SECOND_US
    users = first_orders(blobs, watched(), until_us=END_US, maturity_days=2, now_us=now_us)
    # Order 3 is a second one of user 0; order 2 is mature in this very moment.
    assert users.mature.tolist() == [True, True, True]
    assert users.fraud.tolist() == [False, True, False]
    young = first_orders(blobs, watched(), until_us=END_US, maturity_days=3, now_us=now_us)
    assert not young.mature.any()
    assert not young.fraud.any()
