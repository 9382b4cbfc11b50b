"""What `/metrics` says, over several processes and their deaths."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from http.client import HTTPConnection

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ibook_assets.core.rollout import Entrant
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.rollout_data import SHADOW, Look, look, requests_between
from tests.serving.harness import (
    ORDER,
    RunningServer,
    challenge,
    eventually,
    promote,
    running,
    small_bundle,
)
from tests.serving.history import publish_history

Labels = Mapping[str, str]


def metric(server: RunningServer, name: str, **labels: str) -> float:
    """Sum of the samples of `name` that have `labels`."""
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return sum(
        sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def ask_anew(server: RunningServer, body: object) -> int:
    """POST /predict on a new connection, which any process may get; the status."""
    connection = HTTPConnection("127.0.0.1", server.client.base_url.port, timeout=20)
    with closing(connection):
        connection.request("POST", "/predict", msgspec.json.encode(body))
        answer = connection.getresponse()
        answer.read()
        return answer.status


def test_requests_of_all_processes_add_up_and_survive_a_death(
    settings: Settings, bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    publish_history(settings)
    with running(settings, processes=2) as server:
        for _ in range(20):
            assert ask_anew(server, {"requests": [ORDER] * 3}) == 200
        assert ask_anew(server, {"requests": [{**ORDER, "amount": -1}]}) == 422
        assert metric(server, "ibook_requests_total", route="/predict", status="200") == 20
        assert metric(server, "ibook_errors_total", route="/predict", stage="decode") == 1
        assert metric(server, "ibook_predictions_total", model_variant="champion") == 60
        assert metric(server, "ibook_score_count", model_variant="champion") == 60
        timed = {"route": "/predict", "model_variant": "champion"}
        assert metric(server, "ibook_request_duration_seconds_count", **timed) == 20
        assert metric(server, "ibook_lane_share", model_version=bundle.version) == 1
        # The process furthest behind counts: one may have been loading until now.
        eventually(lambda: metric(server, "ibook_record_sequence") == 1, what="both serve")
        assert metric(server, "ibook_feature_age_seconds") > 0

        os.kill(server.api_processes()[0], signal.SIGKILL)
        eventually(lambda: len(server.events("API process died; starting another")) == 1, what="")
        eventually(lambda: server.versions() == {bundle.version}, what="both answer again")
        assert metric(server, "ibook_requests_total", route="/predict", status="200") == 20


def seen_by_the_shadow(server: RunningServer, batches: int) -> bool:
    found = metric(server, "ibook_shadow_duration_seconds_count", model_variant="shadow")
    return found == batches


def test_what_a_shadow_takes_is_timed_and_no_request_is_its(
    settings: Settings, bundle: ModelBundle, next_bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    challenge(settings, next_bundle, Entrant("shadow"))
    publish_history(settings)
    with running(settings) as server:
        looks: list[Look] = []
        for orders in (2, 5):
            while metric(server, "ibook_requests_total", route="/predict") < orders:
                server.predict(ORDER)
            eventually(partial(seen_by_the_shadow, server, orders), what=f"{orders} in the shadow")
            looks.append(look(f"{server.url}/metrics", at_us=len(looks)))
        assert metric(server, "ibook_shadow_duration_seconds_sum", model_variant="shadow") > 0
        assert metric(server, "ibook_shadow_errors_total") == 0
        assert metric(server, "ibook_request_duration_seconds_count", model_variant="shadow") == 0
        assert metric(server, "ibook_request_duration_seconds_count", route="/predict") == 5
        # What a rollout is judged on.
        between = requests_between(looks, challenger=SHADOW)
        assert (between.times_us, between.answered.tolist()) == ((1,), [[3, 3]])
        assert between.slower[0.5].tolist() == [[0, 0]]


def test_money_is_what_the_score_expects(settings: Settings) -> None:
    everything = small_bundle("fraud-all", seed=1, threshold=0.0)
    promote(settings, everything)
    publish_history(settings)
    with running(settings) as server:
        answers = server.predict(*[{**ORDER, "amount": amount} for amount in (10, 200, 4_000)])
        saved, review = 0.0, 0.0
        for answer, cents in zip(answers, (1_000, 20_000, 400_000), strict=True):
            assert answer["decision"] == "review"
            score = answer["score"]
            costs = FRAUD.costs
            saved += score * (cents * costs.loss_share + costs.chargeback_fee_cents)
            review += costs.review_cents + (1 - score) * cents * costs.friction_share
        assert metric(server, "ibook_fraud_saved_cents_total") == pytest.approx(saved)
        assert metric(server, "ibook_review_cost_cents_total") == pytest.approx(review)


def test_a_swap_moves_the_share_to_the_new_version(
    settings: Settings, bundle: ModelBundle, next_bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    with running(settings) as server:
        assert metric(server, "ibook_degraded_predictions_total") == 0
        server.predict(ORDER)
        missing = metric(
            server, "ibook_degraded_predictions_total", reason="online_store_unavailable"
        )
        assert missing == 1
        promote(settings, next_bundle)
        eventually(lambda: server.versions() == {next_bundle.version}, what="the swap")
        eventually(lambda: metric(server, "ibook_record_sequence") == 2, what="the sequence")
        assert metric(server, "ibook_lane_share", model_version=bundle.version) == 0
        assert metric(server, "ibook_lane_share", model_version=next_bundle.version) == 1
        assert metric(server, "ibook_swaps_total") == 2
