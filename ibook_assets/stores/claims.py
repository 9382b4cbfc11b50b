"""Idempotency keys: who claimed one, for which request, and what was answered.

```
claims           key -> time (8 bytes) and a JSON claim: in flight by a process, or answered
claims.expiry    time (8 bytes), key -> nothing; what is over is forgotten by later claims
```

Every API process of a machine sees them, and they outlive the processes. They do not wait for the
disk, since a request makes two transactions: a machine that crashes forgets them. A claim of a
process that has died is free again.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import lmdb
import msgspec

from ibook_assets.core.errors import IntegrityError
from ibook_assets.core.settings import Settings
from ibook_assets.core.times import DAY_US
from ibook_assets.stores.outbox import Environment, open_environment

TTL_US: Final = DAY_US
"""How long an answer is remembered (microseconds)."""
MAX_BYTES: Final = 2**30
"""Bytes; half of what the claims of a day may take."""
FORGOTTEN_AT_ONCE: Final = 4
"""Claims that are over, forgotten with each new one."""

_TIME: Final = struct.Struct(">Q")
_PROC: Final = Path("/proc")
_START_FIELD: Final = 19
"""Start time of a process in /proc/<pid>/stat, counted from after its name."""

Verdict = Literal["claimed", "in_flight", "other_request", "answered"]


class _Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    fingerprint: str
    process: int
    started: str
    answer: bytes | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What claiming a key found."""

    verdict: Verdict
    answer: bytes | None = None
    """What was answered, of an answered key."""


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(_Claim)


class Claims:
    """Claims of idempotency keys. Methods raise StoreUnavailableError when the disk fails."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._claims = environment.database(b"claims")
        self._expiry = environment.database(b"claims.expiry")
        self._process = os.getpid()
        self._started = _started(self._process)

    def claim(self, key: str, fingerprint: str, *, now_us: int) -> Found:
        """Claim `key` for the request of that fingerprint, or learn why it is not free.

        Args:
            key: what the client calls the request; ASCII.
            fingerprint: hash of everything that makes the request what it is.
            now_us: now (microseconds); answers older than `TTL_US` are forgotten.

        Raises:
            IntegrityError: what is stored of the key is no claim.
        """
        with self._environment.writing() as transaction:
            self._forget(transaction, now_us - TTL_US)
            held = self._held(transaction, key)
            if held is not None:
                claim, known_us = held
                over = known_us < now_us - TTL_US
                if not over and claim.fingerprint != fingerprint:
                    return Found("other_request")
                if not over and claim.answer is not None:
                    return Found("answered", claim.answer)
                if not over and _lives(claim):
                    return Found("in_flight")
                self._delete(transaction, key, known_us)
            self._put(transaction, key, now_us, fingerprint, None)
        return Found("claimed")

    def answer(self, key: str, fingerprint: str, answer: bytes, *, now_us: int) -> None:
        """Remember what this process answered to the request that it claimed `key` for."""
        with self._environment.writing() as transaction:
            self.release_in(transaction, key)
            self._put(transaction, key, now_us, fingerprint, answer)

    def release(self, key: str) -> None:
        """Free a key that this process claimed and did not answer."""
        with self._environment.writing() as transaction:
            self.release_in(transaction, key)

    def release_in(self, transaction: lmdb.Transaction, key: str) -> None:
        """The same inside a transaction."""
        held = self._held(transaction, key)
        if held is not None:
            self._delete(transaction, key, held[1])

    def _held(self, transaction: lmdb.Transaction, key: str) -> tuple[_Claim, int] | None:
        value = transaction.get(key.encode(), db=self._claims)
        if value is None:
            return None
        stored = bytes(value)
        try:
            return _DECODER.decode(stored[_TIME.size :]), _TIME.unpack_from(stored)[0]
        except (msgspec.DecodeError, UnicodeDecodeError, struct.error) as error:
            raise IntegrityError(
                path=f"the idempotency key {key} in {self._environment.folder}",
                expected="that of a claim",
                found=f"(unreadable: {error})",
            ) from error

    def _put(
        self,
        transaction: lmdb.Transaction,
        key: str,
        now_us: int,
        fingerprint: str,
        answer: bytes | None,
    ) -> None:
        claim = _Claim(fingerprint, self._process, self._started, answer)
        time = _TIME.pack(now_us)
        transaction.put(key.encode(), time + _ENCODER.encode(claim), db=self._claims)
        transaction.put(time + key.encode(), b"", db=self._expiry)

    def _delete(self, transaction: lmdb.Transaction, key: str, known_us: int) -> None:
        transaction.delete(key.encode(), db=self._claims)
        transaction.delete(_TIME.pack(known_us) + key.encode(), db=self._expiry)

    def _forget(self, transaction: lmdb.Transaction, before_us: int) -> None:
        old: list[tuple[str, int]] = []
        with transaction.cursor(self._expiry) as cursor:
            there = cursor.first()
            while there and len(old) < FORGOTTEN_AT_ONCE:
                entry = bytes(cursor.key())
                if _TIME.unpack_from(entry)[0] >= before_us:
                    break
                old.append((entry[_TIME.size :].decode(), _TIME.unpack_from(entry)[0]))
                there = cursor.next()
        for key, known_us in old:
            self._delete(transaction, key, known_us)


def open_claims(settings: Settings) -> Claims:
    """The claims of this machine's servers."""
    return Claims(open_environment(settings.trace_path / "claims", MAX_BYTES, durable=False))


def _lives(claim: _Claim) -> bool:
    return bool(claim.started) and _started(claim.process) == claim.started


def _started(process: int) -> str:
    """When a process began, by the machine's clock ticks; empty when there is none."""
    try:
        stat = (_PROC / str(process) / "stat").read_text()
    except OSError:
        return ""
    # The name, in brackets, may hold spaces.
    return stat.rpartition(")")[2].split()[_START_FIELD]
