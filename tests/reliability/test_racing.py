"""Row 6: of looks and people who decide at once one wins, and the others are told who."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.reliability.nursery import Nursery
from tests.reliability.racing import race


def test_looks_and_people_race_and_one_wins(nursery: Nursery, tmp_path: Path) -> None:
    figures = race(nursery, tmp_path, np.random.default_rng(3), rounds=12)
    assert (figures.rounds, figures.kills) == (12, 6)
    assert figures.refused >= 12
    assert sum(figures.first.values()) == 12
    wrong = (
        figures.shared_parents,
        figures.two_decisions,
        figures.acknowledged_lost,
        figures.unnamed,
        figures.put_back,
        figures.unfinished,
    )
    assert wrong == (0, 0, 0, 0, 0, 0)
