"""Column mapping: what is written is what is read, and every mistake names its way out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibook_assets.core.errors import ContractError
from ibook_assets.core.mapping import REQUIRED_ROLES, ROLES, ColumnMapping

HANDBOOK = (
    "user=CUSTOMER_ID,event=TERMINAL_ID,amount=TX_AMOUNT,time=TX_DATETIME,"
    "label=TX_FRAUD,id=TRANSACTION_ID"
)

column_names = st.text(st.characters(codec="utf-8", exclude_characters='"\r\n'), min_size=1).map(
    str.strip
)
mappings = (
    st.sets(st.sampled_from([role for role in ROLES if role not in REQUIRED_ROLES]))
    .flatmap(
        lambda optional: st.fixed_dictionaries(
            dict.fromkeys([*REQUIRED_ROLES, *sorted(optional)], column_names.filter(bool))
        )
    )
    .map(lambda found: ColumnMapping(tuple((r, found[r]) for r in ROLES if r in found)))
)


def test_reads_the_roles_of_a_public_data_set() -> None:
    mapping = ColumnMapping.parse(HANDBOOK)
    assert mapping.column_of("user") == "CUSTOMER_ID"
    assert mapping.column_of("id") == "TRANSACTION_ID"
    assert mapping.column_of("promoter") is None
    assert len(mapping.file_columns) == 6


@settings(deadline=None)
@given(mappings)
def test_text_round_trip(mapping: ColumnMapping) -> None:
    assert ColumnMapping.parse(str(mapping)) == mapping


def test_the_order_of_entries_does_not_matter() -> None:
    shuffled = ",".join(reversed(HANDBOOK.split(",")))
    assert ColumnMapping.parse(shuffled) == ColumnMapping.parse(HANDBOOK)


def test_label_is_optional_for_scoring() -> None:
    assert ColumnMapping.parse("user=a,event=b,amount=c,time=d").column_of("label") is None


def test_one_column_may_play_two_roles() -> None:
    mapping = ColumnMapping.parse("user=a,event=b,promoter=b,amount=c,time=d")
    assert mapping.file_columns == ("d", "a", "b", "c")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("usr=a,event=b,amount=c,time=d", "Did you mean 'user'"),
        ("user=a,event=b", "amount"),
        ("user=a,event=b,amount=c,time", "role=COLUMN"),
        ("user=a,user=b,event=b,amount=c,time=d", "mapped twice"),
        ("", "required roles"),
    ],
    ids=["unknown role", "missing roles", "no column", "repeated role", "empty"],
)
def test_a_mistake_names_its_way_out(text: str, named: str) -> None:
    with pytest.raises(ContractError, match=named):
        ColumnMapping.parse(text)


def test_a_missing_column_names_what_is_there_and_what_is_close() -> None:
    mapping = ColumnMapping.parse("user=customer_id,event=b,amount=c,time=d")
    with pytest.raises(ContractError, match=r"no column 'customer_id'.*Did you mean 'CUSTOMER_ID'"):
        mapping.check(["CUSTOMER_ID", "b", "c", "d"], source="payments.csv")
