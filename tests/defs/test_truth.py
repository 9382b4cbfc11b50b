"""No truth reaches a feature: not over the graph, not in a column, not in a byte, not in a read.

Each proof is a checker, and each checker is shown to find a leak that was planted for it.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from ibook_assets.core import fact_rules, facts, skew, tables
from ibook_assets.core.errors import ContractError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.spec import SOURCES, FeatureView
from ibook_assets.core.messages import topic_of
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import RAW_TABLES, TRUTH_ORDERS, Column, TableSpec
from ibook_assets.definitions import build_defs
from ibook_assets.defs.partitions import SIMULATION, TRUTH
from ibook_assets.defs.resources import LakeResource
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.feature_days import feature_table
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from tests.defs.watched import Watched

TOLD: Final = frozenset(TRUTH_ORDERS.column_names) - {TRUTH_ORDERS.time_column, *TRUTH_ORDERS.key}
"""Columns that say what only the simulator knows."""

JUDGES: Final = {
    "fraud/evaluation": {"truth/orders"},
    "fraud/promotion": set[str](),
    "fraud/feature_drift": set[str](),
    "fraud/rollout": set[str](),
}
"""Assets that may descend from the truth, and the truth that they read: a verdict is made of it,
a promotion of verdicts, and what is promoted is watched and rolled out. Nothing else may descend
from these."""

DAYS: Final = ("2026-01-01", "2026-01-05")
ORDERS: Final = dg.AssetKey(["truth", TRUTH_ORDERS.name])
RAW: Final = [dg.AssetKey(["raw", spec.name]) for spec in RAW_TABLES]
EVENTS: Final = dg.AssetKey(["raw", "events"])
FACTS: Final = [dg.AssetKey(["facts", spec.name]) for spec in facts.FACT_TABLES]
FEATURES: Final = [dg.AssetKey(["features", view.name]) for view in FEATURE_VIEWS]
WHOLE: Final = [dg.AssetKey(["fraud", "training_set"]), dg.AssetKey(["serving", "online_snapshot"])]


# Over the graph.


def names_of(node: Any) -> set[str]:
    schema = node.metadata.get("dagster/column_schema")
    return {column.name for column in schema.columns} if schema else set()


def holds_truth(node: Any) -> bool:
    groups = {TRUTH, SIMULATION}
    return node.key.path[0] == TRUTH or node.group_name in groups or bool(names_of(node) & TOLD)


def ancestors(graph: Any, key: dg.AssetKey) -> set[dg.AssetKey]:
    found: set[dg.AssetKey] = set()
    waiting = [key]
    while waiting:
        for parent in graph.get(waiting.pop()).parent_keys - found:
            found.add(parent)
            waiting.append(parent)
    return found


def graph_leaks(defs: dg.Definitions) -> dict[str, set[str]]:
    """Assets that are neither truth nor judges, with the truth and judges they descend from."""
    graph: Any = defs.resolve_asset_graph()
    found = {}
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        if holds_truth(node) or key.to_user_string() in JUDGES:
            continue
        reached = {
            parent.to_user_string()
            for parent in ancestors(graph, key)
            if holds_truth(graph.get(parent)) or parent.to_user_string() in JUDGES
        }
        if reached:
            found[key.to_user_string()] = reached
    return found


def planted(settings: Settings, **assets: Sequence[str]) -> dg.Definitions:
    """The platform and further assets, `group__name=parents`."""

    def make(name: str, parents: Sequence[str]) -> dg.AssetsDefinition:
        group, _, own = name.partition("__")

        @dg.asset(key=[group, own], deps=[p.split("/") for p in parents], group_name=group)
        def body() -> None: ...

        return body

    further = [make(name, parents) for name, parents in assets.items()]
    return dg.Definitions.merge(build_defs(settings), dg.Definitions(assets=further))


def test_nothing_but_verdicts_descends_from_the_truth(small: Settings) -> None:
    assert graph_leaks(build_defs(small)) == {}


def test_nothing_but_verdicts_descends_from_the_truth_when_the_log_feeds_it(
    logged: Settings,
) -> None:
    assert graph_leaks(build_defs(logged)) == {}


def test_only_the_evaluation_reads_the_truth(small: Settings) -> None:
    graph: Any = build_defs(small).resolve_asset_graph()
    read = {
        key.to_user_string(): {
            parent.to_user_string()
            for parent in graph.get(key).parent_keys
            if holds_truth(graph.get(parent))
        }
        for key in graph.materializable_asset_keys
    }
    judges = {name: truth for name, truth in JUDGES.items() if truth}
    assert {name: truth for name, truth in read.items() if truth} == judges


@pytest.mark.parametrize(
    "assets",
    [
        {"features__planted": ["truth/orders"]},
        {"facts__planted": ["truth/simulation"], "features__planted": ["facts/planted"]},
        {"features__planted": ["simulation/transactions"]},
        {"features__planted": ["simulation/report"]},
        {"features__planted": ["fraud/promotion"]},
    ],
    ids=["direct", "over_a_fact", "scenario_rows", "scenario_report", "verdict"],
)
def test_a_planted_leak_over_the_graph_is_found(
    small: Settings, assets: Mapping[str, Sequence[str]]
) -> None:
    found = graph_leaks(planted(small, **assets))
    assert "features/planted" in found
    assert set(found) <= {name.replace("__", "/") for name in assets}


def test_a_copy_of_the_truth_is_known_by_its_columns(small: Settings) -> None:
    schema = dg.TableSchema(columns=[dg.TableColumn("posterior", "double")])

    @dg.asset(key=["facts", "copied"], metadata={"dagster/column_schema": schema})
    def copied() -> None: ...

    @dg.asset(key=["features", "planted"], deps=[copied])
    def leaking() -> None: ...

    defs = dg.Definitions.merge(build_defs(small), dg.Definitions(assets=[copied, leaking]))
    assert graph_leaks(defs) == {"features/planted": {"facts/copied"}}


# In a column.


def specs_in(modules: Iterable[ModuleType]) -> Iterator[TableSpec]:
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, TableSpec):
                yield value


def told_by(specs: Iterable[TableSpec]) -> dict[str, set[str]]:
    """Truth columns of tables other than the truth's own."""
    found = {
        spec.name: set(spec.column_names) & TOLD for spec in specs if spec.name != TRUTH_ORDERS.name
    }
    return {name: columns for name, columns in found.items() if columns}


def test_the_truth_is_what_it_was_when_this_was_written() -> None:
    assert sorted(TOLD) == ["archetype", "posterior", "row_posterior"]


def test_no_other_table_has_a_column_of_the_truth() -> None:
    specs = list(specs_in([tables, facts, fact_rules, skew]))
    assert {spec.name for spec in RAW_TABLES} < {spec.name for spec in specs}
    assert told_by([*specs, *SOURCES.values()]) == {}


def told_in(views: Iterable[FeatureView]) -> set[str]:
    """Features that are called like a truth or whose definition names one."""
    return {
        f"{view.name}:{feature.name}"
        for view in views
        for feature in view.features
        if {feature.name, *_texts(feature.definition())} & (TOLD | {TRUTH_ORDERS.name, TRUTH})
    }


def _texts(value: object) -> set[str]:
    if isinstance(value, Mapping):
        return set().union(*map(_texts, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_texts, value))
    return {value} if isinstance(value, str) else set()


def test_no_feature_is_called_or_made_of_a_truth() -> None:
    assert told_in(FEATURE_VIEWS) == set()


def test_a_feature_of_the_truth_is_refused_and_one_called_so_is_found() -> None:
    window = FEATURE_VIEWS[1].aggregations[0]
    with pytest.raises(ContractError, match="source 'orders' is not one of"):
        replace(window, source=TRUTH_ORDERS.name)
    with pytest.raises(ContractError, match="'posterior' is not one of"):
        replace(window, function="sum", column="posterior")
    leaky = replace(FEATURE_VIEWS[1], features=(replace(window, name="posterior"),))
    assert told_in([leaky]) == {f"{leaky.name}:posterior"}


def test_no_topic_of_the_log_carries_the_truth() -> None:
    assert TRUTH_ORDERS.name not in {topic_of(spec.name) for spec in RAW_TABLES}


def test_a_planted_column_is_found() -> None:
    leaky = TableSpec(
        name="transactions",
        description="Orders that know too much.",
        key=("transaction_id",),
        columns=(*tables.TRANSACTIONS.columns, Column("posterior", pa.float64(), "Leaked")),
    )
    assert told_by([leaky]) == {"transactions": {"posterior"}}


# In a byte, and in a read.


def forbidden(seen: Iterable[str]) -> set[str]:
    """Folders of the truth and of scenarios that were asked for, and the lake as a whole."""
    return {key.split("/")[0] for key in seen} & {TRUTH, SIMULATION, ""}


def watched_lake(settings: Settings, seen: set[str]) -> LakeResource:
    class WatchedLake(LakeResource):
        @property
        def blobs(self) -> Blobs:
            return Watched(LocalBlobs(self.uri), seen)

    return WatchedLake(uri=settings.lake)


@dg.asset(key=["facts", "planted"], deps=[["facts", "transactions"]], group_name="facts")
def peeking(lake: LakeResource) -> None:
    """Reads the truth without telling the graph."""
    posterior = lake.tables.read("truth/orders", spec=TRUTH_ORDERS).select(["posterior"])
    lake.tables.write("facts/planted", None, posterior)


def materialise(settings: Settings, keys: Sequence[dg.AssetKey], seen: set[str]) -> None:
    defs = dg.Definitions.merge(
        build_defs(settings, {"lake": watched_lake(settings, seen)}), dg.Definitions([peeking])
    )
    job = defs.resolve_implicit_job_def_def_for_assets(keys)
    assert job is not None
    partitioned = any(key.path[0] in {"raw", "facts", "features", "truth"} for key in keys)
    tags = {
        "dagster/asset_partition_range_start": DAYS[0],
        "dagster/asset_partition_range_end": DAYS[1],
    }
    with dg.DagsterInstance.ephemeral(tempdir=str(settings.home)) as instance:
        job.execute_in_process(
            asset_selection=list(keys), tags=tags if partitioned else {}, instance=instance
        )


def made(settings: Settings) -> dict[str, str]:
    """sha256 of the current version of everything that is not truth."""
    lake = Lake(LocalBlobs(settings.lake))
    names = ["fraud/training_set", *(f"facts/{spec.name}" for spec in facts.FACT_TABLES)]
    found = [
        r for name in [*names, *map(feature_table, FEATURE_VIEWS)] for r in lake.receipts(name)
    ]
    return {receipt.path: receipt.sha256 for receipt in found}


def perturbed(settings: Settings) -> None:
    """Replace every truth by another one that is as valid."""
    lake = Lake(LocalBlobs(settings.lake))
    draws = np.random.default_rng(5)
    for day in lake.partitions("truth/orders"):
        rows = lake.read("truth/orders", [day])
        for name, values in (
            ("archetype", pa.array(draws.integers(0, 5, rows.num_rows), pa.int8())),
            ("posterior", pa.array(draws.random(rows.num_rows))),
            ("row_posterior", pa.array(draws.random(rows.num_rows))),
        ):
            index = rows.column_names.index(name)
            rows = rows.set_column(index, rows.schema.field(index), values)
        lake.write("truth/orders", day, rows, spec=TRUTH_ORDERS)


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five days of raw rows and their truth."""
    home = tmp_path_factory.mktemp("landed")
    materialise(shop_in(home), [EVENTS, *RAW, ORDERS], set())
    return home / "lake"


def shop_in(home: Path) -> Settings:
    return Settings(
        home=home,
        sim_users=400,
        sim_events=20,
        sim_orders_per_day=60,
        label_maturity_days=2,
        task_retries=0,
    )


@pytest.fixture
def shop(landed: Path, tmp_path: Path) -> Callable[[str], Settings]:
    """Platforms of one's own with these days."""

    def make(name: str) -> Settings:
        shutil.copytree(landed, tmp_path / name / "lake")
        return shop_in(tmp_path / name)

    return make


def test_another_truth_changes_no_byte_and_nobody_asks_for_it(
    shop: Callable[[str], Settings],
) -> None:
    told, lied_to = shop("told"), shop("lied_to")
    perturbed(lied_to)
    for settings in (told, lied_to):
        seen: set[str] = set()
        materialise(settings, [*FACTS, *FEATURES], seen)
        materialise(settings, WHOLE, seen)
        assert any(key.startswith("raw/") for key in seen)
        assert not forbidden(seen)
    assert made(told) == made(lied_to)
    assert len(made(told)) > 5 * len(FEATURES)


def test_a_planted_reader_of_the_truth_is_found_by_its_reads_and_by_its_bytes(
    shop: Callable[[str], Settings],
) -> None:
    told, lied_to = shop("told"), shop("lied_to")
    perturbed(lied_to)
    bytes_of = []
    for settings in (told, lied_to):
        seen: set[str] = set()
        materialise(settings, [dg.AssetKey(["facts", "planted"])], seen)
        assert forbidden(seen) == {TRUTH}
        bytes_of.append(Lake(LocalBlobs(settings.lake)).receipt("facts/planted").sha256)
    assert bytes_of[0] != bytes_of[1]
