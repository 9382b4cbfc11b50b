"""Traces: what is sealed comes back to the bit, and any change of it is seen and named."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.duplicates import deduplicate
from ibook_assets.core.errors import ContractError, IntegrityError
from ibook_assets.core.messages import PREDICTION_LOG, decode, topic_of
from ibook_assets.core.predictions import (
    Trace,
    of_row,
    sealed,
    unsealed,
    vector_digest,
    verify,
)
from ibook_assets.core.tables import PREDICTIONS
from tests.traces import a_trace

finite = st.floats(allow_nan=False, allow_infinity=False)
traces = st.builds(
    a_trace,
    request_id=st.text("abcXYZ019_-", min_size=1, max_size=64),
    score=finite,
    threshold=finite,
    transaction_text=st.none() | st.text(max_size=9),
    degraded=st.none() | st.just("published_snapshot"),
    features_as_of=st.none() | st.integers(0, 2**62),
    vector=st.binary(max_size=40),
)


def test_a_trace_has_the_columns_of_its_table_in_their_order() -> None:
    assert Trace.__struct_fields__ == PREDICTIONS.column_names
    assert topic_of(PREDICTIONS.name) == PREDICTION_LOG


@given(traces)
def test_a_sealed_trace_comes_back_with_every_bit(trace: Trace) -> None:
    found = unsealed(sealed(trace), where="here")
    assert msgspec.structs.replace(found, checksum="") == trace
    assert len(found.checksum) == 64


@given(traces)
def test_the_stored_form_is_a_message_and_its_row_has_the_same_checksum(trace: Trace) -> None:
    row = decode(PREDICTION_LOG, sealed(trace))
    (landed,) = pa.Table.from_pylist([row], schema=PREDICTIONS.schema).to_pylist()
    found = of_row(landed)
    verify(found, where="here")
    assert found == unsealed(sealed(trace), where="here")


@pytest.mark.parametrize(
    "change",
    [
        {"score": 0.25000000000000006},
        {"served": False},
        {"degraded": "published_snapshot"},
        {"row": "{}"},
        {"experiment": None},
        {"vector": b"\0" * 8, "vector_sha256": vector_digest(b"\0" * 8)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_trace_is_named(change: dict[str, Any]) -> None:
    trace = unsealed(sealed(a_trace(experiment="fees", score=0.25)), where="here")
    with pytest.raises(IntegrityError, match="trace r-1 has sha256"):
        verify(msgspec.structs.replace(trace, **change), where="trace r-1")


def test_a_changed_vector_is_named_as_such() -> None:
    trace = unsealed(sealed(a_trace()), where="here")
    changed = msgspec.structs.replace(trace, vector=b"\1" + trace.vector[1:])
    with pytest.raises(IntegrityError, match="the vector of trace r-1"):
        verify(changed, where="trace r-1")


@given(st.data())
def test_no_flipped_bit_of_a_stored_trace_goes_unseen(data: st.DataObject) -> None:
    message = bytearray(sealed(a_trace()))
    # What precedes the first field is the schema, which is no content.
    at = data.draw(st.integers(len(b'{"schema":"1.0",'), len(message) - 1))
    message[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = unsealed(bytes(message), where="here")
    except IntegrityError:
        return
    # JSON may say one thing in two ways, such as an escape in capitals.
    assert found == unsealed(sealed(a_trace()), where="here")


def test_a_row_that_is_no_trace_is_refused() -> None:
    with pytest.raises(ContractError, match="is no trace"):
        of_row({"request_id": 7})


def test_a_repeated_row_counts_once_and_a_request_id_used_twice_keeps_both() -> None:
    first, again, shadow = (
        decode(PREDICTION_LOG, sealed(trace))
        for trace in (a_trace(), a_trace(known_ts=9), a_trace(variant="shadow", served=False))
    )
    rows = pa.Table.from_pylist([first, shadow, first, again], schema=PREDICTIONS.schema)
    split = deduplicate(rows, PREDICTIONS)
    known = [row["known_ts"] for row in (again, first, shadow)]
    assert rows.take(split.kept)["known_ts"].to_pylist() == known
    assert (len(split.repeated), len(split.conflicting)) == (1, 0)
