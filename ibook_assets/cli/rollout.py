"""`ibook rollout`: begin, watch, hold and end the rollout of a trained model."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ibook_assets.cli.console import console, explains_errors, print_json, settings
from ibook_assets.cli.promotions import Actor, AsJson, Reason, UseCaseName, resolved
from ibook_assets.core.rollout_log import RolloutEntry, Standing, following
from ibook_assets.core.rollout_plan import plan_of
from ibook_assets.core.use_cases import use_case_named
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promotions import utc_now
from ibook_assets.stores.rollouts import Rollouts, active_rollout

if TYPE_CHECKING:
    from ibook_assets.core.analysis.findings import Analysis

rollout = typer.Typer(no_args_is_help=True, help=__doc__)


@rollout.command()
@explains_errors
def status(use_case: UseCaseName, as_json: AsJson = False) -> None:
    """Show what the newest rollout is, how it came there and what is known of its model by now."""
    from ibook_assets.training.rollout import analysis_of

    name, lake = use_case_named(use_case).name, _lake()
    rollouts = Rollouts(lake.blobs)
    standing = rollouts.standing(name)
    analysis = None
    if standing is not None and standing.active and standing.effect is not None:
        analysis = analysis_of(lake, settings(), standing, now=utc_now())
    entries = [] if standing is None else rollouts.history(name)
    mine = [entry for entry in entries if standing and entry.version == standing.entry.version]
    if as_json:
        print_json(_document(standing, mine, analysis))
    elif standing is None:
        console.print(f"{name}: nothing was ever rolled out; `ibook rollout start {name}`")
    else:
        _show(standing, mine, analysis)


@rollout.command()
@explains_errors
def start(
    use_case: UseCaseName,
    reason: Reason,
    version: Annotated[
        str | None, typer.Option(help="A trained version or a release; the newest without it.")
    ] = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Begin to roll a trained model out, by the plan that IBOOK_ROLLOUT_* describe.

    The gate is judged next; then the model scores unseen, answers a growing share of users, and
    becomes the champion. Dagster's rollout sensor, or `ibook rollout look`, moves it on.
    """
    from ibook_assets.training.candidates import find_candidate

    chosen, lake = use_case_named(use_case), _lake()
    found = find_candidate(lake.blobs, chosen.name, resolved(lake.blobs, chosen, version))
    entry = Rollouts(lake.blobs).start(
        chosen.name, found.version, plan_of(settings()), actor=_who(actor), reason=reason
    )
    _say(entry, as_json=as_json)


@rollout.command()
@explains_errors
def look(use_case: UseCaseName, actor: Actor = None, as_json: AsJson = False) -> None:
    """Look at the rollout now and decide what comes next, as Dagster's sensor does."""
    from ibook_assets.training.rollout import Watcher

    chosen = use_case_named(use_case)
    looked = Watcher(_lake(), chosen, settings(), actor=_who(actor)).look()
    if as_json:
        state = None if looked.standing is None else looked.standing.state
        print_json({"state": state, "moved": looked.moved, "note": looked.note})
        return
    if looked.analysis is not None:
        console.print(_findings(looked.analysis))
    console.print(looked.note, highlight=False, soft_wrap=True)


@rollout.command()
@explains_errors
def pause(
    use_case: UseCaseName, reason: Reason, actor: Actor = None, as_json: AsJson = False
) -> None:
    """Keep the model where it is until `resume`; if it does harm it is still taken back."""
    _hold(use_case, paused=True, actor=actor, reason=reason, as_json=as_json)


@rollout.command()
@explains_errors
def resume(
    use_case: UseCaseName, reason: Reason, actor: Actor = None, as_json: AsJson = False
) -> None:
    """Let a paused rollout go on."""
    _hold(use_case, paused=False, actor=actor, reason=reason, as_json=as_json)


@rollout.command()
@explains_errors
def abort(
    use_case: UseCaseName, reason: Reason, actor: Actor = None, as_json: AsJson = False
) -> None:
    """End the rollout: its model leaves the record and its users return to the champion."""
    name = use_case_named(use_case).name
    rollouts = Rollouts(_lake().blobs)
    entry = active_rollout(rollouts, name).entry
    _, (end, _) = following(entry)
    ended = rollouts.decide(
        entry,
        end,
        actor=_who(actor),
        reason=reason,
    )
    rollouts.carry_out(name)
    _say(ended, as_json=as_json)


def _hold(use_case: str, *, paused: bool, actor: str | None, reason: str, as_json: bool) -> None:
    name = use_case_named(use_case).name
    rollouts = Rollouts(_lake().blobs)
    entry = active_rollout(rollouts, name).entry
    _say(rollouts.hold(entry, paused=paused, actor=_who(actor), reason=reason), as_json=as_json)


def _lake() -> Lake:
    config = settings()
    return Lake(open_blobs(config.lake, endpoint_url=config.s3_endpoint_url))


def _who(actor: str | None) -> str:
    return actor or getpass.getuser()


def _say(entry: RolloutEntry, *, as_json: bool) -> None:
    if as_json:
        print_json(_entry(entry))
        return
    console.print(f"{entry.use_case}: {entry.version} is {entry.title} (entry {entry.sequence})")


def _entry(entry: RolloutEntry) -> dict[str, Any]:
    return entry.model_dump(mode="json", exclude={"model", "plan"})


def _document(
    standing: Standing | None, entries: list[RolloutEntry], analysis: Analysis | None
) -> dict[str, Any] | None:
    if standing is None:
        return None
    entry, by = standing.entry, standing.overtaken_by
    return {
        "use_case": entry.use_case,
        "version": entry.version,
        "state": standing.state,
        "active": standing.active,
        "paused": entry.paused,
        "share": entry.place[1] if isinstance(entry.place, tuple) else None,
        "overtaken_by": None if by is None else by.sequence,
        "plan": entry.plan.model_dump(mode="json"),
        "entries": [_entry(found) for found in entries],
        "analysis": None if analysis is None else analysis.as_dict(),
    }


def _show(standing: Standing, entries: list[RolloutEntry], analysis: Analysis | None) -> None:
    entry, by = standing.entry, standing.overtaken_by
    title = entry.title if standing.active else standing.state.replace("_", " ")
    console.print(f"{entry.use_case}: {entry.version} is {title}", highlight=False)
    if by is not None:
        console.print(f"ended by promotion entry {by.sequence}: {by.subject} ({by.actor})")
    table = Table("entry", "state", "actor", "reason", "when")
    for found in entries:
        when = f"{found.at:%Y-%m-%d %H:%M:%S} UTC"
        table.add_row(str(found.sequence), found.title, found.actor, found.reason, when)
    console.print(table)
    if analysis is not None:
        console.print(_findings(analysis))
        console.print(str(analysis), highlight=False, soft_wrap=True)


def _findings(analysis: Analysis) -> Table:
    from ibook_assets.core.analysis.findings import shown

    rows = shown(analysis.findings)
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table
