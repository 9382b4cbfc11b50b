"""`ibook alerts`: what was raised, whether it arrived, and whether the destinations answer."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from ibook_assets.cli.console import (
    EXIT_FAILED,
    console,
    explains_errors,
    fail,
    print_json,
    settings,
)
from ibook_assets.core.alerts import (
    Alert,
    Delivery,
    Destination,
    Status,
    parse_destinations,
    runbook_url,
)
from ibook_assets.stores.alerting import AlertOutbox, Entry, try_destination
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.promotions import utc_now

alerts: Final = typer.Typer(no_args_is_help=True, help=__doc__)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]


@alerts.command("list")
@explains_errors
def list_alerts(
    unsettled: Annotated[
        bool, typer.Option("--unsettled", help="Only what is open or undelivered.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List alerts of the last thirty days and their deliveries, newest first."""
    config = settings()
    outbox = AlertOutbox(open_blobs(config.lake, endpoint_url=config.s3_endpoint_url))
    entries = outbox.entries(unsettled=unsettled)
    if as_json:
        print_json([_document(entry) for entry in entries])
        return
    table = Table("at", "severity", "status", "subject", "summary", "deliveries")
    for entry in entries:
        alert = entry.alert
        table.add_row(
            f"{alert.at:%Y-%m-%d %H:%M:%S}",
            alert.severity,
            "open" if entry.open else alert.status,
            escape(alert.subject),
            escape(alert.summary),
            escape("\n".join(_told(name, d) for name, d in entry.deliveries.items())),
        )
    console.print(table)


@alerts.command("test")
@explains_errors
def try_destinations(as_json: AsJson = False) -> None:
    """Send a test alert to every destination and say what came back; code 1 if one fails.

    PagerDuty is sent its end, too, so that no incident stays open.
    """
    config = settings()
    found = parse_destinations(config.alert_webhooks, config.pagerduty_routing_key)
    if not found:
        fail(
            "no destination is configured: set IBOOK_ALERT_WEBHOOKS to `name=format:url` terms, "
            "for example `ops=slack:https://hooks.slack.com/services/…`"
        )
    answers = {each.name: _tried(each, config.runbooks_url) for each in found}
    if as_json:
        print_json({name: answer.model_dump(mode="json") for name, answer in answers.items()})
    else:
        table = Table("destination", "format", "host", "state", "answer")
        for each in found:
            answer = answers[each.name]
            table.add_row(each.name, each.format, each.host, answer.state, escape(answer.answer))
        console.print(table)
    if any(answer.state != "delivered" for answer in answers.values()):
        raise typer.Exit(EXIT_FAILED)


def _tried(destination: Destination, runbooks: str) -> Delivery:
    firing = try_destination(destination, _trial("firing", runbooks))
    if destination.format != "pagerduty" or firing.state != "delivered":
        return firing
    return try_destination(destination, _trial("resolved", runbooks))


def _trial(status: Status, runbooks: str) -> Alert:
    now = utc_now()
    return Alert(
        kind="test",
        severity="warning",
        status=status,
        subject="ibook alerts test",
        summary="A test of alert delivery. Nothing is wrong and nothing needs to be done.",
        runbook_url=runbook_url("test", runbooks),
        dedup_key="ibook/test",
        event=now.isoformat(),
        at=now,
    )


def _document(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.alert.id,
        "open": entry.open,
        "alert": entry.alert.model_dump(mode="json"),
        "deliveries": {n: d.model_dump(mode="json") for n, d in entry.deliveries.items()},
    }


def _told(name: str, delivery: Delivery) -> str:
    if delivery.state == "delivered":
        return f"{name}: delivered"
    return f"{name}: {delivery.state} after {delivery.attempts} attempts: {delivery.answer}"
