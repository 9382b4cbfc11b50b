"""The page and the commands: verdict, honesty, comparison, exit codes."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ibook_assets.core.errors import ContractError
from ibook_sim.cli import app
from ibook_sim.judging.findings import RunResult
from ibook_sim.offline.running import planned, run
from ibook_sim.realtime.findings import findings
from ibook_sim.realtime.load import simulated
from ibook_sim.realtime.recording import Recording
from ibook_sim.realtime.running import Run
from ibook_sim.report import page, read_summary, summary, write_report
from ibook_sim.scenarios import scenario

SHORT = ["--duration", "100s"]


@pytest.fixture(scope="module")
def result() -> RunResult:
    return run(planned(scenario("system-degradation"), seed=7, orders=3_000))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "link"}:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(result: RunResult) -> None:
    tags = _Tags()
    tags.feed(page(result))
    assert tags.open == []
    assert tags.links == ["data:,"]  # no icon, so that none is asked for
    assert result.digest in page(result)


def test_the_page_says_that_no_model_was_asked_and_no_latency_measured(result: RunResult) -> None:
    assert "no model was asked" in page(result)
    assert "not a measurement" in page(result)
    assert "scores come from a model" in page(replace(result, scorer="a model"))


def test_a_broken_objective_is_the_verdict(result: RunResult) -> None:
    timid = replace(result, seen=replace(result.seen, score=np.zeros(3_000)))
    assert "FAILED" in page(timid)
    assert not summary(timid)["passed"]


def test_equal_runs_give_equal_documents(result: RunResult) -> None:
    again = run(planned(scenario("system-degradation"), seed=7, orders=3_000))
    assert json.dumps(summary(again)) == json.dumps(summary(result))
    assert page(again) == page(result)


def test_a_run_that_was_stopped_before_its_first_request_has_a_page() -> None:
    load = simulated(scenario("normal-traffic"), seed=7, rps=10.0, seconds=1.0)
    recording = Recording(load.due, 1e-9)
    recording.interrupted = True
    stopped = findings(Run(load, None, None, recording, None))
    assert "INTERRUPTED" in page(stopped)
    assert json.dumps(summary(stopped), allow_nan=False)


def test_confusion_counts_every_order_once(result: RunResult) -> None:
    counts = summary(result)["confusion"].values()
    assert sum(sum(row.values()) for row in counts) == 3_000


def test_a_previous_run_stands_beside(result: RunResult, tmp_path: Path) -> None:
    before = read_summary(write_report(result, tmp_path / "a.html"))
    assert "its digest is equal" in page(result, previous=before)
    other = run(planned(scenario("normal-traffic"), seed=7, orders=3_000))
    assert "its digest is different" in page(other, previous=before)


@pytest.mark.parametrize("text", ["<html>", "[]", '{"checks": [1]}'])
def test_something_else_is_no_previous_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(ContractError, match="beside a report"):
        read_summary(tmp_path / "x.json")


def test_run_writes_a_report_and_one_json_document(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "a.html"
    done = CliRunner().invoke(app, ["run", "flash-sale", *SHORT, "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == read_summary(out.with_suffix(".json"))
    assert json.loads(done.stdout)["orders"] == 2_000  # 20 a second


def test_a_failing_objective_is_exit_code_one() -> None:
    asked = ["run", "normal-traffic", "--drift-level", "0.9", "--drift-transactions", "3000"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 1, done.output
    assert "no drift" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "flash"], "no scenario is called"),
        (["run", "drift", "--duration", "x"], "no duration"),
        (["mix", "--scenarios", "drift"], "name:weight"),
        (["run", "mix", "--drift-level", "0.5"], "as its parts do"),
        (["run", "replay", "--day", "2026-01-01"], "say with --folder"),
        (["run", "replay", "--folder", "nowhere"], "holds no recorded days"),
        (["run", "drift", "--folder", "nowhere"], "no recorded days"),
    ],
    ids=["name", "duration", "weights", "drifting mix", "no folder", "no days", "a world"],
)
def test_bad_input_is_exit_code_two(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.parametrize("command", [["run", "drift"], ["mix"], ["run-all"]], ids=" ".join)
def test_a_dry_run_says_what_would_be_run(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, *SHORT, "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    assert all(plan["duration_seconds"] == 100 for plan in json.loads(done.stdout))


def test_scenarios_are_listed_and_sound() -> None:
    for command in ("list-scenarios", "validate"):
        done = CliRunner().invoke(app, [command])
        assert done.exit_code == 0, done.output
        assert "bot-evasion" in done.output
