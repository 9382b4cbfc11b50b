"""Dagster's SQLite history, quick enough for a backfill's thousands of events.

A backfill of 120 days logs more than five thousand events. Dagster's own SQLite storage opens and
closes a database up to three times for each of them; here a database stays open, and is synced to
disk at checkpoints instead of at every commit. In WAL mode that cannot corrupt the database; a
power cut may lose the last events, and the lake, which syncs every commit of its own, stays right.

Source: SQLite documentation, PRAGMA synchronous.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection, Engine

OPEN_DATABASES: Final = 8
"""Event databases that one process keeps open: the index and the latest runs."""

BUSY_SECONDS: Final = 60
"""How long a writer waits for another process's commit."""


class OpenEventLog(SqliteEventLogStorage):
    """Dagster's SQLite event log over databases that stay open.

    Same files, tables and locking as its base; only how a connection is come by differs.
    """

    def __init__(self, base_dir: str) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        super().__init__(base_dir)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock, self._engine(shard).connect() as connection, connection.begin():
            yield connection

    def _engine(self, shard: str) -> Engine:
        engine = self._engines.get(shard)
        if engine is None:
            address = self.conn_string_for_shard(shard)
            engine = create_engine(address, connect_args={"timeout": BUSY_SECONDS})
            event.listen(engine, "connect", _sync_at_checkpoints)
            self._initdb(engine)
            self._engines[shard] = engine
        self._engines.move_to_end(shard)
        if len(self._engines) > OPEN_DATABASES:
            self._engines.popitem(last=False)[1].dispose()
        return engine

    def dispose(self) -> None:
        """Close every database."""
        while self._engines:
            self._engines.popitem()[1].dispose()
        super().dispose()


class OpenRunStorage(SqliteRunStorage):
    """Dagster's SQLite run storage over a database that stays open: every commit asks it."""

    @cached_property
    def _open(self) -> Engine:
        return create_engine(self._conn_string, connect_args={"timeout": BUSY_SECONDS})

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A transaction."""
        with self._open.connect() as connection, connection.begin():
            yield connection

    def dispose(self) -> None:
        """Close the database."""
        self._open.dispose()
        super().dispose()


class SqliteHistory(DagsterSqliteStorage):
    """Dagster's SQLite storage over databases that stay open; named by `dagster.yaml`."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        told = self._event_log_storage._base_dir  # noqa: SLF001 - its folder is said nowhere else
        self._event_log_storage = OpenEventLog(told)
        self._run_storage = OpenRunStorage(self._run_storage._conn_string)  # noqa: SLF001

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "SqliteHistory":
        """The storage that `dagster.yaml` describes."""
        return cls(**config_value, inst_data=inst_data)


def _sync_at_checkpoints(connection: Any, _record: object) -> None:  # noqa: ANN401 - any driver's
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
