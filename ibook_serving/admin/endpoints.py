"""The admin routes: which models there are, switch between them, look for a promotion now."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ibook_assets.core.errors import (
    ContractError,
    IbookError,
    NoPromotedModelError,
    NotFoundError,
    StoreUnavailableError,
)
from ibook_assets.core.promotion import GateRuleRecord
from ibook_assets.core.releases import Release
from ibook_assets.core.rollout import KnownModel
from ibook_assets.core.settings import Settings
from ibook_serving import examples
from ibook_serving.admin import api as admin_api
from ibook_serving.admin.api import (
    GateVerdict,
    LoadedLane,
    ModelsResponse,
    ModelState,
    SwitchRequest,
    SwitchResponse,
)
from ibook_serving.admin.switching import Known, Switch, Switched, Switcher
from ibook_serving.api import ReloadRequest, ReloadResponse
from ibook_serving.http.access import ADMIN_PROBLEMS, ADMIN_SECURITY, require_admin_key
from ibook_serving.http.decode import RELOAD, decode_body
from ibook_serving.http.endpoints import read_body
from ibook_serving.http.problems import ProblemError, invalid_field
from ibook_serving.http.routes import Answer, RouteSpec, json_response
from ibook_serving.scoring.following import Follower
from ibook_serving.scoring.ports import Deployment
from ibook_serving.scoring.service import ScoringService

ACTOR: Final = "admin api"
"""Who changed the record when the client does not say who asks; the key is nobody's name."""

_SWITCH: Final = msgspec.json.Decoder(SwitchRequest)


class AdminEndpoints:
    """Handlers of the admin routes and their documentation."""

    def __init__(
        self,
        settings: Settings,
        service: ScoringService,
        deployments: Follower[Any, Deployment],
        switcher: Switcher,
        *,
        hide: str,
    ) -> None:
        """Make handlers; nothing is read yet.

        Args:
            settings: limits and the key.
            service: what serves.
            deployments: what it has loaded and refused.
            switcher: writes the promotion log.
            hide: where the lake is on this machine, which is nobody else's business.
        """
        self._settings = settings
        self._service = service
        self._deployments = deployments
        self._switcher = switcher
        self._hide = hide

    def routes(self) -> tuple[RouteSpec, ...]:
        """Every admin route; all need the key."""
        return (
            RouteSpec(
                path="/admin/models",
                methods=("GET",),
                endpoint=self.models,
                summary="Every model of the promotion record and what it is now",
                description="State, share, since when and by whom; and what the process that "
                "answers has loaded or refused.",
                security=ADMIN_SECURITY,
                answers={200: Answer("The models", ModelsResponse, admin_api.MODELS)},
                problems={**ADMIN_PROBLEMS, 503: "Store away: the promotion log cannot be read"},
            ),
            RouteSpec(
                path="/admin/switch-model",
                methods=("POST",),
                endpoint=self.switch,
                summary="Let a version answer everybody, or a share of the users",
                description="Writes an entry of the promotion log and answers once this process "
                "serves it; the others follow within a second. Only versions of the log can be "
                "switched to: their gate has passed. Asking twice changes nothing twice.",
                body=SwitchRequest,
                body_example=admin_api.SWITCH_BODY,
                security=ADMIN_SECURITY,
                answers={200: Answer("What serves now", SwitchResponse, admin_api.SWITCHED)},
                problems={
                    **ADMIN_PROBLEMS,
                    404: "Unknown version: the log has no such version or release; names those it "
                    "has",
                    409: "Conflict: somebody else changed the record first or has the place, or "
                    "the model was refused",
                    503: "No model, or store away: nothing is promoted, or the log did not answer",
                },
            ),
            RouteSpec(
                path="/admin/reload",
                methods=("POST",),
                endpoint=self.reload,
                summary="Look for a newly promoted model now",
                description="Every process does so by itself several times a second; this answers "
                "once the process that got the request has.",
                body=ReloadRequest,
                body_example=ReloadRequest(),
                body_required=False,
                security=ADMIN_SECURITY,
                answers={200: Answer("What serves now", ReloadResponse, examples.RELOADED)},
                problems={
                    **ADMIN_PROBLEMS,
                    409: "Not serving that version: the expected version is not what is promoted, "
                    "or it was refused",
                    503: "Not ready: no model is promoted",
                },
            ),
        )

    async def models(self, request: Request) -> Response:
        """GET /admin/models."""
        require_admin_key(request, self._settings)
        try:
            known = await asyncio.to_thread(self._switcher.known)
        except IbookError as error:
            raise self._problem(error) from error
        return json_response(self._models(known))

    async def switch(self, request: Request) -> Response:
        """POST /admin/switch-model."""
        require_admin_key(request, self._settings)
        body = await read_body(request, self._settings.max_body_bytes)
        asked = decode_body(body, _SWITCH)
        if asked.target == "all" and asked.share is not None:
            where = "$.share"
            raise invalid_field(where, "belongs to the target treatment", asked.share)
        wanted = Switch(
            asked.version,
            asked.target,
            asked.share,
            actor=f"{asked.actor} ({ACTOR})" if asked.actor else ACTOR,
            reason=asked.reason or f"switched {asked.target} to {asked.version}",
        )
        switched = await self._switched(wanted)
        serves = await self._service.reload(None)
        return json_response(
            SwitchResponse(
                changed=switched.changed,
                entry=switched.record.subject,
                record_sequence=serves.record_sequence,
                model_version=serves.model_version,
            )
        )

    async def reload(self, request: Request) -> Response:
        """POST /admin/reload."""
        require_admin_key(request, self._settings)
        body = await read_body(request, self._settings.max_body_bytes)
        expected = decode_body(body, RELOAD).model_version if body else None
        return json_response(await self._service.reload(expected))

    async def _switched(self, wanted: Switch) -> Switched:
        try:
            return await asyncio.to_thread(self._switcher.switch, wanted)
        except IbookError as error:
            raise self._problem(error) from error

    def _problem(self, error: IbookError) -> ProblemError:
        detail = str(error).replace(self._hide, "…")
        match error:
            case NotFoundError():
                return ProblemError(404, "Unknown version", detail)
            case ContractError():
                return ProblemError(409, "Conflict", detail)
            case NoPromotedModelError():
                return ProblemError(503, "No model", detail, headers={"Retry-After": "1"})
            case StoreUnavailableError():
                return ProblemError(503, "Store away", detail, headers={"Retry-After": "1"})
            case _:
                raise error

    def _models(self, known: Known) -> ModelsResponse:
        deployment, refusal = self._deployments.loaded, self._deployments.refusal
        return ModelsResponse(
            use_case=self._service.use_case,
            record_sequence=known.sequence,
            models=tuple(
                _state(m, known.releases.get(m.model.model_version)) for m in known.models
            ),
            process=os.getpid(),
            served_sequence=deployment.sequence if deployment else None,
            experiment=deployment.experiment if deployment else None,
            loaded=tuple(
                LoadedLane(
                    variant=lane.variant,
                    version=lane.loaded.version,
                    share=lane.share,
                    artefact=lane.loaded.artefact,
                )
                for lane in (deployment.lanes if deployment else ())
            ),
            refusals=() if refusal is None else (refusal,),
        )


def _state(known: KnownModel, release: Release | None) -> ModelState:
    gate = known.model.gate
    return ModelState(
        version=known.model.model_version,
        release=None if release is None else str(release),
        state=known.state,
        variant=known.variant,
        share=known.share,
        record_sequence=known.since.sequence,
        since=known.since.promoted_at.isoformat().replace("+00:00", "Z"),
        actor=known.since.actor,
        reason=known.since.reason,
        artefact=known.model.artefact.identity,
        training_snapshot=known.model.training_snapshot,
        gate=GateVerdict(
            passed=gate.passed,
            champion_version=gate.champion_version,
            rules=tuple(_rule(rule) for rule in gate.rules),
        ),
    )


def _rule(rule: GateRuleRecord) -> str:
    value, bound = (_number(rule.value), _number(rule.bound))
    return f"{rule.name} {value} {rule.comparison} {bound}"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"
