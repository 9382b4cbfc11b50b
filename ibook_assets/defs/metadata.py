"""What people see of an asset in Dagster: schemas, row counts, tables and plots."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa

from ibook_assets.core.features.spec import FeatureView
from ibook_assets.core.tables import TableSpec
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.lake import Receipt

PREVIEW_ROWS = 5


def table_schema(spec: TableSpec) -> dg.TableSchema:
    """Dagster's column schema of a table contract."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.type),
                description=column.description,
                constraints=dg.TableColumnConstraints(
                    nullable=column.nullable, unique=spec.key == (column.name,)
                ),
            )
            for column in spec.columns
        ]
    )


def view_schema(view: FeatureView) -> dg.TableSchema:
    """Dagster's column schema of a feature view: key columns, then one column a feature."""
    keys = [
        dg.TableColumn("transaction_id", "int64", description="Order the features are as of"),
        dg.TableColumn("known_ts", "int64", description="As-of time (microseconds, UTC)"),
    ]
    features = [
        dg.TableColumn(f.name, "float", description=f"{f.description} ({f.unit or 'number'})")
        for f in view.emitted
    ]
    return dg.TableSchema(columns=[*keys, *features])


def preview(table: pa.Table, rows: int = PREVIEW_ROWS) -> dg.MetadataValue:
    """The first rows of `table` as Markdown."""
    head = table.slice(0, rows)
    lines = [
        "| " + " | ".join(head.column_names) + " |",
        "|" + "---|" * head.num_columns,
        *("| " + " | ".join(_cell(v) for v in row.values()) + " |" for row in head.to_pylist()),
    ]
    return dg.MetadataValue.md("\n".join(lines))


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def png(image: bytes, alt: str) -> dg.MetadataValue:
    """A PNG image shown in place."""
    encoded = base64.b64encode(image).decode()
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{encoded})")


def lake_file(blobs: Blobs, key: str, url: str | None) -> dg.MetadataValue:
    """The lake's file under `key`: a link where `url` serves the lake, else its place."""
    if url is None:
        return dg.MetadataValue.path(blobs.location(key))
    return dg.MetadataValue.url(f"{url.rstrip('/')}/{key}")


def summary(receipt: Receipt) -> dict[str, int | str]:
    """What a partition's materialisation shows of its write."""
    return {
        "dagster/row_count": receipt.rows,
        "sha256": receipt.sha256,
        "bytes": receipt.bytes,
    }


def rows_by_day(receipts: Sequence[Receipt]) -> dg.MetadataValue:
    """Plot of the rows of each partition that a run wrote."""
    return daily_plot([str(r.partition) for r in receipts], {"rows": [r.rows for r in receipts]})


def daily_plot(days: Sequence[str], series: Mapping[str, Sequence[float]]) -> dg.MetadataValue:
    """Small multiples, one line a series over `days`, shown in place."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.6 * len(series)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(series), 1, sharex=True))
    for axis, (name, values) in zip(axes, series.items(), strict=True):
        axis.plot(range(len(days)), values, color="#4338ca", linewidth=1.4)
        axis.set_ylabel(name, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    ticks = sorted({0, len(days) // 2, len(days) - 1})
    axes[-1].set_xticks(ticks, [days[i] for i in ticks])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return png(buffer.getvalue(), ", ".join(series))


def records(rows: Iterable[Mapping[str, Any]]) -> dg.MetadataValue:
    """A Dagster table of plain rows, which says so when there is none."""
    plain = [{k: _plain(v) for k, v in row.items()} for row in rows]
    if not plain:
        # A table without rows has no columns: Dagster refuses it.
        return dg.MetadataValue.md("no rows")
    return dg.MetadataValue.table([dg.TableRecord(row) for row in plain])


def _plain(value: object) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else str(value)
