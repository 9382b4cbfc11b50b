"""What the watch over the server reads of a real one's metrics."""

from __future__ import annotations

import time

from ibook_assets.core.service_levels import Counted, ServerWatch
from ibook_assets.core.settings import Settings
from ibook_assets.stores.server_counts import read_counts
from tests.serving.harness import ORDER, RunningServer, running


def counts(server: RunningServer) -> Counted:
    return read_counts(f"{str(server.client.base_url).rstrip('/')}/metrics", at=time.time())


def test_a_real_servers_requests_are_counted(served: RunningServer) -> None:
    before = counts(served)
    for _ in range(5):
        assert served.client.post("/predict", json={"requests": [ORDER]}).status_code == 200
    wrong = {"requests": [{**ORDER, "amount": -1}]}
    assert served.client.post("/fraud/predict", json=wrong).status_code == 422
    for path in ("/healthz", "/readyz", "/metrics"):
        assert served.client.get(path).status_code == 200
    after = counts(served)
    assert after.since == before.since > 0
    assert after.requests - before.requests == 6
    assert after.errors == before.errors
    assert after.slower[0] <= after.requests
    assert after.feature_age_seconds is not None


def test_a_server_without_a_model_fails_its_requests(settings: Settings) -> None:
    with running(settings) as server:
        watch = ServerWatch().after(counts(server), at=0.0)
        for _ in range(3):
            assert server.client.post("/predict", json={"requests": [ORDER]}).status_code == 503
        found = counts(server)
        assert found.feature_age_seconds is None
        watch = watch.after(found.model_copy(update={"at": 30.0}), at=30.0)
    # Three of three: chance does not explain it at 5 %.
    assert set(watch.broken) == {"errors", "many_errors"}
