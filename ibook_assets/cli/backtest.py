"""`ibook backtest`: the platform's own features, training and metrics on somebody's own file."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from ibook_assets.cli.console import console, explains_errors, fail, print_json, settings

ALL: Final = "all"


@explains_errors
def backtest(
    transactions: Annotated[Path, typer.Option(help="CSV or Parquet file of transactions.")],
    mapping: Annotated[
        str,
        typer.Option("--map", help="user=A,event=B,amount=C,time=D,label=E[,card=F…]"),
    ],
    train_start: Annotated[
        list[datetime],
        typer.Option(formats=["%Y-%m-%d"], help="First training day; give it several times."),
    ],
    scores: Annotated[Path, typer.Option(help="Parquet file to write: id, score, …")],
    train_days: Annotated[
        str, typer.Option(help=f"Days of training, or `{ALL}` mature history before the test.")
    ] = "7",
    delay_days: Annotated[int, typer.Option(min=0, help="Days until labels are known.")] = 7,
    test_days: Annotated[int, typer.Option(min=1, help="Days of test.")] = 7,
    id_column: Annotated[
        str | None, typer.Option("--id", help="Column that identifies a transaction.")
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials of the parameter search on earlier weeks.")
    ] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Train, wait for labels, test, for each start day; write one score a test transaction."""
    from ibook_assets.core.mapping import ColumnMapping
    from ibook_assets.core.use_cases import FRAUD
    from ibook_assets.stores.files import read_file
    from ibook_assets.training.backtest import backtest as run
    from ibook_assets.training.protocol import Protocol

    config = settings()
    roles = ColumnMapping.parse(f"{mapping},id={id_column}" if id_column else mapping)
    days = _days(train_days)
    protocol = Protocol(
        train_days=days or 7,
        delay_days=delay_days,
        test_days=test_days,
        all_history=days is None,
    )
    with tempfile.TemporaryDirectory() as folder, console.status("reading") as status:
        file = read_file(
            transactions, roles, timezone=config.files_timezone, label_delay_days=delay_days
        )
        status.update(f"{file.transactions.num_rows:,} transactions: features, search, tests")
        result = run(
            file.transactions,
            file.outcomes,
            FRAUD,
            train_start=sorted(start.date() for start in train_start),
            protocol=protocol,
            study=Path(folder) / "study.db",
            trials=trials,
            threads=config.training_threads,
            ids=file.original_ids,
        )
    _write(result.scores, scores)
    if as_json:
        print_json({"weeks": [asdict(week) for week in result.weeks], "search": result.search})
        return
    console.print(str(result), highlight=False, soft_wrap=True)
    console.print(f"{result.scores.num_rows:,} scores in {scores}")


def _days(text: str) -> int | None:
    if text == ALL:
        return None
    if not text.isdecimal() or int(text) < 1:
        fail(f"--train-days is {text!r}; allowed: a number of days from 1, or `{ALL}`")
    return int(text)


def _write(scores: pa.Table, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(scores, path)
    except OSError as error:
        fail(f"cannot write {path}: {error}; choose another --scores")
