"""FastAPI as its tutorial has it: a typed body in, a dictionary out."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from bench.serving_peers.vector import booster, score

_MODEL = booster()

app = FastAPI()


class Body(BaseModel):
    """Orders to score."""

    requests: list[dict[str, Any]]


@app.post("/predict")
async def predict(body: Body) -> dict[str, Any]:
    """Score the first order."""
    return {"predictions": [{"score": score(_MODEL, body.requests[0])}]}
