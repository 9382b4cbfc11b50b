"""Blobs in an S3 bucket, with conditional writes for exclusive creation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

import boto3
import pyarrow.fs
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from ibook_assets.core.errors import (
    ConflictError,
    ContractError,
    NotFoundError,
    StoreUnavailableError,
)
from ibook_assets.core.times import to_us
from ibook_assets.stores.blob_terms import BlobStat, Data, check_key, check_prefix

CONNECT_TIMEOUT_SECONDS: Final = 2.0
READ_TIMEOUT_SECONDS: Final = 10.0
ATTEMPTS: Final = 3
"""Tries of one request, the first included: a store that is down fails within about 40 s."""

_WRITER: Final = "ibook-writer"
_MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})
_TAKEN: Final = frozenset({"412", "PreconditionFailed"})
_RACING: Final = "ConditionalRequestConflict"


class S3Blobs:
    """Blobs below `prefix` in `bucket`; credentials come from the environment as usual.

    The store must honour `If-None-Match: *` (AWS since 2024; MinIO, Ceph, moto do).
    """

    def __init__(self, bucket: str, prefix: str = "", *, endpoint_url: str | None = None) -> None:
        if not bucket:
            msg = "an S3 store needs a bucket; write s3://bucket/prefix"
            raise ContractError(msg)
        self._bucket = bucket
        self._prefix = f"{check_key(prefix.strip('/'))}/" if prefix.strip("/") else ""
        self._endpoint_url = endpoint_url
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint_url,
            config=Config(
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                read_timeout=READ_TIMEOUT_SECONDS,
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            ),
        )
        self._filesystem: pyarrow.fs.FileSystem | None = None

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put(self, key: str, data: Data) -> None:
        """Store `data` under `key`; S3 replaces objects atomically."""
        with self._translated(key):
            self._client.put_object(**self._name(key), Body=bytes(data))

    def create(self, key: str, data: Data) -> None:
        """Store `data` under a free `key`; ConflictError when it is taken."""
        # A retried request finds its own first attempt: the token tells it from a rival's.
        token = uuid4().hex
        with self._translated(key):
            for _ in range(ATTEMPTS):
                code = self._create_once(key, bytes(data), token)
                if code is None or (code in _TAKEN and self._writer(key) == token):
                    return
                if code != _RACING:
                    break
            if code == _RACING:
                msg = f"{self.location(key)} is contended by other writers; run again"
                raise StoreUnavailableError(msg)
        msg = (
            f"{self.location(key)} exists already: another writer was first; read it and "
            "decide again"
        )
        raise ConflictError(msg)

    def get(self, key: str) -> bytes:
        """The object's bytes; NotFoundError when there is none."""
        with self._translated(key):
            answer = self._client.get_object(**self._name(key))
            with answer["Body"] as body:
                return bytes(body.read())

    def stat(self, key: str) -> BlobStat:
        """Size and time of the object; NotFoundError when there is none."""
        with self._translated(key):
            head = self._client.head_object(**self._name(key))
        return BlobStat(head["ContentLength"], to_us(head["LastModified"]))

    def exists(self, key: str) -> bool:
        """Whether there is an object under `key`."""
        try:
            self.stat(key)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> list[str]:
        """Sorted keys below the folder `prefix`."""
        start = self._prefix + check_prefix(prefix)
        with self._translated(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=start
            )
            found = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return sorted(key.removeprefix(self._prefix) for key in found)

    def delete(self, key: str) -> None:
        """Remove the object, if there is one."""
        with self._translated(key):
            self._client.delete_object(**self._name(key))

    def location(self, key: str) -> str:
        """`s3://` URI of the object."""
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def arrow_source(self, key: str) -> tuple[pyarrow.fs.FileSystem, str]:
        """An S3 filesystem of pyarrow and the object's path on it."""
        if self._filesystem is None:
            self._filesystem = self._connect_arrow()
        return self._filesystem, f"{self._bucket}/{self._prefix}{check_key(key)}"

    def _connect_arrow(self) -> pyarrow.fs.FileSystem:
        scheme, _, host = (self._endpoint_url or "").rpartition("://")
        return pyarrow.fs.S3FileSystem(
            endpoint_override=host or None,
            scheme="http" if scheme == "http" else "https",
            region=self._client.meta.region_name,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            request_timeout=READ_TIMEOUT_SECONDS,
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        )

    def _name(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _create_once(self, key: str, data: bytes, token: str) -> str | None:
        """None when created, else the code of the precondition that failed."""
        try:
            self._client.put_object(
                **self._name(key), Body=data, IfNoneMatch="*", Metadata={_WRITER: token}
            )
        except ClientError as error:
            code = str(error.response["Error"]["Code"])
            if code in _TAKEN or code == _RACING:
                return code
            raise
        return None

    def _writer(self, key: str) -> str | None:
        metadata = self._client.head_object(**self._name(key))["Metadata"]
        return str(metadata[_WRITER]) if _WRITER in metadata else None

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """boto3's errors, as errors that say what to do about `key`."""
        where = self.location(key)
        try:
            yield
        except ClientError as error:
            code = str(error.response["Error"]["Code"])
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if code in _MISSING:
                msg = f"{where} does not exist; materialise what writes it, or check the address"
                raise NotFoundError(msg) from error
            if status >= 500 or status == 429:
                msg = f"{where}: the store answered {status} {code}; run again"
                raise StoreUnavailableError(msg) from error
            msg = f"{where}: the store refused with {code}; check bucket, region and permissions"
            raise ContractError(msg) from error
        except NoCredentialsError as error:
            msg = f"{where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            raise ContractError(msg) from error
        except BotoCoreError as error:
            msg = f"{where} did not answer: {error}. Check IBOOK_S3_ENDPOINT_URL and the network."
            raise StoreUnavailableError(msg) from error
