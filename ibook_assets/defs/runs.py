"""How a step behaves when something goes wrong: what is retried, what may commit."""

import ctypes
import functools
import inspect
import multiprocessing
import multiprocessing.connection
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar, cast

import dagster as dg
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG

from ibook_assets.core.errors import (
    ContractError,
    GateClosedError,
    NoPromotedModelError,
    RunNotLiveError,
)
from ibook_assets.core.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

IN_FLIGHT: Final = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""Statuses of a run that has been asked for and has not ended."""

_LIVE: Final = frozenset({dg.DagsterRunStatus.STARTED})
_PR_SET_PDEATHSIG: Final = 1


def fails_fast(body: Callable[P, R]) -> Callable[P, R]:
    """An asset body whose broken contracts end the run at once: retrying could not help."""
    if inspect.isgeneratorfunction(body):

        @functools.wraps(body)
        def generating(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
            with _no_retry():
                yield from body(*args, **kwargs)

        return cast("Callable[P, R]", generating)

    @functools.wraps(body)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with _no_retry():
            return body(*args, **kwargs)

    return wrapped


@contextmanager
def _no_retry() -> Iterator[None]:
    die_with_parent()
    try:
        yield
    except (ContractError, GateClosedError, NoPromotedModelError, RunNotLiveError) as error:
        description = f"{type(error).__name__}: {error}"
        raise dg.Failure(description=description, allow_retries=False) from error


def attempts_made(runs: Iterable[dg.DagsterRun]) -> int:
    """How often those runs were asked for: one that is started again is the same attempt."""
    return len({run.root_run_id or run.run_id for run in runs})


def about_to_repeat(runs: Iterable[dg.DagsterRun]) -> str | None:
    """The first of those runs that crashed and that Dagster is about to start again."""
    for run in runs:
        if run.tags.get(WILL_RETRY_TAG) == "true" and AUTO_RETRY_RUN_ID_TAG not in run.tags:
            return run.run_id
    return None


def actor_of(run_id: str) -> str:
    """How a run is named in the promotion and rollout logs."""
    return f"dagster run {run_id}"


def feature_retries(settings: Settings) -> dg.RetryPolicy:
    """Retries of raw, facts and feature steps."""
    return _retries(settings.feature_engineering_retries, settings)


def training_retries(settings: Settings) -> dg.RetryPolicy:
    """Retries of training, evaluation and promotion steps."""
    return _retries(settings.model_training_retries, settings)


def monitoring_retries(settings: Settings) -> dg.RetryPolicy:
    """Retries of the steps that judge a day or an experiment."""
    return _retries(settings.ml_monitoring_retries, settings)


def _retries(override: int | None, settings: Settings) -> dg.RetryPolicy:
    return dg.RetryPolicy(
        max_retries=settings.task_retries if override is None else override,
        delay=2,
        backoff=dg.Backoff.EXPONENTIAL,
        jitter=dg.Jitter.PLUS_MINUS,
    )


def live_run_check(context: dg.AssetExecutionContext) -> Callable[[], None]:
    """A check to call just before a commit: raises RunNotLiveError once the run has ended.

    A step can outlive its run: the run worker is killed, run monitoring marks the run failed and
    starts it anew, and the orphan would commit over the new run's result.
    """

    def check() -> None:
        run = context.instance.get_run_by_id(context.run.run_id)
        status = run.status if run else None
        if status not in _LIVE:
            found = status.value if status else "unknown"
            raise RunNotLiveError(run_id=context.run.run_id, status=found)

    return check


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends (Linux; elsewhere nothing happens).

    Acts in a child of Python's multiprocessing only, as a step of the multiprocess executor is,
    whose parent is the run worker. A parent that is gone already ends the process at once.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    try:
        libc = ctypes.CDLL("libc.so.6", use_errno=True)
    except OSError:
        return
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The kernel signals a death to come; one that came before the call shows in the sentinel.
    if multiprocessing.connection.wait([parent.sentinel], timeout=0):
        os.kill(os.getpid(), signal.SIGKILL)
