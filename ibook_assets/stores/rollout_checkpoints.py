"""First answers of a rollout's step, kept between looks: a look reads the log's new files only.

`rollouts/<use case>/answers/<entry>.parquet` holds the rows and, in its footer, up to which offset
of each partition the log is in them: one object, replaced whole. So of two looks at once the later
writer's object stands, whole, and the next look reads whatever is not in it; a file is never in it
twice. An object that is missing, damaged, of another step or of another log costs a look from the
step's beginning, nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ibook_assets.core.arrow import pc
from ibook_assets.core.errors import ContractError, NotFoundError, StoreUnavailableError
from ibook_assets.core.messages import PREDICTION_LOG
from ibook_assets.core.times import to_us
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.first_answers import FIRST_ANSWERS, LOGGED, folded, rows_of
from ibook_assets.stores.log_files import OFFSET, LogFile, LogFiles
from ibook_assets.stores.parquet import encode
from ibook_assets.stores.sealing import check_seal, sealed

FOLDED_ROWS: Final = 500_000
"""New rows held at once, or as many as there are users: memory and time of a long look."""
KEPT_MESSAGES: Final = 5_000_000
"""Messages read until a long look keeps what it has, so that a killed one is not all in vain."""

_NOTE: Final = "ibook.checkpoint"
_SUFFIX: Final = ".parquet"

_log = logging.getLogger(__name__)


class Watched(BaseModel):
    """What of the prediction log a step of a rollout looks at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use_case: str
    decided: int
    """Rollout entry that began the step."""
    shadow: bool
    """Whether the challenger scores unseen, beside the champion's answers."""
    champion: str
    version: str
    """The challenger's."""
    sequence: int
    """Promotion entry since which both stand as they do."""
    since: AwareDatetime
    """When it was written."""


class _Checkpoint(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    watched: Watched
    read: Mapping[int, int]
    """Offset that reading goes on at, by partition."""


def first_answers(blobs: Blobs, watched: Watched) -> pa.Table:
    """First answers of the step in all that the log holds by now, in the form of `FIRST_ANSWERS`.

    The same whatever was read by an earlier look, and in whatever order files arrived.

    Raises:
        ContractError: a file of the log is damaged, or some are missing.
    """
    log = LogFiles(blobs)
    step, files = _resumed(blobs, log, watched) or _begun(blobs, log, watched)
    step.follow(files)
    return step.rows


class _Step:
    """What the log comes to, as far as it is read."""

    def __init__(
        self,
        blobs: Blobs,
        log: LogFiles,
        watched: Watched,
        read: Mapping[int, int],
        rows: pa.Table | None = None,
    ) -> None:
        """Go on at `read` from what the log came to before; from nothing without `rows`."""
        self._blobs = blobs
        self._log = log
        self._watched = watched
        self._read = dict(read)
        self._begins = rows is None
        self.rows = FIRST_ANSWERS.empty_table() if rows is None else rows
        self._new: list[pa.Table] = []

    def follow(self, files: Sequence[LogFile]) -> None:
        """Read `files`, which follow what is read, and keep what they come to."""
        waiting = messages = 0
        for file in files:
            self._new.append(self._rows(file))
            self._read[file.partition] = file.end
            waiting += self._new[-1].num_rows
            messages += file.end - file.start
            if waiting >= max(FOLDED_ROWS, self.rows.num_rows):
                self._fold()
                waiting = 0
            if messages >= KEPT_MESSAGES:
                self._keep()
                waiting = messages = 0
        if messages:
            self._keep()

    def _rows(self, file: LogFile) -> pa.Table:
        watched, field = self._watched, pc.field
        wanted = (field("use_case") == watched.use_case) & (
            field("record_sequence") >= watched.sequence
        )
        answers = field("served") & field("model_version").isin([watched.champion, watched.version])
        unseen = ~field("served") & (field("model_version") == watched.version)
        found = self._log.sound_rows(file, LOGGED)
        chosen = found.filter(wanted & (answers | unseen if watched.shadow else answers))
        return rows_of(
            chosen,
            partition=file.partition,
            offsets=chosen[OFFSET],
            challenger=watched.version,
            shadow=watched.shadow,
        )

    def _fold(self) -> None:
        rows = pa.concat_tables([self.rows, *self._new]).combine_chunks()
        # Their copy is enough: there can be a row for each of millions of users.
        self.rows, self._new = FIRST_ANSWERS.empty_table(), []
        self.rows = folded(rows)

    def _keep(self) -> None:
        self._fold()
        key = _key(self._watched)
        checkpoint = _Checkpoint(watched=self._watched, read=self._read)
        notes = {_NOTE: checkpoint.model_dump_json()}
        data = sealed(encode(self.rows, table=_folder(self._watched), notes=notes))
        try:
            self._blobs.put(key, data)
            if self._begins:
                _forget_earlier(self._blobs, self._watched)
        except (StoreUnavailableError, ContractError) as error:
            # Whoever may only read looks all the same; only the next look has more to read.
            _log.warning("%s was not kept, the next look reads more: %s", key, error)


def _begun(blobs: Blobs, log: LogFiles, watched: Watched) -> tuple[_Step, list[LogFile]]:
    """The step without anything read, and the files that may hold predictions of it."""
    read = log.ends(PREDICTION_LOG)
    for file in log.latest(PREDICTION_LOG, from_us=to_us(watched.since)):
        read[file.partition] = min(file.start, read.get(file.partition, file.start))
    return _Step(blobs, log, watched, read), log.files(PREDICTION_LOG, since=read)


def _resumed(blobs: Blobs, log: LogFiles, watched: Watched) -> tuple[_Step, list[LogFile]] | None:
    """The step as an earlier look kept it, and the files since; None when it has to begin anew."""
    kept = _kept(blobs, watched)
    if kept is None:
        return None
    checkpoint, rows = kept
    files = _after(log, checkpoint.read)
    return None if files is None else (_Step(blobs, log, watched, checkpoint.read, rows), files)


def _after(log: LogFiles, read: Mapping[int, int]) -> list[LogFile] | None:
    """Files after what is `read`; None when this log never had a file that ended there."""
    # With the last file that is read already, which proves that the log is the same.
    found = log.files(PREDICTION_LOG, since={part: end - 1 for part, end in read.items()})
    bounds = {(file.partition, at) for file in found for at in (file.start, file.end)}
    if any(end > 0 and (part, end) not in bounds for part, end in read.items()):
        return None
    return [file for file in found if file.start >= read.get(file.partition, 0)]


def _kept(blobs: Blobs, watched: Watched) -> tuple[_Checkpoint, pa.Table] | None:
    """What an earlier look at the step kept, if it can be read."""
    key = _key(watched)
    try:
        data = blobs.get(key)
    except NotFoundError:
        return None
    try:
        check_seal(data)
        rows = pq.read_table(
            pa.BufferReader(data),
            partitioning=None,
            page_checksum_verification=True,
            use_threads=False,
        )
        note = (rows.schema.metadata or {}).get(_NOTE.encode(), b"")
        checkpoint = _Checkpoint.model_validate_json(note)
    except (pa.ArrowException, OSError, ValidationError) as error:
        _log.warning("%s is read anew from the log: %s", blobs.location(key), error)
        return None
    rows = rows.replace_schema_metadata(None)
    if checkpoint.watched != watched or rows.schema != FIRST_ANSWERS:
        return None
    return checkpoint, rows


def _forget_earlier(blobs: Blobs, watched: Watched) -> None:
    """Delete what looks at earlier steps kept."""
    folder = _folder(watched)
    for key in blobs.list(folder):
        entry = key.removeprefix(folder).removesuffix(_SUFFIX)
        if entry.isdecimal() and int(entry) < watched.decided:
            blobs.delete(key)


def _folder(watched: Watched) -> str:
    return f"rollouts/{watched.use_case}/answers/"


def _key(watched: Watched) -> str:
    return f"{_folder(watched)}{watched.decided}{_SUFFIX}"
