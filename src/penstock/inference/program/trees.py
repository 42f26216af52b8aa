"""Many trees as one: a forest of scikit-learn in one call instead of one call a tree.

All trees of a fitted ensemble are written into one array of nodes. Nodes of ours above them
lead by a last column, the number of the tree, to the root of that tree; a row is asked once
for each tree, with that number at its end. The framework's own compiled walker then does in
one call what it did in as many as there are trees, and the leaves are added in its order, so
that every bit of the sum is the same.

Standard library of Python 3.9 and numpy; scikit-learn 1.3 or later.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable, NamedTuple

MOST_ROWS = 16_384
"""Rows times trees in one call; above it the calls themselves no longer matter."""

Leaves = Callable[[Any], Any]
"""From rows, shape ``(n, features)``, to the values of their leaves, ``(trees, n, outputs)``."""


class Merged(NamedTuple):
    """Trees in one array of nodes."""

    nodes: Any
    starts: list[int]
    """Where each tree's nodes begin."""


class Words(NamedTuple):
    """What an array of nodes calls its fields."""

    left: str
    right: str
    feature: str
    threshold: str


HISTOGRAM = Words("left", "right", "feature_idx", "num_threshold")
PLAIN = Words("left_child", "right_child", "feature", "threshold")


def merged(trees: list[Any], words: Words, features: int) -> Merged:
    """Write the nodes of all trees into one array, below nodes that choose the tree.

    Parameters
    ----------
    trees
        Arrays of nodes, structured, the root first.
    features
        Columns of a row; the tree's number comes after them.
    """
    numpy = importlib.import_module("numpy")
    above = len(trees) - 1
    sizes = [len(tree) for tree in trees]
    starts = [above + sum(sizes[:place]) for place in range(len(trees))]
    nodes = numpy.zeros(above + sum(sizes), dtype=trees[0].dtype)
    for start, tree in zip(starts, trees):
        part = nodes[start : start + len(tree)]
        part[:] = tree
        inner = tree["is_leaf"] == 0 if "is_leaf" in tree.dtype.names else tree[words.left] >= 0
        for side in (words.left, words.right):
            part[side][inner] += start
    free = iter(range(1, above))

    def choose(first: int, end: int, place: int) -> None:
        """Let the node at `place` choose among trees `first` to `end`."""
        middle = (first + end) // 2
        node = nodes[place]
        node[words.feature], node[words.threshold] = features, middle - 0.5
        for side, (low, high) in (
            (words.left, (first, middle)),
            (words.right, (middle, end)),
        ):
            if high - low == 1:
                node[side] = starts[low]
            else:
                node[side] = next(free)
                choose(low, high, int(node[side]))

    if above:
        choose(0, len(trees), 0)
    return Merged(nodes, starts)


def _with_number(numpy: Any, x: Any, trees: int) -> Any:
    """Return all rows once for each tree, the tree's number at their end."""
    rows, features = x.shape
    wide = numpy.empty((trees, rows, features + 1), dtype=x.dtype)
    wide[:, :, :features] = x
    wide[:, :, features] = numpy.arange(trees, dtype=x.dtype)[:, None]
    return wide.reshape(trees * rows, features + 1)


def histogram(model: Any) -> Leaves:
    """Return the leaves of a HistGradientBoosting model; one output a tree."""
    numpy = importlib.import_module("numpy")
    walker = importlib.import_module("sklearn.ensemble._hist_gradient_boosting._predictor")
    walk = walker._predict_from_raw_data  # noqa: SLF001  scikit-learn has no public one
    predictors = [one for iteration in model._predictors for one in iteration]  # noqa: SLF001
    features = int(model.n_features_in_)
    trees = [one.nodes.copy() for one in predictors]
    sets = [one.raw_left_cat_bitsets for one in predictors]
    before = 0
    for tree, own in zip(trees, sets):
        tree["bitset_idx"] += before
        before += len(own)
    bitsets = numpy.concatenate(sets)
    known, places = model._bin_mapper.make_known_categories_bitsets()  # noqa: SLF001
    places = numpy.append(places, numpy.zeros(1, dtype=places.dtype))
    nodes = merged(trees, HISTOGRAM, features).nodes
    count = len(trees)

    def leaves(x: Any) -> Any:
        wide = _with_number(numpy, x, count)
        out = numpy.empty(len(wide))
        walk(nodes, wide, bitsets, known, places, 1, out)
        return out.reshape(count, len(x), 1)

    return leaves


def plain(trees: list[Any]) -> Leaves:
    """Return the leaves of trees of ``sklearn.tree``; outputs are classes, or one number.

    Parameters
    ----------
    trees
        Fitted trees, each with ``tree_``.
    """
    numpy = importlib.import_module("numpy")
    kind, (features, classes, outputs), _ = trees[0].tree_.__reduce__()
    states = [one.tree_.__getstate__() for one in trees]
    one = merged([state["nodes"] for state in states], PLAIN, int(features))
    values = numpy.zeros((len(one.nodes), *states[0]["values"].shape[1:]))
    for start, state in zip(one.starts, states):
        values[start : start + len(state["values"])] = state["values"]
    whole = kind(int(features) + 1, classes, outputs)
    depth = max(state["max_depth"] for state in states) + len(trees).bit_length()
    whole.__setstate__(
        {"max_depth": depth, "node_count": len(one.nodes), "nodes": one.nodes, "values": values}
    )
    flat = numpy.ascontiguousarray(values[:, 0, :])
    count = len(trees)

    def leaves(x: Any) -> Any:
        places = whole.apply(_with_number(numpy, x, count))
        return flat.take(places, axis=0).reshape(count, len(x), -1)

    return leaves


def added(first: Any, leaves: Any) -> Any:
    """Add leaves to a first value one after another, as a loop over the trees does.

    Parameters
    ----------
    first
        Shape ``(outputs,)``.
    leaves
        Shape ``(trees, n, outputs)``.
    """
    numpy = importlib.import_module("numpy")
    trees, rows, outputs = leaves.shape
    steps = numpy.empty((trees + 1, rows, outputs))
    steps[0] = first
    steps[1:] = leaves
    # Not `sum`, which adds in pairs: the last bits would differ.
    return numpy.add.accumulate(steps, axis=0)[-1]
