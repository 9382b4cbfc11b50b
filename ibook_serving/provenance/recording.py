"""The prediction log's end in the process that answers: a bounded queue and a thread.

`record` only appends; the thread turns predictions into sealed traces and commits them to the
trace store in batches. A killed process loses what was in its memory: at most `BATCH_SECONDS` of
predictions. A queue that is full, or a store that fails for long, costs traces, never answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.core.predictions import Trace, vector_digest
from ibook_assets.core.settings import Settings
from ibook_assets.core.skew import definition_of
from ibook_assets.stores.code_version import git_sha
from ibook_assets.stores.traces import TraceStore, open_traces
from ibook_serving.scoring.ports import Fetched, LoadedModel, Served

MAX_WAITING: Final = 100_000
"""Predictions that may wait to be written; more are dropped and counted."""
BATCH_SECONDS: Final = 0.1
"""How long a prediction waits for others before they are written together."""
BATCH_ROWS: Final = 1_000
"""Predictions written in one transaction."""
RETRY_SECONDS: Final = 1.0
"""Time between two attempts while the trace store fails."""
STOP_SECONDS: Final = 5.0
"""Time that stopping may take to write what waits."""
COMPLAINT_SECONDS: Final = 10.0
"""Time between two log lines about dropped predictions."""

_DEFINITIONS_KEPT: Final = 64
_ROW: Final = msgspec.json.Encoder()

_log = logging.getLogger(__name__)


class RecorderStatus(NamedTuple):
    """What a recorder has done since it started."""

    recorded: int
    """Predictions in the trace store."""
    dropped: int
    """Predictions that were answered but could not be kept."""
    waiting: int
    """Predictions on their way into the trace store."""


class TraceRecorder:
    """Keeps every prediction of one process in the trace store; the `Recorder` of serving."""

    def __init__(
        self,
        open_store: Callable[[], TraceStore],
        *,
        use_case: str,
        git_sha: str,
        container_digest: str | None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Make a recorder; nothing is opened before `start`.

        Args:
            open_store: opens the store, in the process that serves.
            use_case: what is predicted.
            git_sha: commit that serves.
            container_digest: image that serves, if known.
            max_waiting: predictions that may wait.
        """
        self._open_store = open_store
        self._use_case = use_case
        self._git_sha = git_sha
        self._container_digest = container_digest
        self._max_waiting = max_waiting
        self._waiting: deque[Served] = deque()
        self._batch: list[Served] = []
        self._definitions: dict[LoadedModel, str] = {}
        self._fetched: tuple[Fetched | None, str | None, str | None] = (None, None, None)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._recorded = 0
        self._dropped = 0
        self._complained = float("-inf")

    def start(self) -> None:
        """Begin to write; call in the process that serves, never before a fork."""
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def record(self, predictions: Sequence[Served]) -> None:
        """Take `predictions` along; never waits, drops and counts what has no room."""
        room = max(0, self._max_waiting - len(self._waiting))
        if len(predictions) > room:
            self._drop(len(predictions) - room)
            predictions = predictions[:room]
        self._waiting.extend(predictions)

    def stop(self) -> None:
        """Write what waits, for at most `STOP_SECONDS`; call after the last answer."""
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join(STOP_SECONDS)
        left = self.status().waiting
        if left:
            self._complained = float("-inf")
            self._drop(left)

    @property
    def dropped(self) -> int:
        """Predictions that were answered but could not be kept."""
        return self._dropped

    def status(self) -> RecorderStatus:
        """Counts so far; may be asked from any thread."""
        return RecorderStatus(self._recorded, self._dropped, len(self._waiting) + len(self._batch))

    def _run(self) -> None:
        store: TraceStore | None = None
        while not self._stopping.wait(BATCH_SECONDS) or self._waiting or self._batch:
            if not (self._waiting or self._batch):
                continue
            try:
                store = store or self._open_store()
                self._write(store)
            except StoreUnavailableError as error:
                told = {"waiting": self.status().waiting, "why": str(error)}
                _log.error("traces wait", extra=told)
                if self._stopping.wait(RETRY_SECONDS):
                    return

    def _write(self, store: TraceStore) -> None:
        """Move what waits into the store, a batch a transaction; what fails is tried again."""
        while self._waiting or self._batch:
            if not self._batch:
                size = min(len(self._waiting), BATCH_ROWS)
                self._batch = [self._waiting.popleft() for _ in range(size)]
            store.append([self._trace(served) for served in self._batch])
            self._recorded += len(self._batch)
            self._batch = []

    def _trace(self, served: Served) -> Trace:
        loaded, fetched, row = served.lane.loaded, served.fetched, served.row
        # Every platform that XGBoost runs on keeps float32 little-endian, as traces do.
        vector = served.values.tobytes()
        sent = served.transaction_id
        read, positions, degraded = self._fetched
        if read is not fetched:
            # What was read together is described once.
            positions = fetched.positions.decode() or None
            degraded = ",".join(fetched.degraded) or None
            self._fetched = fetched, positions, degraded
        return Trace(
            request_id=served.request_id,
            variant=served.lane.variant,
            known_ts=served.served_us,
            use_case=self._use_case,
            served=served.answered,
            transaction_id=row["transaction_id"],  # type: ignore[arg-type]
            transaction_text=sent if isinstance(sent, str) else None,
            user_id=row["user_id"],  # type: ignore[arg-type]
            event_id=row["event_id"],  # type: ignore[arg-type]
            experiment=served.experiment,
            model_version=loaded.version,
            record_sequence=served.sequence,
            artefact=loaded.artefact,
            definition=self._definition(loaded),
            training_snapshot=loaded.training_snapshot,
            features_as_of=fetched.as_of_us,
            store=fetched.store,
            positions=positions,
            vector=vector,
            vector_sha256=vector_digest(vector),
            score=float(served.score),
            threshold=float(loaded.model.threshold),
            decision=served.decision,
            degraded=degraded,
            unknown=",".join(served.unknown) or None,
            latency_us=served.latency_us,
            row=_ROW.encode({k: v for k, v in row.items() if v is not None}).decode(),
            git_sha=self._git_sha,
            container_digest=self._container_digest,
        )

    def _definition(self, loaded: LoadedModel) -> str:
        found = self._definitions.get(loaded)
        if found is None:
            if len(self._definitions) >= _DEFINITIONS_KEPT:
                self._definitions.clear()
            found = self._definitions[loaded] = definition_of(loaded.model.feature_names)
        return found

    def _drop(self, count: int) -> None:
        self._dropped += count
        now = time.monotonic()
        if now - self._complained > COMPLAINT_SECONDS:
            self._complained = now
            told = {"dropped": self._dropped, "waiting": len(self._waiting)}
            _log.error("predictions were not recorded", extra=told)


def trace_recorder(settings: Settings, use_case: str) -> TraceRecorder:
    """The recorder of a server of `use_case`."""
    return TraceRecorder(
        lambda: open_traces(settings),
        use_case=use_case,
        git_sha=git_sha(settings),
        container_digest=settings.container_digest or None,
    )
