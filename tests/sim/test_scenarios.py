"""Scenarios: typed, found by name, same bytes for the same seed, and kept offline."""

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from ibook_assets.core.errors import ContractError, NotFoundError
from ibook_sim.chaos import Chaos
from ibook_sim.drift import Drift
from ibook_sim.judging.validators import judged
from ibook_sim.offline.running import planned, run
from ibook_sim.orders.recordings import Recording, record, recording_in
from ibook_sim.report import page
from ibook_sim.scenarios import Scenario, mixed, parse_weights, scenario, scenarios
from ibook_sim.scenarios.spec import Burst, Traffic
from ibook_sim.world import days_from

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


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    config = scenario("replay").config(3).model_copy(update={"orders_per_day": 300.0})
    days = days_from(config.start_date, 3)
    return record(config, days, tmp_path_factory.mktemp("recorded"))


def test_recorded_days_are_played_as_they_were(recorded: Recording) -> None:
    plan = planned(scenario("replay"), seed=7, recording=recording_in(recorded.folder))
    seen = run(plan).seen
    rows = recorded.transactions()
    assert plan.orders == rows.num_rows == seen.score.size
    assert (np.diff(seen.sent_seconds) >= 0).all()
    known = np.asarray(rows["known_ts"], dtype=np.float64)
    spread = (known - known[0]) / (known[-1] - known[0])
    assert seen.sent_seconds / plan.duration_seconds == pytest.approx(spread)
    assert np.array_equal(seen.amount_cents, np.asarray(rows["amount_cents"]))


def test_the_first_days_of_a_recording_can_be_chosen(recorded: Recording) -> None:
    chosen = recording_in(recorded.folder, recorded.days[1], 2)
    assert chosen.days == recorded.days[1:]
    assert chosen.transactions().num_rows < recorded.transactions().num_rows


def test_without_truth_nothing_is_judged_by_it(recorded: Recording, tmp_path: Path) -> None:
    shutil.copytree(recorded.folder, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "truth")
    result = run(planned(scenario("replay"), seed=7, recording=recording_in(tmp_path)))
    assert {c.name for c in judged(result)} == {
        "latency", "errors", "freshness", "seats", "money", "messages",
    }  # fmt: skip
    assert "truth of these orders was not recorded" in page(result)


def test_recorded_days_that_cannot_be_played_are_explained(
    recorded: Recording, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="holds no recorded days"):
        recording_in(tmp_path)
    with pytest.raises(ContractError, match="from when on"):
        recording_in(recorded.folder, None, 2)
    with pytest.raises(ContractError, match="cannot drift"):
        planned(scenario("replay"), seed=7, drift=Drift(level=0.5))
    with pytest.raises(ContractError, match="plays a world"):
        planned(scenario("drift"), seed=7, recording=recorded)
    with pytest.raises(ContractError, match="how many orders"):
        planned(scenario("replay"), seed=7, recording=recorded, orders=5)
    with pytest.raises(ContractError, match="made of worlds"):
        mixed(parse_weights("replay:1,drift:1"))
    beyond = recorded.days[-1] + timedelta(days=1)
    plan = recording_in(recorded.folder, beyond)
    with pytest.raises(NotFoundError, match="does not exist"):
        plan.transactions()


def test_labels_are_late_by_what_chaos_adds() -> None:
    calm = scenario("system-degradation").model_copy(update={"chaos": Chaos()})
    late = calm.model_copy(update={"chaos": Chaos(late_label_share=1.0, late_label_days=10.0)})
    none, some = (run(planned(item, seed=7, orders=SMALL)).parts[0].labels for item in (calm, late))
    assert none is not None
    assert some is not None
    assert (none.in_time_share, none.delay_p95_days) == (1.0, 0.0)
    # Exponential delays of 10 days: the 95th percentile is -10 ln .05 = 30 days.
    assert some.delay_p95_days == pytest.approx(30.0, rel=0.1)
    # Settled labels come on time by a day: 1 - e^(-.1) of them, and chargebacks come earlier.
    assert 0.08 < some.in_time_share < 0.2


def test_labels_that_never_come_are_late_for_ever() -> None:
    lost = scenario("system-degradation").model_copy(update={"chaos": Chaos(drop_share=0.2)})
    labels = run(planned(lost, seed=7, orders=SMALL)).parts[0].labels
    assert labels is not None
    assert labels.delay_p95_days == np.inf
    assert labels.in_time_share == pytest.approx(0.8, abs=0.03)


def test_drift_can_be_set_from_outside() -> None:
    still = run(planned(scenario("drift"), seed=7, orders=SMALL, drift=Drift(level=0.0)))
    assert [c.name for c in judged(still) if not c.passed] == ["drift seen", "platform rings"]
