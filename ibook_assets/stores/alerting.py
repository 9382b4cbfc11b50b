"""The outbox of alerts: stored before they are sent, sent at least once to each destination.

```
alerts/log/<id>.json         the alert and whom it is for; created exclusively, never changed
alerts/waiting/<id>.json     how far its deliveries have come, while any is still to be made
alerts/delivered/<id>.json   the same, once every destination has it
alerts/failed/<id>.json      the same, once a destination will never get it
```

What is in the log and in neither of the last two folders is to be sent: a process killed anywhere
leaves an alert that the next one sends, twice at worst. Receivers know a repetition by its id.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import httpx
import msgspec
from pydantic import BaseModel, ConfigDict

from ibook_assets.core.alerts import (
    Alert,
    Delivery,
    Destination,
    open_matters,
    permanent,
    shortened,
)
from ibook_assets.core.canonical import canonical_json
from ibook_assets.core.errors import ConflictError, ContractError, NotFoundError
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.promotions import utc_now

ATTEMPT_SECONDS: Final = 5.0
"""Longest a delivery may take, from the name's look-up to the last byte of the answer."""
FIRST_PAUSE: Final = timedelta(seconds=30)
LONGEST_PAUSE: Final = timedelta(hours=1)
"""Between two attempts; the first pause doubles up to this."""
RETRIED_FOR: Final = timedelta(days=3)
"""After this a delivery is given up, and stays visible as that."""
KEPT_FOR: Final = timedelta(days=30)
"""How long alerts that are no longer open are kept."""
MAX_ANSWER: Final = 300

_LOG: Final = "alerts/log"
_WAITING: Final = "alerts/waiting"
_DELIVERED: Final = "alerts/delivered"
_FAILED: Final = "alerts/failed"

_SENDING: Final[ContextVar[bool]] = ContextVar("sending an alert", default=False)


class _NoAddresses(logging.Filter):
    """Keeps httpx from logging the addresses of destinations, which are secrets."""

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - logging's interface
        return not _SENDING.get()


for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"):
    logging.getLogger(_name).addFilter(_NoAddresses())


class Raised(BaseModel):
    """An alert as it is stored, and the names of the destinations it is for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alert: Alert
    destinations: tuple[str, ...]


class _Deliveries(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    deliveries: dict[str, Delivery]


@dataclass(frozen=True, slots=True)
class Entry:
    """An alert, its deliveries by destination, and whether what it says is still so."""

    alert: Alert
    deliveries: Mapping[str, Delivery]
    open: bool

    @property
    def undelivered(self) -> dict[str, Delivery]:
        """Deliveries that have not been made."""
        return {k: v for k, v in self.deliveries.items() if v.state != "delivered"}


class AlertOutbox:
    """Alerts in `blobs`. Any process may raise; one at a time should deliver."""

    def __init__(self, blobs: Blobs, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._blobs = blobs
        self._clock = clock

    def record(self, alert: Alert, destinations: Sequence[Destination]) -> bool:
        """Store `alert` durably for those destinations that take it; whether it is news.

        No news are an event that was raised before, the opening of a matter that is open, and the
        closing of one that is not.
        """
        before = open_matters(alert_id for alert_id in self._ids(_LOG) if alert_id < alert.id)
        expected = {"firing": False, "resolved": True}.get(alert.status)
        if expected is not None and (alert.matter in before) is not expected:
            return False
        names = tuple(d.name for d in destinations if d.takes(alert))
        try:
            self._blobs.create(
                f"{_LOG}/{alert.id}.json", canonical_json(Raised(alert=alert, destinations=names))
            )
        except ConflictError:
            return False
        return True

    def deliver(self, destinations: Sequence[Destination], *, seconds: float) -> int:
        """Send what is due, oldest first, for about that long; how many deliveries were made.

        A destination that fails is left alone for the rest of the call, so that one that hangs
        holds up nothing else; its alerts are due again after a pause that doubles.
        """
        self._forget_old()
        return asyncio.run(_Round(self, destinations, self._clock, seconds).run())

    def entries(self, *, unsettled: bool = False) -> list[Entry]:
        """Alerts, newest first; with `unsettled` only those that are open or not delivered."""
        ids = self._ids(_LOG)
        opened = set(open_matters(ids).values())
        if unsettled:
            done = set(self._ids(_DELIVERED)) - opened
            ids = [alert_id for alert_id in ids if alert_id not in done]
        found = (self._entry(alert_id, is_open=alert_id in opened) for alert_id in reversed(ids))
        entries = [entry for entry in found if entry is not None]
        return [e for e in entries if e.open or e.undelivered] if unsettled else entries

    def open_alerts(self) -> list[Alert]:
        """The alerts that opened what is open, oldest first."""
        ids = sorted(open_matters(self._ids(_LOG)).values())
        return [raised.alert for raised in map(self.raised, ids) if raised is not None]

    def pending(self) -> list[str]:
        """Ids of alerts with deliveries still to be made, oldest first."""
        done = {*self._ids(_DELIVERED), *self._ids(_FAILED)}
        return [alert_id for alert_id in self._ids(_LOG) if alert_id not in done]

    def raised(self, alert_id: str) -> Raised | None:
        """The alert of that id; None once it has been forgotten."""
        key = f"{_LOG}/{alert_id}.json"
        try:
            return Raised.model_validate_json(self._blobs.get(key))
        except NotFoundError:
            return None
        except ValueError as error:
            msg = f"{self._blobs.location(key)} is no alert ({error}); move it away to go on"
            raise ContractError(msg) from error

    def deliveries(self, alert_id: str, names: Sequence[str]) -> dict[str, Delivery]:
        """How far the deliveries of that alert have come, by destination."""
        for folder in (_DELIVERED, _FAILED, _WAITING):
            try:
                stored = _Deliveries.model_validate_json(
                    self._blobs.get(f"{folder}/{alert_id}.json")
                )
            except NotFoundError:
                continue
            return {name: stored.deliveries.get(name, Delivery.first()) for name in names}
        return {name: Delivery.first() for name in names}

    def store(self, alert_id: str, deliveries: dict[str, Delivery], *, final: bool) -> None:
        """Keep how far the deliveries have come; `final` when nothing is sent any more."""
        failed = any(d.state != "delivered" for d in deliveries.values())
        folder = (_FAILED if failed else _DELIVERED) if final else _WAITING
        data = canonical_json(_Deliveries(deliveries=deliveries))
        self._blobs.put(f"{folder}/{alert_id}.json", data)
        if final:
            self._blobs.delete(f"{_WAITING}/{alert_id}.json")

    def _entry(self, alert_id: str, *, is_open: bool) -> Entry | None:
        raised = self.raised(alert_id)
        if raised is None:
            return None
        return Entry(raised.alert, self.deliveries(alert_id, raised.destinations), is_open)

    def _forget_old(self) -> None:
        oldest = (self._clock() - KEPT_FOR).strftime("%Y%m%dT%H%M%S")
        ids = self._ids(_LOG)
        kept = {*open_matters(ids).values(), *self.pending()}
        for alert_id in ids:
            if alert_id < oldest and alert_id not in kept:
                # The log goes first: without it the rest says nothing any more.
                for folder in (_LOG, _WAITING, _DELIVERED, _FAILED):
                    self._blobs.delete(f"{folder}/{alert_id}.json")

    def _ids(self, folder: str) -> list[str]:
        keys = self._blobs.list(f"{folder}/")
        return [key.rpartition("/")[2].removesuffix(".json") for key in keys]


class _Round:
    """One call of `AlertOutbox.deliver`."""

    def __init__(
        self,
        outbox: AlertOutbox,
        destinations: Sequence[Destination],
        clock: Callable[[], datetime],
        seconds: float,
    ) -> None:
        self._outbox = outbox
        self._destinations = {destination.name: destination for destination in destinations}
        self._clock = clock
        self._end = time.monotonic() + seconds
        self._failing: set[str] = set()
        self._held: set[tuple[str, str]] = set()
        self.delivered = 0

    async def run(self) -> int:
        """Send until all is sent or the time is up; ContractError for what cannot be read."""
        unreadable: ContractError | None = None
        async with httpx.AsyncClient(timeout=ATTEMPT_SECONDS) as client:
            for alert_id in self._outbox.pending():
                if time.monotonic() >= self._end:
                    break
                try:
                    await self._send(client, alert_id)
                except ContractError as error:
                    # One damaged file must not keep the others from being sent.
                    unreadable = unreadable or error
        if unreadable is not None:
            raise unreadable
        return self.delivered

    async def _send(self, client: httpx.AsyncClient, alert_id: str) -> None:
        raised = self._outbox.raised(alert_id)
        if raised is None:
            return
        alert, now = raised.alert, self._clock()
        before = self._outbox.deliveries(alert_id, raised.destinations)
        due = [name for name in before if self._is_due(name, alert, before[name], now)]
        after = dict(before)
        sent = await asyncio.gather(
            *(attempt(client, self._destinations[name], alert, before[name], now) for name in due)
        )
        after.update(zip(due, sent, strict=True))
        after = {name: _aged(d, alert, now) for name, d in after.items()}
        self._note(alert, due, after)
        final = all(
            d.settled and (d.state != "refused" or _too_old(alert, now)) for d in after.values()
        )
        if final or after != before:
            self._outbox.store(alert_id, after, final=final)

    def _is_due(self, name: str, alert: Alert, delivery: Delivery, now: datetime) -> bool:
        destination = self._destinations.get(name)
        if destination is None or name in self._failing or (name, alert.matter) in self._held:
            return False
        if delivery.state == "refused":
            return delivery.fingerprint != destination.fingerprint
        return not delivery.settled and (delivery.due is None or delivery.due <= now)

    def _note(self, alert: Alert, due: Sequence[str], after: Mapping[str, Delivery]) -> None:
        for name, delivery in after.items():
            if delivery.state == "waiting":
                # What closes a matter must not overtake what opened it.
                self._held.add((name, alert.matter))
                if name in due:
                    self._failing.add(name)
            elif delivery.state == "delivered" and name in due:
                self.delivered += 1


async def attempt(
    client: httpx.AsyncClient,
    destination: Destination,
    alert: Alert,
    before: Delivery,
    now: datetime,
) -> Delivery:
    """Send `alert` once, within `ATTEMPT_SECONDS`; the delivery as it stands then."""
    answer = await _post(client, destination, alert)
    state = "delivered" if answer.good else "refused" if answer.final else "waiting"
    attempts = before.attempts + 1
    pause = max(min(FIRST_PAUSE * 2 ** min(attempts - 1, 20), LONGEST_PAUSE), answer.wait)
    return Delivery.model_validate(
        {
            "state": state,
            "attempts": attempts,
            "answer": shortened(destination.redacted(answer.text), MAX_ANSWER),
            "at": now,
            "due": now + pause if state == "waiting" else None,
            "fingerprint": destination.fingerprint,
        }
    )


def try_destination(destination: Destination, alert: Alert) -> Delivery:
    """Send `alert` once without storing it, and say what came back."""

    async def once() -> Delivery:
        async with httpx.AsyncClient(timeout=ATTEMPT_SECONDS) as client:
            return await attempt(client, destination, alert, Delivery.first(), utc_now())

    return asyncio.run(once())


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    good: bool = False
    final: bool = False
    wait: timedelta = timedelta(0)


async def _post(client: httpx.AsyncClient, destination: Destination, alert: Alert) -> _Answer:
    with _silent():
        try:
            async with (
                asyncio.timeout(ATTEMPT_SECONDS),
                client.stream(
                    "POST",
                    destination.url.get_secret_value(),
                    content=msgspec.json.encode(destination.payload(alert)),
                    headers={"content-type": "application/json", "idempotency-key": alert.id},
                ) as response,
            ):
                return _judged(response, await _beginning(response))
        except TimeoutError:
            return _Answer(f"no answer within {ATTEMPT_SECONDS:g} s")
        except httpx.InvalidURL as error:
            return _Answer(f"the address is wrong: {error}", final=True)
        except httpx.HTTPError as error:
            return _Answer(f"{type(error).__name__}: {error}")


def _judged(response: httpx.Response, text: str) -> _Answer:
    status = response.status_code
    said = f"{status} {response.reason_phrase} {text}".strip()
    if response.is_success:
        return _Answer(said, good=True)
    if response.is_redirect:
        # Another host is not what was configured, and must not learn what is in an alert.
        return _Answer(f"{status} redirects elsewhere; give the final address", final=True)
    wait = response.headers.get("retry-after", "")
    seconds = min(int(wait), LONGEST_PAUSE.total_seconds()) if wait.isdecimal() else 0
    return _Answer(said, final=permanent(status), wait=timedelta(seconds=seconds))


async def _beginning(response: httpx.Response) -> str:
    """The first bytes of the answer, enough to see what it says."""
    data = b""
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) >= MAX_ANSWER:
            break
    return data[:MAX_ANSWER].decode("utf-8", errors="replace").strip()


@contextmanager
def _silent() -> Iterator[None]:
    token = _SENDING.set(True)
    try:
        yield
    finally:
        _SENDING.reset(token)


def _too_old(alert: Alert, now: datetime) -> bool:
    return now - alert.at >= RETRIED_FOR


def _aged(delivery: Delivery, alert: Alert, now: datetime) -> Delivery:
    """The delivery, given up where it has been tried long enough."""
    if delivery.state != "waiting" or not _too_old(alert, now):
        return delivery
    answer = delivery.answer or "no destination of that name is configured"
    return delivery.model_copy(update={"state": "given_up", "due": None, "answer": answer})
