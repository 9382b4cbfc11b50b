"""Rollouts through Dagster, with a real server under load: to the champion's place, and back."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ibook_assets.core.rollout import Entrant
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.definitions import build_defs
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.rollout import ROLLOUT, USE_CASE, rollout_defs, rollout_key
from ibook_assets.stores.blob_terms import Data
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.registry import CHAMPION, RELEASE, ModelRegistry
from ibook_assets.stores.rollout_export import ENTRY, STATE
from ibook_assets.stores.rollouts import Rollouts
from ibook_assets.stores.traces import open_traces
from ibook_assets.training.rollout import Watcher
from tests.defs.rolled_out import (
    WHO,
    Load,
    Platform,
    in_mlflow,
    like_the_champion,
    register,
    steps_in_mlflow,
)
from tests.serving.harness import (
    RunningServer,
    challenge,
    eventually,
    free_port,
    promote,
    promotions,
    running,
    small_bundle,
)
from tests.serving.history import publish_history

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

EVIDENCE = {"since_us": 0, "until_us": 1_000_000, "log_bound": 4.6, "log_e": 0.2, "findings": []}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database that knows nothing; to make its tables takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    ModelRegistry(f"sqlite:///{path}", "template").prepare()
    return path


@pytest.fixture
def settings(tmp_path: Path, database: Path) -> Settings:
    """A platform whose rollouts take seconds."""
    home = tmp_path / "home"
    home.joinpath("mlflow").mkdir(parents=True)
    shutil.copy(database, home / "mlflow")
    return Settings(
        home=home,
        port=free_port(),
        rollout_shadow_hours=1 / 3_600,
        rollout_watch_hours=1 / 3_600,
        rollout_shares="0.4",
        rollout_minimum_units=100,
        rollout_window_seconds=0.5,
        rollout_settle_seconds=0.5,
        rollout_look_seconds=60,
        task_retries=0,
    )


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A real instance: SQLite on disk."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as found:
        yield found


@pytest.fixture
def platform(settings: Settings, instance: dg.DagsterInstance) -> Platform:
    promote(settings, small_bundle("fraud-v1", seed=1))
    publish_history(settings)
    return Platform(settings, instance, open_traces(settings))


def served_by(server: RunningServer, version: str) -> None:
    eventually(lambda: server.versions() == {version}, what=f"{version} serves")


def test_a_good_model_becomes_champion_and_a_bad_one_is_taken_back_under_load(
    settings: Settings, platform: Platform
) -> None:
    good, bad = like_the_champion("fraud-v2"), like_the_champion("fraud-v3", shifted=6.0)
    register(settings, good)
    with running(settings, port=settings.port) as server, Load(server.url) as load:
        challenge(settings, good, Entrant("shadow", 1.0))
        platform.start("fraud-v2")
        shown = platform.looks_until("champion")
        moves = [look["title"].value for look in shown if look["moved"].value]
        # The gate and the place it leads to are decided in one look.
        assert moves == ["shadow", "canary at 40%", "champion"]
        served_by(server, "fraud-v2")
        cards = [look["card"].value for look in shown if look["moved"].value]
        assert all(card.startswith("# Model card: fraud fraud-v2\n") for card in cards)
        for look in shown:
            if look["title"].value in ("canary at 40%", "champion") and look["moved"].value:
                assert "data:image/png" in look["plot"].value
                assert Path(look["evidence"].value).read_text().startswith("{")
        assert load.answered["canary", "fraud-v2"] >= 100
        steps = steps_in_mlflow(settings, "fraud-v2")
        # The entries of the log before are the candidate's, the gate's and the shadow's.
        assert {"rollout/4-canary.json", "rollout/5-champion.json"} <= set(steps)
        for metric in ("flags", "scores", "silence"):
            assert steps[f"rollout.shadow.{metric}.challenger_rate"] == [4]
        for metric in ("errors", "latency", "flags", "scores"):
            assert steps[f"rollout.canary.{metric}.champion_rate"] == [5]
        assert in_mlflow(settings, "fraud-v2").tags[STATE] == "champion"

        # Forced into a canary, it is taken back.
        challenge(settings, bad, Entrant("canary", 0.4))
        platform.start("fraud-v3", shadow_seconds=0)
        (*_, last) = platform.looks_until("rolled_back")
        assert last["verdict"].value == "failed"
        assert "flags" in last["reason"].value or "scores" in last["reason"].value
        assert load.answered["canary", "fraud-v3"] > 0
        eventually(
            lambda: (
                server.predict({"user_id": 5, "event_id": 17, "amount": 9.5})[0]["variant"]
                == "champion"
            ),
            what="everybody is the champion's again",
        )
    assert load.failed == []
    head = promotions(settings).require_current("fraud")
    assert (head.model_version, head.challengers) == ("fraud-v2", ())
    assert "failed" in head.reason
    assert "evidence rollouts/fraud/evidence/" in head.reason


def test_without_a_server_and_traffic_a_canary_waits_and_is_never_failed(
    settings: Settings, platform: Platform
) -> None:
    challenge(settings, like_the_champion("fraud-v2"), Entrant("canary", 0.4))
    platform.start("fraud-v2", shadow_seconds=0)
    platform.looks_until("canary")
    time.sleep(1.0)
    look = platform.look()
    assert (look["state"].value, look["verdict"].value) == ("canary", "inconclusive")
    assert "did not tell its metrics" in look["note"].value
    assert not look["moved"].value


class HeldWhenGated(LocalBlobs):
    """A lake in which somebody pauses the rollout in the moment its model is gated."""

    def create(self, key: str, data: Data) -> None:
        super().create(key, data)
        gated = Rollouts(self).newest("fraud") if "/log/" in key else None
        if gated is not None and gated.state == "gated" and not gated.paused:
            Rollouts(LocalBlobs(self.uri)).hold(gated, paused=True, **WHO)


def test_a_pause_in_the_moment_of_the_gate_keeps_the_model_from_its_place(
    settings: Settings, platform: Platform
) -> None:
    challenge(settings, like_the_champion("fraud-v2"), Entrant("shadow", 1.0))
    platform.start("fraud-v2")
    lake = Lake(HeldWhenGated(settings.lake))
    looked = Watcher(lake, FRAUD, settings, actor="watcher").look()
    assert looked.standing is not None
    assert (looked.standing.state, looked.standing.entry.paused) == ("gated", True)
    again = Watcher(lake, FRAUD, settings, actor="watcher").look()
    assert (again.note, again.moved) == ("paused", False)


class Sensor:
    """The rollout sensor, ticked by hand, with a clock of its own."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.ahead = 0.0
        self.instance = instance
        self.defs = build_defs(settings)
        self._lake = LakeResource(uri=settings.lake)
        found = rollout_defs(settings, clock=lambda: time.time() + self.ahead).sensors
        (self.sensor,) = found or ()

    def tick(self) -> list[dg.RunRequest]:
        context = dg.build_sensor_context(
            instance=self.instance, definitions=self.defs, resources={"lake": self._lake}
        )
        ticked = self.sensor.evaluate_tick(context)
        self.skipped = str(ticked.skip_message)
        return list(ticked.run_requests or ())

    def start(self, request: dg.RunRequest) -> dg.DagsterRun:
        job = self.defs.resolve_job_def(ROLLOUT)
        return self.instance.create_run_for_job(
            job, tags=request.tags, status=dg.DagsterRunStatus.STARTED
        )

    def end(self, run: dg.DagsterRun) -> None:
        ended = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, job_name=run.job_name)
        self.instance.report_dagster_event(ended, run.run_id)


@pytest.fixture
def sensor(settings: Settings, instance: dg.DagsterInstance, platform: Platform) -> Sensor:
    assert platform.rollouts.newest("fraud") is None
    return Sensor(settings, instance)


def test_it_belongs_to_the_platform_and_is_on(settings: Settings) -> None:
    found = build_defs(settings).resolve_sensor_def("fraud_rollout")
    assert found.default_status is dg.DefaultSensorStatus.RUNNING


def test_a_rollout_is_looked_at_by_one_run_after_the_other(
    settings: Settings, sensor: Sensor, platform: Platform
) -> None:
    assert sensor.tick() == []
    assert sensor.skipped == "no rollout is on its way"
    challenge(settings, like_the_champion("fraud-v2"), Entrant("shadow", 1.0))
    platform.start("fraud-v2")
    (request,) = sensor.tick()
    assert request.tags[USE_CASE] == "fraud"
    assert list(request.asset_selection or ()) == [rollout_key(FRAUD)]
    run = sensor.start(request)
    assert sensor.tick() == []
    assert run.run_id in sensor.skipped
    sensor.end(run)
    assert sensor.tick() == []
    assert "the next look is in" in sensor.skipped
    sensor.ahead = 61
    assert len(sensor.tick()) == 1
    entry = platform.rollouts.newest("fraud")
    assert entry is not None
    platform.rollouts.decide(entry, "rejected", **WHO)
    assert len(sensor.tick()) == 1, "decided, and to be carried out"
    platform.rollouts.carry_out("fraud")
    assert len(sensor.tick()) == 1, "carried out by hand, and no look has told of it"
    platform.look()
    assert sensor.tick() == []
    assert sensor.skipped == "no rollout is on its way"


def test_what_a_killed_look_left_undone_is_made_good(
    settings: Settings, sensor: Sensor, platform: Platform
) -> None:
    register(settings, like_the_champion("fraud-v2"))
    challenge(settings, like_the_champion("fraud-v2"), Entrant("canary", 0.4))
    platform.start("fraud-v2", shadow_seconds=0)
    platform.looks_until("canary")
    assert in_mlflow(settings, "fraud-v2").tags[STATE] == "canary"
    entry = platform.rollouts.newest("fraud")
    assert entry is not None
    # As far as a look comes that is killed after it has written both logs.
    evidence = platform.rollouts.keep_evidence("fraud", EVIDENCE)
    ended = platform.rollouts.decide(entry, "champion", evidence=evidence, **WHO)
    platform.rollouts.carry_out("fraud")
    assert len(sensor.tick()) == 1
    for _ in range(2):
        look = platform.look()
        assert look["card"].value.startswith("# Model card: fraud fraud-v2\n")
        held = in_mlflow(settings, "fraud-v2")
        assert (held.tags[STATE], held.tags[ENTRY]) == ("champion", str(ended.sequence))
        assert held.tags[RELEASE] == "v1.0.1", "the first champion's trees"
        registry = ModelRegistry(settings.tracking_uri, "fraud")
        assert registry.version_of("fraud", CHAMPION) == held.version
        assert steps_in_mlflow(settings, "fraud-v2") == {
            f"rollout/{ended.sequence}-champion.json": [],
            "rollout.canary.log10_e_value": [ended.sequence],
            "rollout.canary.log10_bound": [ended.sequence],
            "rollout.canary.watched_seconds": [ended.sequence],
        }
    assert sensor.tick() == []
    assert sensor.skipped == "no rollout is on its way"


def test_an_mlflow_that_is_away_delays_no_decision_and_is_told_by_the_next(
    settings: Settings,
    instance: dg.DagsterInstance,
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(settings, like_the_champion("fraud-v2"))
    challenge(settings, like_the_champion("fraud-v2"), Entrant("canary", 0.4))
    platform.start("fraud-v2", shadow_seconds=0)
    platform.look()
    entry = platform.rollouts.newest("fraud")
    assert entry is not None
    evidence = platform.rollouts.keep_evidence("fraud", EVIDENCE)
    ended = platform.rollouts.decide(entry, "rolled_back", evidence=evidence, **WHO)

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:1"})
    look = Platform(away, instance, open_traces(away)).look()
    assert look["state"].value == "rolled_back"
    assert promotions(settings).require_current("fraud").challengers == ()
    assert in_mlflow(settings, "fraud-v2").tags[STATE] == "canary", "as it was told last"

    register(settings, like_the_champion("fraud-v3"))
    challenge(settings, like_the_champion("fraud-v3"), Entrant("canary", 0.4))
    platform.start("fraud-v3", shadow_seconds=0)
    platform.look()
    assert in_mlflow(settings, "fraud-v3").tags[STATE] == "canary"
    assert in_mlflow(settings, "fraud-v2").tags[STATE] == "rolled_back"
    assert f"rollout/{ended.sequence}-rolled_back.json" in steps_in_mlflow(settings, "fraud-v2")
