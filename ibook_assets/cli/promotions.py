"""`ibook promote`, `withdraw`, `rollback`, `history`, `card`: what serves, who decided it, why."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from ibook_assets.cli.console import console, errors, explains_errors, print_json, settings
from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.core.model_card import CARDS, card_key
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.releases import Release, named_version, releases
from ibook_assets.core.rollout import DEFAULT_SHARES, Target, entrant, withdrawing
from ibook_assets.core.use_cases import USE_CASES, UseCase, use_case_named
from ibook_assets.stores.blobs import Blobs, open_blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promotions import PromotionLog

UseCaseName = Annotated[str, typer.Argument(help=f"One of: {', '.join(USE_CASES)}.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the record.")]
Actor = Annotated[str | None, typer.Option(help="Who; your login name without it.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def _shares() -> str:
    return ", ".join(f"{stage} {share:g}" for stage, share in DEFAULT_SHARES.items())


@explains_errors
def promote(
    use_case: UseCaseName,
    reason: Reason,
    version: Annotated[
        str | None, typer.Option(help="A trained version or a release; the newest without it.")
    ] = None,
    target: Annotated[Target, typer.Option("--as", help="The place it gets.")] = "champion",
    share: Annotated[
        float | None,
        typer.Option(help=f"Share of users beside the champion; default {_shares()}."),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(help="Experiment that a treatment belongs to.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Its name in answers, if not the target: `shadow-b`.")
    ] = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Judge a trained model against the champion once more and, if the gate opens, let it serve.

    It becomes the champion, or stands beside it with --as: a canary or a treatment answers its
    share of users, a shadow scores theirs unseen. Asking again with another share changes the
    share.
    """
    from ibook_assets.training.candidates import find_candidate
    from ibook_assets.training.cards import write_card
    from ibook_assets.training.promote import promote_candidate

    chosen = use_case_named(use_case)
    beside = entrant(target, share=share, experiment=experiment, variant=variant)
    lake = Lake(_blobs())
    candidate = find_candidate(lake.blobs, chosen.name, resolved(lake.blobs, chosen, version))
    record = promote_candidate(
        lake,
        chosen,
        candidate,
        actor=actor or getpass.getuser(),
        reason=reason,
        beside=beside,
    )
    _show([record], as_json=as_json)
    _mirror(record.use_case)
    write_card(lake.blobs, chosen, candidate.version)


@explains_errors
def withdraw(
    use_case: UseCaseName,
    reason: Reason,
    variant: Annotated[
        str | None, typer.Option(help="One challenger, as `history` names it; all without it.")
    ] = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Take challengers out; the champion stays and gets their users back within a second."""
    log = _log()
    record = log.require_current(use_case_named(use_case).name)
    draft = withdrawing(record, variant, actor=actor or getpass.getuser(), reason=reason)
    _show([log.challenge(draft, expected_parent=record.sha256)], as_json=as_json)


@explains_errors
def rollback(
    use_case: UseCaseName,
    reason: Reason,
    to: Annotated[
        str | None,
        typer.Option(help="An earlier version or its release; the previous champion without it."),
    ] = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Bring back an earlier champion, without challengers. Servers follow within a second."""
    chosen = use_case_named(use_case)
    record = _log().rollback(
        chosen.name,
        to=resolved(_blobs(), chosen, to),
        actor=actor or getpass.getuser(),
        reason=reason,
    )
    _show([record], as_json=as_json)
    _mirror(record.use_case)


@explains_errors
def history(use_case: UseCaseName, as_json: AsJson = False) -> None:
    """List promotions, challenges and rollbacks, oldest first, their hash chain verified."""
    _show(_log().history(use_case_named(use_case).name), as_json=as_json)


@explains_errors
def card(
    use_case: UseCaseName,
    version: Annotated[
        str | None,
        typer.Argument(help="A promoted version or its release; the champion without it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a promoted model's card: what it is for, learnt from and worth, and how it fails."""
    from ibook_assets.core.model_card_page import card_page
    from ibook_assets.training.cards import read_card

    blobs, chosen = _blobs(), use_case_named(use_case)
    found = read_card(blobs, chosen, resolved(blobs, chosen, version))
    typer.echo((found.as_json() if as_json else card_page(found)).decode(), nl=False)


def resolved(blobs: Blobs, use_case: UseCase, name: str | None) -> str | None:
    """The version that somebody means by `name`, which may be a release number, or nothing."""
    if name is None:
        return None
    return named_version(use_case.name, PromotionLog(blobs).history(use_case.name), name)


def _mirror(use_case: str) -> None:
    from ibook_assets.stores.registry import ModelRegistry

    try:
        registry = ModelRegistry(settings().tracking_uri, use_case)
        registry.prepare()
        registry.mirror_champion(_log().history(use_case))
    except StoreUnavailableError as error:
        # The log has decided already; the alias is for people who look at MLflow.
        errors.print(f"MLflow's champion alias was not moved: {error}", soft_wrap=True)


def _blobs() -> Blobs:
    config = settings()
    return open_blobs(config.lake, endpoint_url=config.s3_endpoint_url)


def _log() -> PromotionLog:
    return PromotionLog(_blobs())


def _show(records: list[PromotionRecord], *, as_json: bool) -> None:
    # Of the whole log, whatever part of it is shown.
    numbers = releases(_log().history(records[0].use_case)) if records else {}
    if as_json:
        print_json(_documents(records, numbers))
        return
    # A version that is cut cannot be rolled back to.
    what, before = Column("what", overflow="fold"), Column("before", overflow="fold")
    table = Table("entry", what, "release", before, "actor", "reason", "when")
    for record in records:
        table.add_row(
            str(record.sequence),
            record.subject,
            str(numbers[record.model_version]),
            record.previous_version or "",
            record.actor,
            record.reason,
            f"{record.promoted_at:%Y-%m-%d %H:%M:%S} UTC",
        )
    console.print(table)
    if records:
        console.print(f"a model's card: ibook card {records[-1].use_case} VERSION", style="dim")


def _documents(
    records: list[PromotionRecord], numbers: Mapping[str, Release]
) -> list[dict[str, Any]]:
    """The records, each with the releases of its models, their files and their cards, by version.

    A challenger that never was the champion has no release; a model may have no card.
    """
    if not records:
        return []
    blobs = _blobs()
    kept = set(blobs.list(f"{CARDS}/{records[0].use_case}/"))
    found = []
    for record in records:
        models = {m.model_version: m for m in record.models}
        keys = {v: card_key(record.use_case, v, suffix="md") for v in models}
        places = {
            "releases": {v: str(numbers[v]) for v in models if v in numbers},
            "artefacts": {v: blobs.location(m.artefact.uri) for v, m in models.items()},
            "cards": {v: blobs.location(key) for v, key in keys.items() if key in kept},
        }
        found.append({**record.model_dump(mode="json"), **places})
    return found
