"""The whole graph as a text file, so that a change of it is seen and meant.

After a change that is meant, `IBOOK_UPDATE_SNAPSHOTS=1 pytest tests/defs/test_snapshot.py`
writes it anew.
"""

import os
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ibook_assets.core.settings import Settings
from ibook_assets.definitions import build_defs
from ibook_assets.defs.experiments import BY_EXPERIMENT

SNAPSHOT = Path(__file__).with_name("graph.txt")


def partitions(found: dg.PartitionsDefinition[str] | None) -> str:
    if isinstance(found, dg.MultiPartitionsDefinition):
        return " x ".join(part.name for part in found.partitions_defs)
    if isinstance(found, dg.StaticPartitionsDefinition):
        return "experiment" if found == BY_EXPERIMENT else "scenario"
    return "daily" if found else "whole"


def line(node: Any) -> str:
    return " | ".join(
        (
            node.key.to_user_string(),
            node.group_name,
            ",".join(sorted(node.kinds)),
            ",".join(node.owners),
            partitions(node.partitions_def),
            "<- " + ", ".join(sorted(key.to_user_string() for key in node.parent_keys)),
        )
    ).rstrip(" <-|")


def test_the_graph_is_the_one_that_was_agreed_on(small: Settings) -> None:
    graph = build_defs(small).resolve_asset_graph()
    found = [line(graph.get(key)) for key in sorted(graph.materializable_asset_keys)]
    if os.environ.get("IBOOK_UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text("\n".join(found) + "\n")
        pytest.skip(f"wrote {SNAPSHOT}")
    assert found == SNAPSHOT.read_text().splitlines(), "see the top of this file if it is meant"
