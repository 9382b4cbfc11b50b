"""Quarantine rows, and the page that promises what happens to bad input."""

from pathlib import Path

import pyarrow as pa
import pytest

from ibook_assets.core.errors import ContractError
from ibook_assets.core.fact_rules import ID_LOOKBACK_DAYS, ORDER_LOOKBACK_DAYS
from ibook_assets.core.mapping import REQUIRED_ROLES, ROLES
from ibook_assets.core.quarantine import (
    MAX_REJECTED_SHARE,
    MIN_REJECTED_ROWS,
    RULES,
    check_rejected_share,
    quarantine_spec,
    quarantined,
    reason_counts,
    unsplit,
)
from ibook_assets.core.tables import OUTCOMES, RAW_TABLES, REFUNDS, TRANSACTIONS, TableSpec
from ibook_assets.core.times import MINUTE_US
from ibook_assets.stores.contracts import CLOCK_SKEW_CAP_US
from ibook_assets.stores.parsing import NULL_SPELLINGS

PAGE = Path(__file__).parents[2] / "docs" / "data-contracts.md"


@pytest.mark.parametrize("spec", RAW_TABLES, ids=lambda s: s.name)
def test_quarantine_holds_every_column_as_text(spec: TableSpec) -> None:
    kept = quarantine_spec(spec)
    assert set(spec.column_names) < set(kept.column_names)
    assert {kept.column(name).type for name in spec.column_names} == {pa.string()}
    assert all(kept.column(name).nullable for name in spec.column_names)


def test_values_are_kept_as_read_or_as_they_arrived() -> None:
    rows = pa.table({"refund_id": [1, 2], "amount_cents": pa.array([5, None])})
    kept = quarantined(
        rows,
        REFUNDS,
        reasons=["refund_id:null", "amount_cents:not_an_amount"],
        source="refunds.csv",
        arrived={"amount_cents": pa.array(["0.05", "five"])},
    )
    assert kept["amount_cents"].to_pylist() == ["5", "five"]
    assert kept["known_ts"].to_pylist() == [None, None]
    assert reason_counts(kept) == {"amount_cents:not_an_amount": 1, "refund_id:null": 1}


def test_a_refusal_quotes_records_that_have_no_columns() -> None:
    kept = unsplit([f"broken {i}" for i in range(MIN_REJECTED_ROWS)], REFUNDS, source="refunds.csv")
    with pytest.raises(ContractError, match=r"refunds.csv -> refunds.*'broken 0', 'broken 1'"):
        check_rejected_share(kept, total_rows=30, table="refunds", source="refunds.csv")


def _roles_table() -> str:
    specs = {column.name: column for column in (*OUTCOMES.columns, *TRANSACTIONS.columns)}
    rows = [
        f"| `{role}` | {'required' if role in REQUIRED_ROLES else ''} | `{column}` "
        f"| {specs[column].description} |"
        for role, column in ROLES.items()
    ]
    return "\n".join(("| Role | | Column | What it is |", "|---|---|---|---|", *rows))


def _rules_table() -> str:
    rows = [f"| `{rule}` | {meaning} |" for rule, meaning in RULES.items()]
    return "\n".join(("| Rule | A value breaks it that is |", "|---|---|", *rows))


def _facts() -> dict[str, str]:
    return {
        "roles": f"\n{_roles_table()}",
        "rules": f"\n{_rules_table()}",
        "nulls": ", ".join(f"`{text}`" if text else "empty" for text in NULL_SPELLINGS),
        "id_lookback": str(ID_LOOKBACK_DAYS),
        "order_lookback": str(ORDER_LOOKBACK_DAYS),
        "skew": str(CLOCK_SKEW_CAP_US // MINUTE_US),
        "share": f"{MAX_REJECTED_SHARE:.0%}",
        "rows": str(MIN_REJECTED_ROWS),
    }


@pytest.mark.parametrize("name", _facts())
def test_the_page_says_what_the_code_does(name: str) -> None:
    assert f"<!-- {name} -->{_facts()[name]}" in PAGE.read_text(), _facts()[name]


def test_the_page_promises_no_rule_that_does_not_exist() -> None:
    fates = PAGE.read_text().split("## What happens")[1].split("## Quarantine")[0]
    named = {word for word in fates.split("`")[1::2] if "_" in word}
    not_rules = {"known_ts", "unknown_events"}
    assert named - not_rules <= set(RULES)


def test_every_rule_is_given_by_some_code() -> None:
    package = Path(__file__).parents[2] / "ibook_assets"
    givers = ("stores/parsing.py", "stores/contracts.py", "stores/files.py", "core/messages.py")
    code = "".join((package / name).read_text() for name in givers)
    code += (package / "core/quarantine.py").read_text().partition("_PROVENANCE")[2]
    assert [rule for rule in RULES if f'"{rule}"' not in code and f':{rule}"' not in code] == []
