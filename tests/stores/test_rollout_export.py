"""What rollouts found, in a real MLflow: beside training, whole after any end, nothing twice."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ibook_assets.core.analysis.findings import Analysis, Finding
from ibook_assets.core.errors import ContractError, NotFoundError, StoreUnavailableError
from ibook_assets.core.promotion import PromotedModel
from ibook_assets.core.rollout_log import RolloutState
from ibook_assets.core.rollout_plan import RolloutPlan
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.registry import CHAMPION, RELEASE, ModelRegistry, RunStep
from ibook_assets.stores.rollout_export import ENTRY, REASON, STATE, export_rollouts
from ibook_assets.stores.rollouts import Rollouts
from tests.promotion_drafts import a_draft, stored_artefact

pytestmark = pytest.mark.filterwarnings("ignore:.*``noload`` loader strategy:DeprecationWarning")

PLAN = RolloutPlan(
    shadow_seconds=1, shares=(0.1, 0.5), watch_seconds=1, window_seconds=1, settle_seconds=0
)
WHO: dict[str, Any] = {"actor": "ana@ibook.test", "reason": "as agreed"}
WAY: tuple[tuple[RolloutState, float | None], ...] = (
    ("gated", None),
    ("shadow", None),
    ("canary", 0.02),
    ("canary", 0.03),
    ("champion", 0.04),
)
"""Each state after the candidate's, and the challenger's rate in the evidence that led there."""
FLAGS = "flags.challenger_rate"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow for all of these tests, each of which has a use case of its own: it takes long."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    ModelRegistry(uri, "rollouts").prepare()
    return uri


@dataclass
class Shop:
    """A lake and what MLflow knows of its models."""

    name: str
    blobs: LocalBlobs
    registry: ModelRegistry

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.registry.tracking_uri, self.registry.tracking_uri)

    def train(self, *versions: str) -> None:
        """Leave in MLflow what training leaves there: a run that has ended, a registry version."""
        experiment = self.client.get_experiment_by_name("rollouts").experiment_id
        if not self.client.search_registered_models(f"name = '{self.name}'"):
            self.client.create_registered_model(self.name)
        for version in versions:
            run = self.client.create_run(experiment).info
            self.client.log_metric(run.run_id, "average_precision", 0.7)
            self.client.set_terminated(run.run_id)
            self.client.create_model_version(
                self.name,
                f"{run.artifact_uri}/model",
                run_id=run.run_id,
                tags={"bundle_version": version},
            )

    def model(self, version: str) -> PromotedModel:
        artefact = stored_artefact(self.blobs, version.encode(), use_case=self.name)
        return a_draft(version, artefact=artefact, use_case=self.name).model

    def promote(self, version: str) -> None:
        log = PromotionLog(self.blobs)
        head = log.current(self.name)
        draft = a_draft(
            version, artefact=self.model(version).artefact, use_case=self.name, reason="by hand"
        )
        log.promote(draft, expected_parent=None if head is None else head.sha256)

    def roll_out(
        self, version: str, way: Sequence[tuple[RolloutState, float | None]] = WAY
    ) -> None:
        rollouts = Rollouts(self.blobs)
        entry = rollouts.start(self.name, version, PLAN, **WHO)
        for state, rate in way:
            evidence = None if rate is None else self.evidence(version, rate)
            model = self.model(version) if state == "gated" else None
            entry = rollouts.decide(entry, state, model=model, evidence=evidence, **WHO)
            rollouts.carry_out(self.name)

    def evidence(self, version: str, rate: float) -> str:
        flags = Finding(
            metric="flags",
            detail="held, higher",
            champion_rate=0.02,
            challenger_rate=rate,
            champion_units=500,
            challenger_units=400,
            evidence=np.array([0.1, 0.2]),
            times_us=(1_000_000, 2_000_000),
            enough=True,
            required=True,
        )
        found = Analysis("a stage", version, "v1", 0, 2_000_000, 0.01, (flags,))
        return Rollouts(self.blobs).keep_evidence(self.name, found.as_dict())

    def export(self, registry: ModelRegistry | None = None) -> list[str]:
        return export_rollouts(self.blobs, self.name, registry or self.registry)

    def told(self, version: str) -> dict[str, Any]:
        """All that MLflow shows of the version's rollout."""
        held = self.registry.held(self.name)[version]
        run = self.client.get_run(held.run_id)
        assert run.data.metrics["average_precision"] == 0.7
        assert run.info.status == "FINISHED"
        folder = Path(run.info.artifact_uri.removeprefix("file://"), "rollout")
        return {
            "tags": {k: v for k, v in held.tags.items() if k.startswith("rollout")},
            "files": {file.name: file.read_bytes() for file in folder.glob("*")},
            "metrics": {
                name: [(m.step, m.value) for m in self.client.get_metric_history(held.run_id, name)]
                for name in run.data.metrics
                if name.startswith("rollout")
            },
        }


numbers = itertools.count(1)


@pytest.fixture
def shop(database: str, tmp_path: Path) -> Shop:
    """A use case with the champion v1, and v2 trained and rolled out up to the champion's place."""
    found = Shop(
        f"fraud-{next(numbers)}",
        LocalBlobs(str(tmp_path / "lake")),
        ModelRegistry(database, "rollouts"),
    )
    found.promote("v1")
    found.train("v2")
    found.roll_out("v2")
    return found


def test_each_decisions_evidence_is_beside_what_training_found(shop: Shop) -> None:
    assert shop.export() == ["v2"]
    told = shop.told("v2")
    assert told["tags"] == {STATE: "champion", REASON: "as agreed", ENTRY: "6"}
    entries = Rollouts(shop.blobs).history(shop.name)
    judged = {f"{e.sequence}-{e.state}.json": e.evidence for e in entries if e.evidence}
    assert list(judged) == ["4-canary.json", "5-canary.json", "6-champion.json"]
    assert told["files"] == {name: shop.blobs.get(key) for name, key in judged.items()}
    assert told["metrics"][f"rollout.shadow.{FLAGS}"] == [(4, 0.02)]
    assert told["metrics"][f"rollout.canary.{FLAGS}"] == [(5, 0.03), (6, 0.04)]
    assert told["metrics"]["rollout.canary.watched_seconds"] == [(5, 2.0), (6, 2.0)]


def test_what_is_told_already_is_not_told_again(shop: Shop) -> None:
    shop.export()
    told = shop.told("v2")
    assert shop.export() == []
    held = shop.registry.held(shop.name)["v2"]
    shop.registry.tag(shop.name, held.version, {ENTRY: "0"})
    assert shop.export() == ["v2"], "told anew"
    assert shop.told("v2") == told


class Killed(BaseException):
    """Ends an export as a signal would: nothing catches it."""


class KilledAt(ModelRegistry):
    """Ends its caller before or after the given change."""

    def __init__(self, real: ModelRegistry, *, at: int, after: bool) -> None:
        super().__init__(real.tracking_uri, real.experiment)
        self._left = at
        self._after = after

    def add_step(self, run_id: str, found: RunStep) -> None:
        with self._change():
            super().add_step(run_id, found)

    def tag(self, model_name: str, version: str, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            with self._change():
                super().tag(model_name, version, {name: value})

    def _change(self) -> KilledAt:
        return self

    def __enter__(self) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed

    def __exit__(self, *_: object) -> None:
        if self._left == 0 and self._after:
            raise Killed


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_change_the_next_export_makes_it_good(shop: Shop, *, after: bool) -> None:
    kills = 0
    wanted = None
    for at in range(1, 20):
        # Trained once more: a registry version of its own, that nothing was told of.
        shop.train("v2")
        try:
            shop.export(KilledAt(shop.registry, at=at, after=after))
        except Killed:
            kills += 1
        else:
            break
        shop.export()
        found = shop.told("v2")
        wanted = wanted or found
        assert found == wanted
        assert all(len(set(points)) == len(points) for points in found["metrics"].values())
        assert len(found["metrics"][f"rollout.canary.{FLAGS}"]) == 2
    # Three steps and three tags.
    assert kills == 6


def test_a_harmful_model_is_shown_as_rolled_back_and_an_ousted_one_as_archived(shop: Shop) -> None:
    shop.export()
    shop.train("v3")
    shop.roll_out("v3", [*WAY[:3], ("rolled_back", 0.3)])
    assert shop.export() == ["v3"]
    told = shop.told("v3")
    assert told["tags"][STATE] == "rolled_back"
    assert list(told["files"]) == ["10-canary.json", "11-rolled_back.json"]
    assert told["metrics"][f"rollout.canary.{FLAGS}"] == [(11, 0.3)]
    shop.promote("v4")
    assert shop.export() == ["v2"]
    assert shop.told("v2")["tags"] == {STATE: "archived", REASON: "by hand", ENTRY: "6"}
    assert shop.told("v3")["tags"][STATE] == "rolled_back"


def test_a_rollout_that_somebody_ended_before_another_began_is_archived(shop: Shop) -> None:
    shop.train("v3")
    shop.roll_out("v3", WAY[:2])
    shop.promote("v4")
    shop.roll_out("v5", WAY[:1])
    shop.export()
    assert shop.told("v3")["tags"] == {STATE: "archived", REASON: "by hand", ENTRY: "9"}


def test_models_that_mlflow_does_not_have_are_left_out(shop: Shop) -> None:
    shop.roll_out("v3", WAY[:1])
    shop.client.delete_run(shop.registry.held(shop.name)["v2"].run_id)
    assert shop.export() == []
    assert STATE not in shop.registry.held(shop.name)["v2"].tags


def test_a_long_reason_is_cut_between_words(shop: Shop) -> None:
    shop.train("v3")
    shop.roll_out("v3", WAY[:1])
    rollouts = Rollouts(shop.blobs)
    entry = rollouts.newest(shop.name)
    assert entry is not None
    rollouts.decide(entry, "rejected", actor="ana", reason="too many reviews " * 50)
    shop.export()
    reason = shop.told("v3")["tags"][REASON]
    assert len(reason) <= 250
    assert reason.endswith("reviews too many …")


def test_lost_evidence_is_named_and_keeps_no_newer_model_from_being_told(shop: Shop) -> None:
    (first, *_) = [e.evidence for e in Rollouts(shop.blobs).history(shop.name) if e.evidence]
    Path(shop.blobs.location(first)).unlink()
    shop.train("v3")
    shop.roll_out("v3", WAY[:3])
    with pytest.raises(NotFoundError, match=first):
        shop.export()
    assert shop.told("v3")["tags"][STATE] == "canary"
    assert shop.told("v2")["tags"] == {}


def test_a_run_without_room_for_artefacts_may_be_tried_again(shop: Shop) -> None:
    run = shop.client.get_run(shop.registry.held(shop.name)["v2"].run_id)
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    folder.mkdir(parents=True, exist_ok=True)
    in_the_way = folder / "rollout"
    in_the_way.write_bytes(b"")
    with pytest.raises(StoreUnavailableError, match=f"artefacts of MLflow run {run.info.run_id}"):
        shop.export()
    in_the_way.unlink()
    assert shop.export() == ["v2"]


def test_a_step_of_no_run_is_refused(shop: Shop) -> None:
    step = RunStep(1, Rollouts(shop.blobs).history(shop.name)[0].at, {"m": 1.0}, {"f": b"x"})
    with pytest.raises(ContractError, match="not found"):
        shop.registry.add_step("0" * 32, step)
    assert shop.registry.has_run("0" * 32) is False


def test_mlflow_that_does_not_answer_says_so(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = ModelRegistry("http://127.0.0.1:1", "rollouts")
    with pytest.raises(StoreUnavailableError, match=r"MLflow at http://127\.0\.0\.1:1 does not"):
        shop.export(away)


def test_the_champions_registry_version_names_its_release(shop: Shop) -> None:
    log = PromotionLog(shop.blobs).history(shop.name)
    shop.registry.mirror_champion(log)
    held = shop.registry.held(shop.name)["v2"]
    # Other trees than v1's, of the same features.
    assert held.tags[RELEASE] == "v1.1.0"
    assert shop.registry.version_of(shop.name, CHAMPION) == held.version
    shop.registry.mirror_champion(log[:1])
    assert shop.registry.version_of(shop.name, CHAMPION) == held.version, "v1 is not in MLflow"
