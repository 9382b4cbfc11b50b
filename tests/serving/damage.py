"""Publications that a bad disk damaged before anybody read them."""

from __future__ import annotations

import shutil
from pathlib import Path

from ibook_assets.core.settings import Settings
from ibook_assets.models.bundle import ModelBundle
from tests.serving.harness import promote
from tests.serving.history import publish_history


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle of the file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def publish_damaged_model(settings: Settings, bundle: ModelBundle) -> None:
    """Let a promotion of `bundle` appear whose stored trees have a flipped bit.

    It is prepared aside: servers poll, and must never see the files before the damage.
    """
    aside = Settings(home=settings.home / "aside-model")
    lake, there = settings.home / "lake", aside.home / "lake"
    shutil.copytree(lake, there)
    record = promote(aside, bundle)
    flip_a_bit(there / record.model.artefact.uri / "model.ubj")
    shutil.copytree(there / "promoted", lake / "promoted", dirs_exist_ok=True)
    entry = Path("promotions") / record.use_case / f"{record.sequence:012d}.json"
    (there / entry).rename(lake / entry)


def publish_damaged_history(settings: Settings, *, as_of_us: int) -> None:
    """Let a snapshot appear whose data has a flipped bit."""
    aside = Settings(home=settings.home / "aside-history")
    name = publish_history(aside, as_of_us=as_of_us).snapshot_id
    flip_a_bit(aside.online_path / name / "data.mdb")
    (aside.online_path / name).rename(settings.online_path / name)
    (aside.online_path / "current").rename(settings.online_path / "current")
