"""Model cards: the evaluation's numbers, the same bytes, honest about what was not measured."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ibook_assets.cli import app
from ibook_assets.core.canonical import canonical_json, sha256_hex
from ibook_assets.core.errors import ContractError, IntegrityError, NoPromotedModelError
from ibook_assets.core.gate import GateReport, check_gate
from ibook_assets.core.manifest import ManifestEntry, SnapshotManifest
from ibook_assets.core.maturity import split_by_time
from ibook_assets.core.model_card import ModelCard, card_key, found_limits
from ibook_assets.core.model_card_page import card_page
from ibook_assets.core.promotion import GateRecord, PromotedModel, PromotionDraft
from ibook_assets.core.rollout import Entrant, entering, entrant
from ibook_assets.core.times import from_us
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.artefacts import publish_artefact
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.training.cards import collect_card, read_card, write_card
from ibook_assets.training.evaluate import Evaluation, evaluate
from ibook_assets.training.examples import Examples
from ibook_assets.training.fit import fit
from ibook_assets.training.pipeline import Verdict
from ibook_assets.training.trees import TreeParameters
from ibook_assets.training.verdicts import store_verdict, verdict_key
from tests.quick_fraud import QUICK

MANIFEST = SnapshotManifest(
    entries=tuple(
        ManifestEntry(
            table="facts/transactions",
            partition=f"2026-01-{day:02d}",
            path=f"facts/transactions/dt=2026-01-{day:02d}/rows.parquet",
            sha256="a" * 64,
            rows=300,
        )
        for day in range(1, 21)
    ),
    parameters={"use_case": "fraud", "as_of_us": 1, "maturity_days": 45},
)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model that was really fitted, and what it is worth on rows it has not seen."""

    bundle: ModelBundle
    evaluation: Evaluation
    gate: GateReport

    def promoted(self, blobs: LocalBlobs) -> PromotedModel:
        bundle = self.bundle
        return PromotedModel(
            model_version=bundle.version,
            artefact=publish_artefact(blobs, "fraud", bundle.files(), sha256=bundle.sha256()),
            feature_names=bundle.feature_names,
            spec_hashes=bundle.info.spec_hashes,
            threshold=bundle.threshold,
            training_snapshot=bundle.info.training_snapshot,
            git_sha="0628d48",
            mlflow_run_id="run-1",
            gate=GateRecord.model_validate(self.gate.as_dict()),
        )


@dataclasses.dataclass(frozen=True)
class Shop:
    """A lake of its own with two trained models, the first of which was evaluated."""

    lake: Path
    first: Trained
    second: Trained

    @property
    def blobs(self) -> LocalBlobs:
        return LocalBlobs(self.lake)

    @property
    def log(self) -> PromotionLog:
        return PromotionLog(self.blobs, clock=lambda: datetime(2026, 3, 1, tzinfo=UTC))

    def promote(self, trained: Trained) -> str:
        head = self.log.current("fraud")
        draft = PromotionDraft(
            use_case="fraud",
            model=trained.promoted(self.blobs),
            actor="ana",
            reason="a | b\nbetter",
        )
        self.log.promote(draft, expected_parent=head.sha256 if head else None)
        return trained.bundle.version


def learn(examples: Examples, depth: int) -> tuple[Trained, Verdict]:
    split = split_by_time(examples.known_ts)
    parameters = TreeParameters(max_bin=64, max_depth=depth)
    bundle = fit(
        examples, split, FRAUD, parameters, training_snapshot=MANIFEST.snapshot_id, threads=1
    ).bundle
    unseen = examples.take(split.evaluation(examples.known_ts))
    oracle = np.clip(unseen.labels * 0.9 + 0.05, 0, 1).astype(np.float64)
    evaluation = evaluate(bundle, unseen, QUICK, oracle=oracle)
    gate = check_gate(
        QUICK.gate, evaluation.gate_evidence, use_case="fraud", version=bundle.version
    )
    return Trained(bundle, evaluation, gate), Verdict(evaluation, gate, bundle, unseen, oracle)


@pytest.fixture(scope="module")
def made(examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    lake = tmp_path_factory.mktemp("cards") / "lake"
    blobs = LocalBlobs(lake)
    first, verdict = learn(examples, 3)
    second, _ = learn(examples, 4)
    store_verdict(blobs, QUICK, verdict)
    blobs.put(f"manifests/{MANIFEST.snapshot_id}.json", canonical_json(MANIFEST))
    return Shop(lake, first, second)


@pytest.fixture
def shop(made: Shop, tmp_path: Path) -> Shop:
    shutil.copytree(made.lake, tmp_path / "lake")
    return dataclasses.replace(made, lake=tmp_path / "lake")


def test_the_cards_numbers_are_the_evaluations(shop: Shop) -> None:
    version = shop.promote(shop.first)
    write_card(shop.blobs, FRAUD, version)
    kept = json.loads(shop.blobs.get(card_key("fraud", version, suffix="json")))
    told, found = kept["measured"], shop.first.evaluation.as_dict()

    def same(shown: Any, measured: Any) -> bool:
        """What is shown is there, with the same value; the evaluation may hold more."""
        if isinstance(shown, dict):
            return all(same(value, measured[name]) for name, value in shown.items())
        if isinstance(shown, list):
            return len(shown) == len(measured) and all(map(same, shown, measured))
        return bool(shown == measured)

    assert same(told, found)
    assert told["oracle_share"]["value"] is not None
    assert kept["evaluation_is_the_gates"] is True
    assert kept["gate"] == shop.first.promoted(shop.blobs).gate.model_dump(mode="json")
    page = shop.blobs.get(card_key("fraud", version, suffix="md")).decode()
    precision = found["average_precision"]
    interval = f"{precision['low']:.4f} to {precision['high']:.4f} (95%)"
    assert f"| average precision | {precision['value']:.4f} | {interval} |" in page


def test_the_card_names_data_features_costs_and_provenance(shop: Shop) -> None:
    card = write_card(shop.blobs, FRAUD, shop.promote(shop.first))
    info, data = shop.first.bundle.info, card.training_data
    assert (data.first_day, data.last_day) == ("2026-01-01", "2026-01-20")
    assert (data.snapshot_id, data.files) == (MANIFEST.snapshot_id, 20)
    assert (data.rows, data.frauds) == (info.training_rows, info.training_frauds)
    assert data.label_maturity_days == 45
    assert data.learnt_until == from_us(info.trained_until_us)
    assert card.features.by_view == {"ip_velocity": 1, "order_context": 2, "user_risk": 1}
    assert card.features.count == 4
    assert card.costs.chargeback_fee_cents == FRAUD.costs.chargeback_fee_cents
    assert card.threshold == shop.first.bundle.threshold
    assert card.provenance.files_sha256 == shop.first.bundle.sha256()
    stored = shop.blobs.get(verdict_key("fraud", card.version))
    assert card.provenance.evaluation_sha256 == sha256_hex(stored)
    assert card.provenance.record_sha256 == shop.log.require_current("fraud").sha256
    assert set(FRAUD.known_limits) <= set(card.limits)
    page = card_page(card).decode()
    for told in ("held at or above", "15.00", "0628d48", "run-1", "2026-01-01 to 2026-01-20"):
        assert told in page


def test_the_same_facts_give_the_same_bytes(shop: Shop) -> None:
    version = shop.promote(shop.first)
    card = write_card(shop.blobs, FRAUD, version)
    again = collect_card(shop.blobs, FRAUD, version)
    assert (again.as_json(), card_page(again)) == (card.as_json(), card_page(card))
    loaded = ModelCard.model_validate_json(card.as_json())
    assert (loaded.as_json(), card_page(loaded)) == (card.as_json(), card_page(card))
    assert read_card(shop.blobs, FRAUD) == card


def test_text_of_people_does_not_break_a_table(shop: Shop) -> None:
    page = card_page(write_card(shop.blobs, FRAUD, shop.promote(shop.first))).decode()
    (row,) = [line for line in page.splitlines() if "| ana |" in line]
    assert "a \\| b better" in row
    widths: set[tuple[int, int]] = set()
    rows = [line.replace("\\|", "") for line in page.splitlines()]
    for above, below in itertools.pairwise(rows):
        if above.startswith("|") and below.startswith("|"):
            widths.add((above.count("|"), below.count("|")))
    assert widths
    assert all(above == below for above, below in widths)


def test_without_an_evaluation_the_card_says_that_nothing_was_measured(shop: Shop) -> None:
    card = write_card(shop.blobs, FRAUD, shop.promote(shop.second))
    assert (card.measured, card.evaluation_is_the_gates) == (None, None)
    assert card.provenance.evaluation is None
    assert any("No evaluation of this version is stored" in limit for limit in card.limits)
    page = card_page(card).decode()
    assert "not measured: no evaluation of this version is stored" in page
    assert "| orders held, precision, recall, money saved | not measured |" in page
    # What the gate measured at promotion is in the record, and so on the card.
    assert f"{card.gate.rules[2].value:.4f}" in page


def test_without_its_manifest_the_training_window_is_not_measured(shop: Shop) -> None:
    shop.blobs.delete(f"manifests/{MANIFEST.snapshot_id}.json")
    card = write_card(shop.blobs, FRAUD, shop.promote(shop.first))
    assert (card.training_data.first_day, card.training_data.files) == (None, None)
    assert "its manifest is gone" in card_page(card).decode()


def test_an_evaluation_of_another_moment_is_called_that(shop: Shop) -> None:
    rules = tuple(dataclasses.replace(rule, value=0.5) for rule in shop.first.gate.rules)
    other = dataclasses.replace(shop.first, gate=dataclasses.replace(shop.first.gate, rules=rules))
    card = write_card(shop.blobs, FRAUD, shop.promote(other))
    assert card.evaluation_is_the_gates is False
    assert "The gate was judged again" in card_page(card).decode()


def test_an_evaluation_of_another_model_is_refused(shop: Shop) -> None:
    version = shop.promote(shop.second)
    copied = shop.blobs.get(verdict_key("fraud", shop.first.bundle.version))
    shop.blobs.put(verdict_key("fraud", version), copied)
    with pytest.raises(ContractError, match=f"is of model {shop.first.bundle.version}, not"):
        write_card(shop.blobs, FRAUD, version)
    shop.blobs.put(verdict_key("fraud", version), b"{}")
    with pytest.raises(ContractError, match="is no evaluation"):
        write_card(shop.blobs, FRAUD, version)


def test_a_card_of_a_damaged_model_is_refused(shop: Shop) -> None:
    version = shop.promote(shop.first)
    artefact = shop.log.require_current("fraud").model.artefact
    shop.blobs.put(f"{artefact.uri}/bundle.json", b"{}")
    with pytest.raises(IntegrityError):
        write_card(shop.blobs, FRAUD, version)


def test_the_card_of_a_model_that_was_rolled_back_stays(shop: Shop) -> None:
    first = shop.promote(shop.first)
    write_card(shop.blobs, FRAUD, first)
    second = shop.promote(shop.second)
    card = write_card(shop.blobs, FRAUD, second)
    shop.log.rollback("fraud", actor="ana", reason="too many reviews")
    assert read_card(shop.blobs, FRAUD, second) == card
    assert read_card(shop.blobs, FRAUD).version == first


def test_a_canary_has_a_card_and_its_promotion_is_added(shop: Shop) -> None:
    shop.promote(shop.second)
    head = shop.log.require_current("fraud")
    canary = entrant("canary", share=0.1)
    assert canary is not None
    model = shop.first.promoted(shop.blobs)
    draft = entering(head, model, canary, actor="ana", reason="try")
    shop.log.challenge(draft, expected_parent=head.sha256)
    version = shop.first.bundle.version
    assert [e.sequence for e in write_card(shop.blobs, FRAUD, version).entries] == [2]
    shop.promote(shop.first)
    card = read_card(shop.blobs, FRAUD)
    assert [e.sequence for e in card.entries] == [2, 3]
    assert "canary" in card.entries[0].what


def test_limits_name_the_groups_that_are_weak_or_hardly_judged(shop: Shop) -> None:
    measured = write_card(shop.blobs, FRAUD, shop.promote(shop.first)).measured
    assert measured is not None
    group = measured.sub_populations[0].model_copy(update={"dimension": "tier", "frauds": 30})
    overall = measured.decisions.recall or 0.0

    def limits(**changed: Any) -> str:
        only = group.model_copy(update={"value": "vip", **changed})
        return " ".join(found_limits(measured.model_copy(update={"sub_populations": (only,)})))

    fair = {"recall": overall, "predicted_rate": 0.03, "base_rate": 0.03}
    assert limits(**fair) == ""
    assert "hardly judged: tier = vip" in limits(**fair | {"frauds": 29})
    assert "Recall below 0.5 times" in limits(**fair | {"recall": 0.49 * overall})
    assert "1.5 times apart: tier = vip" in limits(**fair | {"predicted_rate": 0.046})
    assert "1.5 times apart: tier = vip" in limits(**fair | {"predicted_rate": 0.019})


def ibook(shop: Shop, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["card", *arguments], env={"IBOOK_LAKE_URI": str(shop.lake)})


def test_the_command_shows_the_champions_card_or_a_versions(shop: Shop) -> None:
    first, second = shop.promote(shop.first), shop.promote(shop.second)
    shown = ibook(shop, "fraud")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith(f"# Model card: fraud {second}\n")
    document = json.loads(ibook(shop, "fraud", first, "--json").stdout)
    assert (document["version"], document["entries"][0]["sequence"]) == (first, 1)
    # Promoted without a card: now it has one.
    assert shop.blobs.exists(card_key("fraud", first, suffix="md"))


def test_a_card_tells_the_release_and_is_named_by_it(shop: Shop) -> None:
    first = shop.promote(shop.first)
    log = shop.log
    (record,) = log.history("fraud")
    shadow = shop.second.promoted(shop.blobs)
    draft = entering(record, shadow, Entrant("shadow"), actor="ana", reason="look")
    log.challenge(draft, expected_parent=record.sha256)
    assert collect_card(shop.blobs, FRAUD, first).release == "v1.0.0"
    challenger = write_card(shop.blobs, FRAUD, shop.second.bundle.version)
    assert challenger.release is None
    assert b"\nRelease: none, it has not been the champion.\n" in card_page(challenger)
    second = shop.promote(shop.second)
    assert read_card(shop.blobs, FRAUD, second).release == "v1.1.0"
    shown = ibook(shop, "fraud", "v1.0.0").stdout
    assert shown.startswith(f"# Model card: fraud {first}\n")
    assert "\nRelease: v1.0.0.\n" in shown
    refused = ibook(shop, "fraud", "v3.0.0")
    assert refused.exit_code == 1
    assert f"releases are: v1.0.0 ({first}), v1.1.0 ({second})" in " ".join(refused.stderr.split())


def test_a_card_of_an_earlier_release_of_the_platform_gets_its_number(shop: Shop) -> None:
    version = shop.promote(shop.first)
    key = card_key("fraud", version, suffix="json")
    document = json.loads(write_card(shop.blobs, FRAUD, version).as_json())
    del document["release"]
    shop.blobs.put(key, json.dumps(document).encode())
    assert read_card(shop.blobs, FRAUD).release == "v1.0.0"
    assert json.loads(shop.blobs.get(key))["release"] == "v1.0.0"


def test_the_history_says_where_cards_are(shop: Shop) -> None:
    first, second = shop.promote(shop.first), shop.promote(shop.second)
    write_card(shop.blobs, FRAUD, second)
    env = {"IBOOK_LAKE_URI": str(shop.lake)}
    told = json.loads(CliRunner().invoke(app, ["history", "fraud", "--json"], env=env).stdout)
    place = shop.blobs.location(card_key("fraud", second, suffix="md"))
    assert [entry["cards"] for entry in told] == [{}, {second: place}]
    assert Path(place).read_text().startswith(f"# Model card: fraud {second}\n")
    assert [entry["releases"] for entry in told] == [{first: "v1.0.0"}, {second: "v1.1.0"}]
    for entry, version in zip(told, (first, second), strict=True):
        assert list(entry["artefacts"]) == [version]
        assert Path(entry["artefacts"][version], "model.ubj").is_file()
    shown = CliRunner().invoke(app, ["history", "fraud"], env=env).stdout
    assert "ibook card fraud VERSION" in shown
    assert "v1.1.0" in shown


def test_a_version_without_a_promotion_has_no_card(shop: Shop) -> None:
    with pytest.raises(NoPromotedModelError):
        read_card(shop.blobs, FRAUD)
    shop.promote(shop.first)
    refused = ibook(shop, "fraud", "fraud-of-nowhere")
    assert refused.exit_code == 1
    assert "was ever promoted; the log has" in refused.stderr
