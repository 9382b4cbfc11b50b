"""Alerts: identity, what is open, three payloads within their limits, secrets that stay secret."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from ibook_assets.core.alerts import (
    MAX_EVIDENCE_TEXT,
    MAX_SUMMARY,
    PAGERDUTY_EVENTS,
    RUNBOOK_SECTIONS,
    RUNBOOKS,
    Alert,
    Destination,
    named,
    open_matters,
    parse_destinations,
    permanent,
    runbook_url,
)
from ibook_assets.core.errors import ContractError
from ibook_assets.core.settings import Settings
from tests.test_docs import anchors

ROOT = Path(__file__).parents[2]
AT = datetime(2026, 3, 1, 12, 0, 0, 250, tzinfo=UTC)
KEY = SecretStr("R0utingKeyOfTheService")
SLACK = "https://hooks.slack.com/services/T000/B000/secretsecret"


def alert(**changed: Any) -> Alert:
    fields: dict[str, Any] = {
        "kind": "drift",
        "severity": "warning",
        "status": "firing",
        "subject": "fraud",
        "summary": "The features have drifted.",
        "evidence": {"score": 0.4, "day": "2026-03-01"},
        "runbook_url": runbook_url("drift", "https://docs.example.org/runbooks"),
        "dedup_key": "fraud/drift/17",
        "event": "17",
        "at": AT,
    }
    return Alert.model_validate(fields | changed)


def destination(term: str) -> Destination:
    (found,) = parse_destinations(SecretStr(term), KEY)
    return found


@pytest.mark.parametrize("kind", RUNBOOK_SECTIONS)
def test_every_kind_has_a_runbook(kind: Any) -> None:
    page, _, section = runbook_url(kind).partition("#")
    assert page == RUNBOOKS
    assert section in anchors((ROOT / page).read_text())


def test_runbooks_cover_what_goes_wrong_and_say_what_to_run() -> None:
    text = (ROOT / RUNBOOKS).read_text()
    wanted = {"drift", "refused-artefact", "failed-retrain", "freshness", "rollback"}
    assert wanted <= anchors(text)
    sections = text.split("\n## ")[1:]
    for section in sections:
        for part in ("Symptom", "Check", "Action"):
            assert f"**{part}**" in section, section.splitlines()[0]


def test_the_same_event_is_the_same_alert_and_ids_sort_by_time() -> None:
    elsewhere = alert(at=AT.astimezone(timezone(timedelta(hours=5))), summary="Said otherwise.")
    assert alert().id == elsewhere.id
    later = [alert(at=AT + timedelta(microseconds=n)).id for n in (0, 1, 1_000_000, 10**12)]
    assert later == sorted(later)
    assert len({alert().id, alert(event="18").id, alert(dedup_key="fraud/drift/18").id}) == 3


def test_a_matter_is_open_from_its_first_firing_until_it_is_resolved() -> None:
    first = alert()
    again = alert(event="18", at=AT + timedelta(hours=1))
    over = alert(status="resolved", event="over", at=AT + timedelta(hours=2))
    other = alert(dedup_key="other", status="notice")
    assert open_matters([again.id, first.id, other.id]) == {first.matter: first.id}
    assert open_matters([over.id, again.id, first.id]) == {}
    once_more = alert(event="19", at=AT + timedelta(hours=3))
    found = open_matters([once_more.id, over.id, again.id, first.id, "something else"])
    assert found == {first.matter: once_more.id}


def test_the_generic_payload_is_the_whole_alert() -> None:
    body = destination("a=generic:https://example.org/hook").payload(alert())
    assert body.pop("id") == alert().id
    assert Alert.model_validate_json(json.dumps(body)) == alert()


def test_slack_shows_summary_evidence_and_runbook_without_being_told_how_to_format() -> None:
    body = destination(f"a=slack:{SLACK}").payload(alert(summary="<!channel> & *bold*"))
    header, summary, fields, context = body["blocks"]
    assert header["text"] == {"type": "plain_text", "text": "FIRING warning: fraud"}
    assert summary["text"]["text"] == "&lt;!channel&gt; &amp; *bold*"
    assert [field["text"] for field in fields["fields"]] == ["*score*\n0.4", "*day*\n2026-03-01"]
    assert "<https://docs.example.org/runbooks#drift|runbook>" in context["elements"][0]["text"]
    assert "2026-03-01 12:00:00 UTC" in context["elements"][0]["text"]


def test_pagerduty_triggers_and_resolves_one_incident() -> None:
    pager = destination("a=pagerduty")
    trigger = pager.payload(alert())
    assert (trigger["event_action"], trigger["dedup_key"]) == ("trigger", "fraud/drift/17")
    assert trigger["routing_key"] == KEY.get_secret_value()
    assert trigger["payload"] == {
        "summary": "fraud: The features have drifted.",
        "source": "ibook",
        "severity": "warning",
        "timestamp": "2026-03-01T12:00:00.000250+00:00",
        "component": "fraud",
        "class": "drift",
        "custom_details": {
            "score": 0.4,
            "day": "2026-03-01",
            "runbook": "https://docs.example.org/runbooks#drift",
        },
    }
    assert trigger["links"][0]["href"] == "https://docs.example.org/runbooks#drift"
    resolve = pager.payload(alert(status="resolved"))
    assert resolve == {
        "routing_key": KEY.get_secret_value(),
        "event_action": "resolve",
        "dedup_key": "fraud/drift/17",
    }


def test_a_path_of_the_repository_is_no_link() -> None:
    told = alert(runbook_url=runbook_url("drift"))
    assert "links" not in destination("a=pagerduty").payload(told)
    context = destination(f"a=slack:{SLACK}").payload(told)["blocks"][-1]
    assert "runbook: docs/runbooks.md#drift" in context["elements"][0]["text"]


def test_nobody_is_paged_for_information() -> None:
    told = alert(severity="info", kind="promotion", status="notice")
    assert not destination("a=pagerduty").takes(told)
    assert destination(f"a=slack:{SLACK}").takes(told)
    assert destination("a=pagerduty").takes(alert())


texts = st.text(max_size=4_000)
values = st.one_of(texts, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False))


@given(
    st.text(min_size=1, max_size=200),
    st.text(min_size=1, max_size=4_000),
    st.dictionaries(st.text(max_size=200), values, max_size=60),
)
def test_whatever_is_told_stays_within_the_receivers_limits(
    subject: str, summary: str, evidence: dict[str, Any]
) -> None:
    finite = {k: v for k, v in evidence.items() if v not in (float("inf"), float("-inf"))}
    told = alert(subject=subject, summary=summary, evidence=finite)
    assert len(told.summary) <= MAX_SUMMARY
    assert all(len(v) <= MAX_EVIDENCE_TEXT for v in told.evidence.values() if isinstance(v, str))
    for term in ("a=generic:https://example.org/hook", f"a=slack:{SLACK}", "a=pagerduty"):
        body = destination(term).payload(told)
        assert len(json.dumps(body, allow_nan=False)) < 512_000
        if "blocks" in body:
            assert len(body["blocks"][0]["text"]["text"]) <= 150
            assert len(body["blocks"][1]["text"]["text"]) <= 3_000
            fields = [f for block in body["blocks"] for f in block.get("fields", [])]
            assert len(fields) <= 10
            assert all(0 < len(field["text"]) <= 2_000 for field in fields)
        if "payload" in body:
            assert len(body["payload"]["summary"]) <= 1_024


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_evidence_is_finite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        alert(evidence={"score": value})


def test_destinations_are_parsed() -> None:
    found = parse_destinations(
        SecretStr(f"ops=slack:{SLACK}, pager=pagerduty\nlocal=generic:http://127.0.0.1:9/x"), KEY
    )
    assert [(d.name, d.format, d.host) for d in found] == [
        ("ops", "slack", "hooks.slack.com"),
        ("pager", "pagerduty", "events.pagerduty.com"),
        ("local", "generic", "127.0.0.1:9"),
    ]
    assert found[1].url.get_secret_value() == PAGERDUTY_EVENTS
    assert parse_destinations(None) == parse_destinations(SecretStr(" ")) == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SLACK, "term 1 of IBOOK_ALERT_WEBHOOKS is not `name=format:url`"),
        ("ops=slack", "the address must be https"),
        ("ops=slack:http://hooks.slack.com/secretsecret", "(hooks.slack.com): the address must"),
        ("ops=generic:https:///secretsecret", "(no host)"),
        ("ops=generic:https://[secretsecret", "(no host)"),
        ("ops=generic:https://host:secretsecret/", "the address must be https"),
        ("ops=email:https://example.org/secretsecret", "use generic, slack or pagerduty"),
        ("a/b=generic:https://example.org/secretsecret", "name 'a/b' is not allowed"),
        ("a=generic:https://x.org/secretsecret,a=generic:https://y.org", "names a destination twi"),
    ],
    ids=["term", "empty", "plain http", "no host", "bracket", "port", "format", "name", "twice"],
)
def test_a_wrong_destination_is_refused_without_quoting_its_address(text: str, says: str) -> None:
    with pytest.raises(ContractError) as refused:
        parse_destinations(SecretStr(text), KEY)
    assert says in str(refused.value)
    assert "secretsecret" not in str(refused.value)


def test_pagerduty_needs_its_key() -> None:
    with pytest.raises(ContractError, match="IBOOK_PAGERDUTY_ROUTING_KEY"):
        parse_destinations(SecretStr("pager=pagerduty"))


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IBOOK_ALERT_WEBHOOKS", f"ops=slack:{SLACK},pager=pagerduty")
    monkeypatch.setenv("IBOOK_PAGERDUTY_ROUTING_KEY", KEY.get_secret_value())
    settings = Settings()
    found = parse_destinations(settings.alert_webhooks, settings.pagerduty_routing_key)
    shown = f"{settings!r} {settings.model_dump_json()} {found!r} {named(found)}"
    assert "secretsecret" not in shown
    assert KEY.get_secret_value() not in shown
    echoed = f"POST {SLACK} to services/T000/B000/secretsecret with {KEY.get_secret_value()}"
    assert "secretsecret" not in found[0].redacted(echoed)
    assert KEY.get_secret_value() not in found[1].redacted(echoed)


def test_a_mended_address_has_another_fingerprint() -> None:
    terms = ["a=generic:https://x.org/1", "a=generic:https://x.org/2", "a=slack:https://x.org/1"]
    assert len({destination(term).fingerprint for term in terms}) == 3


@pytest.mark.parametrize(
    ("status", "expected"),
    [(301, True), (400, True), (404, True), (410, True), (408, False), (429, False), (503, False)],
)
def test_answers_that_would_stay_the_same(status: int, expected: bool) -> None:  # noqa: FBT001
    assert permanent(status) is expected
