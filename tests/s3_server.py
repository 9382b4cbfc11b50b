"""A real HTTP server with the S3 protocol (moto) in a process of its own, and its fixture.

One request at a time: moto checks a precondition and writes in two steps, S3 in one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import boto3
import pytest

from ibook_assets.stores.s3_blobs import S3Blobs

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "eu-west-1",
}

KEYS_PER_PAGE = 20
"""Keys in one page of a listing; S3 sends 1,000."""


@contextmanager
def s3_server(keys_per_page: int = KEYS_PER_PAGE) -> Iterator[str]:
    """Address of a server that lives as long as the block; credentials are in the environment."""
    os.environ.update(CREDENTIALS)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.s3_server"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(keys_per_page)},
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def new_bucket(endpoint: str) -> str:
    """Name of an empty bucket, made for the caller."""
    name = f"bucket-{uuid4().hex}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(
        Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    return name


def new_s3_blobs(endpoint: str) -> S3Blobs:
    """An empty store on the server at `endpoint`."""
    return S3Blobs(new_bucket(endpoint), "lake", endpoint_url=endpoint)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


def _serve() -> None:
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app))
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    _serve()
