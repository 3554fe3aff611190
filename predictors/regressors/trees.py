"""Decision trees as arrays, grown by scikit-learn and evaluated here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Arrays


@dataclass(frozen=True, eq=False)
class Trees:
    """The sum of some regression trees.

    Attributes:
        feature, threshold: (nodes,) a row goes left where matrix[:, feature] <= threshold.
        left: (nodes,) number of the left child, the right one is the next; of a leaf its own number.
        value: (nodes,) what a leaf adds.
        roots, depths: (trees,) first node and longest path of each tree.
        constant: what is added in any case.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    value: NDArray[np.float64]
    roots: NDArray[np.int32]
    depths: NDArray[np.int32]
    constant: float = 0.0

    @classmethod
    def grown(cls, trees: Sequence[Any], *, scale: float = 1.0, constant: float = 0.0) -> Trees:
        """From scikit-learn's `tree_` of each regression tree; all values times `scale`."""
        if not trees:
            nothing = np.empty(0, np.int32)
            return cls(nothing, np.empty(0, np.float32), nothing, np.empty(0), nothing, nothing, constant)
        parts = [_relinked(tree, scale) for tree in trees]
        starts = np.cumsum([0, *(len(p["left"]) for p in parts)])
        joined = {name: np.concatenate([p[name] for p in parts]) for name in ("feature", "threshold", "value")}
        left = np.concatenate([p["left"] + start for p, start in zip(parts, starts, strict=False)]).astype(np.int32)
        depths = np.array([tree.max_depth for tree in trees], np.int32)
        return cls(left=left, roots=starts[:-1].astype(np.int32), depths=depths, constant=constant, **joined)

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N,) of an (N, features) matrix."""
        total = np.full(len(matrix), self.constant)
        small = self._small
        columns = np.ascontiguousarray(matrix.T) if any(own is not None for own in small) else matrix
        rows = np.ascontiguousarray(matrix).ravel() if any(own is None for own in small) else matrix
        starts = np.arange(len(matrix)) * matrix.shape[1]
        for root, depth, own in zip(self.roots.tolist(), self.depths.tolist(), small, strict=True):
            if own is not None:
                total += own.leaves(columns)
            else:
                total += self._by_steps(rows, starts, root, depth)
        return total

    def _by_steps(self, flat: np.ndarray, starts: NDArray[np.intp], root: int, depth: int) -> NDArray[np.float64]:
        """What one tree adds, all rows one level down at a time."""
        feature, left = self._links
        node = np.full(len(starts), root)
        for _ in range(depth):
            at = feature.take(node)
            at += starts
            right = flat.take(at) > self.threshold.take(node)
            node = left.take(node)
            node += right
        return self.value.take(node)

    @cached_property
    def _links(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Features and left children in the type that numpy indexes by, which saves a conversion at every step."""
        return self.feature.astype(np.intp), self.left.astype(np.intp)

    @cached_property
    def _small(self) -> list[_SmallTree | None]:
        """Each tree that is small enough in its faster form."""
        return [_SmallTree.of(self, root) for root in self.roots.tolist()]

    def arrays(self) -> Arrays:
        return {part.name: np.asarray(getattr(self, part.name)) for part in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], width: int) -> Trees:
        """The inverse of `arrays`, for matrices of so many columns.

        Raises:
            KeyError, TypeError, ValueError: these are no trees.
        """
        feature, left, roots, depths = (arrays[n].astype(np.int32) for n in ("feature", "left", "roots", "depths"))
        threshold, value = arrays["threshold"].astype(np.float32), arrays["value"].astype(float)
        n = len(feature)
        own = np.arange(n)
        inside = (left >= own) & (left + np.isfinite(threshold) < n)
        if any(a.shape != (n,) for a in (threshold, left, value)) or depths.shape != roots.shape or not inside.all():
            raise ValueError("the trees are no trees")
        if ((feature < 0) | (feature >= width)).any() or ((roots < 0) | (roots >= n)).any() or (depths > n).any():
            raise ValueError("the trees point elsewhere")
        return cls(feature, threshold, left, value, roots, depths, float(arrays["constant"]))


@dataclass(frozen=True, eq=False)
class _SmallTree:
    """A tree of up to 8 leaves, evaluated without branches (QuickScorer, Lucchese et al., 2015).

    A byte of each row holds a bit for each leaf, from left to right. A test that sends the row right strikes out the
    leaves on its left; the lowest bit that is left over in the end is the row's leaf.

    Attributes:
        tests: feature, threshold, and the leaves on the left.
        values: (256,) of the lowest bit in each byte.
    """

    tests: tuple[tuple[int, np.float32, np.uint8], ...]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, trees: Trees, root: int) -> _SmallTree | None:
        """The tree at `root`; None for one with more leaves."""
        leaves: list[int] = []
        tests: list[tuple[int, np.float32, np.uint8]] = []

        def walk(node: int, level: int) -> int:
            """Bits of the leaves under a node."""
            left = int(trees.left[node])
            if left == node or level > 7 or len(leaves) > 8:
                leaves.extend([node] * (1 if left == node else 9))
                return 1 << (len(leaves) - 1)
            mine = walk(left, level + 1)
            both = mine | walk(left + 1, level + 1)
            tests.append((int(trees.feature[node]), trees.threshold[node], np.uint8(mine & 255)))
            return both

        walk(root, 0)
        if len(leaves) > 8:
            return None
        lowest = (np.arange(256)[:, None] >> np.arange(len(leaves)) & 1).argmax(axis=1)
        return cls(tuple(tests), trees.value[leaves][lowest])

    def leaves(self, columns: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N,) value of each row's leaf; (features, N) columns."""
        bits = np.full(columns.shape[1], 255, np.uint8)
        for feature, threshold, left in self.tests:
            struck = (columns[feature] > threshold).view(np.uint8) * left
            bits &= np.invert(struck, out=struck)
        return self.values.take(bits)


def _relinked(tree: Any, scale: float) -> dict[str, np.ndarray]:
    """Nodes by level, siblings side by side; a leaf is its own child, and its threshold sends all rows left."""
    order, at = [0], 0
    while at < len(order):
        node = order[at]
        if tree.children_left[node] >= 0:
            order += [tree.children_left[node], tree.children_right[node]]
        at += 1
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order))
    old = np.array(order)
    leaf = tree.children_left[old] < 0
    own = np.arange(len(old), dtype=np.int32)
    return {
        "feature": np.where(leaf, 0, tree.feature[old]).astype(np.int32),
        "threshold": np.where(leaf, np.inf, _float32_below(tree.threshold[old])).astype(np.float32),
        "left": np.where(leaf, own, place[tree.children_left[old]]).astype(np.int32),
        "value": scale * tree.value[old, 0, 0],
    }


def _float32_below(threshold: np.ndarray) -> NDArray[np.float32]:
    """The largest float32 that is not above each; to float32 numbers it is the same threshold."""
    rounded = threshold.astype(np.float32)
    return np.where(rounded > threshold, np.nextafter(rounded, np.float32(-np.inf)), rounded)
