"""Dagster's SQLite history, without a disk sync for each of its thousands of events."""

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine


def relax_sqlite_syncs() -> None:
    """Let SQLite databases in WAL mode sync at checkpoints instead of at every commit.

    A backfill of 120 days logs more than five thousand events, each two commits. In WAL mode this
    setting cannot corrupt the database; a power cut may lose the last events, and the lake, which
    syncs every commit of its own, stays right.

    Source: SQLite documentation, PRAGMA synchronous.
    """
    if not event.contains(Engine, "connect", _on_connect):
        event.listen(Engine, "connect", _on_connect)


def _on_connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - any driver's
    if type(connection).__module__.partition(".")[0] != "sqlite3":
        return
    cursor = connection.cursor()
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
