"""`ibook sim`: the simulator with the platform's log beside the scoring API."""

import json

import pytest
from typer.testing import CliRunner

from ibook_assets.cli import app
from ibook_assets.core.messages import topic_of
from ibook_assets.stores.log import LogAddress
from tests.services.brokers import DevBrokerService
from tests.streaming.log_reading import everything_in


def test_every_order_of_a_run_is_in_the_log(
    dev_broker: DevBrokerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IBOOK_KAFKA_BOOTSTRAP", dev_broker.address)
    monkeypatch.setenv("API_BASE_URL", "")
    arguments = ["sim", "realtime", "--rps", "40", "--duration", "1s", "--seed", "3"]
    done = CliRunner().invoke(app, [*arguments, "--log", "--json"])
    figures = json.loads(done.stdout)
    assert figures["realtime"]["log"] == {"sent": 40, "refused": 0}
    assert len(everything_in(LogAddress(dev_broker.address), topic_of("transactions"))) == 40
