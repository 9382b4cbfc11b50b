"""XGBoost's trees as one flat array, scored in compiled code with XGBoost's own bits.

`inplace_predict` costs about 100 µs before it looks at the first row, 300 trees included 230 µs for
a row; the array costs 5. Margins are equal bit for bit because the same float32 operations run in
the same order: `value < threshold` goes left, NaN goes where the node says, leaves are added in
the order of the trees to the starting margin that XGBoost itself computes. Whoever uses them proves
that with `proven_trees` first.
"""

# Compiled functions take their arrays by position.
# ruff: noqa: PLR0917

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec
import numba
import numpy as np
import numpy.typing as npt
import xgboost as xgb

from ibook_assets.core.errors import ContractError

PROBE_ROWS: Final = 4_096
"""Rows that margins are compared on at most before a model is scored without XGBoost."""
_PROBE_MISSING: Final = 0.1
_MARGIN: Final = {"predict_type": "margin", "validate_features": False}
# What XGBoost calls trees without dropout, whose leaves carry no weights.
_PLAIN: Final = "gbtree"

_NODE: Final = np.dtype(
    [
        ("threshold", np.float32),  # of a leaf: its value
        ("feature", np.int32),
        ("left", np.int32),
        ("right", np.int32),
        ("missing", np.int32),
    ]
)

Matrix = npt.NDArray[np.float32]
Nodes = npt.NDArray[Any]

_log: Final = logging.getLogger(__name__)

# Numba's own annotations refuse options that it takes.
_njit: Any = numba.njit


class _Tree(msgspec.Struct):
    left_children: list[int]
    right_children: list[int]
    split_indices: list[int]
    split_conditions: list[float]
    split_type: list[int]
    default_left: list[int]


class _Trees(msgspec.Struct):
    trees: list[_Tree]


class _Booster(msgspec.Struct):
    name: str
    model: _Trees


class _ModelParameters(msgspec.Struct):
    num_feature: str
    num_class: str
    num_target: str


class _Learner(msgspec.Struct):
    gradient_booster: msgspec.Raw
    learner_model_param: _ModelParameters


class _Document(msgspec.Struct):
    learner: _Learner


@_njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_leaves(
    x: Matrix, nodes: Nodes, roots: npt.NDArray[np.int32], levels: int, base: float, out: Matrix
) -> None:
    at = np.empty(len(roots), np.int32)
    for row in range(len(x)):
        for tree in range(len(roots)):
            at[tree] = roots[tree]
        # All trees go down one level at a time: their loads overlap in the processor, which makes
        # this three times as fast as one tree after the other. A leaf leads to itself.
        for _ in range(levels):
            for tree in range(len(roots)):
                node = nodes[at[tree]]
                value = x[row, node.feature]
                side = node.left if value < node.threshold else node.right
                at[tree] = node.missing if np.isnan(value) else side
        total = base
        for tree in range(len(roots)):
            total += nodes[at[tree]].threshold
        out[row] = total


class FlatTrees:
    """The trees of one booster; safe for threads."""

    __slots__ = ("_base", "_levels", "_nodes", "_roots", "features")

    def __init__(self, booster: xgb.Booster) -> None:
        """Flatten the trees of `booster`.

        Raises:
            ContractError: its margin is not one sum of leaves that numbers alone lead to.
        """
        raw = bytes(booster.save_raw("json"))
        learner = msgspec.json.decode(raw, type=_Document).learner
        parameters = learner.learner_model_param
        self.features = int(parameters.num_feature)
        trees = _trees(learner)
        sizes = [len(tree.left_children) for tree in trees]
        ends = np.cumsum([0, *sizes])
        self._roots = ends[:-1].astype(np.int32)
        self._nodes = np.empty(ends[-1], _NODE)
        for tree, start, end in zip(trees, ends, ends[1:], strict=False):
            _fill(self._nodes[start:end], tree, int(start))
        self._levels = _levels(self._nodes, self._roots)
        self._base = _starting_margin(raw, self.features)

    def margins(self, x: Matrix) -> Matrix:
        """Log-odds, float32 of shape (n,); `x` is float32 of shape (n, features), NaN missing."""
        out = np.empty(len(x), np.float32)
        _add_leaves(x, self._nodes, self._roots, self._levels, self._base, out)
        return out

    def probing_rows(self) -> Matrix:
        """Rows on which a wrong comparison shows: each threshold, its neighbours, and NaN.

        At most PROBE_ROWS; features with more thresholds than fit are sampled.
        """
        rng = np.random.default_rng(0)
        inner = self._nodes[self._nodes["left"] != np.arange(len(self._nodes))]
        columns = []
        for feature in range(self.features):
            cuts = np.unique(inner["threshold"][inner["feature"] == feature])
            beside = (np.nextafter(cuts, np.float32(way)) for way in (-np.inf, np.inf))
            edges = np.array([-np.inf, 0, np.inf], np.float32)
            columns.append(rng.permutation(np.concatenate([cuts, *beside, edges])))
        rows = min(PROBE_ROWS, max(len(column) for column in columns))
        found = np.column_stack([np.resize(column, rows) for column in columns])
        found[rng.random(found.shape) < _PROBE_MISSING] = np.nan
        return np.ascontiguousarray(found, np.float32)


def proven_trees(booster: xgb.Booster) -> FlatTrees | None:
    """The flat trees of `booster`, once they gave XGBoost's own bits on their probing rows.

    None, with a warning in the log, when they cannot be flattened or a single bit differs.
    """
    try:
        trees = FlatTrees(booster)
    except ContractError as error:
        _log.warning("trees stay with XGBoost", extra={"reason": str(error)})
        return None
    rows = trees.probing_rows()
    expected = booster.inplace_predict(rows, **_MARGIN)
    different = int(np.sum(_bits(trees.margins(rows)) != _bits(expected)))
    if different:
        reason = f"{different} of {len(rows)} probing rows differ"
        _log.warning("trees stay with XGBoost", extra={"reason": reason})
        return None
    return trees


def _bits(margins: Matrix) -> npt.NDArray[np.uint32]:
    return np.ascontiguousarray(margins, np.float32).view(np.uint32)


def _trees(learner: _Learner) -> list[_Tree]:
    parameters = learner.learner_model_param
    try:
        booster = msgspec.json.decode(learner.gradient_booster, type=_Booster)
    except msgspec.ValidationError as error:
        msg = f"the booster is not of plain trees ({error}); only gbtree is flattened"
        raise ContractError(msg) from error
    if booster.name != _PLAIN or int(parameters.num_class) > 1 or int(parameters.num_target) > 1:
        msg = (
            f"a {booster.name} of {parameters.num_class} classes and {parameters.num_target} "
            f"targets; only a {_PLAIN} with one margin is flattened"
        )
        raise ContractError(msg)
    if any(any(tree.split_type) for tree in booster.model.trees):
        msg = "a tree splits on categories; only numeric splits are flattened"
        raise ContractError(msg)
    return booster.model.trees


def _fill(nodes: Nodes, tree: _Tree, start: int) -> None:
    own = np.arange(start, start + len(nodes))
    left = np.array(tree.left_children)
    leaf = left < 0
    nodes["threshold"] = tree.split_conditions
    nodes["feature"] = np.where(leaf, 0, tree.split_indices)
    nodes["left"] = np.where(leaf, own, left + start)
    nodes["right"] = np.where(leaf, own, np.array(tree.right_children) + start)
    nodes["missing"] = np.where(np.array(tree.default_left) > 0, nodes["left"], nodes["right"])


def _levels(nodes: Nodes, roots: npt.NDArray[np.int32]) -> int:
    """Steps from a root to the deepest leaf."""
    levels = 0
    at: npt.NDArray[Any] = roots
    while (inner := at[nodes["left"][at] != at]).size:
        at = np.concatenate([nodes["left"][inner], nodes["right"][inner]])
        levels += 1
    return levels


def _starting_margin(raw: bytes, features: int) -> np.float32:
    """What XGBoost makes of its base score: the margin of the same model without trees."""
    document = msgspec.json.decode(raw)
    # Without trees a score that was fitted, not given, would count as not fitted yet.
    document["learner"]["learner_model_param"]["boost_from_average"] = "0"
    model = document["learner"]["gradient_booster"]["model"]
    model |= {"trees": [], "tree_info": [], "iteration_indptr": [0]}
    model["gbtree_model_param"]["num_trees"] = "0"
    bare = xgb.Booster(model_file=bytearray(msgspec.json.encode(document)))
    return np.float32(bare.inplace_predict(np.zeros((1, features), np.float32), **_MARGIN)[0])
