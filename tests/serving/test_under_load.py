"""The simulator's load against the real server: every answer counted, and a stall that shows."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np
import pytest
import xgboost as xgb
from typer.testing import CliRunner

from ibook_assets.core.settings import Settings
from ibook_assets.models.bundle import ModelBundle, model_bytes, sha256_hex
from ibook_sim.cli import app
from ibook_sim.realtime.driving import closed_loop
from ibook_sim.realtime.http import HttpTarget, scoring_url
from ibook_sim.realtime.load import Load, simulated
from ibook_sim.realtime.payloads import bodies, http_requests
from ibook_sim.realtime.recording import Answer, Recording
from ibook_sim.realtime.running import Run, run
from ibook_sim.scenarios import scenario
from ibook_sim.world.randomness import Floats
from tests.serving.harness import RunningServer, promote, running, small_bundle
from tests.serving.history import publish_history

FEATURES: Final = (
    "order_context:amount",
    "order_context:tickets",
    "order_context:decline_count",
    "order_context:geo_distance",
    "user_purchase_behavior:lifetime_purchases",
)
"""Nothing that the clock moves: the same order has the same score a minute later."""
STALL_SECONDS: Final = 2.0
ANSWERS: Final = 300
"""Of the closed loop: one stalled among so many is far above its 99th percentile."""


def timeless_bundle() -> ModelBundle:
    """A model that finds an order the more suspicious the dearer and the further away it is."""
    rng = np.random.default_rng(3)
    scale = np.array([2e5, 8.0, 4.0, 1e6, 30.0])
    x = (scale * 10 ** rng.uniform(-3, 0, (2_000, len(FEATURES)))).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = np.nan
    y = rng.random(2_000) < np.nan_to_num(x / scale, nan=0.1).mean(axis=1)
    trees = model_bytes(
        xgb.train(
            {"objective": "binary:logistic", "max_depth": 4, "nthread": 1, "seed": 3},
            xgb.DMatrix(x, y),
            num_boost_round=15,
        )
    )
    info = small_bundle("timeless", seed=3, threshold=0.15).info
    hashes = {name.partition(":")[0] for name in FEATURES}
    return ModelBundle(
        info.model_copy(
            update={
                "feature_names": FEATURES,
                "spec_hashes": {k: v for k, v in info.spec_hashes.items() if k in hashes},
                "model_sha256": sha256_hex(trees),
            }
        ),
        trees,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    settings = Settings(home=tmp_path_factory.mktemp("under-load"))
    promote(settings, timeless_bundle())
    publish_history(settings)
    with running(settings, processes=2) as started:
        yield started


def a_load(rps: float, seconds: float) -> Load:
    return simulated(scenario("fraud-attack"), seed=7, rps=rps, seconds=seconds)


def silent(_: Recording, __: float) -> None:
    return


async def driven(load: Load, server: RunningServer) -> Run:
    return await run(load, api=server.url, room=None, sink=None, watch=silent)


def test_every_answer_is_the_services_and_is_counted_against_the_truth(
    server: RunningServer,
) -> None:
    load = a_load(rps=40.0, seconds=3.0)
    done = asyncio.run(driven(load, server))
    sent = load.rows.num_rows
    assert done.recording.outcomes() == {"HTTP 200": sent}
    orders = [msgspec.json.decode(body)["requests"][0] for body in bodies(load.rows)]
    again = server.predict(*orders)
    # JSON carries the shortest text that reads back as the same float64, so == compares bits.
    assert done.recording.score.tolist() == [answer["score"] for answer in again]
    assert len(set(done.recording.score)) > 20
    assert load.fraud is not None
    held = np.array([answer["decision"] == "review" for answer in again])
    assert 0 < held.sum() < sent
    assert done.as_dict()["decisions"] == {
        "fraud_held": int((load.fraud & held).sum()),
        "fraud_approved": int((load.fraud & ~held).sum()),
        "legitimate_held": int((~load.fraud & held).sum()),
        "legitimate_approved": int((~load.fraud & ~held).sum()),
    }


def test_a_real_stall_shows_in_the_open_loop_and_hides_in_a_closed_one(
    server: RunningServer,
) -> None:
    async def main() -> tuple[Run, Floats]:
        load = a_load(rps=30.0, seconds=6.0)
        over = asyncio.Event()
        measured, closed, _ = await asyncio.gather(
            driven(load, server), beside(load, server, over), stalled(server, over)
        )
        return measured, closed

    measured, closed = asyncio.run(main())
    assert measured.recording.outcomes() == {"HTTP 200": measured.load.due.size}
    # A third of six seconds stands still: one request in six waits for a second or longer, and
    # only one request of the closed loop waits at all. Speed has no part in it.
    honest = float(np.quantile(measured.recording.latency(), 0.99))
    assert closed.size >= ANSWERS
    assert closed.max() >= 1.0, "the closed loop met the stall, too"
    assert honest >= 1.0 > float(np.quantile(closed, 0.99))


async def stalled(server: RunningServer, over: asyncio.Event) -> None:
    """Stop the processes that answer for a while in the middle of the load."""
    await asyncio.sleep(1.0)
    processes = server.api_processes()
    assert processes
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        await asyncio.sleep(STALL_SECONDS)
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
        over.set()


async def beside(load: Load, server: RunningServer, over: asyncio.Event) -> Floats:
    """Seconds that a client took who waits for each answer, until it has enough of them."""
    url = scoring_url(server.url)
    stop = asyncio.Event()
    answers = 0
    async with HttpTarget(url, http_requests(bodies(load.rows), url)) as target:

        async def send(number: int) -> Answer:
            nonlocal answers
            answer = await target.send(number)
            assert answer.status == 200
            answers += 1
            if over.is_set() and answers >= ANSWERS:
                stop.set()
            return answer

        return await closed_loop(1, 60.0, send, stop=stop, requests=load.rows.num_rows)


def test_the_address_may_come_from_the_environment(server: RunningServer) -> None:
    asked = ["realtime", "--rps", "20", "--duration", "1s", "--seed", "7", "--json"]
    done = CliRunner().invoke(app, asked, env={"API_BASE_URL": server.url})
    figures = json.loads(done.stdout)
    assert figures["scorer"] == f"the API at {server.url}"
    assert figures["answered"] == figures["orders"] > 0


def test_a_server_that_is_gone_is_no_answer(server: RunningServer) -> None:
    load = a_load(rps=20.0, seconds=0.5)
    gone = replace(server, url="http://127.0.0.1:1")
    done = asyncio.run(driven(load, gone))
    assert done.recording.outcomes() == {"connection failed": load.due.size}
    assert done.as_dict()["decisions"] == dict.fromkeys(
        ("fraud_held", "fraud_approved", "legitimate_held", "legitimate_approved"), 0
    )
