"""What goes over the wire of the admin routes, and an example of each."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ibook_assets.core.ids import NAME_PATTERN
from ibook_assets.core.releases import RELEASE_PATTERN
from ibook_serving.admin.switching import SwitchTarget
from ibook_serving.api import TEXT_END, Refusal

_Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
_VISIBLE: Final = r"[^\s\x00-\x1f\x7f-\x9f]"
_TEXT: Final = rf"^{_VISIBLE}([^\x00-\x1f\x7f-\x9f]*{_VISIBLE})?{TEXT_END}"
"""One line, not blank: reasons are shown on terminals, where control characters do things."""
_EITHER: Final = "|".join(
    pattern.removeprefix("^").removesuffix("$") for pattern in (NAME_PATTERN, RELEASE_PATTERN)
)
_VERSION: Final = f"^({_EITHER}){TEXT_END}"


class SwitchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version is to answer whom."""

    version: Annotated[
        str,
        Meta(
            pattern=_VERSION, description="A version of `GET /admin/models`, or its release number"
        ),
    ]
    target: Annotated[
        SwitchTarget,
        Meta(
            description="`all`: it becomes the champion and challengers end. `treatment`: it "
            "answers a share of the users, as the treatment of the running experiment or else as "
            "a canary"
        ),
    ]
    share: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Share of users for `treatment`; the present or the default one if null"),
    ] = None
    reason: Annotated[
        Annotated[str, Meta(pattern=_TEXT, max_length=500)] | None,
        Meta(description="Why; kept in the record"),
    ] = None
    actor: Annotated[
        Annotated[str, Meta(pattern=rf"^[A-Za-z0-9._@+-]{{1,64}}{TEXT_END}")] | None,
        Meta(
            description="Who asks; kept in the record as told, for the key alone does not say who"
        ),
    ] = None


class SwitchResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What serves after the switch."""

    changed: Annotated[bool, Meta(description="False when it was so already: nothing is written")]
    entry: Annotated[str, Meta(description="The record's newest entry in words")]
    record_sequence: Annotated[int, Meta(description="Its number, served by this process now")]
    model_version: Annotated[str, Meta(description="The champion")]


class GateVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """How the gate judged a model when it entered the record."""

    passed: bool
    champion_version: Annotated[
        str | None, Meta(description="Version it was compared with; null for the first model")
    ]
    rules: Annotated[tuple[str, ...], Meta(description="Each rule with its value and bound")]


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the promotion record."""

    version: str
    release: Annotated[
        str | None,
        Meta(description="Release number, `v1.2.0`; null while it has not been the champion"),
    ]
    state: Annotated[
        str,
        Meta(
            description="`champion`, `canary`, `shadow`, `treatment`, or `archived`: it was one "
            "and is none now"
        ),
    ]
    variant: Annotated[str | None, Meta(description="Its name in answers; null when archived")]
    share: Annotated[
        float | None, Meta(description="Share of users it answers, or scores as a shadow")
    ]
    record_sequence: Annotated[int, Meta(description="Entry that made it so")]
    since: _Time
    actor: Annotated[str, Meta(description="Who made it so")]
    reason: str
    artefact: Annotated[str, Meta(description="Hash that names its promoted files")]
    training_snapshot: str
    gate: GateVerdict


class LoadedLane(msgspec.Struct, frozen=True, kw_only=True):
    """A model in this process's memory."""

    variant: str
    version: str
    share: float
    artefact: str


class ModelsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What the record says, and what the process that answers made of it."""

    use_case: str
    record_sequence: Annotated[int | None, Meta(description="The record's newest entry")]
    models: Annotated[
        tuple[ModelState, ...],
        Meta(description="Who serves, the champion first, then the archived, newest first"),
    ]
    process: Annotated[int, Meta(description="Process that answered")]
    served_sequence: Annotated[
        int | None, Meta(description="Entry that this process serves; null before the first")
    ]
    experiment: str | None
    loaded: tuple[LoadedLane, ...]
    refusals: Annotated[
        tuple[Refusal, ...], Meta(description="What this process would not take; see /readyz")
    ]


_CHAMPION: Final = "fraud-3f9c2a71d0b4"
_CANARY: Final = "fraud-8be1407f25aa"

SWITCH_BODY: Final = SwitchRequest(
    version=_CHAMPION,
    target="all",
    reason="the canary holds too many orders",
    actor="ana@example.org",
)
SWITCHED: Final = SwitchResponse(
    changed=True,
    entry=f"withdrawal of all challengers of {_CHAMPION}",
    record_sequence=5,
    model_version=_CHAMPION,
)
MODELS: Final = ModelsResponse(
    use_case="fraud",
    record_sequence=4,
    models=(
        ModelState(
            version=_CHAMPION,
            release="v1.2.0",
            state="champion",
            variant="champion",
            share=0.95,
            record_sequence=3,
            since="2026-11-02T08:11:09Z",
            actor="dagster run 5d0c1f9a",
            reason="the gate opened",
            artefact="9b" * 32,
            training_snapshot="c4" * 32,
            gate=GateVerdict(
                passed=True,
                champion_version=None,
                rules=("average_precision 0.71 >= 0.1",),
            ),
        ),
        ModelState(
            version=_CANARY,
            release=None,
            state="canary",
            variant="canary",
            share=0.05,
            record_sequence=4,
            since="2026-11-09T14:40:00Z",
            actor="ana@example.org (admin api)",
            reason="first real orders",
            artefact="7d" * 32,
            training_snapshot="e0" * 32,
            gate=GateVerdict(
                passed=True,
                champion_version=_CHAMPION,
                rules=("average_precision 0.73 >= 0.1", "gain_over_champion 0.004 >= -0.01"),
            ),
        ),
    ),
    process=4711,
    served_sequence=4,
    experiment=None,
    loaded=(
        LoadedLane(variant="champion", version=_CHAMPION, share=0.95, artefact="9b" * 32),
        LoadedLane(variant="canary", version=_CANARY, share=0.05, artefact="7d" * 32),
    ),
    refusals=(),
)
