"""What a server has counted, read over HTTP from what a real server's metrics say."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.stores.server_counts import read_counts
from tests.services.receiver import Receiver, receiving

METRICS = """\
# TYPE ibook_requests_total counter
ibook_requests_total{route="/predict",status="200"} 90
ibook_requests_total{route="/fraud/predict",status="500"} 3
ibook_requests_total{route="/predict",status="503"} 2
ibook_requests_total{route="/predict",status="422"} 5
ibook_requests_total{route="/healthz",status="200"} 1000
# TYPE ibook_request_duration_seconds histogram
ibook_request_duration_seconds_bucket{route="/predict",model_variant="champion",le="0.2"} 92
ibook_request_duration_seconds_bucket{route="/predict",model_variant="champion",le="0.5"} 96
ibook_request_duration_seconds_bucket{route="/predict",model_variant="champion",le="+Inf"} 97
ibook_request_duration_seconds_count{route="/predict",model_variant="champion"} 97
ibook_request_duration_seconds_sum{route="/predict",model_variant="champion"} 9
ibook_request_duration_seconds_bucket{route="/fraud/predict",model_variant="none",le="0.2"} 1
ibook_request_duration_seconds_bucket{route="/fraud/predict",model_variant="none",le="0.5"} 3
ibook_request_duration_seconds_bucket{route="/fraud/predict",model_variant="none",le="+Inf"} 3
ibook_request_duration_seconds_count{route="/fraud/predict",model_variant="none"} 3
ibook_request_duration_seconds_sum{route="/fraud/predict",model_variant="none"} 1
# TYPE ibook_feature_age_seconds gauge
ibook_feature_age_seconds %s
# TYPE ibook_start_time_seconds gauge
ibook_start_time_seconds 1770000000
"""


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def test_scoring_requests_are_counted_and_health_checks_are_not(server: Receiver) -> None:
    server.pages["/metrics"] = (METRICS % "12.5").encode()
    found = read_counts(f"{server.url}/metrics", at=7.0)
    assert (found.at, found.since) == (7.0, 1_770_000_000.0)
    # 422 is the client's error.
    assert (found.requests, found.errors) == (100, 5)
    # 100 in all, of them 93 within 200 ms and 99 within 500 ms.
    assert found.slower == (7, 1)
    assert found.feature_age_seconds == 12.5


def test_no_history_is_no_age(server: Receiver) -> None:
    server.pages["/metrics"] = (METRICS % "0").encode()
    assert read_counts(f"{server.url}/metrics", at=7.0).feature_age_seconds is None


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (b"some_other_service 1\n", "ibook_start_time_seconds"),
        (b"<html>login</html>", "did not tell its metrics"),
        (None, "404"),
    ],
)
def test_an_answer_of_another_kind_is_no_answer(
    server: Receiver, page: bytes | None, says: str
) -> None:
    if page is not None:
        server.pages["/metrics"] = page
    with pytest.raises(StoreUnavailableError, match=says):
        read_counts(f"{server.url}/metrics", at=7.0)


def test_nobody_listening_is_no_answer() -> None:
    with socket.socket() as taken:
        # Bound and not listening: nobody else gets the port, and nobody answers.
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(StoreUnavailableError, match=f"127.0.0.1:{port}"):
            read_counts(f"http://127.0.0.1:{port}/metrics", at=7.0)
