"""Settings: one frozen object, read once per process from `IBOOK_*` variables and `.env`.

`.env.example` lists every variable with its default; a test keeps the two equal.
"""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ibook_assets.core.alerts import RUNBOOKS

OnlineSource = Literal["auto", "live", "snapshot"]

ENV_FILE: Final = os.environ.get("IBOOK_ENV_FILE", ".env") or None
"""File of settings that the environment leaves out; the variable names another, or empty none."""

UNKNOWN_SHA: Final = "unknown"
"""Stands for a commit that nobody told."""


class Settings(BaseSettings):
    """Everything that differs between a laptop, CI and production."""

    model_config = SettingsConfigDict(
        env_prefix="IBOOK_", env_file=ENV_FILE, frozen=True, extra="ignore", populate_by_name=True
    )

    home: Path = Path(".ibook")
    """Folder of all local state; relative paths start at the working directory."""
    lake_uri: str | None = None
    """Where tables, models and promotion records live: a folder or `s3://bucket/prefix`.
    Unset: `<home>/lake`."""
    lake_url: str | None = None
    """Address at which browsers reach the files of the lake, such as a bucket's; reports are linked
    there. Unset: their places are shown."""
    s3_endpoint_url: str | None = None
    """Endpoint of an S3-compatible store; unset means the cloud's own."""
    mlflow_tracking_uri: str | None = Field(
        default=None,
        validation_alias=AliasChoices("IBOOK_MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_URI"),
    )
    """MLflow server or `sqlite:///` database. Unset: `<home>/mlflow/mlflow.db`."""

    source: Literal["simulator", "files"] = "simulator"
    """What feeds the raw tables."""
    start_date: date = date(2026, 1, 1)
    """First daily partition (UTC)."""

    log_from: date | None = None
    """First day whose raw rows come from the event log instead of `source`; unset: none do."""
    kafka_bootstrap: str = "127.0.0.1:9092"
    """`host:port` of Kafka brokers, comma-separated."""
    log_partitions: Annotated[int, Field(ge=1, le=1_000)] = 4
    """Partitions of each topic when it is created; all topics of events have the same number."""
    online_url: str | None = None
    """Live online store: `redis://host:port/db`, `unix:///socket`, or a folder for the embedded
    one. Unset: `<home>/online-live`."""
    online_source: OnlineSource = "auto"
    """Where the scoring server reads history: the live store, the published snapshot, or the
    fresher of the two, which is the snapshot while nobody streams."""
    online_timeout_ms: Annotated[int, Field(ge=1, le=10_000)] = 50
    """How long a scoring request waits for Redis before history comes from the snapshot."""
    feature_log_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of orders, by hash of their id, whose online features are logged and checked."""

    sim_seed: Annotated[int, Field(ge=0)] = 7
    """Seed of the simulated world: same seed, same bytes."""
    sim_users: Annotated[int, Field(ge=100)] = 50_000
    """Accounts in the simulated world at its start."""
    sim_events: Annotated[int, Field(ge=10)] = 400
    """Ticketed events on sale in any 90 days of the simulated world."""
    sim_orders_per_day: Annotated[int, Field(ge=10)] = 3_600
    """Expected orders a day in the simulated world."""
    sim_drift_level: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far the simulated world has drifted: the weight of the drifted world, 0 is none."""
    sim_drift_from: date | None = None
    """First day that drifts; prior drift cannot begin later than the world. Unset: the world's
    first day."""
    sim_drift_axes: str = "covariate,prior,concept"
    """What drifts: prices, how frequent fraud is, how fraud looks."""

    files_transactions: Path | None = None
    """CSV or Parquet file of transactions, read when `source` is `files`."""
    files_map: str | None = None
    """Column mapping of that file, `user=A,event=B,amount=C,time=D,label=E[,id=F…]`."""
    files_timezone: str = "UTC"
    """Time zone of naive times in that file (IANA name)."""

    label_maturity_days: Annotated[int, Field(ge=0, le=180)] = 45
    """Days after which an order without a chargeback counts as settled."""
    tuning_trials: Annotated[int, Field(ge=1)] = 3
    """Optuna trials of one training run."""
    training_threads: Annotated[int, Field(ge=1)] = 1
    """Threads XGBoost trains with. More only help on idle cores: on a busy pair two took longer
    than one."""

    drift_reference_path: Path = Field(
        default=Path("data/sample/drift_reference.csv"),
        validation_alias=AliasChoices("IBOOK_DRIFT_REFERENCE_PATH", "DRIFT_REFERENCE_PATH"),
    )
    """CSV or Parquet file that `ibook drift report` compares with."""
    drift_current_path: Path = Field(
        default=Path("data/sample/drift_current.csv"),
        validation_alias=AliasChoices("IBOOK_DRIFT_CURRENT_PATH", "DRIFT_CURRENT_PATH"),
    )
    """CSV or Parquet file whose drift `ibook drift report` tells."""

    retraining_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Training runs that one drift episode may start: others follow one that failed, or whose model
    was not accepted. Then somebody must look."""
    retraining_cooldown_hours: Annotated[float, Field(ge=0, le=24 * 90)] = 24.0
    """Hours after a successful training run, and after the end of its model's rollout, in which
    drift starts no other."""
    retraining_retry_minutes: Annotated[float, Field(ge=0, le=24 * 60)] = 10.0
    """Minutes after a failed attempt until the next; twice as long after the second, and so on."""

    rollout_automatic: bool = True
    """Whether a model that the retraining sensor or the weekly schedule had trained goes through a
    rollout; if not, it becomes the champion once the gate opens, or a shadow where the domain
    classifier alone asked. The first champion has none."""
    rollout_shadow_hours: Annotated[float, Field(ge=0, le=24 * 90)] = 1.0
    """Hours that a new model scores every order unseen before it answers anybody, at least; 0: it
    begins as a canary."""
    rollout_shares: str = Field(
        default="0.05,0.25",
        validation_alias=AliasChoices("IBOOK_ROLLOUT_SHARES", "CANARY_SPLIT"),
    )
    """Shares of users that a canary answers, step by step, before it becomes the champion."""
    rollout_watch_hours: Annotated[float, Field(gt=0, le=24 * 90)] = 24.0
    """Hours of each canary step, at least."""
    rollout_minimum_units: Annotated[int, Field(ge=1)] = 300
    """Users and requests that each arm must have shown before a step counts as sound."""
    rollout_window_seconds: Annotated[float, Field(gt=0, le=3_600)] = 60.0
    """Width of the windows in which canary and champion are compared."""
    rollout_settle_seconds: Annotated[float, Field(ge=0, le=3_600)] = 30.0
    """Seconds until a window's predictions have reached the lake; sooner it is not looked at."""
    rollout_look_seconds: Annotated[float, Field(ge=1, le=86_400)] = 120.0
    """Seconds between two looks at a rollout."""
    rollout_metrics_url: str | None = None
    """Metrics of the scoring server. Unset: `/metrics` of `host` and `port`."""

    task_retries: Annotated[int, Field(ge=0, le=20)] = Field(
        default=3, validation_alias=AliasChoices("IBOOK_TASK_RETRIES", "AIRFLOW_TASK_RETRIES")
    )
    """Retries of a failed asset step; 0 fails immediately."""
    feature_engineering_retries: Annotated[int, Field(ge=0, le=20)] | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "IBOOK_FEATURE_ENGINEERING_RETRIES", "FEATURE_ENGINEERING_PIPELINE_RETRIES"
        ),
    )
    """Overrides `task_retries` for raw, facts and feature assets."""
    model_training_retries: Annotated[int, Field(ge=0, le=20)] | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "IBOOK_MODEL_TRAINING_RETRIES", "MODEL_TRAINING_PIPELINE_RETRIES"
        ),
    )
    """Overrides `task_retries` for training, evaluation and promotion assets."""
    ml_monitoring_retries: Annotated[int, Field(ge=0, le=20)] | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "IBOOK_ML_MONITORING_RETRIES", "ML_MONITORING_PIPELINE_RETRIES"
        ),
    )
    """Overrides `task_retries` for assets of drift and of experiments."""

    host: str = "127.0.0.1"
    """Address the scoring server binds to."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port of the scoring server."""
    api_processes: Annotated[int, Field(ge=1, le=64)] = 2
    """API processes of the scoring server."""
    max_batch_rows: Annotated[int, Field(ge=1)] = 1_000
    """Rows one scoring request may carry; more is answered with 413."""
    max_body_bytes: Annotated[int, Field(ge=1_024)] = 1_048_576
    """Bytes one request body may have; more is answered with 413."""
    admin_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("IBOOK_ADMIN_KEY", "MODEL_ADMIN_API_KEY")
    )
    """Key of the admin routes; unset keeps them closed."""

    prediction_log: Literal["lake", "kafka", "off"] = "lake"
    """Where predictions go with all that is needed to make them again: files of the lake, the event
    log, or nowhere."""
    prediction_ship_seconds: Annotated[float, Field(ge=0, le=3_600)] = 15.0
    """Longest time that a prediction waits on the server's disk for others to be shipped with."""
    trace_store_bytes: Annotated[int, Field(ge=2**24)] = 2**31
    """Bytes of traces kept on the server's disk for look-up; the oldest that have landed go."""
    trace_store_days: Annotated[float, Field(gt=0)] = 7.0
    """Days that landed traces are kept there."""
    container_digest: str | None = None
    """Digest of the image this server runs in; traces carry it."""

    alert_webhooks: SecretStr | None = None
    """Where alerts are sent: `name=format:url` terms, comma-separated, with the format generic,
    slack or pagerduty (`ops=slack:https://hooks.slack.com/services/…,pager=pagerduty`). Unset:
    alerts are kept and shown only."""
    pagerduty_routing_key: SecretStr | None = None
    """Integration key of the PagerDuty service that alerts go to."""
    runbooks_url: str = RUNBOOKS
    """Where people read `docs/runbooks.md`; alerts link to its sections."""
    watch_server: bool = True
    """Whether alerts are raised of the scoring server, once it has answered: that it is down, its
    errors, its latency, and the age of its features."""

    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices("IBOOK_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    )
    """Address of an OpenTelemetry collector (OTLP over HTTP, `http://127.0.0.1:4318`); unset: no
    spans."""

    git_sha: str = Field(
        default=UNKNOWN_SHA, validation_alias=AliasChoices("IBOOK_GIT_SHA", "PIPELINE_GIT_SHA")
    )
    """Commit this code was built from; a checkout finds it out itself."""

    @model_validator(mode="after")
    def _files_are_described(self) -> Self:
        if self.source == "files" and not (self.files_transactions and self.files_map):
            msg = (
                "IBOOK_SOURCE=files needs IBOOK_FILES_TRANSACTIONS (a CSV or Parquet file) and "
                "IBOOK_FILES_MAP (user=…,event=…,amount=…,time=…,label=…)"
            )
            raise ValueError(msg)
        return self

    @property
    def lake(self) -> str:
        """Root of the lake as a URI or an absolute path."""
        return self.lake_uri or str(self.home.resolve() / "lake")

    @property
    def metrics_url(self) -> str:
        """Address of the scoring server's metrics."""
        return self.rollout_metrics_url or f"http://{self.host}:{self.port}/metrics"

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking URI."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.home.resolve()}/mlflow/mlflow.db"

    @property
    def live_store(self) -> str:
        """Address of the live online store: a URL, or an absolute folder."""
        return self.online_url or str(self.home.resolve() / "online-live")

    @property
    def trace_path(self) -> Path:
        """Folder of the traces that this machine's server has written."""
        return self.home.resolve() / "traces"

    @property
    def online_path(self) -> Path:
        """Folder of the embedded online store's published snapshots."""
        return self.home.resolve() / "online"
