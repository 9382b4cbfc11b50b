"""MLflow's model from code: its server calls `predict` with a frame of orders."""

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from bench.serving_peers.vector import booster, score


class Scoring(PythonModel):
    """The model behind MLflow's own interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model."""
        del context
        self._model = booster()

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, object] | None = None,
    ) -> list[float]:
        """The score of each order."""
        del context, params
        return [score(self._model, order) for order in _records(model_input)]


def _records(frame: pd.DataFrame) -> list[dict[str, float]]:
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False)]


mlflow.models.set_model(Scoring())
