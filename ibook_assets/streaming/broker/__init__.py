"""Development broker: the Kafka protocol on loopback, in one process, in memory only.

For laptops and quick tests, so that one code path serves everywhere. What it holds is lost when
it stops: production and anything worth keeping run on Apache Kafka.
"""
