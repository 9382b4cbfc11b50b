"""BentoML with two workers; runs in an environment of its own."""

from typing import Any

import bentoml  # type: ignore[import-not-found] # in an environment of its own

from bench.serving_peers.vector import booster, score


@bentoml.service(workers=2)
class Scoring:
    """One service, one route."""

    def __init__(self) -> None:
        """Load the model."""
        self._model = booster()

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """Score the first order."""
        return {"predictions": [{"score": score(self._model, requests[0])}]}
