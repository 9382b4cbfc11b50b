"""Chaos: rows are accounted for, faults belong to rows and not to how a day is cut."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ibook_assets.core.errors import ContractError
from ibook_assets.core.tables import OUTCOMES, RAW_TABLES, TRANSACTIONS, TableSpec
from ibook_sim.chaos import NO_CHAOS, Chaos, deliver, request_faults
from ibook_sim.durations import seconds_of, spelled
from ibook_sim.world import DayTables
from tests.sim.small_world import ints

EVERYTHING = Chaos(
    latency_share=0.2,
    latency_ms=300,
    error_share=0.1,
    drop_share=0.05,
    duplicate_share=0.1,
    disorder_share=0.2,
    corrupt_share=0.1,
    late_label_share=0.5,
    clock_skew_share=0.2,
)
SEED = 7


def _rows(days: list[DayTables], spec: TableSpec) -> pa.Table:
    return pa.concat_tables([getattr(day, spec.name) for day in days[-20:]])


@pytest.mark.parametrize("spec", RAW_TABLES, ids=[s.name for s in RAW_TABLES])
def test_every_row_is_accounted_for(days: list[DayTables], spec: TableSpec) -> None:
    sent = _rows(days, spec)
    found = deliver(sent, spec, EVERYTHING, seed=SEED)
    assert found.rows.num_rows == sent.num_rows - found.dropped + found.duplicated
    assert found.rows.schema.names == sent.schema.names
    arrived, copies = np.unique(found.origin, return_counts=True)
    assert arrived.size == sent.num_rows - found.dropped
    assert (copies > 1).sum() == found.duplicated
    assert (np.diff(ints(found.rows, "known_ts")) >= 0).all()


@pytest.mark.parametrize("spec", RAW_TABLES, ids=[s.name for s in RAW_TABLES])
def test_without_chaos_rows_arrive_as_they_were_sent(
    days: list[DayTables], spec: TableSpec
) -> None:
    sent = _rows(days, spec)
    by_time = deliver(sent, spec, NO_CHAOS, seed=SEED)
    assert by_time.rows.equals(sent.take(by_time.origin))
    assert sorted(by_time.origin.tolist()) == list(range(sent.num_rows))


@settings(max_examples=15, deadline=None)
@given(cut=st.floats(0.0, 1.0))
def test_faults_do_not_depend_on_how_rows_are_cut(transactions: pa.Table, cut: float) -> None:
    sent = transactions.slice(0, 4_000)
    at = int(cut * sent.num_rows)
    whole = deliver(sent, TRANSACTIONS, EVERYTHING, seed=SEED).rows
    parts = [
        deliver(part, TRANSACTIONS, EVERYTHING, seed=SEED).rows
        for part in (sent.slice(0, at), sent.slice(at))
    ]
    merged = pa.concat_tables(parts)
    assert merged.take(_order(merged)).equals(whole.take(_order(whole)))


def _order(rows: pa.Table) -> np.ndarray:
    return np.lexsort((ints(rows, "known_ts"), ints(rows, "transaction_id")))


def test_shares_are_kept(transactions: pa.Table) -> None:
    found = deliver(transactions, TRANSACTIONS, EVERYTHING, seed=SEED)
    n = transactions.num_rows
    # Five standard deviations of a share of at most one half: 2.5 / sqrt(n).
    near = 2.5 / np.sqrt(n)
    assert found.dropped / n == pytest.approx(0.05, abs=near)
    assert found.duplicated / n == pytest.approx(0.95 * 0.1, abs=near)
    assert found.disordered / n == pytest.approx(0.95 * 0.2, abs=near)
    assert found.corrupted / n == pytest.approx(0.95 * 0.1, abs=near)
    assert found.late_labels == 0


def test_a_corrupt_row_breaks_its_contract(transactions: pa.Table) -> None:
    chaos = Chaos(corrupt_share=1.0)
    rows = deliver(transactions.slice(0, 2_000), TRANSACTIONS, chaos, seed=SEED).rows
    broken = np.zeros(rows.num_rows, np.bool_)
    for column in TRANSACTIONS.columns:
        values = rows[column.name].to_pylist()
        if column.allowed:
            broken |= [v is not None and v not in column.allowed for v in values]
        elif column.minimum is not None:
            broken |= [v is not None and v < column.minimum for v in values]
    assert broken.all()


def test_late_labels_only_move_when_they_are_known(days: list[DayTables]) -> None:
    sent = _rows(days, OUTCOMES)
    found = deliver(sent, OUTCOMES, Chaos(late_label_share=1.0), seed=SEED)
    assert found.late_labels == sent.num_rows > 0
    before = ints(sent, "known_ts")[found.origin]
    assert (ints(found.rows, "known_ts") > before).all()
    kept = ["transaction_id", "is_fraud", "amount_cents"]
    assert found.rows.select(kept).equals(sent.take(found.origin).select(kept))


def test_a_device_has_one_clock(transactions: pa.Table) -> None:
    chaos = Chaos(clock_skew_share=0.5, clock_skew_seconds=60)
    found = deliver(transactions, TRANSACTIONS, chaos, seed=SEED)
    sent = transactions.take(found.origin)
    skew = ints(found.rows, "occurred_ts") - ints(sent, "occurred_ts")
    assert np.abs(skew).max() <= 60_000_000
    by_device: dict[int, set[int]] = {}
    for device, off in zip(sent["device_id"].to_pylist(), skew.tolist(), strict=True):
        if device is not None:
            by_device.setdefault(device, set()).add(off)
    assert all(len(offs) == 1 for offs in by_device.values())


def test_another_seed_means_other_faults(transactions: pa.Table) -> None:
    one, other = (deliver(transactions, TRANSACTIONS, EVERYTHING, seed=s).rows for s in (1, 2))
    assert not one.equals(other)


def test_requests_are_delayed_and_fail_by_number() -> None:
    numbers = np.arange(50_000)
    whole = request_faults(numbers, EVERYTHING, seed=SEED)
    some = request_faults(numbers[123:456], EVERYTHING, seed=SEED)
    assert (whole.delay_seconds[123:456] == some.delay_seconds).all()
    assert (whole.fails[123:456] == some.fails).all()
    delayed = whole.delay_seconds > 0
    assert delayed.mean() == pytest.approx(0.2, abs=0.01)
    # Mean of an exponential over 10,000 draws: 0.3 s with a standard error of 0.003 s.
    assert whole.delay_seconds[delayed].mean() == pytest.approx(0.3, abs=0.015)
    assert whole.fails.mean() == pytest.approx(0.1, abs=0.01)
    assert not request_faults(numbers, NO_CHAOS, seed=SEED).fails.any()


@pytest.mark.parametrize("field", ["drop_share", "error_share", "corrupt_share"])
def test_a_share_above_one_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Chaos.model_validate({field: 1.5})


@pytest.mark.parametrize(
    ("text", "bare", "seconds"),
    [
        ("60", "s", 60.0),
        ("10", "m", 600.0),
        ("10m", "s", 600.0),
        ("1h30m", "m", 5_400.0),
        ("250ms", "s", 0.25),
        ("1.5m", "s", 90.0),
    ],
)
def test_durations_are_read(text: str, bare: str, seconds: float) -> None:
    assert seconds_of(text, bare="m" if bare == "m" else "s") == seconds


@pytest.mark.parametrize("text", ["", "ten", "10 parsecs", "-5", "0s", "400d", "1e3", "m10"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match="duration"):
        seconds_of(text, bare="s")


@given(st.integers(1, 10_000_000))
def test_a_spelled_duration_reads_back(seconds: int) -> None:
    assert seconds_of(spelled(seconds), bare="m") == pytest.approx(seconds, rel=1e-5)
