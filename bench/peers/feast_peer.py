"""Feast's point-in-time join of 12 values that somebody else computed; it has no windows.

Runs in an environment of its own (`uv run --isolated --no-project --with feast`), so it imports
nothing of this project.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pandas as pd


def main(features: Path) -> None:
    """Look the rows of `features` up in themselves, as training would."""
    feast = import_module("feast")
    float32 = import_module("feast.types").Float32
    int64 = import_module("feast.value_type").ValueType.INT64

    frame = pd.read_parquet(features)
    frame["event_timestamp"] = pd.to_datetime(frame["known_ts"], unit="us", utc=True)
    names = [n for n in frame.columns if n.startswith(("count_", "sum_"))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values.parquet"
        frame[["user_id", "event_timestamp", *names]].to_parquet(path)
        (Path(folder) / "feature_store.yaml").write_text(
            "project: bench\nregistry: registry.db\nprovider: local\n"
            "offline_store: {type: file}\nonline_store: {type: sqlite, path: online.db}\n"
            "entity_key_serialization_version: 3\n"
        )
        store = feast.FeatureStore(repo_path=folder)
        user = feast.Entity(name="user", join_keys=["user_id"], value_type=int64)
        source = feast.FileSource(path=str(path), timestamp_field="event_timestamp")
        view = feast.FeatureView(
            name="user_velocity",
            entities=[user],
            ttl=timedelta(days=30),
            schema=[feast.Field(name=n, dtype=float32) for n in names],
            source=source,
        )
        store.apply([user, view])
        asked = frame[["user_id", "event_timestamp"]]
        cpu, wall = time.process_time(), time.perf_counter()
        found = store.get_historical_features(
            entity_df=asked, features=[f"user_velocity:{n}" for n in names]
        ).to_df()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    peak_mib = int(line.split()[1]) / 1024
    print(
        json.dumps(
            {
                "contender": "Feast (join only)",
                "what": "counts_and_sums",
                "rows": len(found),
                "features": len(names),
                "cpu_seconds": cpu,
                "wall_seconds": wall,
                "peak_mib": peak_mib,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
