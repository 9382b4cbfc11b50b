"""`ibook features get`: values of features from the settings' online store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ibook_assets.cli import app
from ibook_assets.core.features.catalog import view
from ibook_assets.core.features.spec import SOURCES
from ibook_assets.stores.online import OnlineWriter, open_live
from ibook_assets.stores.online.format import EVENT_PREFIX, key_of, pack_attributes
from tests.core.features.worlds import BASE_US, table_of
from tests.stores.online.live_worlds import apply, publish

INVENTORY = "event_realtime_metrics:current_inventory"
COUNT = "user_realtime_fraud_features:order_count_1h"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IBOOK_HOME", str(tmp_path))
    monkeypatch.delenv("IBOOK_ONLINE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def get(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["features", "get", *arguments])


def fill(home: Path) -> None:
    event = (3, 1, 100, 4_000, 0)
    store = open_live(str(home / "online-live"))
    publish(store, [(key_of(EVENT_PREFIX, 7), pack_attributes(event), None)], base_us=BASE_US)
    rows: list[dict[str, Any]] = [
        {"transaction_id": 1, "known_ts": BASE_US, "user_id": 5, "event_id": 7, "quantity": 4}
    ]
    nothing = dict.fromkeys(SOURCES)
    orders = table_of(SOURCES["transactions"], rows)
    apply(store, {**nothing, "transactions": orders}, BASE_US + 120_000_000)
    store.close()


def test_values_of_rows_with_their_time_and_source(home: Path) -> None:
    fill(home)
    answer = get(INVENTORY, COUNT, "--row", "user_id=5,event_id=7", "--row", "user_id=6", "--json")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["degraded"] == []
    assert found["read"].startswith("live-1-")
    assert [row["features"] for row in found["rows"]] == [
        {INVENTORY: 96.0, COUNT: 1.0},  # 100 seats - 4 sold
        {INVENTORY: None, COUNT: 0.0},
    ]
    assert [row["unknown"] for row in found["rows"]] == [[], ["user"]]
    later = get(COUNT, "--row", "user_id=5", "--as-of", str(BASE_US + 3_700_000_000), "--json")
    assert json.loads(later.stdout)["rows"][0]["features"] == {COUNT: 0.0}
    table = get("user_risk", "--row", "user_id=5")
    assert all(name in table.stdout for name in view("user_risk").qualified_names)


def test_without_a_live_store_the_answer_says_so(home: Path) -> None:
    nothing = get("order_context:amount", "--row", "amount_cents=700", "--json")
    assert json.loads(nothing.stdout)["degraded"] == ["online_store_unavailable"]
    OnlineWriter(home / "other" / "online").publish(dict.fromkeys(SOURCES), None, as_of_us=BASE_US)
    (home / "other" / "online").rename(home / "online")
    answer = CliRunner(env={"IBOOK_ONLINE_URL": str(home / "empty")}).invoke(
        app, ["features", "get", "order_context:amount", "--row", "amount_cents=700"]
    )
    assert "degraded: published_snapshot" in answer.stdout
    assert "700" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give features and rows"),
        ([COUNT], "give features and rows"),
        ([COUNT, "--row", "user_id"], "is not `column=value`"),
        ([COUNT, "--row", "user=1"], "Did you mean 'user_id'"),
        (["order_context:tickets", "--row", "quantity=-1"], "'quantity' is -1"),
        (["nothing:at_all", "--row", "user_id=1"], "`ibook features` lists all"),
        ([COUNT, "--row", "user_id=1", "--as-of", "soon"], "time 'soon' is neither"),
        ([COUNT, "--row", "user_id=1", "--as-of", "2026-01-01"], "has no time zone"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(home: Path, arguments: list[str], says: str) -> None:
    answer = get(*arguments)
    assert answer.exit_code == 1
    assert says in answer.stderr
    assert not (home / "online").exists()


def test_lists_take_one_name_and_no_rows(home: Path) -> None:
    answer = CliRunner().invoke(app, ["features", "user_risk", "--row", "user_id=1"])
    assert answer.exit_code == 1
    assert "only `ibook features get" in answer.stderr
    assert home.exists()
