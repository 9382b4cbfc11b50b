"""Whose a request is: the variant's that answered it, or whose turn it was when nobody could."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import Request

from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_serving.http.decode import Row
from ibook_serving.http.endpoints import Endpoints
from ibook_serving.http.observing import observed
from ibook_serving.http.problems import ProblemError
from ibook_serving.scoring.service import ScoringService
from ibook_serving.telemetry.metrics import Metrics
from ibook_serving.telemetry.spans import Spans

ORDER = '{"user_id": 1, "event_id": 2, "amount": 3.5}'


class Heard(Metrics):
    """Keeps what it is told instead of counting it."""

    def __init__(self) -> None:
        super().__init__(FRAUD.costs)
        self.requests: list[tuple[int, str]] = []

    def request(self, route: str, status: int, variant: str, seconds: float) -> None:  # noqa: ARG002
        self.requests.append((status, variant))


class Overloaded(ScoringService):
    """Refuses everything; user 1 is the canary's, everybody else the champion's."""

    def __init__(self) -> None:
        """Nothing is loaded."""

    def variants(self, rows: Sequence[Row]) -> set[str]:
        return {"canary" if row["user_id"] == 1 else "champion" for row in rows}

    async def predict(self, *_orders: object, **_began: object) -> Any:
        raise ProblemError(503, "Overloaded", "Come back later.")


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        (ORDER, (503, "canary")),
        (ORDER.replace("1", "9"), (503, "champion")),
        (f"{ORDER}, {ORDER.replace('1', '9')}", (503, "mixed")),
        (ORDER.replace("3.5", "-3.5"), (422, "none")),
    ],
    ids=["canary", "champion", "both", "unreadable"],
)
def test_an_error_belongs_to_whoever_was_to_answer(
    settings: Settings, orders: str, expected: tuple[int, str]
) -> None:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": f'{{"requests": [{orders}]}}'.encode()}

    heard = Heard()
    endpoint = Endpoints(Overloaded(), settings).predict
    scope = {"type": "http", "method": "POST", "query_string": b"", "headers": []}

    async def ask() -> None:
        await observed("/predict", endpoint, heard, Spans(settings))(Request(scope, receive))

    with pytest.raises(ProblemError):
        asyncio.run(ask())
    assert heard.requests == [expected]
