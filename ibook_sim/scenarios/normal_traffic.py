"""An ordinary day."""

from ibook_sim.scenarios.spec import Scenario

SCENARIO = Scenario(
    name="normal-traffic",
    description="An even stream of orders, 3 % of them fraudulent; nothing goes wrong.",
)
