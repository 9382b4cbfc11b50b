"""Everything on the way is a little broken."""

from ibook_sim.chaos import Chaos
from ibook_sim.scenarios.spec import Objectives, Scenario

SCENARIO = Scenario(
    name="system-degradation",
    description="Slow network, errors, lost, doubled, late and broken messages, wrong clocks.",
    chaos=Chaos(
        latency_share=0.05,
        latency_ms=150.0,
        error_share=0.01,
        drop_share=0.005,
        duplicate_share=0.01,
        disorder_share=0.02,
        corrupt_share=0.005,
        late_label_share=0.1,
        clock_skew_share=0.01,
    ),
    objectives=Objectives(
        latency_p99_ms=800.0,
        error_share=0.03,
        freshness_p99_seconds=120.0,
        labels_in_time_share=0.85,
        label_delay_p95_days=21.0,
        honest_revenue_share=0.6,
    ),
)
