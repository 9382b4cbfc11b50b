"""Scenarios: typed, found by name, same bytes for the same seed, and kept offline."""

import numpy as np
import pytest
from pydantic import ValidationError

from ibook_assets.core.errors import ContractError
from ibook_sim.drift import Drift
from ibook_sim.running import planned, run
from ibook_sim.scenarios import Scenario, mixed, parse_weights, scenario, scenarios
from ibook_sim.scenarios.spec import Burst, Traffic
from ibook_sim.validators import judged

SMALL = 2_000


def test_all_scenarios_are_there() -> None:
    assert set(scenarios()) == {
        "normal-traffic", "flash-sale", "fraud-attack", "drift", "system-degradation",
        "black-friday", "mix", "null", "bot-evasion", "replay",
    }  # fmt: skip


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ContractError, match="Did you mean 'flash-sale'"):
        scenario("flash-sales")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a", "name:weight"), ("drift:x", "name:weight"), ("drift:0", "name:weight"),
     ("drift:nan", "name:weight"), ("drift:1,drift:2", "twice")],
    ids=["no weight", "a word", "zero", "nan", "twice"],
)  # fmt: skip
def test_weights_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        parse_weights(text)


def test_a_mix_of_mixes_is_refused() -> None:
    with pytest.raises(ContractError, match="itself a mix"):
        mixed(parse_weights("mix:1"))


@pytest.mark.parametrize(
    "fields",
    [{"world": {"user": 5}}, {"world": {"users": 5}}, {"name": "No Name"}, {"chaos": {"drop": 1}}],
    ids=["unknown field", "impossible world", "bad name", "unknown fault"],
)
def test_a_scenario_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Scenario.model_validate({"name": "x", "description": "", **fields})


def test_a_burst_holds_its_share_of_the_orders() -> None:
    traffic = Traffic(bursts=(Burst(at=0.2, width=0.05, share=0.5),))
    sent = traffic.offsets(10_000, 100.0, seed=1)
    # Half in the burst, and a twentieth of the other half falls into it by chance: .525.
    assert ((sent >= 20) & (sent < 25)).mean() == pytest.approx(0.525, abs=0.02)
    assert (np.diff(sent) >= 0).all()


def test_weights_share_the_orders_of_a_mix() -> None:
    plan = planned(mixed(parse_weights("normal-traffic:40,null:60")), seed=7, orders=1_000)
    assert [(item.name, orders) for item, orders in plan.parts] == [
        ("normal-traffic", 400),
        ("null", 600),
    ]


def test_the_same_seed_gives_the_same_run() -> None:
    first, again, other = (
        run(planned(scenario("system-degradation"), seed=seed, orders=SMALL)).digest
        for seed in (7, 7, 8)
    )
    assert first == again != other


def test_chaos_changes_no_order() -> None:
    calm, rough = (
        run(planned(scenario(name), seed=7, orders=SMALL)).seen
        for name in ("normal-traffic", "system-degradation")
    )
    assert np.array_equal(calm.amount_cents, rough.amount_cents)
    assert all(lost.any() for lost in (rough.dropped, rough.refused, rough.failed))


@pytest.mark.parametrize("name", sorted(scenarios()))
def test_every_objective_holds_offline(name: str) -> None:
    checks = judged(run(planned(scenario(name), seed=7, orders=6_000)))
    assert [(c.name, c.value, c.limit) for c in checks if not c.passed] == []


def test_drift_can_be_set_from_outside() -> None:
    still = run(planned(scenario("drift"), seed=7, orders=SMALL, drift=Drift(level=0.0)))
    assert [c.name for c in judged(still) if not c.passed] == ["drift seen", "platform rings"]
