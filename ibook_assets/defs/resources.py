"""Resources of the graph: each wraps one store, so that tests and deployments swap it."""

from pathlib import Path

import dagster as dg
from pydantic import Field, PrivateAttr

from ibook_assets.stores.blobs import Blobs, open_blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.online.writer import OnlineWriter
from ibook_assets.stores.promotions import PromotionLog


class LakeResource(dg.ConfigurableResource["LakeResource"]):
    """The lake: tables, model artefacts and promotion records on a folder or S3."""

    uri: str = Field(description="A folder or s3://bucket/prefix")
    endpoint_url: str | None = Field(default=None, description="Endpoint of an S3-compatible store")
    _blobs: Blobs | None = PrivateAttr(default=None)

    @property
    def blobs(self) -> Blobs:
        """The object store below the tables."""
        if self._blobs is None:
            self._blobs = open_blobs(self.uri, endpoint_url=self.endpoint_url)
        return self._blobs

    @property
    def tables(self) -> Lake:
        """The tables."""
        return Lake(self.blobs)

    @property
    def promotions(self) -> PromotionLog:
        """The promotion log."""
        return PromotionLog(self.blobs)


class OnlineResource(dg.ConfigurableResource["OnlineResource"]):
    """The embedded online store's snapshots."""

    path: str = Field(description="Folder of the published snapshots")

    @property
    def writer(self) -> OnlineWriter:
        """Publishes snapshots."""
        return OnlineWriter(Path(self.path))
