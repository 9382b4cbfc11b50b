"""The command line: what it prints, and how it ends when something is wrong."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ibook_assets.cli import app
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.spec import FeatureView

MAPPING = "user=u,event=e,amount=a,time=t,label=l"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def ibook(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(*arguments: str) -> str:
    """What a command says that ends with code 1 and a message, not a traceback."""
    answer = ibook(*arguments)
    assert answer.exit_code == 1, answer.output
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    assert answer.stderr.startswith("error: ")
    return answer.stderr


def test_features_lists_every_view_and_where_it_is_defined() -> None:
    rows = json.loads(ibook("features", "--json").stdout)
    assert [(row["view"], row["version"]) for row in rows] == [
        (view.name, view.spec_hash[:16]) for view in FEATURE_VIEWS
    ]
    assert "ibook_assets/core/features/catalog.py" in ibook("features").stdout


@pytest.mark.parametrize("view", FEATURE_VIEWS, ids=lambda view: view.name)
def test_features_of_a_view_and_the_definition_of_each(view: FeatureView) -> None:
    listed = [row["feature"] for row in json.loads(ibook("features", view.name, "--json").stdout)]
    assert listed == list(view.qualified_names)
    definition = json.loads(ibook("features", listed[0]).stdout)
    assert (definition["view"], definition["name"]) == (view.name, view.feature_names[0])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("user_velocty", "unknown feature view 'user_velocty'; defined: ['card_risk'"),
        ("user_risk:no_such_feature", "`ibook features` lists all"),
    ],
    ids=["view", "feature"],
)
def test_an_unknown_feature_is_refused(name: str, says: str) -> None:
    assert says in refused("features", name)


def test_history_of_nothing_is_an_empty_list(home: Path) -> None:
    assert json.loads(ibook("history", "fraud", "--json").stdout) == []
    assert not home.joinpath("mlflow").exists()


@pytest.mark.usefixtures("home")
def test_rollback_before_any_promotion_says_what_to_do() -> None:
    said = refused("rollback", "fraud", "--reason", "it is bad")
    assert "no fraud model has been promoted yet" in said
    assert "make demo" in said


@pytest.mark.usefixtures("home")
def test_promote_before_any_training_says_what_to_do() -> None:
    assert "Materialise fraud/model first" in refused("promote", "fraud", "--reason", "it is good")


@pytest.mark.usefixtures("home")
def test_withdraw_before_any_promotion_says_what_to_do() -> None:
    assert "no fraud model has been promoted yet" in refused("withdraw", "fraud", "--reason", "r")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--share", "0.1"], "a champion has no share of its own"),
        (["--experiment", "exp-1"], "a champion has no experiment of its own"),
        (["--as", "canary", "--share", "5"], "share 5 is outside 0..1"),
        (["--as", "canary", "--share", "nan"], "share nan is outside 0..1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_promote_refuses_a_place_there_is_not(options: list[str], says: str) -> None:
    assert says in refused("promote", "fraud", "--reason", "r", *options)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "command",
    [["history"]] + [[name, "--reason", "r"] for name in ("rollback", "promote", "withdraw")],
    ids=lambda command: command[0],
)
def test_an_unknown_use_case_names_the_defined_ones(command: list[str]) -> None:
    said = refused(*command, "frod")
    assert "unknown use case 'frod'; defined: ['fraud']" in said


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ("user=u,event=e,amount=a", "leaves out ['time']"),
        (f"{MAPPING},uesr=x", "unknown role 'uesr'"),
        (f"{MAPPING},user=x", "mapped twice"),
        ("user", "is not `role=COLUMN`"),
        (MAPPING.replace("amount=a", "amount=amuont"), "has no column 'amuont'"),
    ],
    ids=["missing role", "unknown role", "repeated role", "no column", "column not in the file"],
)
@pytest.mark.usefixtures("home")
def test_backtest_refuses_a_bad_mapping(tmp_path: Path, mapping: str, says: str) -> None:
    file, scores = tmp_path / "orders.csv", tmp_path / "scores.parquet"
    file.write_text("u,e,a,t,l\n1,2,3.00,2026-01-01T10:00:00Z,0\n")
    arguments = ["--transactions", str(file), "--map", mapping, "--scores", str(scores)]
    assert says in refused("backtest", *arguments, "--train-start", "2026-01-01")
    assert not scores.exists()


@pytest.mark.usefixtures("home")
def test_backtest_refuses_a_missing_file_and_a_wrong_number_of_days(tmp_path: Path) -> None:
    common = ["--map", MAPPING, "--scores", "s.parquet", "--train-start", "2026-01-01"]
    missing = ["--transactions", str(tmp_path / "none.csv")]
    assert "does not exist" in refused("backtest", *missing, *common)
    assert "`all`" in refused("backtest", *missing, *common, "--train-days", "some")


def test_a_wrong_setting_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IBOOK_PORT", "99999")
    said = refused("history", "fraud")
    assert "IBOOK_PORT is '99999'" in said
    assert "less than or equal to 65535" in said
    assert not home.exists()
