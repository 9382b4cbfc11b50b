"""LitServe with its defaults: `python -m bench.serving_peers.litserve_app PORT`."""

from __future__ import annotations

import sys
from typing import Any

import litserve as ls

from bench.serving_peers.vector import booster, score


class Api(ls.LitAPI):  # type: ignore[misc] # litserve has no types
    """The four hooks of LitServe's first example."""

    def setup(self, device: str) -> None:
        """Load the model."""
        del device
        self._model = booster()

    # With an annotation LitServe would take the body for something else than JSON.
    def decode_request(self, request):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
        """The first order."""
        return dict(request["requests"][0])

    def predict(self, order: dict[str, Any]) -> float:
        """Its score."""
        return score(self._model, order)

    def encode_response(self, output: float) -> dict[str, Any]:
        """The answer."""
        return {"predictions": [{"score": output}]}


if __name__ == "__main__":
    server = ls.LitServer(Api(), accelerator="cpu")
    server.run(port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
