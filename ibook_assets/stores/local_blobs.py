"""Blobs in a folder, safe against being killed at any instruction.

An object is written to a temporary file, fsynced, then renamed (`put`) or hard-linked (`create`)
to its name, and the folder is fsynced: a name never shows a partial object. The writer holds a
lock on its temporary file, so leftovers of killed writers are known by their free lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import pyarrow.fs

from ibook_assets.core.errors import (
    ConflictError,
    ContractError,
    NotFoundError,
    StoreUnavailableError,
)
from ibook_assets.stores.blob_terms import BlobStat, Data, check_key, check_prefix

_STAGING: Final = ".staging"
_OUT_OF_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED: Final = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


class LocalBlobs:
    """Blobs below the folder `root` of a POSIX filesystem with hard links."""

    def __init__(self, root: Path | str) -> None:
        self._root = Path(root).resolve()
        self._swept = False

    @property
    def uri(self) -> str:
        """The folder, absolute."""
        return str(self._root)

    def put(self, key: str, data: Data) -> None:
        """Store `data` durably under `key`, replacing an older object atomically."""
        target = self._path(key)
        with _translated(target), self._staged(data) as staged:
            _make_folder(target.parent)
            staged.replace(target)
            _sync_folder(target.parent)

    def create(self, key: str, data: Data) -> None:
        """Store `data` durably under a free `key`; ConflictError when it is taken."""
        target = self._path(key)
        with _translated(target), self._staged(data) as staged:
            _make_folder(target.parent)
            try:
                target.hardlink_to(staged)
            except FileExistsError as error:
                msg = f"{target} exists already: another writer was first; read it and decide again"
                raise ConflictError(msg) from error
            _sync_folder(target.parent)

    def get(self, key: str) -> bytes:
        """The object's bytes; NotFoundError when there is none."""
        target = self._path(key)
        with _translated(target):
            _require_file(target)
            return target.read_bytes()

    def stat(self, key: str) -> BlobStat:
        """Size and time of the object; NotFoundError when there is none."""
        target = self._path(key)
        with _translated(target):
            _require_file(target)
            status = target.stat()
        return BlobStat(status.st_size, status.st_mtime_ns // 1_000)

    def exists(self, key: str) -> bool:
        """Whether there is an object under `key`."""
        return self._path(key).is_file()

    def list(self, prefix: str = "") -> list[str]:
        """Sorted keys below the folder `prefix`."""
        folder = self._root / check_prefix(prefix)
        keys: list[str] = []
        with _translated(folder):
            for parent, folders, files in os.walk(folder, onerror=_raise_unless_missing):
                folders[:] = [name for name in folders if not name.startswith(".")]
                relative = Path(parent).relative_to(self._root).as_posix()
                start = "" if relative == "." else f"{relative}/"
                keys.extend(start + name for name in files if not name.startswith("."))
        return sorted(keys)

    def delete(self, key: str) -> None:
        """Remove the object, if there is one."""
        target = self._path(key)
        with _translated(target):
            target.unlink(missing_ok=True)

    def location(self, key: str) -> str:
        """Absolute path of the object."""
        return str(self._path(key))

    def arrow_source(self, key: str) -> tuple[pyarrow.fs.FileSystem, str]:
        """The local filesystem and the object's path."""
        return pyarrow.fs.LocalFileSystem(), str(self._path(key))

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    @contextmanager
    def _staged(self, data: Data) -> Iterator[Path]:
        folder = self._root / _STAGING
        _make_folder(folder)
        if not self._swept:
            _sweep(folder)
            self._swept = True
        staged, descriptor = _open_locked(folder)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
            yield staged
        finally:
            staged.unlink(missing_ok=True)
            os.close(descriptor)


def _open_locked(folder: Path) -> tuple[Path, int]:
    while True:
        staged = folder / f"{uuid4().hex}.tmp"
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return staged, descriptor
        # A sweeper took the file in the instant between its creation and its lock.
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left; a living writer's file is locked and stays."""
    for staged in folder.glob("*.tmp"):
        try:
            descriptor = os.open(staged, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                staged.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: Data) -> None:
    remaining = memoryview(data).cast("B")
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]


def _make_folder(folder: Path) -> None:
    """Create `folder` so that it survives a power cut, like what is put into it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Operating system errors, as errors that say what to do about `path`."""
    try:
        yield
    except FileNotFoundError as error:
        msg = f"{path} does not exist; materialise what writes it, or check the lake's address"
        raise NotFoundError(msg) from error
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _OUT_OF_SPACE:
            msg = f"{path} was not written: {reason}. Nothing changed; free space and run again."
            raise StoreUnavailableError(msg) from error
        if error.errno in _REFUSED:
            msg = f"{path} is refused: {reason}. Check the folder's owner, mode and mount."
            raise ContractError(msg) from error
        msg = f"{path} failed: {reason}. Check the disk, then run again."
        raise StoreUnavailableError(msg) from error
