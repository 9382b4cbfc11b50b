"""What every test shares: Hypothesis without a clock (a busy machine is no failure), servers."""

from hypothesis import settings

from tests.services.fixtures import (
    _dev_broker,
    _kafka,
    _redis,
    broker,
    browser,
    dev_broker,
    durable_redis,
    kafka,
    redis_service,
    redis_url,
)

__all__ = [
    "_dev_broker",
    "_kafka",
    "_redis",
    "broker",
    "browser",
    "dev_broker",
    "durable_redis",
    "kafka",
    "redis_service",
    "redis_url",
]

settings.register_profile("ibook", deadline=None)
settings.load_profile("ibook")
