"""Reports in the lake: compared with the scenario's run before, and never half the latest."""

from pathlib import Path

import pytest

from ibook_assets.core.errors import ContractError
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_sim.judging.findings import RunResult
from ibook_sim.offline.planning import plan_of
from ibook_sim.offline.running import run
from ibook_sim.report.kept import keep_report


@pytest.fixture(scope="module")
def result() -> RunResult:
    return run(plan_of("null", seed=7, drift_transactions=300))


def test_a_report_is_compared_with_the_one_before(tmp_path: Path, result: RunResult) -> None:
    blobs = LocalBlobs(tmp_path)
    first, second = (keep_report(blobs, result, run=name) for name in ("a", "b"))
    assert first.previous is None
    assert second.previous == first.found
    assert first.found["digest"] == result.digest
    assert Path(second.page).read_text() != Path(first.page).read_text()
    folder = "reports/simulation/null"
    names = [f"{run}/report.{kind}" for run in ("a", "b") for kind in ("html", "json")]
    assert blobs.list(folder + "/") == [f"{folder}/{name}" for name in [*names, "latest.json"]]


def test_a_run_that_has_ended_meanwhile_is_not_the_latest(
    tmp_path: Path, result: RunResult
) -> None:
    def gone() -> None:
        raise InterruptedError

    blobs = LocalBlobs(tmp_path)
    with pytest.raises(InterruptedError):
        keep_report(blobs, result, run="gone", precommit=gone)
    assert keep_report(blobs, result, run="next").previous is None


def test_a_latest_document_that_is_none_ends_the_run(tmp_path: Path, result: RunResult) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.put("reports/simulation/null/latest.json", b"{}")
    with pytest.raises(ContractError, match="not the document of a run"):
        keep_report(blobs, result, run="a")
