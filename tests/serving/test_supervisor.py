"""The supervisor on its own, with children that do nothing but die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from ibook_serving.processes.heartbeat import Heartbeats

ROOT = Path(__file__).parents[2]

DYING = """
import os, sys
from ibook_serving.logs import configure_logging
from ibook_serving.processes.supervisor import Supervisor

def die(index, ready):
    ready.send_bytes(b"begun")
    os._exit(7)

configure_logging()
reports = []
supervisor = Supervisor(die, processes=1, drain_seconds=5)
supervisor.start()
stopped = supervisor.watch(reports.append)
supervisor.stop()
sys.exit(f"stopped={stopped} reports={len(reports)}")
"""

DEAF = """
import signal, sys, time
from ibook_serving.logs import configure_logging
from ibook_serving.processes.supervisor import Supervisor

def ignore(index, ready):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.send_bytes(b"begun")
    time.sleep(600)

def begun(report):
    sys.stdout.write("begun\\n")
    sys.stdout.flush()

configure_logging()
supervisor = Supervisor(ignore, processes=1, drain_seconds=0.2)
supervisor.start()
stopped = supervisor.watch(begun)
supervisor.stop()
sys.exit(0 if stopped else 1)
"""


FROZEN = """
import sys, time
from ibook_serving.processes import supervisor as supervising
from ibook_serving.processes.heartbeat import Heartbeats
from ibook_serving.logs import configure_logging

supervising.FROZEN_SECONDS, supervising.CHECK_SECONDS = 0.8, 0.02
beats = Heartbeats(2)

def freeze(index, ready):
    if index == 0:
        beats.beat(index)
        time.sleep(600)
    while True:
        beats.beat(index)
        time.sleep(0.01)

configure_logging()
supervisor = supervising.Supervisor(freeze, processes=2, drain_seconds=5, heartbeats=beats)
supervisor.start()
stopped = supervisor.watch(lambda report: None)
supervisor.stop()
sys.exit(f"stopped={stopped}")
"""


def test_a_frozen_child_is_killed_and_replaced_and_a_living_one_is_not() -> None:
    run = subprocess.run(
        [sys.executable, "-c", FROZEN], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in run.stderr.splitlines()[:-1]]
    frozen = [line for line in lines if line["event"] == "API process is frozen; killing it"]
    replaced = [line for line in lines if line["event"].startswith("API process died")]
    assert len(frozen) == 6
    assert [line["index"] for line in replaced] == [0] * 5
    assert {line["pid"] for line in frozen} >= {line["pid"] for line in replaced}


def test_silence_begins_with_the_first_sign_of_life() -> None:
    now = 50.0
    beats = Heartbeats(2, clock=lambda: now)
    assert beats.silence(0) == 0
    beats.beat(0)
    now = 53.5
    assert [beats.silence(0), beats.silence(1)] == [3.5, 0]
    beats.forget(0)
    assert beats.silence(0) == 0


def test_children_that_keep_dying_end_the_server() -> None:
    run = subprocess.run(
        [sys.executable, "-c", DYING], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    *log, verdict = run.stderr.splitlines()
    assert verdict.startswith("stopped=False")
    # The first child and five more; the sixth death is one too many.
    assert sum("API process died; starting another" in line for line in log) == 5
    assert '"exit_code":7' in log[-1]
    assert "keep dying" in log[-1]


def test_a_child_that_does_not_drain_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DEAF],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "did not drain" in log


ATTENDED = """
import os, signal, sys, time
from ibook_serving.logs import configure_logging
from ibook_serving.processes.supervisor import Supervisor, on_attendant_stop

def serve(index, ready):
    def drain(*_):
        time.sleep(0.3)
        sys.stdout.write("drained\\n")
        sys.exit(0)
    signal.signal(signal.SIGTERM, drain)
    ready.send_bytes(b"begun")
    signal.pause()

def attend():
    sys.stdout.write(f"attending {os.getpid()}\\n")
    sys.stdout.flush()
    def finish(*_):
        sys.stdout.write("finished\\n")
        sys.exit(0)
    on_attendant_stop(finish)
    while True:
        signal.pause()

configure_logging()
supervisor = Supervisor(serve, processes=1, drain_seconds=5, attendant=attend)
supervisor.start()
stopped = supervisor.watch(lambda report: None)
supervisor.stop()
sys.exit(0 if stopped else 1)
"""


def _leading_a_group(script: str) -> subprocess.Popen[str]:
    """A process that runs `script` in a group of its own, as under an init system."""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_dead_attendant_is_replaced_however_often_and_ends_after_the_children() -> None:
    with _leading_a_group(ATTENDED) as process:
        assert process.stdout is not None
        for _ in range(3):
            name, pid = process.stdout.readline().split()
            assert name == "attending"
            os.kill(int(pid), signal.SIGKILL)
        assert process.stdout.readline().startswith("attending")
        # As an init system does: to every process of the group at once.
        os.killpg(process.pid, signal.SIGTERM)
        output, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert output == "drained\nfinished\n"
    assert log.count("attendant died; starting another") == 3


def test_what_a_dead_attendant_left_is_finished_before_the_end() -> None:
    with _leading_a_group(ATTENDED) as process:
        assert process.stdout is not None
        _, pid = process.stdout.readline().split()
        # The supervisor is stopped before it can start another.
        process.send_signal(signal.SIGSTOP)
        os.kill(int(pid), signal.SIGKILL)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        output, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    order = [line.split()[0] for line in output.splitlines()]
    assert order[-2:] == ["attending", "finished"]
