"""The artefact serving loads: XGBoost's own binary form and one JSON file, no pickle anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import xgboost as xgb
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ibook_assets.core.canonical import canonical_json
from ibook_assets.core.errors import ContractError, IntegrityError
from ibook_assets.core.ids import NAME_PATTERN
from ibook_assets.core.promotion import TREES_FILE
from ibook_assets.models.calibration import BetaCalibration
from ibook_assets.models.flat_trees import proven_trees

MODEL_FILE: Final = TREES_FILE
BUNDLE_FILE: Final = "bundle.json"
FILE_NAMES: Final = (BUNDLE_FILE, MODEL_FILE)

Matrix: TypeAlias = npt.NDArray[np.float32]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class BundleInfo(BaseModel):
    """Everything about a model but its trees; the content of `bundle.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    use_case: str
    version: Annotated[str, Field(pattern=NAME_PATTERN)]
    feature_names: Annotated[tuple[str, ...], Field(min_length=1)]
    """Qualified names, `view:feature`, in the order of the matrix' columns."""
    spec_hashes: dict[str, str]
    """Feature view to the hash of its definition when the model was trained."""
    calibration: BetaCalibration
    threshold: float
    """Decision: hold when the probability is at or above it; above 1 holds nothing."""
    training_snapshot: str
    """Identity of the training set."""
    trained_until_us: int
    """Exclusive end of the rows that were learnt from (microseconds, UTC)."""
    training_rows: Annotated[int, Field(ge=1)]
    training_frauds: Annotated[int, Field(ge=0)]
    parameters: dict[str, float | int | str]
    metrics: dict[str, float | None]
    libraries: dict[str, str]
    model_sha256: Sha256


@dataclass(frozen=True, slots=True)
class Reason:
    """One feature's push on a score: log-odds, positive towards fraud."""

    feature: str
    contribution: float
    value: float | None
    """The feature's value; None where it was missing."""


def sha256_hex(data: bytes) -> str:
    """SHA-256 of `data` as hex."""
    return hashlib.sha256(data).hexdigest()


class ModelBundle:
    """A model ready to score: trees, calibration, threshold and where they come from."""

    __slots__ = ("_booster", "_flat", "_model", "info")

    def __init__(self, info: BundleInfo, model: bytes) -> None:
        """Parse trees that `info` vouches for.

        Raises:
            IntegrityError: `model` is not the file `info` describes; it has not been parsed then.
            ContractError: the trees expect other features than `info` names.
        """
        _verify(MODEL_FILE, model, info.model_sha256)
        # Serving scores rows by the handful: a second thread costs more than it brings.
        self._booster = xgb.Booster({"nthread": 1}, model_file=bytearray(model))
        self._model = model
        self.info = info
        if self._booster.num_features() != len(info.feature_names):
            msg = (
                f"{MODEL_FILE} expects {self._booster.num_features()} features, "
                f"{BUNDLE_FILE} names {len(info.feature_names)}; retrain the model"
            )
            raise ContractError(msg)
        self._flat = proven_trees(self._booster)

    @classmethod
    def load(cls, files: Mapping[str, bytes], *, sha256: Mapping[str, str]) -> ModelBundle:
        """The bundle in `files`, each compared with the expected `sha256` before any is parsed.

        Raises:
            IntegrityError: a file's bytes are not those that were recorded.
            ContractError: a file or its hash is missing, or `bundle.json` is not valid.
        """
        for name in FILE_NAMES:
            if name not in files or name not in sha256:
                msg = (
                    f"{name} or its sha256 is missing; a model consists of {', '.join(FILE_NAMES)}"
                )
                raise ContractError(msg)
        for name in FILE_NAMES:
            _verify(name, files[name], sha256[name])
        try:
            info = BundleInfo.model_validate_json(files[BUNDLE_FILE])
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False)
            msg = f"{BUNDLE_FILE} is not valid: {faults}"
            raise ContractError(msg) from error
        return cls(info, files[MODEL_FILE])

    def files(self) -> dict[str, bytes]:
        """The files to store; equal bundles give equal bytes."""
        return {BUNDLE_FILE: canonical_json(self.info), MODEL_FILE: self._model}

    def sha256(self) -> dict[str, str]:
        """Hash of each file, for the promotion record."""
        return {name: sha256_hex(data) for name, data in self.files().items()}

    @property
    def version(self) -> str:
        """Version of the model."""
        return self.info.version

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Qualified feature names in column order."""
        return self.info.feature_names

    @property
    def threshold(self) -> float:
        """Probability from which an order is held."""
        return self.info.threshold

    @property
    def flat(self) -> bool:
        """Whether margins come out of the flat trees, which gave XGBoost's bits when loaded."""
        return self._flat is not None

    @property
    def booster(self) -> xgb.Booster:
        """The trees, for whoever compiles or draws them."""
        return self._booster

    def margins(self, x: Matrix) -> Matrix:
        """Log-odds before calibration, float32 of shape (n,); `x` as in `score`."""
        _check_matrix(x, len(self.feature_names))
        if self._flat is not None:
            return self._flat.margins(x)
        predicted = self._booster.inplace_predict(x, predict_type="margin", validate_features=False)
        return np.asarray(predicted, dtype=np.float32)

    def score(self, x: Matrix) -> npt.NDArray[np.float64]:
        """Calibrated fraud probabilities, float64 of shape (n,).

        The bits of a row do not depend on the rows beside it or on threads.

        Args:
            x: float32 of shape (n, features) in the order of `feature_names`; NaN is missing.
        """
        return self.info.calibration.apply(self.margins(x))

    def explain(self, x: Matrix, *, approximate: bool = False) -> Matrix:
        """Contribution of each feature to each margin, float32 (n, features + 1), bias last.

        Exact values are TreeSHAP (2 ms a row at 300 trees); approximate ones cost an eighth.

        Source: Lundberg et al. (2020), "From local explanations to global understanding", eq. 4.
        """
        _check_matrix(x, len(self.feature_names))
        contributions = self._booster.predict(
            xgb.DMatrix(x, nthread=1),
            pred_contribs=True,
            approx_contribs=approximate,
            validate_features=False,
        )
        return np.asarray(contributions, dtype=np.float32)

    def reasons(self, x: Matrix, *, top: int = 3, approximate: bool = False) -> list[list[Reason]]:
        """For each row, the `top` features that push it most, strongest first, in either way."""
        contributions = self.explain(x, approximate=approximate)[:, :-1]
        strongest = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :top]
        return [
            [self._reason(j, contributions[i, j], x[i, j]) for j in columns]
            for i, columns in enumerate(strongest)
        ]

    def _reason(self, column: int, contribution: np.float32, value: np.float32) -> Reason:
        shown = None if np.isnan(value) else float(value)
        return Reason(self.feature_names[column], float(contribution), shown)


def model_bytes(booster: xgb.Booster) -> bytes:
    """`booster` in XGBoost's UBJ form."""
    return bytes(booster.save_raw("ubj"))


def _verify(name: str, data: bytes, expected: str) -> None:
    found = sha256_hex(data)
    if found != expected:
        raise IntegrityError(path=name, expected=expected, found=found)


def _check_matrix(x: npt.NDArray[Any], n_features: int) -> None:
    if x.dtype != np.float32 or x.ndim != 2 or x.shape[1] != n_features:
        msg = f"expected a float32 matrix of {n_features} columns, got {x.dtype} of shape {x.shape}"
        raise ContractError(msg)
