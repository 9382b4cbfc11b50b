"""Trained models that wait for a verdict: their files in the lake, verified at every load."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from ibook_assets.core.canonical import canonical_json
from ibook_assets.core.errors import ContractError, NotFoundError
from ibook_assets.core.ids import NAME_PATTERN, check_name
from ibook_assets.models.bundle import FILE_NAMES, ModelBundle
from ibook_assets.stores.blobs import Blobs

_CARD: Final = "candidate.json"
_NEWEST: Final = "_newest.json"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Candidate(BaseModel):
    """A trained model: which files it is made of and where it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use_case: Name
    version: Name
    sha256: dict[str, str]
    """Hash of each file by name, as training computed it."""
    git_sha: str
    mlflow_run_id: str | None
    trained_at: AwareDatetime

    @property
    def folder(self) -> str:
        """Where its files lie in the lake."""
        return f"models/{self.use_case}/{self.version}"


def new_candidate(bundle: ModelBundle, *, git_sha: str, mlflow_run_id: str | None) -> Candidate:
    """What is known about a model that has just been trained."""
    return Candidate(
        use_case=bundle.info.use_case,
        version=bundle.version,
        sha256=bundle.sha256(),
        git_sha=git_sha,
        mlflow_run_id=mlflow_run_id,
        trained_at=datetime.now(UTC),
    )


def store_candidate(blobs: Blobs, bundle: ModelBundle, candidate: Candidate) -> None:
    """Keep the bundle's files and make it the newest candidate of its use case."""
    for name, data in bundle.files().items():
        blobs.put(f"{candidate.folder}/{name}", data)
    card = canonical_json(candidate)
    blobs.put(f"{candidate.folder}/{_CARD}", card)
    blobs.put(f"models/{candidate.use_case}/{_NEWEST}", card)


def find_candidate(blobs: Blobs, use_case: str, version: str | None = None) -> Candidate:
    """The candidate of that version, the newest without one; ContractError when there is none."""
    folder = f"models/{check_name(use_case, what='use case')}"
    place = _NEWEST if version is None else f"{check_name(version, what='version')}/{_CARD}"
    try:
        return Candidate.model_validate_json(blobs.get(f"{folder}/{place}"))
    except NotFoundError as error:
        known = sorted(
            key.split("/")[2] for key in blobs.list(f"{folder}/") if key.endswith(f"/{_CARD}")
        )
        msg = (
            f"no trained {use_case} model {version or ''}; trained versions: {known}. "
            f"Materialise {use_case}/model first."
        )
        raise ContractError(msg) from error


def load_candidate(blobs: Blobs, found: Candidate) -> ModelBundle:
    """The candidate's bundle; IntegrityError when a file is not what training stored."""
    return ModelBundle.load(candidate_files(blobs, found), sha256=found.sha256)


def candidate_files(blobs: Blobs, found: Candidate) -> dict[str, bytes]:
    """The candidate's files by name, not yet verified."""
    return {name: blobs.get(f"{found.folder}/{name}") for name in FILE_NAMES}
