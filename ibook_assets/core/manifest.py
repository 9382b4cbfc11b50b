"""Snapshot manifests: exactly which files a data set was made from."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ibook_assets.core.canonical import canonical_sha256

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ManifestEntry(BaseModel):
    """One immutable file of the lake and the partition it was current for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    partition: str | None
    """None for a table without partitions."""
    path: str
    """Key of the file inside the lake."""
    sha256: Sha256
    rows: Annotated[int, Field(ge=0)]


class SnapshotManifest(BaseModel):
    """The files, and whatever else decided the rows, behind one data set.

    Equal manifests have equal ids whatever order their entries were collected in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    entries: tuple[ManifestEntry, ...]
    """Sorted by table and partition, each at most once."""
    parameters: dict[str, str | int] = Field(default_factory=dict)
    """What besides the files decided the rows, for example `as_of_us` and `maturity_us`."""

    @model_validator(mode="before")
    @classmethod
    def _sort(cls, values: object) -> object:
        if isinstance(values, dict) and "entries" in values:
            entries = [ManifestEntry.model_validate(entry) for entry in values["entries"]]
            return {**values, "entries": tuple(sorted(entries, key=_place))}
        return values

    @model_validator(mode="after")
    def _each_partition_once(self) -> Self:
        for entry, following in zip(self.entries, self.entries[1:], strict=False):
            if _place(entry) == _place(following):
                msg = (
                    f"table {entry.table}, partition {entry.partition} is listed twice: "
                    f"{entry.path} and {following.path}; a snapshot holds one version of each"
                )
                raise ValueError(msg)
        return self

    @property
    def snapshot_id(self) -> str:
        """SHA-256 (hex) of the canonical JSON: the snapshot's id and Dagster data version."""
        return canonical_sha256(self)

    @property
    def rows(self) -> int:
        """Rows of all entries."""
        return sum(entry.rows for entry in self.entries)


def _place(entry: ManifestEntry) -> tuple[str, str]:
    return (entry.table, entry.partition or "")
