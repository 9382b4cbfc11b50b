"""Every trace that reached the store lands once and is made again; what was changed is named."""

from __future__ import annotations

from pathlib import Path

from tests.reliability.replaying import serve_and_replay


def test_what_a_killed_server_answered_is_replayed_through_every_variant(tmp_path: Path) -> None:
    figures = serve_and_replay(tmp_path, requests=600, kills=2)
    assert figures.answered > 500
    assert (figures.lost, figures.twice, figures.wrong, figures.not_reproduced) == (0, 0, 0, 0)
    assert figures.reproduced == figures.traced
    # A killed process takes the predictions of a tenth of a second with it, four clients' worth.
    assert figures.in_memory < figures.answered // 2
    assert set(figures.variants) == {"champion", "canary", "shadow", "control", "treatment"}
    assert set(figures.named) == {"artefact", "vector", "partition"}
