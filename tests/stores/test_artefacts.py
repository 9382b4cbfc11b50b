"""Promoted artefacts: verified before, after and at every load."""

from __future__ import annotations

import pytest

from ibook_assets.core.canonical import sha256_hex
from ibook_assets.core.errors import ContractError, IntegrityError
from ibook_assets.stores.artefacts import load_artefact, publish_artefact
from ibook_assets.stores.blobs import Blobs

FILES = {"model.ubj": b"trees", "bundle.json": b"{}"}
HASHES = {name: sha256_hex(data) for name, data in FILES.items()}


def test_what_is_published_is_loaded(blobs: Blobs) -> None:
    artefact = publish_artefact(blobs, "fraud", FILES, sha256=HASHES)
    assert load_artefact(blobs, artefact) == FILES
    assert artefact.sha256 == HASHES
    assert blobs.list("promoted/fraud/") == [f"{artefact.uri}/{name}" for name in sorted(FILES)]


def test_the_same_files_have_one_place(blobs: Blobs) -> None:
    first = publish_artefact(blobs, "fraud", FILES, sha256=HASHES)
    assert publish_artefact(blobs, "fraud", dict(reversed(FILES.items())), sha256=HASHES) == first
    other = {**FILES, "model.ubj": b"other"}
    hashes = {name: sha256_hex(data) for name, data in other.items()}
    assert publish_artefact(blobs, "fraud", other, sha256=hashes).uri != first.uri
    assert load_artefact(blobs, first) == FILES


def test_a_file_that_is_not_the_trained_one_is_not_published(blobs: Blobs) -> None:
    with pytest.raises(IntegrityError, match=r"model\.ubj"):
        publish_artefact(blobs, "fraud", FILES | {"model.ubj": b"treez"}, sha256=HASHES)
    assert blobs.list() == []


@pytest.mark.parametrize(
    "files", [{}, {"model.ubj": b"trees"}, {**FILES, "x": b""}], ids=["none", "less", "more"]
)
def test_exactly_the_recorded_files_are_published(blobs: Blobs, files: dict[str, bytes]) -> None:
    with pytest.raises(ContractError, match="promote exactly what training stored"):
        publish_artefact(blobs, "fraud", files, sha256=HASHES)


@pytest.mark.parametrize("name", ["../model.ubj", "a/b", ".hidden", ""])
def test_unsafe_file_names_are_refused(blobs: Blobs, name: str) -> None:
    with pytest.raises(ContractError, match="need plain names"):
        publish_artefact(blobs, "fraud", {name: b""}, sha256={name: sha256_hex(b"")})
    assert blobs.list() == []


@pytest.mark.parametrize("damage", [b"", b"tree", b"treez", b"trees\0"])
def test_a_changed_file_is_refused(blobs: Blobs, damage: bytes) -> None:
    artefact = publish_artefact(blobs, "fraud", FILES, sha256=HASHES)
    blobs.put(f"{artefact.uri}/model.ubj", damage)
    with pytest.raises(IntegrityError) as refused:
        load_artefact(blobs, artefact)
    assert refused.value.expected == HASHES["model.ubj"]


def test_a_lost_file_is_refused(blobs: Blobs) -> None:
    artefact = publish_artefact(blobs, "fraud", FILES, sha256=HASHES)
    blobs.delete(f"{artefact.uri}/model.ubj")
    with pytest.raises(IntegrityError, match=r"model\.ubj has sha256 \(no file\)"):
        load_artefact(blobs, artefact)
