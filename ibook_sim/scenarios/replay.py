"""Days that were recorded before."""

from ibook_sim.scenarios.spec import Objectives, Scenario, Traffic

SCENARIO = Scenario(
    name="replay",
    description="Recorded days once more, spread in time as they were, only faster.",
    recorded=True,
    traffic=Traffic(duration_seconds=150.0),
    # A recording has no undrifted twin.
    objectives=Objectives(drift_index_max=None, latency_p99_ms=400.0),
)
