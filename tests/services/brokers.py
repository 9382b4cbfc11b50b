"""Brokers of the event log under test: the development broker and a real Apache Kafka."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaError

from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.stores.log import LogAddress, open_consumer
from tests.services.processes import HOST, START_SECONDS, Service, free_port, missing

JARS: Final = Path(__file__).resolve().parents[2] / ".services" / "kafka" / "libs"
"""Where `make services` puts Apache Kafka."""

_CLUSTER_ID: Final = "aWJvb2sta2Fma2EtdGVzdA"

_LOGGING: Final = """
status = warn
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""

_SERVER: Final = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
group.initial.rebalance.delay.ms=200
group.min.session.timeout.ms=100
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
log.initial.task.delay.ms=500
log.retention.check.interval.ms=500
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
"""


class BrokerService(Service):
    """A broker that clients of the event log can use."""

    keeps_messages: bool
    """Whether messages are there after a restart."""

    @property
    def log(self) -> LogAddress:
        """What the clients in `stores.log` take."""
        return LogAddress(self.address)

    def clear(self) -> None:
        """Delete all topics and what consumer groups committed for them."""
        admin = KafkaAdminClient(bootstrap_servers=self.address)
        try:
            names = [name for name in admin.list_topics() if not name.startswith("__")]
            if names:
                admin.delete_topics(names)
            # Kafka answers before the broker itself has heard of the deletion.
            while not set(names).isdisjoint(admin.list_topics()):
                pass
        finally:
            admin.close()

    def _answers(self) -> bool:
        try:
            open_consumer(self.log, bootstrap_timeout_ms=1_000).close()
        except StoreUnavailableError:
            return False
        return True


class DevBrokerService(BrokerService):
    """`python -m ibook_assets.streaming.broker`."""

    name = "development broker"
    keeps_messages = False

    def _command(self) -> list[str]:
        module = "ibook_assets.streaming.broker"
        return [sys.executable, "-m", module, "--port", str(self.port)]


class KafkaService(BrokerService):
    """Apache Kafka in KRaft mode, one node."""

    name = "Apache Kafka"
    keeps_messages = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._properties = folder / "server.properties"
        self._properties.write_text(
            _SERVER.format(
                host=HOST,
                port=self.port,
                controller_port=free_port(),
                data=folder / "data",
            )
        )
        (folder / "log4j2.properties").write_text(_LOGGING)
        subprocess.run(
            [
                *self._java(),
                "kafka.tools.StorageTool",
                "format",
                "--cluster-id",
                _CLUSTER_ID,
                "--config",
                str(self._properties),
            ],
            check=True,
            capture_output=True,
        )

    def _answers(self) -> bool:
        if not super()._answers():
            return False
        # The first group makes the topic of offsets; until it is loaded no group can be joined.
        try:
            with closing(open_consumer(self.log, group="first")) as consumer:
                consumer.committed(TopicPartition("none", 0), timeout_ms=START_SECONDS * 1000)
        except (StoreUnavailableError, KafkaError):
            return False
        return True

    @classmethod
    def require(cls) -> None:
        """Skip or fail the test when it cannot run here."""
        if shutil.which("java") is None:
            missing("Java", "run `apt-get install default-jre-headless maven`, `make services`")
        if not any(JARS.glob("kafka_*.jar")):
            missing("Apache Kafka", "run `make services`")

    def _command(self) -> list[str]:
        return [*self._java(), "kafka.Kafka", str(self._properties)]

    def _java(self) -> list[str]:
        return [
            "java",
            "-Xms128m",
            "-Xmx384m",
            "-XX:+UseSerialGC",
            # The tests' brokers live for seconds: quick code early is worth more than best code.
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}",
            "-cp",
            f"{JARS}/*",
        ]
