"""The scoring server under watch: down, failing, slow, or answering from old history."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import dagster as dg
from pydantic import ValidationError

from ibook_assets.core.alerts import Alert, Destination
from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.core.service_levels import (
    LEVELS,
    SLOW_SECONDS,
    VERY_SLOW_SECONDS,
    Broken,
    Counted,
    Name,
    ServerWatch,
)
from ibook_assets.core.settings import Settings
from ibook_assets.defs.alert_sources import Alerts, resolved
from ibook_assets.defs.resources import LakeResource
from ibook_assets.stores.alerting import AlertOutbox
from ibook_assets.stores.server_counts import read_counts

SECONDS_BETWEEN: Final = 30

_KEYS: Final[Mapping[Name, str]] = {name: f"server/{name}" for name in LEVELS}
_NOT_WATCHED: Final = "The server is not watched any more."


def server_watch(
    settings: Settings, destinations: Sequence[Destination], clock: Callable[[], datetime]
) -> dg.SensorDefinition:
    """The sensor that looks at the server's metrics; `clock` tells UTC time."""

    @dg.sensor(
        name="server_watch",
        minimum_interval_seconds=SECONDS_BETWEEN,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Raises alerts when the scoring server that has answered once does not, fails or "
            "delays too many requests, or answers from history that is no longer fresh."
        ),
    )
    def watching(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
        now = clock()
        outbox = AlertOutbox(lake.blobs)
        known = {a.dedup_key: a for a in outbox.open_alerts() if a.dedup_key in _KEYS.values()}
        watch = _watch(context.cursor, known)
        if settings.watch_server:
            watch = watch.after(_counts(settings, now), at=now.timestamp())
        else:
            watch = ServerWatch()
        alerts = Alerts(settings.runbooks_url)
        for alert in _told(alerts, watch, known, settings, now=now):
            outbox.record(alert, destinations)
        return dg.SensorResult(
            skip_reason=_standing(watch, settings), cursor=watch.model_dump_json()
        )

    return watching


def _watch(cursor: str | None, known: Mapping[str, Alert]) -> ServerWatch:
    """The watch stored as `cursor`; without one, what the open alerts tell of it."""
    try:
        if cursor:
            return ServerWatch.model_validate_json(cursor)
    except ValidationError:
        # Another release's, or damaged: what it knew stands in the alerts.
        pass
    broken = {
        name: Broken(since=at, last=at, value=LEVELS[name].limit)
        for name, key in _KEYS.items()
        if key in known
        for at in [known[key].at.timestamp()]
    }
    down = broken.get("down")
    return ServerWatch(
        expected=bool(broken),
        streaming="stale" in broken,
        silent_since=None if down is None else down.since,
        broken=broken,
    )


def _counts(settings: Settings, now: datetime) -> Counted | None:
    try:
        return read_counts(settings.metrics_url, at=now.timestamp())
    except StoreUnavailableError:
        # Silence is what is watched for, not a failure of the watch.
        return None


def _told(
    alerts: Alerts,
    watch: ServerWatch,
    known: Mapping[str, Alert],
    settings: Settings,
    *,
    now: datetime,
) -> Iterator[Alert]:
    for name, key in _KEYS.items():
        broken = watch.broken.get(name)
        if broken is not None and key not in known:
            yield _firing(alerts, name, broken, settings)
        elif broken is None and key in known:
            over = _OVER[name] if settings.watch_server else _NOT_WATCHED
            yield resolved(known[key], summary=over, event=now.isoformat(), at=now)


def _firing(alerts: Alerts, name: Name, broken: Broken, settings: Settings) -> Alert:
    level, server = LEVELS[name], _server(settings)
    return alerts.make(
        level.kind,
        level.severity,
        "firing",
        subject=server,
        summary=_summary(name, broken, server),
        evidence={
            "server": server,
            "value": round(broken.value, 4),
            "limit": level.limit,
            "requests": broken.requests or None,
            "since": f"{datetime.fromtimestamp(broken.since, UTC):%Y-%m-%d %H:%M:%S} UTC",
        },
        key=_KEYS[name],
        event=f"{broken.since:.3f}",
        # When it was found: an alert is as old as the first look that found it.
        at=broken.last,
    )


def _summary(name: Name, broken: Broken, server: str) -> str:
    limit, value = LEVELS[name].limit, broken.value
    if name == "down":
        return f"The scoring server at {server} has not answered for {value:.0f} seconds."
    if name == "stale":
        return (
            f"The scoring server at {server} answers from history that is {value / 60:.0f} minutes "
            f"old; it should be no older than {limit / 60:.0f}."
        )
    of = f"{value:.1%} of the last {broken.requests:,} requests"
    if name in ("errors", "many_errors"):
        return f"{of} ended in a server error; the limit is {limit:.0%}."
    percentile, seconds = (99, SLOW_SECONDS) if name == "slow" else (95, VERY_SLOW_SECONDS)
    return f"{of} took longer than {seconds * 1e3:.0f} ms: p{percentile} is above it."


_OVER: Final[Mapping[Name, str]] = {
    "down": "The scoring server answers.",
    "errors": "Server errors are below the limit, or nobody asks any more.",
    "many_errors": "Server errors are below the limit, or nobody asks any more.",
    "slow": f"p99 is below {SLOW_SECONDS * 1e3:.0f} ms, or nobody asks any more.",
    "very_slow": f"p95 is below {VERY_SLOW_SECONDS * 1e3:.0f} ms, or nobody asks any more.",
    "stale": "History is fresh again.",
}


def _standing(watch: ServerWatch, settings: Settings) -> str:
    server = _server(settings)
    if not settings.watch_server:
        return f"{server} is not watched: IBOOK_WATCH_SERVER is false"
    if not watch.expected:
        return f"{server} has never answered: nothing to watch"
    return f"{server}: {', '.join(watch.broken) or 'nothing is wrong'}"


def _server(settings: Settings) -> str:
    """Host and port: an address may hold a password."""
    return urlsplit(settings.metrics_url).netloc.rpartition("@")[2]
