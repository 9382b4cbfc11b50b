"""Alerts: what somebody should know, once, and what each kind of receiver is sent.

An alert says something of a *matter*, named by its dedup key: `firing` opens it, `resolved` closes
it, a `notice` tells what happened once. The same event always makes the same alert, so raising it
again changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Annotated, Any, Final, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SecretStr,
)

from ibook_assets.core.canonical import sha256_hex
from ibook_assets.core.errors import ContractError
from ibook_assets.core.ids import check_name

Kind = Literal[
    "drift",
    "check",
    "run",
    "training",
    "retraining",
    "promotion",
    "rollback",
    "rejection",
    "stalled-rollout",
    "refused-artefact",
    "damaged-log",
    "service-down",
    "service-errors",
    "service-latency",
    "freshness",
    "test",
]
Severity = Literal["info", "warning", "error", "critical"]
Status = Literal["firing", "resolved", "notice"]
Format = Literal["generic", "slack", "pagerduty"]

RUNBOOKS: Final = "docs/runbooks.md"
"""The page of runbooks; `IBOOK_RUNBOOKS_URL` says where people read it."""

RUNBOOK_SECTIONS: Final[Mapping[Kind, str]] = {
    "drift": "drift",
    "check": "failed-check",
    "run": "failed-run",
    "training": "failed-retrain",
    "retraining": "retraining-has-stopped",
    "promotion": "promotion",
    "rollback": "rollback",
    "rejection": "rejection",
    "stalled-rollout": "stalled-rollout",
    "refused-artefact": "refused-artefact",
    "damaged-log": "damaged-log",
    "service-down": "server-down",
    "service-errors": "server-errors",
    "service-latency": "slow-answers",
    "freshness": "freshness",
    "test": "test-alert",
}
"""Section of that page for each kind."""

PAGERDUTY_EVENTS: Final = "https://events.pagerduty.com/v2/enqueue"
SOURCE: Final = "ibook"

MAX_SUMMARY: Final = 1_000
MAX_KEY: Final = 255
"""Characters of a dedup key: PagerDuty's limit."""
MAX_EVIDENCE: Final = 30
MAX_EVIDENCE_TEXT: Final = 1_500

# Slack's limits, see https://docs.slack.dev/reference/block-kit/blocks.
_SLACK_HEADER: Final = 150
_SLACK_FIELDS: Final = 10
_SLACK_FIELD: Final = 2_000
_SLACK_SECTION: Final = 3_000

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_MARKS: Final = {"firing": "FIRING", "resolved": "RESOLVED", "notice": "NOTICE"}
_WEBHOOK: Final = re.compile(r"^(?P<name>[^=]*)=(?P<format>[^:]*):?(?P<url>.*)$", re.DOTALL)


def shortened(text: str, limit: int) -> str:
    """`text`, its end replaced by an ellipsis where it is longer than `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _short_summary(text: str) -> str:
    return shortened(text, MAX_SUMMARY)


def _short_evidence(told: dict[str, Value]) -> dict[str, Value]:
    return {
        shortened(name, 64): shortened(value, MAX_EVIDENCE_TEXT)
        if isinstance(value, str)
        else value
        for name, value in list(told.items())[:MAX_EVIDENCE]
    }


Value: TypeAlias = bool | int | FiniteFloat | str | None
Line = Annotated[str, Field(min_length=1, max_length=200)]


class Alert(BaseModel):
    """One thing that somebody should know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    kind: Kind
    severity: Severity
    status: Status
    subject: Line
    """What it is about: a use case, an asset's check, a job."""
    summary: Annotated[str, Field(min_length=1), AfterValidator(_short_summary)]
    evidence: Annotated[dict[str, Value], AfterValidator(_short_evidence)] = Field(
        default_factory=dict
    )
    """Figures and names to begin with; at most `MAX_EVIDENCE`, long text is cut."""
    runbook_url: str
    dedup_key: Annotated[str, Field(min_length=1, max_length=MAX_KEY)]
    """Names the matter: the alert that resolves it has the same."""
    event: Annotated[str, Field(min_length=1)]
    """Names what happened: the same event raised twice is one alert."""
    at: AwareDatetime

    @property
    def matter(self) -> str:
        """The dedup key as a part of a file name."""
        return sha256_hex(self.dedup_key.encode())[:16]

    @property
    def id(self) -> str:
        """Sorts by time; the same for the same event of the same matter."""
        moment = self.at.astimezone(UTC).strftime("%Y%m%dT%H%M%S_%fZ")
        event = sha256_hex(f"{self.dedup_key}\0{self.event}".encode())[:8]
        return f"{moment}-{self.matter}-{self.status}-{event}"


def runbook_url(kind: Kind, base: str = RUNBOOKS) -> str:
    """The section of the runbooks at `base` for alerts of that kind."""
    return f"{base}#{RUNBOOK_SECTIONS[kind]}"


@dataclass(frozen=True)
class Destination:
    """Where alerts are sent. Shown by name, format and host only: its address is a secret."""

    name: str
    format: Format
    url: SecretStr
    routing_key: SecretStr | None = None

    @property
    def host(self) -> str:
        """Host, and port if the address has one."""
        return urlsplit(self.url.get_secret_value()).netloc.rpartition("@")[2]

    @property
    def fingerprint(self) -> str:
        """Changes with the address or the key."""
        key = self.routing_key.get_secret_value() if self.routing_key else ""
        return sha256_hex(f"{self.format}\0{self.url.get_secret_value()}\0{key}".encode())[:12]

    def takes(self, alert: Alert) -> bool:
        """Whether `alert` is sent there: nobody is paged for mere information."""
        return self.format != "pagerduty" or alert.severity != "info"

    def redacted(self, text: str) -> str:
        """`text` without what only this destination should know."""
        split = urlsplit(self.url.get_secret_value())
        secrets = [self.url.get_secret_value(), split.path.strip("/"), split.query]
        secrets += [split.username or "", split.password or ""]
        secrets += [self.routing_key.get_secret_value()] if self.routing_key else []
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def payload(self, alert: Alert) -> dict[str, Any]:
        """The JSON body that tells `alert` there."""
        if self.format == "slack":
            return slack_payload(alert)
        if self.format == "pagerduty":
            return pagerduty_payload(alert, self.routing_key)
        return generic_payload(alert)


def parse_destinations(
    webhooks: SecretStr | None, routing_key: SecretStr | None = None
) -> tuple[Destination, ...]:
    """Destinations out of `name=format:url` terms, separated by commas or spaces.

    `pagerduty` may leave its address out. Messages never quote an address.

    Raises:
        ContractError: a term, name, format or address is not what it should be.
    """
    text = webhooks.get_secret_value() if webhooks else ""
    terms = [term for term in re.split(r"[,\s]+", text) if term]
    found = tuple(_destination(number, term, routing_key) for number, term in enumerate(terms, 1))
    names = [destination.name for destination in found]
    if len(set(names)) < len(names):
        msg = f"IBOOK_ALERT_WEBHOOKS names a destination twice: {names}; give each its own name"
        raise ContractError(msg)
    return found


def _destination(number: int, term: str, routing_key: SecretStr | None) -> Destination:
    match = _WEBHOOK.fullmatch(term)
    if match is None:
        msg = (
            f"term {number} of IBOOK_ALERT_WEBHOOKS is not `name=format:url`, for example "
            "`ops=slack:https://hooks.slack.com/services/…`"
        )
        raise ContractError(msg)
    name = check_name(match["name"], what=f"IBOOK_ALERT_WEBHOOKS term {number}: name")
    chosen = match["format"]
    url = match["url"] or (PAGERDUTY_EVENTS if chosen == "pagerduty" else "")
    _require_safe_address(name, url)
    if chosen == "generic":
        return Destination(name, "generic", SecretStr(url))
    if chosen == "slack":
        return Destination(name, "slack", SecretStr(url))
    if chosen != "pagerduty":
        msg = f"alert destination {name!r} has an unknown format; use generic, slack or pagerduty"
        raise ContractError(msg)
    if routing_key is None or not routing_key.get_secret_value():
        msg = f"alert destination {name!r} needs IBOOK_PAGERDUTY_ROUTING_KEY, an integration's key"
        raise ContractError(msg)
    return Destination(name, "pagerduty", SecretStr(url), routing_key)


def _require_safe_address(name: str, url: str) -> None:
    try:
        split = urlsplit(url)
        host, _ = split.hostname, split.port
    except ValueError:
        host = None
    else:
        if host and (split.scheme == "https" or (split.scheme == "http" and host in _LOOPBACK)):
            return
    msg = (
        f"alert destination {name!r} ({host or 'no host'}): the address must be https://…; "
        "http:// is for this machine only"
    )
    raise ContractError(msg)


def generic_payload(alert: Alert) -> dict[str, Any]:
    """All fields of `alert`, and its id, by which a receiver knows a repeated delivery."""
    return {"id": alert.id, **alert.model_dump(mode="json")}


def slack_payload(alert: Alert) -> dict[str, Any]:
    """Slack blocks: a header, the summary, the evidence in fields, the runbook."""
    title = shortened(f"{_MARKS[alert.status]} {alert.severity}: {alert.subject}", _SLACK_HEADER)
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": title}},
        {"type": "section", "text": _mrkdwn(_escaped(alert.summary), _SLACK_SECTION)},
    ]
    fields = [
        _mrkdwn(f"*{_escaped(name)}*\n{_escaped(_told(value))}", _SLACK_FIELD)
        for name, value in list(alert.evidence.items())[:_SLACK_FIELDS]
    ]
    if fields:
        blocks.append({"type": "section", "fields": fields})
    context = f"{alert.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC · {_escaped(alert.dedup_key)} · "
    link = _escaped(alert.runbook_url)
    context += f"<{link}|runbook>" if _is_web(alert.runbook_url) else f"runbook: {link}"
    blocks.append({"type": "context", "elements": [_mrkdwn(context, _SLACK_FIELD)]})
    return {"text": shortened(f"{title}: {alert.summary}", _SLACK_SECTION), "blocks": blocks}


def pagerduty_payload(alert: Alert, routing_key: SecretStr | None) -> dict[str, Any]:
    """An event of PagerDuty's Events API v2: `resolve` of a resolved alert, else `trigger`."""
    event: dict[str, Any] = {
        "routing_key": routing_key.get_secret_value() if routing_key else "",
        "event_action": "resolve" if alert.status == "resolved" else "trigger",
        "dedup_key": alert.dedup_key,
    }
    if alert.status == "resolved":
        return event
    event["payload"] = {
        "summary": f"{alert.subject}: {alert.summary}"[:1_024],
        "source": SOURCE,
        "severity": alert.severity,
        "timestamp": alert.at.astimezone(UTC).isoformat(),
        "component": alert.subject,
        "class": alert.kind,
        "custom_details": {**alert.evidence, "runbook": alert.runbook_url},
    }
    if _is_web(alert.runbook_url):
        event["links"] = [{"href": alert.runbook_url, "text": "runbook"}]
    return event


class Delivery(BaseModel):
    """How far the delivery of one alert to one destination has come."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["waiting", "delivered", "refused", "given_up"] = "waiting"
    """`refused`: the receiver said that asking again cannot help; `given_up`: it took too long."""
    attempts: int = 0
    answer: str = ""
    """What came back last, in words, without secrets."""
    at: AwareDatetime | None = None
    """Time of the last attempt."""
    due: AwareDatetime | None = None
    """Not sent again before."""
    fingerprint: str = ""
    """Of the destination as it was then: a mended address is tried anew."""

    @property
    def settled(self) -> bool:
        """Whether nothing is sent any more."""
        return self.state != "waiting"

    @classmethod
    def first(cls) -> Self:
        """Nothing has been tried yet."""
        return cls()


def permanent(status: int) -> bool:
    """Whether an answer with that HTTP status would be the same the next time."""
    return 300 <= status < 500 and status not in _PASSING


_PASSING: Final = frozenset({408, 409, 425, 429})


def open_matters(ids: Iterable[str]) -> dict[str, str]:
    """Matter to the id of the alert that opened it, of those that nothing has closed since."""
    found: dict[str, str] = {}
    for each in sorted(ids):
        _, matter, status, *_ = [*each.split("-"), "", ""]
        if status == "firing":
            found.setdefault(matter, each)
        elif status == "resolved":
            found.pop(matter, None)
    return found


def _mrkdwn(text: str, limit: int) -> dict[str, str]:
    return {"type": "mrkdwn", "text": shortened(text, limit)}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _told(value: Value) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_web(url: str) -> bool:
    return url.startswith(("https://", "http://"))


def named(destinations: Sequence[Destination]) -> str:
    """The destinations in words, without their addresses."""
    return ", ".join(f"{d.name} ({d.format}, {d.host})" for d in destinations) or "none"
