"""What `/status` counts and says, over processes, damage and a lake that is away."""

from __future__ import annotations

import asyncio
import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.samples import Sample

from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.core.rollout import Entrant
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.blobs import open_blobs
from ibook_serving.page.shown import age, exact, milliseconds, money, percent, quantile
from ibook_serving.status.counting import BOUNDS, counted
from ibook_serving.status.evidence import PROMOTIONS_SHOWN, EvidenceReader
from ibook_serving.status.refreshing import Refreshed
from ibook_serving.telemetry.metrics import LATENCY_BUCKETS
from tests.serving.damage import publish_damaged_model
from tests.serving.harness import (
    ORDER,
    WHO,
    RunningServer,
    challenge,
    eventually,
    free_port,
    promote,
    promotions,
    running,
    small_bundle,
)
from tests.serving.history import publish_history
from tests.serving.shown import promote_judged, store_drift
from tests.serving.test_metrics import ask_anew, metric

SCORING = ("/predict", "/fraud/predict")


def status(server: RunningServer) -> dict[str, Any]:
    answer = server.client.get("/status")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_it_counts_what_was_sent_over_all_processes(
    settings: Settings, bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    publish_history(settings)
    secret = {**ORDER, "user_id": "somebody-in-particular", "amount": 4_999}
    with running(settings, processes=2) as server:
        for _ in range(20):
            assert ask_anew(server, {"requests": [secret]}) == 200
        assert ask_anew(server, {"requests": [ORDER] * 3}) == 200
        assert ask_anew(server, {"requests": [{**ORDER, "amount": -1}]}) == 422
        eventually(lambda: sum(status(server)["answers"].values()) == 22, what="all counted")
        said = status(server)
        assert said["answers"] == {"200": 21, "422": 1}
        assert (said["processes"], said["processes_expected"]) == (2, 2)
        assert (said["model_version"], said["record_sequence"]) == ("fraud-v1", 1)
        assert said["verdict"]["level"] == "well"
        assert said["degraded"] == {}
        assert said["since"] < said["read_at"]
        (lane,) = said["lanes"]
        assert (lane["variant"], lane["share"]) == ("champion", 1.0)
        counts = {count["variant"]: count for count in said["variants"]}
        assert set(counts) == {"champion", "none"}
        champion = counts["champion"]
        assert champion["requests"] == champion["latency_buckets"][-1] == 21
        assert champion["approved"] + champion["reviewed"] == 23
        assert champion["reviewed"] >= 20
        assert champion["latency_buckets"] == sorted(champion["latency_buckets"])
        assert len(champion["latency_buckets"]) == len(said["latency_bounds_seconds"]) + 1
        assert champion["fraud_saved_cents"] == metric(server, "ibook_fraud_saved_cents_total")
        assert champion["review_cost_cents"] == metric(server, "ibook_review_cost_cents_total")
        assert "somebody" not in server.client.get("/status").text


def test_what_is_missing_is_told_with_what_to_do(settings: Settings, bundle: ModelBundle) -> None:
    with running(settings) as server:
        said = status(server)
        assert (said["verdict"]["level"], said["lanes"]) == ("bad", [])
        assert said["verdict"]["headline"] == "Nothing is served"
        (finding,) = said["verdict"]["findings"]
        assert finding["what"] == "No fraud model has been promoted yet"
        assert "make demo" in finding["next_step"]
        page = server.client.get("/")
        assert page.status_code == 200
        assert "Nothing has been promoted yet" in page.text

        promote_judged(settings, bundle, actor="ana", reason="alone")
        eventually(lambda: "is the first model" in server.client.get("/").text, what="promotion")
        said = status(server)
        assert (said["verdict"]["level"], said["lanes"][0]["model_version"]) == ("warn", "fraud-v1")
        assert [f["what"] for f in said["verdict"]["findings"]] == ["No history is published"]
        page = server.client.get("/")
        assert "No report yet" in page.text
        assert "fraud/feature_drift" in page.text


def test_drift_asks_for_a_look_and_a_refused_model_names_the_way_back(
    settings: Settings, bundle: ModelBundle, next_bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    publish_history(settings)
    kept = store_drift(
        settings, day="2026-02-28", champion=bundle.version, shift=1.5, confirmed=True
    )
    with running(settings) as server:
        said = status(server)
        assert said["verdict"]["level"] == "warn"
        assert said["verdict"]["findings"][0]["what"] == "Drift is confirmed on 2026-02-28"
        assert (said["drift"]["day"], said["drift"]["state"]) == ("2026-02-28", "drifted")
        assert said["drift"]["score"] == kept.decision.score
        assert said["drift"]["columns"][0]["name"] == kept.decision.columns[0].name

        publish_damaged_model(settings, next_bundle)
        eventually(lambda: status(server)["verdict"]["level"] == "bad", what="the refusal")
        finding, _ = status(server)["verdict"]["findings"]
        assert finding["what"] == "Model fraud-v2 was refused"
        assert "sha256" in finding["why"]
        assert "fraud-v1 stays in use" in finding["next_step"]
        assert "ibook rollback fraud" in finding["next_step"]
        assert str(settings.home) not in server.client.get("/").text


def test_a_damaged_lake_and_a_store_that_is_away_are_labelled_and_answers_go_on(
    settings: Settings, bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    publish_history(settings)
    store_drift(settings, day="2026-02-28", champion=bundle.version, shift=0.0)
    record = Path(settings.lake) / "monitoring/feature_drift/fraud/dt=2026-02-28/decision.json"
    record.write_text("{}")
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    with running(settings, environment={"IBOOK_ONLINE_URL": nobody}) as server:
        said = status(server)
        assert said["drift"] is None
        assert said["breakers"]["live_store"] != "closed"
        whats = [finding["what"] for finding in said["verdict"]["findings"]]
        assert whats == ["The live store is away", "The drift record cannot be read"]
        page = server.client.get("/").text
        assert "Not read just now" in page
        assert "materialise" in page
        assert str(settings.home) not in page
        assert server.predict(ORDER)[0]["degraded"] == ["published_snapshot"]
        eventually(lambda: status(server)["degraded"] == {"published_snapshot": 1}, what="count")


def test_evidence_is_the_newest_entries_and_the_real_way_back(
    settings: Settings, bundle: ModelBundle, next_bundle: ModelBundle
) -> None:
    reader = EvidenceReader(open_blobs(settings.lake), FRAUD.name)
    assert reader.read().promotions == ()
    promote_judged(settings, bundle, actor="ana", reason="first")
    first = reader.read()
    assert (first.sequence, first.rollback_to) == (1, None)
    for i in range(PROMOTIONS_SHOWN):
        promote_judged(settings, (next_bundle, bundle)[i % 2], actor="ana", reason=f"turn {i}")
    shown = reader.read()
    assert [entry.sequence for entry in shown.promotions] == list(range(11, 1, -1))
    assert shown.digest(11) != first.digest(1)
    rolled = promotions(settings).rollback(FRAUD.name, **WHO)
    assert rolled.model_version == shown.rollback_to
    assert reader.read().promotions[0] == rolled
    entries = promotions(settings).history(FRAUD.name)
    assert reader.read().champion_since(12) == rolled.promoted_at
    assert reader.read().champion_since(3) == entries[2].promoted_at
    beside = challenge(settings, small_bundle("fraud-v3", seed=3), Entrant("shadow"))
    assert reader.read().champion_since(beside.sequence) == rolled.promoted_at


def test_evidence_that_cannot_be_read_is_what_it_was(
    settings: Settings, bundle: ModelBundle
) -> None:
    record = promote_judged(settings, bundle, actor="ana", reason="first")
    reader = EvidenceReader(open_blobs(settings.lake), FRAUD.name)
    before = reader.read()
    (Path(settings.lake) / "promotions/fraud/000000000002.json").write_text("{}")
    after = reader.read()
    assert after.promotions == before.promotions == (record,)
    assert before.promotions_problem is None
    assert after.promotions_problem is not None
    assert "000000000002" in after.promotions_problem
    assert settings.lake not in after.promotions_problem
    assert after.digest(1) != before.digest(1)


def test_samples_of_other_routes_and_labels_do_not_count() -> None:
    asked = {"route": "/predict", "status": "200"}
    timed = {"route": "/predict", "model_variant": "champion"}
    found = [
        Sample("ibook_requests_total", asked, 3.0),
        Sample("ibook_requests_total", {**asked, "route": "/fraud/predict"}, 2.0),
        Sample("ibook_requests_total", {**asked, "route": "/status"}, 900.0),
        *(
            Sample(
                "ibook_request_duration_seconds_bucket",
                {**timed, "le": "+Inf" if bound == float("inf") else str(bound)},
                5.0 if bound >= 0.01 else 1.0,
            )
            for bound in BOUNDS
        ),
        Sample("ibook_request_duration_seconds_count", timed, 5.0),
        Sample("ibook_request_duration_seconds_sum", {**timed, "route": "/status"}, 77.0),
        Sample("ibook_predictions_total", {"model_variant": "canary", "decision": "review"}, 4.0),
        Sample("ibook_queue_rows", {}, 6.0),
        Sample("ibook_predictions_unlogged", {}, 3.0),
        Sample("ibook_breaker_state", {"dependency": "live_store"}, 2.0),
    ]
    count = counted(found, SCORING, at=10.0)
    assert count.answers == {"200": 5}
    assert (count.queue_rows, count.predictions_unlogged) == (6, 3)
    assert count.breakers == {"live_store": "open"}
    canary, champion = count.variants
    assert (canary.variant, canary.requests, canary.reviewed) == ("canary", 0, 4)
    assert (champion.requests, champion.latency_seconds) == (5, 0.0)
    below = sum(bound < 0.01 for bound in BOUNDS)
    assert champion.latency_buckets == (1,) * below + (5,) * (len(BOUNDS) - below)


@given(
    st.lists(st.integers(0, 50), min_size=len(BOUNDS), max_size=len(BOUNDS)),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
)
def test_quantiles_lie_in_the_bucket_of_their_rank(
    within: list[int], one: float, other: float
) -> None:
    buckets = [sum(within[: i + 1]) for i in range(len(within))]
    low, high = (quantile(buckets, LATENCY_BUCKETS, q) for q in sorted((one, other)))
    if buckets[-1] == 0:
        assert low is None
        return
    assert low is not None
    assert high is not None
    assert low <= high
    place = next(i for i, n in enumerate(buckets) if n >= min(one, other) * buckets[-1] and n)
    edges = (0.0, *LATENCY_BUCKETS, LATENCY_BUCKETS[-1])
    assert edges[place] <= low <= edges[place + 1]


def test_quantiles_are_interpolated() -> None:
    # 10 requests within 10 ms, 10 more within 20 ms: the 15th of 20 is half way between.
    assert quantile([10, 20, 20], [0.01, 0.02], 0.75) == pytest.approx(0.015)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (percent(0.0042), "0.42%"),
        (percent(0.25), "25.0%"),
        (percent(1.0), "100%"),
        (exact(0.15), "15%"),
        (money(123_456_78), "123,457"),
        (money(1_234), "12.34"),
        (milliseconds(0.0042), "4.2\N{NO-BREAK SPACE}ms"),
        (milliseconds(0.25), "250\N{NO-BREAK SPACE}ms"),
        (age(1.25), "1.2\N{NO-BREAK SPACE}s"),
        (age(119), "119\N{NO-BREAK SPACE}s"),
        (age(3 * 3_600), "3.0\N{NO-BREAK SPACE}h"),
        (age(12 * 86_400), "12\N{NO-BREAK SPACE}d"),
    ],
)
def test_numbers_are_short(text: str, said: str) -> None:
    assert text == said


def test_many_who_ask_cause_one_reading() -> None:
    readings = itertools.count(1)

    async def ask() -> list[int | None]:
        kept = Refreshed("numbers", lambda: next(readings), seconds=60, patience_seconds=60)
        together = await asyncio.gather(*(kept.get() for _ in range(50)))
        again = await kept.get()
        kept.expire()
        return [*together, again, await kept.get()]

    assert asyncio.run(ask()) == [1] * 51 + [2]


def test_a_slow_reading_leaves_what_was_read_until_it_is_done() -> None:
    gate = threading.Event()

    def read() -> str:
        gate.wait(30)
        return "new"

    async def ask() -> None:
        kept = Refreshed("lake", read, seconds=0, patience_seconds=0.0)
        assert (await kept.get(), kept.late) == (None, True)
        kept.value = "old"
        assert (await kept.get(), kept.late) == ("old", True)
        assert kept._reading is not None
        gate.set()
        await asyncio.wait({kept._reading})
        assert (kept.value, kept.late) == ("new", False)

    asyncio.run(ask())


def test_a_failed_reading_leaves_what_was_read_and_says_why() -> None:
    def read() -> str:
        msg = "the lake is away"
        raise StoreUnavailableError(msg)

    async def ask() -> None:
        kept = Refreshed("lake", read, seconds=60, patience_seconds=60)
        kept.value = "old"
        assert await kept.get() == "old"
        assert "the lake is away" in str(kept.failure)
        assert not kept.late

    asyncio.run(ask())
