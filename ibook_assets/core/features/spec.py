"""Feature specs: what a feature is, typed, frozen and hashed, with no word on how it is computed.

Every window is over knowledge time: at a query's time `t` it is `[t - window, t)`, rows at `t`
excluded. With a resolution `t` is first floored to it. Values are integers until one float
division at the end; a missing entity, an absent column or an undefined ratio is NaN.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, get_args

import pyarrow as pa

from ibook_assets.core.errors import ContractError
from ibook_assets.core.facts import ENTITY_COLUMNS, FACT_TABLES, FACT_TRANSACTIONS
from ibook_assets.core.tables import CATEGORIES, TableSpec
from ibook_assets.core.times import DAY_US, SECOND_US

Function = Literal["count", "sum", "max", "distinct", "since", "last", "mode"]
Transform = Literal["value", "hour_of_day", "day_of_week", "weekend", "night"]

SOURCES: Final = {table.name: table for table in FACT_TABLES}
"""Tables a window may run over. Ground truth is not among them, so no feature can reach it."""

RETENTION_US: Final = 400 * DAY_US
"""Longest window: how far back facts are kept and read."""

DEFAULT_CAP: Final = 4_096
"""Rows a window counts at most, so that one bot cannot make a request slow."""

MODE_CODES: Final = 16
"""`mode` counts the codes 0..15; other values are left out."""

SEMANTICS: Final = 1
"""Part of every spec hash; raised when the meaning of a spec changes without its text."""

_BUCKETED: Final = frozenset({"count", "sum", "max"})
_CODE_COLUMNS: Final = {"category_code": CATEGORIES}


def _suggest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _require_known(name: str, known: Collection[str], *, what: str) -> None:
    if name not in known:
        msg = f"{what} {name!r} is not one of {sorted(known)}.{_suggest(name, known)}"
        raise ContractError(msg)


def codes_of(table: TableSpec, column: str) -> tuple[str, ...] | None:
    """The texts behind a column's integer codes, in code order; None for a plain number."""
    return table.column(column).allowed or _CODE_COLUMNS.get(column)


def _require_integer_column(table: TableSpec, column: str, *, what: str) -> None:
    _require_known(column, table.column_names, what=f"{what}: column of {table.name}")
    kind = table.column(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or codes_of(table, column)):
        msg = (
            f"{what}: column {column!r} is {kind}; features need integers, booleans or a closed "
            "set of texts. Give the column `allowed` values in core/tables.py."
        )
        raise ContractError(msg)


@dataclass(frozen=True, slots=True)
class Filter:
    """Keeps the rows whose `column` equals `value`; text is compared by its code."""

    column: str
    value: int | str | bool

    def code(self, table: TableSpec) -> int:
        """`value` as the integer that stands for it in arrays."""
        if isinstance(self.value, str):
            codes = codes_of(table, self.column) or ()
            _require_known(self.value, codes, what=f"filter on {self.column}: value")
            return codes.index(self.value)
        return int(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregation:
    """A window aggregate over the rows of `source` that share the query's `entity`.

    `count` counts rows; `sum` takes a missing value as 0; `max`, `last` and `mode` (smallest code
    on ties) skip missing values and are NaN without any; `since` is the seconds from the last
    row to the query; `distinct` counts different values.
    """

    name: str
    entity: str
    source: str
    function: Function
    window_us: int
    column: str | None = None
    filter: Filter | None = None
    resolution_us: int = 0
    """0, or the grain time is floored to, so that online state is buckets instead of rows."""
    cap: int | None = None
    """Only the last `cap` rows of the entity before the query count, whatever the filter;
    None is DEFAULT_CAP, or no cap when a resolution bounds the state instead."""
    unit: str = ""
    description: str = ""
    emit: bool = True
    """False for an aggregate that only feeds other features of its view."""

    def __post_init__(self) -> None:
        what = f"aggregation {self.name!r}"
        _require_known(self.source, SOURCES, what=f"{what}: source")
        _require_known(self.entity, ENTITY_COLUMNS, what=f"{what}: entity")
        _require_known(self.function, get_args(Function), what=f"{what}: function")
        table = SOURCES[self.source]
        _require_known(
            ENTITY_COLUMNS[self.entity], table.column_names, what=f"{what}: entity column"
        )
        self._check_columns(table, what)
        self._check_window(what)

    def _check_columns(self, table: TableSpec, what: str) -> None:
        if (self.column is None) != (self.function in {"count", "since"}):
            rule = "takes no column" if self.column else "needs a column"
            msg = f"{what}: {self.function} {rule}; count a subset of the rows with a filter"
            raise ContractError(msg)
        if self.column is not None:
            _require_integer_column(table, self.column, what=what)
            codes = codes_of(table, self.column)
            if self.function == "mode" and (codes is None or len(codes) > MODE_CODES):
                msg = f"{what}: mode needs a column with at most {MODE_CODES} codes"
                raise ContractError(msg)
        if self.filter is not None:
            _require_integer_column(table, self.filter.column, what=f"{what}: filter")
            self.filter.code(table)

    def _check_window(self, what: str) -> None:
        if not 0 < self.window_us <= RETENTION_US:
            msg = (
                f"{what}: window of {self.window_us} us is outside 1..{RETENTION_US}; a feature "
                "needs a finite horizon, or batch and online see different histories"
            )
            raise ContractError(msg)
        if self.resolution_us < 0 or (self.cap is not None and self.cap < 1):
            msg = f"{what}: resolution must be >= 0 and cap >= 1"
            raise ContractError(msg)
        if self.resolution_us and self.window_us % self.resolution_us:
            msg = (
                f"{what}: resolution {self.resolution_us} us does not divide the window "
                f"{self.window_us} us; buckets would straddle the window's edge"
            )
            raise ContractError(msg)
        if self.resolution_us and self.function not in _BUCKETED:
            msg = f"{what}: {self.function} cannot be kept in buckets; allowed {sorted(_BUCKETED)}"
            raise ContractError(msg)
        if self.resolution_us and self.cap is not None:
            msg = f"{what}: a cap counts rows, but a resolution keeps none; drop one of them"
            raise ContractError(msg)

    @property
    def row_cap(self) -> int:
        """Rows that count at most; 0 when a resolution bounds the state instead."""
        return 0 if self.resolution_us else self.cap or DEFAULT_CAP

    def definition(self) -> dict[str, object]:
        """Everything that decides the value, as JSON types."""
        table = SOURCES[self.source]
        return {
            "kind": "aggregation",
            "name": self.name,
            "entity": self.entity,
            "source": self.source,
            "function": self.function,
            "column": self.column,
            "codes": codes_of(table, self.column) if self.column else None,
            "filter": [self.filter.column, self.filter.code(table)] if self.filter else None,
            "window_us": self.window_us,
            "resolution_us": self.resolution_us,
            "cap": self.row_cap,
            "emit": self.emit,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """`(product of numerator + prior_numerator) / (denominator + prior_denominator)`.

    Operands name aggregations of the view or columns of the request; NaN when one is missing or
    the denominator is 0.
    """

    name: str
    numerator: tuple[str, ...]
    """One or two operands, multiplied."""
    denominator: str
    prior_numerator: int = 0
    prior_denominator: int = 0
    unit: str = "share"
    description: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.numerator) <= 2:
            msg = f"ratio {self.name!r}: {len(self.numerator)} numerator operands; give one or two"
            raise ContractError(msg)
        if self.prior_numerator < 0 or self.prior_denominator < 0:
            msg = f"ratio {self.name!r}: priors are pseudo-counts and must be >= 0"
            raise ContractError(msg)

    @property
    def operands(self) -> tuple[str, ...]:
        """Names this feature reads."""
        return (*self.numerator, self.denominator)

    def definition(self) -> dict[str, object]:
        """Everything that decides the value, as JSON types."""
        priors = [self.prior_numerator, self.prior_denominator]
        return {
            "kind": "ratio",
            "name": self.name,
            "numerator": list(self.numerator),
            "denominator": self.denominator,
            "priors": priors,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """`(minuend - subtrahend) / divisor`; operands as in Ratio."""

    name: str
    minuend: str
    subtrahend: str
    divisor: int = 1
    unit: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        if self.divisor < 1:
            msg = f"difference {self.name!r}: divisor {self.divisor} must be >= 1"
            raise ContractError(msg)

    @property
    def operands(self) -> tuple[str, ...]:
        """Names this feature reads."""
        return (self.minuend, self.subtrahend)

    def definition(self) -> dict[str, object]:
        """Everything that decides the value, as JSON types."""
        return {
            "kind": "difference",
            "name": self.name,
            "minuend": self.minuend,
            "subtrahend": self.subtrahend,
            "divisor": self.divisor,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFeature:
    """A column of the request itself, as it is or read as a clock (UTC, Monday is 0)."""

    name: str
    column: str
    transform: Transform = "value"
    unit: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        what = f"row feature {self.name!r}"
        _require_known(self.transform, get_args(Transform), what=f"{what}: transform")
        _require_integer_column(FACT_TRANSACTIONS, self.column, what=what)
        if self.transform != "value" and not self.column.endswith("_ts"):
            msg = f"{what}: {self.transform} reads a clock; {self.column!r} is not a time column"
            raise ContractError(msg)

    def definition(self) -> dict[str, object]:
        """Everything that decides the value, as JSON types."""
        codes = codes_of(FACT_TRANSACTIONS, self.column)
        return {
            "kind": "row",
            "name": self.name,
            "column": self.column,
            "transform": self.transform,
            "codes": codes,
        }


Feature = Aggregation | Ratio | Difference | RowFeature


@dataclass(frozen=True, kw_only=True)
class FeatureView:
    """Features that are computed, stored and versioned together."""

    name: str
    entity: str | None
    """What the view is about; None when it describes the request alone."""
    features: tuple[Feature, ...]
    description: str
    owner: str = "team:ml-platform"

    def __post_init__(self) -> None:
        what = f"view {self.name!r}"
        if not self.name.isidentifier():
            msg = f"{what}: a name is letters, digits and '_', it becomes part of paths"
            raise ContractError(msg)
        if self.entity is not None:
            _require_known(self.entity, ENTITY_COLUMNS, what=f"{what}: entity")
        names = [feature.name for feature in self.features]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated or not names:
            msg = f"{what}: needs features with unique names; repeated {repeated}"
            raise ContractError(msg)
        reserved = sorted({a.name for a in self.aggregations} & set(FACT_TRANSACTIONS.column_names))
        if reserved:
            msg = f"{what}: aggregations {reserved} are named like request columns; rename them"
            raise ContractError(msg)
        self._check_operands(what)

    def _check_operands(self, what: str) -> None:
        known = {a.name for a in self.aggregations} | set(FACT_TRANSACTIONS.column_names)
        for feature in self.features:
            if isinstance(feature, Ratio | Difference):
                for operand in feature.operands:
                    _require_known(operand, known, what=f"{what}: {feature.name}: operand")
                    if operand in FACT_TRANSACTIONS.column_names:
                        _require_integer_column(FACT_TRANSACTIONS, operand, what=what)

    @property
    def aggregations(self) -> tuple[Aggregation, ...]:
        """The window aggregates, emitted or not."""
        return tuple(f for f in self.features if isinstance(f, Aggregation))

    @cached_property
    def emitted(self) -> tuple[Feature, ...]:
        """The features that become columns, in column order."""
        return tuple(f for f in self.features if not isinstance(f, Aggregation) or f.emit)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the output columns."""
        return tuple(f.name for f in self.emitted)

    @cached_property
    def qualified_names(self) -> tuple[str, ...]:
        """Names of the output columns as `view:feature`."""
        return tuple(f"{self.name}:{name}" for name in self.feature_names)

    @cached_property
    def spec_hash(self) -> str:
        """sha256 (hex) of the canonical definition; texts and owners do not enter it."""
        definition = {
            "semantics": SEMANTICS,
            "view": self.name,
            "entity": self.entity,
            "features": [feature.definition() for feature in self.features],
        }
        text = json.dumps(definition, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def feature(self, name: str) -> Feature:
        """The emitted feature called `name`; ContractError when there is none."""
        _require_known(name, self.feature_names, what=f"view {self.name!r}: feature")
        return self.emitted[self.feature_names.index(name)]


def formula(feature: Feature) -> tuple[tuple[str, ...], int, str | None, str | None, int]:
    """`(factors, plus, minus, divided by, plus)`: the one shape every value is computed in.

    The value is `(product of factors - minus + first plus) / (divided by + second plus)`.
    """
    if isinstance(feature, Ratio):
        return (
            feature.numerator,
            feature.prior_numerator,
            None,
            feature.denominator,
            feature.prior_denominator,
        )
    if isinstance(feature, Difference):
        return (feature.minuend,), 0, feature.subtrahend, None, feature.divisor
    since = isinstance(feature, Aggregation) and feature.function == "since"
    return (feature.name,), 0, None, None, SECOND_US if since else 1
