"""Row 5: a step that outlives its run commits nothing, and one whose parent dies, dies with it."""

from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from ibook_assets.core.errors import RunNotLiveError
from ibook_assets.defs.runs import fails_fast, live_run_check
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from tests.reliability.orphans import kill_a_run_worker

TABLE = "facts/orders"


def rows(number: int) -> pa.Table:
    return pa.table({"n": pa.array([number], pa.int64())})


@pytest.mark.parametrize(
    "ended",
    [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.CANCELING],
    ids=lambda status: status.value.lower(),
)
def test_a_step_that_outlives_its_run_commits_nothing(
    tmp_path: Path, ended: dg.DagsterRunStatus
) -> None:
    lake = Lake(LocalBlobs(tmp_path / "lake"))
    lake.write(TABLE, "2026-01-01", rows(1))

    @dg.asset
    @fails_fast
    def orders(context: dg.AssetExecutionContext) -> None:
        # What run monitoring does to a run whose worker it lost.
        event = {
            dg.DagsterRunStatus.FAILURE: dg.DagsterEventType.RUN_FAILURE,
            dg.DagsterRunStatus.CANCELED: dg.DagsterEventType.RUN_CANCELED,
            dg.DagsterRunStatus.CANCELING: dg.DagsterEventType.RUN_CANCELING,
        }[ended]
        context.instance.report_dagster_event(
            dg.DagsterEvent(event_type_value=event.value, job_name=context.run.job_name),
            run_id=context.run.run_id,
        )
        lake.write(TABLE, "2026-01-01", rows(2), precommit=live_run_check(context))

    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        late = dg.materialize([orders], instance=instance, raise_on_error=False)
    assert not late.success
    assert RunNotLiveError.__name__ in str(late.get_step_failure_events()[0].event_specific_data)
    assert lake.read(TABLE)["n"].to_pylist() == [1]


def test_a_rerun_after_that_commits_once(tmp_path: Path) -> None:
    lake = Lake(LocalBlobs(tmp_path / "lake"))

    @dg.asset
    @fails_fast
    def orders(context: dg.AssetExecutionContext) -> None:
        lake.write(TABLE, "2026-01-01", rows(3), precommit=live_run_check(context))

    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        assert dg.materialize([orders], instance=instance).success
    assert lake.read(TABLE)["n"].to_pylist() == [3]


def test_of_a_killed_run_worker_only_the_retry_commits(tmp_path: Path) -> None:
    figures = kill_a_run_worker(tmp_path)
    assert figures.statuses == ["FAILURE", "SUCCESS"]
    assert figures.attempts == {"dying": [2], "orphan": [2]}
    assert figures.commits == {"dying": 1, "orphan": 1}
    assert "is FAILURE, only a started run may commit" in figures.refused
