"""Row 9: a damaged artefact is refused before anything parses it.

A flipped bit can crash XGBoost's parser, so these tests would not survive a model that is loaded
first and judged later.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import xgboost as xgb

from ibook_assets.core.errors import ContractError, IntegrityError
from ibook_assets.core.promotion import Artefact
from ibook_assets.models.bundle import (
    BUNDLE_FILE,
    FILE_NAMES,
    MODEL_FILE,
    BundleInfo,
    ModelBundle,
    model_bytes,
    sha256_hex,
)
from ibook_assets.models.calibration import BetaCalibration
from ibook_assets.stores.artefacts import load_artefact, publish_artefact
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.promotions import PromotionLog
from tests.promotion_drafts import a_draft

FLIPS = 60
CUTS = 20


def a_bundle() -> ModelBundle:
    rng = np.random.default_rng(9)
    x = rng.random((400, 3), dtype=np.float32)
    labels = (x[:, 0] + 0.3 * rng.random(400) > 0.8).astype(np.float32)
    booster = xgb.train(
        {"objective": "binary:logistic", "max_depth": 4, "nthread": 1, "base_score": 0.5},
        xgb.DMatrix(x, labels),
        num_boost_round=20,
    )
    model = model_bytes(booster)
    info = BundleInfo(
        use_case="fraud",
        version="v1",
        feature_names=("a:x", "a:y", "a:z"),
        spec_hashes={"a": "1f0c"},
        calibration=BetaCalibration(),
        threshold=0.5,
        training_snapshot="c" * 64,
        trained_until_us=0,
        training_rows=400,
        training_frauds=int(labels.sum()),
        parameters={"max_depth": 4},
        metrics={},
        libraries={},
        model_sha256=sha256_hex(model),
    )
    return ModelBundle(info, model)


@pytest.fixture
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalBlobs, Artefact]:
    blobs = LocalBlobs(tmp_path_factory.mktemp("lake"))
    bundle = a_bundle()
    return blobs, publish_artefact(blobs, "fraud", bundle.files(), sha256=bundle.sha256())


def damages(intact: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """Single flipped bits, then truncations."""
    for _ in range(FLIPS):
        flipped = bytearray(intact)
        flipped[rng.integers(len(intact))] ^= 1 << rng.integers(8)
        yield bytes(flipped)
    for length in rng.integers(len(intact), size=CUTS):
        yield intact[:length]


@pytest.mark.parametrize("name", FILE_NAMES)
def test_every_damage_is_refused_unparsed(
    name: str, published: tuple[LocalBlobs, Artefact]
) -> None:
    blobs, artefact = published
    key = f"{artefact.uri}/{name}"
    refused = 0
    for damaged in damages(blobs.get(key), np.random.default_rng(9)):
        blobs.put(key, damaged)
        with pytest.raises(IntegrityError, match=name):
            load_artefact(blobs, artefact)
        refused += 1
    assert refused == FLIPS + CUTS


@pytest.mark.parametrize("name", FILE_NAMES)
def test_the_loader_of_models_refuses_them_too(
    name: str, published: tuple[LocalBlobs, Artefact]
) -> None:
    blobs, artefact = published
    intact = load_artefact(blobs, artefact)
    refused = 0
    for damaged in damages(intact[name], np.random.default_rng(9)):
        with pytest.raises(IntegrityError, match=name):
            ModelBundle.load({**intact, name: damaged}, sha256=artefact.sha256)
        refused += 1
    assert refused == FLIPS + CUTS


def test_a_model_that_no_record_vouches_for_is_refused(
    published: tuple[LocalBlobs, Artefact],
) -> None:
    # An intruder can replace both files consistently, but not the hash in the record.
    blobs, artefact = published
    other = a_bundle()
    info = other.info.model_copy(update={"threshold": 2.0})
    blobs.put(f"{artefact.uri}/{BUNDLE_FILE}", info.model_dump_json().encode())
    blobs.put(f"{artefact.uri}/{MODEL_FILE}", other.files()[MODEL_FILE])
    with pytest.raises(IntegrityError, match=r"bundle\.json"):
        load_artefact(blobs, artefact)


def test_every_damaged_record_is_refused(published: tuple[LocalBlobs, Artefact]) -> None:
    blobs, artefact = published
    log = PromotionLog(blobs)
    record = log.promote(a_draft("v1", artefact=artefact), expected_parent=None)
    key = "promotions/fraud/000000000001.json"
    refused = 0
    for damaged in damages(blobs.get(key), np.random.default_rng(9)):
        blobs.put(key, damaged)
        with pytest.raises(ContractError, match=key):
            log.current("fraud")
        refused += 1
    assert refused == FLIPS + CUTS
    assert log.current("fraud", known=record) == record
