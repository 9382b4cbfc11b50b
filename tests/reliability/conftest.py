"""Servers and processes the faults are made on."""

from tests.reliability.nursery import nursery
from tests.s3_server import s3_endpoint

__all__ = ["nursery", "s3_endpoint"]
