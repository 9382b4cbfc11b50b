"""Who is answered by which model: exactly as the record says, and shadows that nobody notices."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.rollout import Entrant, withdrawing
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.online import OnlineSnapshot, current_snapshot_id, fetch_online_features
from ibook_serving.api import Order, Prediction
from ibook_serving.http.decode import order_row
from ibook_serving.scoring.following import Follower, Publication
from ibook_serving.scoring.history import open_history
from ibook_serving.scoring.ports import Deployment, Lane, Model, NoRecorder, Served
from ibook_serving.scoring.published import PublishedModels
from ibook_serving.scoring.service import ScoringService
from ibook_serving.telemetry.metrics import Metrics
from tests.serving.harness import (
    WHO,
    RunningServer,
    challenge,
    eventually,
    promote,
    promotions,
    running,
    small_bundle,
)
from tests.serving.history import publish_history

USERS = range(300)
BATCH = 100
CANARY = Entrant("canary", 0.3)


@pytest.fixture
def home(settings: Settings, bundle: ModelBundle) -> Settings:
    """A platform where fraud-v1 serves over a published history."""
    publish_history(settings)
    promote(settings, bundle)
    return settings


@pytest.fixture
def server(home: Settings) -> Iterator[RunningServer]:
    with running(home, processes=2) as found:
        yield found


def order(user_id: int) -> dict[str, Any]:
    return {
        "request_id": f"r-{user_id}",
        "user_id": user_id,
        "event_id": user_id % 5,
        "amount": 100 + 10 * user_id,
        "occurred_at": "2026-02-16T12:00:00Z",
    }


def served_by(server: RunningServer, record: PromotionRecord) -> dict[int, dict[str, Any]]:
    """The prediction for each of USERS, once every process serves `record`."""
    eventually(
        lambda: server.asked_anew("record_sequence") == {record.sequence},
        what=f"every process serves entry {record.sequence}",
    )
    found: dict[int, dict[str, Any]] = {}
    for start in range(0, len(USERS), BATCH):
        users = USERS[start : start + BATCH]
        predictions = server.predict(*map(order, users), explain="false")
        found.update(zip(users, predictions, strict=True))
    return found


def offline(settings: Settings, bundle: ModelBundle) -> dict[int, float]:
    """What `bundle` says of each user's order, computed here."""
    newest = current_snapshot_id(settings.online_path)
    assert newest is not None
    rows = [order_row(msgspec.convert(order(u), Order), path="$", now_us=0) for u in USERS]
    snapshot = OnlineSnapshot(settings.online_path / newest)
    values = fetch_online_features(bundle.feature_names, rows, snapshot).values
    return dict(zip(USERS, bundle.score(values).tolist(), strict=True))


def variants(answers: dict[int, dict[str, Any]]) -> dict[int, str]:
    return {user: answer["variant"] for user, answer in answers.items()}


def test_a_canary_answers_exactly_its_users_and_keeps_them_as_it_grows(
    server: RunningServer, bundle: ModelBundle, next_bundle: ModelBundle
) -> None:
    settings = server.settings
    scores = {b.version: offline(settings, b) for b in (bundle, next_bundle)}
    small = challenge(settings, next_bundle, CANARY)
    before = served_by(server, small)
    large = challenge(settings, next_bundle, Entrant("canary", 0.6))
    after = served_by(server, large)
    versions = {"champion": "fraud-v1", "canary": "fraud-v2"}
    for record, answers in ((small, before), (large, after)):
        assert variants(answers) == {user: record.routing.assign(user) for user in USERS}
        for user, answer in answers.items():
            assert answer["model_version"] == versions[answer["variant"]]
            assert answer["score"] == scores[answer["model_version"]][user]
    canaries = [{u for u, v in variants(a).items() if v == "canary"} for a in (before, after)]
    assert canaries[0] < canaries[1] < set(USERS)

    server.terminate()
    with running(settings) as restarted:
        assert variants(served_by(restarted, large)) == variants(after), "a restart moves nobody"


def test_an_experiment_names_treatment_and_control_until_it_is_withdrawn(
    server: RunningServer, next_bundle: ModelBundle
) -> None:
    settings = server.settings
    record = challenge(settings, next_bundle, Entrant("treatment", experiment="exp-1"))
    answers = served_by(server, record)
    assert variants(answers) == {user: record.routing.assign(user) for user in USERS}
    pairs = {(answer["variant"], answer["model_version"]) for answer in answers.values()}
    assert pairs == {("treatment", "fraud-v2"), ("control", "fraud-v1")}
    # A batch of many users is one request: each row is its own user's.
    mixed = server.predict(*map(order, USERS[:BATCH]), explain="true")
    assert {p["variant"] for p in mixed} == {"treatment", "control"}
    assert all(p["reasons"] for p in mixed)
    ended = promotions(settings).challenge(
        withdrawing(record, None, **WHO), expected_parent=record.sha256
    )
    assert set(variants(served_by(server, ended)).values()) == {"champion"}


def test_a_slow_shadow_leaves_every_bit_of_every_answer(
    server: RunningServer, next_bundle: ModelBundle
) -> None:
    settings = server.settings
    alone = served_by(server, promotions(settings).require_current(FRAUD.name))
    slow = small_bundle("fraud-slow", seed=9, rounds=1_500)
    record = challenge(settings, slow, Entrant("shadow"))
    assert served_by(server, record) == alone
    record = challenge(settings, next_bundle, Entrant("shadow", variant="shadow-b"))
    assert served_by(server, record) == alone
    assert not server.events("a shadow fails; said once")


Predict = Callable[[Iterable[int]], Awaitable[tuple[Prediction, ...]]]


@dataclass
class Kept(NoRecorder):
    """A prediction log in memory."""

    predictions: list[Served] = field(default_factory=list)

    def record(self, predictions: Sequence[Served]) -> None:
        self.predictions += predictions


class ShadowCounts(Metrics):
    """Metrics that tell a test what shadows counted."""

    def __init__(self) -> None:
        super().__init__(FRAUD.costs)
        self.scored: list[tuple[str, float]] = []
        self.failed: list[str] = []

    def shadow_scored(self, variant: str, seconds: float) -> None:
        super().shadow_scored(variant, seconds)
        self.scored.append((variant, seconds))

    def shadow_failed(self, variant: str) -> None:
        super().shadow_failed(variant)
        self.failed.append(variant)


@dataclass(frozen=True)
class Shadow:
    """A model whose scoring does what a test wants, around the real one's."""

    real: Model
    first: Callable[[], object]

    @property
    def feature_names(self) -> tuple[str, ...]:
        return self.real.feature_names

    @property
    def threshold(self) -> float:
        return self.real.threshold

    def score(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        self.first()
        return self.real.score(x)

    def explain(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        return self.real.explain(x)


def shadowed(record: PromotionRecord, models: PublishedModels, shadow: Model | None) -> Deployment:
    """What `record` says, its only challenger replaced by `shadow`; None leaves it out."""
    deployment = models.load(record)
    (lane,) = deployment.challengers
    if shadow is None:
        return replace(deployment, challengers=(), mirror=None)
    beside = Lane("shadow", "shadow", 1.0, replace(lane.loaded, model=shadow))
    return replace(deployment, challengers=(beside,), mirror=lambda _: [beside])


def with_service(
    settings: Settings,
    deployment: Deployment,
    script: Callable[[Predict], Awaitable[None]],
    *,
    looks: int = 0,
    metrics: Metrics | None = None,
) -> Kept:
    """Run `script` with a function that predicts users' orders; what was recorded.

    The service is stopped once shadows have looked at `looks` orders.
    """
    kept, counting = Kept(), metrics or Metrics(FRAUD.costs)
    counting.start()
    service = ScoringService(
        FRAUD.name,
        deployments=Follower("model", lambda: Publication("k", "n", deployment), lambda d: d),
        features=open_history(
            settings.live_store,
            settings.online_path,
            FRAUD.features,
            source=settings.online_source,
            timeout_ms=settings.online_timeout_ms,
        ),
        feature_names=FRAUD.features,
        recorder=kept,
        metrics=counting,
        max_batch_rows=BATCH,
    )

    async def predict(users: Iterable[int]) -> tuple[Prediction, ...]:
        orders = [msgspec.convert(order(user), Order) for user in users]
        rows = [order_row(o, path="$", now_us=0) for o in orders]
        return (await service.predict(orders, rows, "auto", began_ns=0)).predictions

    async def main() -> None:
        await service.start(supervisor=os.getppid())
        try:
            await script(predict)
            await asyncio.to_thread(
                eventually,
                lambda: sum(not p.answered for p in kept.predictions) >= looks,
                what=f"{looks} looks of a shadow",
            )
        finally:
            await service.stop()

    asyncio.run(main())
    return kept


def test_a_shadow_that_hangs_delays_nobody_and_one_that_fails_harms_nobody(
    home: Settings, next_bundle: ModelBundle
) -> None:
    record = challenge(home, next_bundle, Entrant("shadow"))
    models = PublishedModels(open_blobs(home.lake), FRAUD)
    release, met = threading.Event(), threading.Event()

    def hang() -> None:
        met.set()
        assert release.wait(30)

    def fail() -> None:
        msg = "a shadow's own trouble"
        raise ZeroDivisionError(msg)

    found: dict[str, tuple[Prediction, ...]] = {}

    async def alone(predict: Predict) -> None:
        found["alone"] = await predict(USERS[:BATCH])

    async def hanging(predict: Predict) -> None:
        found["hanging"] = await predict(USERS[:BATCH])
        await asyncio.to_thread(met.wait, 30)
        found["still hanging"] = await predict(USERS[:BATCH])
        assert not release.is_set(), "both answers came while the shadow was scoring the first"
        release.set()

    async def failing(predict: Predict) -> None:
        for _ in range(2):
            found["failing"] = await predict(USERS[:BATCH])
        await asyncio.to_thread(eventually, lambda: len(bad.failed) == 2, what="both failures")

    slow, bad = ShadowCounts(), ShadowCounts()
    with_service(home, shadowed(record, models, None), alone)
    hanger = shadowed(record, models, Shadow(next_bundle, hang))
    hung = with_service(home, hanger, hanging, looks=2 * BATCH, metrics=slow)
    failer = shadowed(record, models, Shadow(next_bundle, fail))
    failed = with_service(home, failer, failing, metrics=bad)
    assert found["hanging"] == found["still hanging"] == found["failing"] == found["alone"]
    assert {p.variant for p in found["alone"]} == {"champion"}

    looked = [p for p in hung.predictions if not p.answered]
    expected = offline(home, next_bundle)
    assert [p.lane.variant for p in looked] == ["shadow"] * 2 * BATCH
    for prediction in looked:
        user = prediction.row["user_id"]
        assert isinstance(user, int)
        assert (prediction.request_id, prediction.score) == (f"r-{user}", expected[user])
    assert [variant for variant, _ in slow.scored] == ["shadow"] * 2
    assert (slow.failed, bad.scored) == ([], [])
    assert bad.failed == ["shadow"] * 2
    assert all(p.answered for p in failed.predictions)
    assert len(failed.predictions) == 2 * BATCH
