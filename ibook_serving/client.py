"""A client of the scoring server: typed, bounded in time, and safe to retry.

```python
with ScoringClient("http://127.0.0.1:8000") as client:
    [prediction] = client.predict([Order(user_id=1042, event_id=17, amount=120.5)])
```
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
import msgspec

from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_serving.api import Explain, Order, Prediction, PredictRequest, PredictResponse, Readiness
from ibook_serving.http.problems import PROBLEM_TYPE, ProblemDocument

IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
RETRIED_STATUSES: Final = frozenset({409, 429, 502, 503, 504})
"""Answers that another attempt may better; 409 says that the first attempt is still at work."""
FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 2.0

Document = TypeVar("Document")


class RequestRefusedError(ContractError):
    """The server will not answer this request, however often it is sent."""

    def __init__(self, problem: ProblemDocument) -> None:
        self.problem = problem
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")


class ScoringClient:
    """Asks one scoring server. Not for several threads at once: give each its own."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 1.0,
        attempts: int = 4,
        deadline_seconds: float = 5.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make a client; it connects when it is asked something.

        Args:
            base_url: where the server is.
            api_key: sent as `x-api-key`, for servers that want one.
            timeout_seconds: longest wait for one attempt.
            attempts: most attempts of one request.
            deadline_seconds: after this no further attempt begins.
            transport: what carries requests; httpx's own unless given.
            sleep: how to pause between attempts.
        """
        self._attempts = attempts
        self._deadline_seconds = deadline_seconds
        self._sleep = sleep
        headers = {} if api_key is None else {"x-api-key": api_key}
        self._client = httpx.Client(
            base_url=base_url, timeout=timeout_seconds, headers=headers, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def predict(
        self,
        orders: Sequence[Order],
        *,
        explain: Explain = "auto",
        idempotency_key: str | None = None,
    ) -> tuple[Prediction, ...]:
        """Predictions for `orders`, in their order.

        All attempts carry one idempotency key, made up unless given: whichever of them reaches
        the server, the orders are scored and logged once.

        Raises:
            RequestRefusedError: the server refuses the request; its problem says why.
            StoreUnavailableError: no attempt was answered in time.
        """
        body = msgspec.json.encode(PredictRequest(list(orders)))
        headers = {
            "content-type": "application/json",
            IDEMPOTENCY_HEADER: idempotency_key or uuid.uuid4().hex,
        }
        answer = self._ask("POST", "/predict", {"explain": explain}, headers, body)
        return _decoded(answer, PredictResponse).predictions

    def readiness(self) -> Readiness:
        """What the process that answers serves, and what it refused; raises as `predict` does.

        A server that is not ready says so in the document, which is no error.
        """
        answer = self._ask("GET", "/readyz", {}, {}, b"", accepted=frozenset({200, 503}))
        return _decoded(answer, Readiness)

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
        *,
        accepted: frozenset[int] = frozenset({200}),
    ) -> httpx.Response:
        end = time.monotonic() + self._deadline_seconds
        reason = ""
        for attempt in range(1, self._attempts + 1):
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
            # Clients that failed together should not come back together.
            pause *= random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
            try:
                answer = self._client.request(
                    method, path, params=query, headers=dict(headers), content=body
                )
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code in accepted:
                    return answer
                problem = _problem(answer)
                if answer.status_code not in RETRIED_STATUSES:
                    raise RequestRefusedError(problem)
                reason = f"{problem.status} {problem.title}: {problem.detail}"
                pause = max(pause, _retry_after(answer))
            if attempt == self._attempts or time.monotonic() + pause > end:
                break
            self._sleep(pause)
        msg = (
            f"{self._client.base_url} did not answer {method} {path} in {attempt} attempts, the "
            f"last: {reason}. Look at its /readyz, then send the request again."
        )
        raise StoreUnavailableError(msg)


def _retry_after(answer: httpx.Response) -> float:
    said = answer.headers.get("retry-after", "")
    return float(said) if said.isdecimal() else 0.0


def _problem(answer: httpx.Response) -> ProblemDocument:
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if kind == PROBLEM_TYPE:
        return _decoded(answer, ProblemDocument)
    # Something in between answered, a proxy for example.
    return ProblemDocument(
        type="about:blank",
        title=answer.reason_phrase or "Unexpected answer",
        status=max(400, answer.status_code),
        detail=f"{answer.url} answered with {kind or 'no content type'}, not as ibook does",
    )


def _decoded(answer: httpx.Response, kind: type[Document]) -> Document:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except msgspec.DecodeError as error:
        msg = f"{answer.url} answered what is no {kind.__name__} ({error}); are versions alike?"
        raise ContractError(msg) from error
