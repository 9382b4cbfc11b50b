"""The composition root of serving: settings in, a server out."""

from __future__ import annotations

from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.blobs import open_blobs
from ibook_serving.admin.endpoints import AdminEndpoints
from ibook_serving.admin.switching import Switcher
from ibook_serving.experiments.endpoints import ExperimentSummaries
from ibook_serving.page.routes import Page
from ibook_serving.processes.binding import check_binding
from ibook_serving.processes.server import ScoringServer
from ibook_serving.provenance.lookup import Lookup
from ibook_serving.provenance.outcomes import Outcomes
from ibook_serving.provenance.recording import trace_recorder
from ibook_serving.scoring.following import Follower
from ibook_serving.scoring.history import open_history
from ibook_serving.scoring.ports import Deployment, NoRecorder, Recorder
from ibook_serving.scoring.published import PublishedModels
from ibook_serving.scoring.service import ScoringService
from ibook_serving.status.endpoints import StatusBoard
from ibook_serving.status.evidence import EvidenceReader
from ibook_serving.telemetry.metrics import Metrics
from ibook_serving.telemetry.spans import Spans


def build_server(settings: Settings) -> ScoringServer:
    """A server of what is promoted in the lake of `settings`; it opens no connection yet."""
    check_binding(settings)
    metrics = Metrics(FRAUD.costs)
    blobs = open_blobs(settings.lake, endpoint_url=settings.s3_endpoint_url)
    models = PublishedModels(blobs, FRAUD)
    deployments = Follower("model", models.newest, models.load, hide=blobs.uri)
    service = build_service(settings, deployments, metrics)
    admin = AdminEndpoints(settings, service, deployments, Switcher(blobs, models), hide=blobs.uri)
    lookup = Lookup(settings, blobs, lambda: service.deployment)
    outcomes = Outcomes(settings, blobs, FRAUD.name)
    evidence = EvidenceReader(blobs, FRAUD.name)
    board = StatusBoard(service, evidence, processes=settings.api_processes)
    experiments = ExperimentSummaries(blobs)
    parts = (board, Page(board), admin, lookup, outcomes, experiments)
    beside = tuple(route for part in parts for route in part.routes())
    return ScoringServer(settings, service, metrics, Spans(settings), beside=beside)


def build_service(
    settings: Settings, deployments: Follower[PromotionRecord, Deployment], metrics: Metrics
) -> ScoringService:
    """The fraud service, to be started in the process that answers."""
    return ScoringService(
        FRAUD.name,
        deployments=deployments,
        features=open_history(
            settings.live_store,
            settings.online_path,
            FRAUD.features,
            source=settings.online_source,
            timeout_ms=settings.online_timeout_ms,
        ),
        feature_names=FRAUD.features,
        recorder=_recorder(settings),
        metrics=metrics,
        max_batch_rows=settings.max_batch_rows,
    )


def _recorder(settings: Settings) -> Recorder:
    if settings.prediction_log == "off":
        return NoRecorder()
    return trace_recorder(settings, FRAUD.name)
