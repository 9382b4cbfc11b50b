"""Resources of the graph: each wraps one store, so that tests and deployments swap it."""

from datetime import date
from functools import cached_property
from pathlib import Path

import dagster as dg
import pyarrow as pa
from pydantic import Field

from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EVENTS, TableSpec
from ibook_assets.stores.blobs import Blobs, open_blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promotions import PromotionLog


class LakeResource(dg.ConfigurableResource["LakeResource"]):
    """The lake: tables, model artefacts and promotion records on a folder or S3."""

    uri: str = Field(description="A folder or s3://bucket/prefix")
    endpoint_url: str | None = Field(default=None, description="Endpoint of an S3-compatible store")

    @cached_property
    def blobs(self) -> Blobs:
        """The object store below the tables."""
        return open_blobs(self.uri, endpoint_url=self.endpoint_url)

    @cached_property
    def tables(self) -> Lake:
        """The tables."""
        return Lake(self.blobs)

    @cached_property
    def promotions(self) -> PromotionLog:
        """The promotion log."""
        return PromotionLog(self.blobs)
