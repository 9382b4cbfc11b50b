"""A development broker forgets its messages; the lake and the store go on after it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ibook_assets.core.messages import topic_of
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.online.backfill import begin_empty
from ibook_assets.stores.online.format import PROGRESS_KEY
from ibook_assets.stores.online.live import Position, Progress, Write
from ibook_assets.stores.online.lmdb_live import LmdbLiveStore
from ibook_assets.streaming.beginning import beginnings, follow
from ibook_assets.streaming.broker.topics import Topics

VIEWS = topic_of("views")


def test_a_topic_begins_where_it_is_told_to() -> None:
    topics = Topics(default_partitions=2, retention_bytes=1_000, begin={VIEWS: [7]})
    topics.create(VIEWS, 2, 1)
    assert [(topics.log(VIEWS, n).start, topics.log(VIEWS, n).end) for n in (0, 1)] == [
        (7, 7),
        (0, 0),
    ]


def test_nothing_landed_begins_at_zero(tmp_path: Path) -> None:
    found = beginnings(LogFiles(LocalBlobs(tmp_path)), 3)
    assert found[VIEWS] == [0, 0, 0]


def test_the_store_keeps_what_it_has_and_reads_on_from_the_new_log(tmp_path: Path) -> None:
    store = LmdbLiveStore(tmp_path)
    begin_empty(store, 100)
    before = Progress(100, {f"{VIEWS}/0": Position(50, 900), f"{VIEWS}/1": Position(20, 700)})
    version = store.read([PROGRESS_KEY]).version
    assert store.commit(version, {PROGRESS_KEY: Write(before.encoded())})
    follow(store, {VIEWS: [40, 20]})
    # Nothing of the old log comes again: every partition stands at the newest time.
    assert store.progress() == Progress(
        900, {f"{VIEWS}/0": Position(40, 900), f"{VIEWS}/1": Position(20, 900)}
    )
    store.close()


@pytest.mark.parametrize("content", ["[1]", '{"raw.views": [-1]}', "nonsense"])
def test_a_wrong_file_of_beginnings_is_explained(tmp_path: Path, content: str) -> None:
    path = tmp_path / "begin.json"
    path.write_text(content)
    command = [sys.executable, "-m", "ibook_assets.streaming.broker", "--port", "0"]
    ended = subprocess.run(
        [*command, "--begin", str(path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "offsets by topic" in ended.stderr
