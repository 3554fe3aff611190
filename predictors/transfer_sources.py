"""What other devices take for the same architectures, as columns of rows: learned, so that none is missing or noisy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spaces.description import SpaceDescription
from ..spaces.encoding import Codes
from .base import PredictorError
from .regressors.base import Rows, State
from .regressors.matrix import one_hot
from .regressors.ridge import relative_ridge
from .regressors.transfer import PRUNED, SOURCE
from .threads import one_thread

Vector = NDArray[np.float64]
ROWS, LEAST = 3000, 10
"""Rows of a source that are learned from, at most and at least."""
PAIRS = 1000
"""Pairs of categories up to which these are columns too."""
ROUNDS, BROAD = 3, 2.0
"""Rounds in which rows far off lose weight; how many deviations are far."""
FLOOR = 0.5
"""Share of a source's smallest value that is said at least."""
CHUNK = 8192


@dataclass(frozen=True, eq=False)
class SourceRows:
    """Architectures with their latencies on another device.

    Attributes:
        name: for people; different for each source.
        rows, latency: (N,) positive.
    """

    name: str
    rows: Rows
    latency: Vector


@dataclass(frozen=True, eq=False)
class SourceCodes:
    """The same of one space: (N, decisions) canonical codes and (N,) latencies, in random order."""

    name: str
    codes: Codes
    latency: Vector


@dataclass(frozen=True, eq=False)
class Sources:
    """A robust ridge regression of each source: sums of choices, numbers, and, where these are few, pairs of choices.

    Attributes:
        names: of the sources.
        layout: of the rows that they were learned from (see `Rows.layout`); rows may have more columns at the end.
        paired: numbers of the categorical columns whose pairs count.
        weights: (columns, sources). floors: (sources,) smallest value that each says.
    """

    names: tuple[str, ...]
    layout: tuple[tuple[int, ...], tuple[str, ...]]
    paired: tuple[int, ...]
    weights: Vector
    floors: Vector

    @classmethod
    @one_thread()
    def learned(cls, sources: Sequence[SourceRows]) -> Sources:
        """From rows of one layout; of many rows, the first `ROWS` (give them in random order).

        Raises:
            PredictorError: a source has too few rows, or one latency for all.
        """
        for own in sources:
            check_latencies(own.name, own.latency)
        layout, paired = sources[0].rows.layout, _paired(sources[0].rows)
        weights, floors = [], []
        for own in sources:
            y = own.latency[:ROWS]
            weights.append(_robust(_matrix(own.rows.take(slice(ROWS)), paired), y))
            floors.append(FLOOR * float(y.min()))
        return cls(tuple(own.name for own in sources), layout, paired, np.stack(weights, axis=1), np.array(floors))

    def predict(self, rows: Rows) -> Vector:
        """(N, sources)"""
        sizes, names = self.layout
        own = replace(
            rows, numeric=rows.numeric[:, : len(names)], names=rows.names[: len(names)], graphs=None, operators=None
        )
        if own.layout != (sizes, names):
            raise PredictorError("the sources were learned from rows with other columns")
        parts = [own.take(slice(i, i + CHUNK)) for i in range(0, max(len(rows), 1), CHUNK)]
        return np.maximum(np.concatenate([_matrix(part, self.paired) @ self.weights for part in parts]), self.floors)

    def added(self, rows: Rows, pruned: Rows | None = None) -> Rows:
        """Rows with a numeric column for each source, and one for the pruned architectures where these are given."""
        found = rows
        for start, own in ((SOURCE, rows), (PRUNED, pruned)):
            if own is not None:
                names = tuple(f"{start}{name}" for name in self.names)
                numeric = np.concatenate([found.numeric, self.predict(own)], axis=1)
                found = replace(found, numeric=numeric, names=(*found.names, *names))
        return found

    def state(self) -> State:
        """JSON data and arrays."""
        sizes, names = self.layout
        about = {"names": list(self.names), "sizes": list(sizes), "columns": list(names), "paired": list(self.paired)}
        return about, {"weights": self.weights, "floors": self.floors}

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Sources:
        """The inverse of `state`; raises KeyError, TypeError or ValueError for damaged data."""
        sizes, paired = (tuple(int(n) for n in meta[name]) for name in ("sizes", "paired"))
        names, columns = (tuple(str(name) for name in meta[own]) for own in ("names", "columns"))
        weights, floors = arrays["weights"].astype(float), arrays["floors"].astype(float)
        if any(not 0 <= c < len(sizes) for c in paired):
            raise ValueError("the pairs of the sources do not fit the choices")
        width = sum(sizes) + len(columns) + 1 + sum(sizes[c] * sizes[d] for c, d in itertools.combinations(paired, 2))
        if weights.shape != (width, len(names)) or floors.shape != (len(names),) or not names:
            raise ValueError("the weights of the sources do not fit the columns")
        if not np.isfinite(weights).all() or not (np.isfinite(floors) & (floors > 0)).all():
            raise ValueError("the weights of the sources are no numbers")
        return cls(names, (sizes, columns), paired, weights, floors)


def pruned(description: SpaceDescription, codes: Codes, live: NDArray[np.bool_]) -> Codes | None:
    """What is left of (N, decisions) codes when operators without effect become zeros.

    Args:
        live: (N, nodes) see `spaces.evaluation.liveness`.

    Returns:
        Codes, to be made canonical; None where the space has no candidates that give zeros.
    """
    found = codes.copy()
    changed = False
    for d, own in enumerate(description.nodes_of):
        zeros = [j for j in range(len(description.decisions[d])) if all(not description.nodes[v].data[j] for v in own)]
        if own and zeros:
            found[(codes[:, d] >= 0) & ~live[:, own].any(axis=1), d] = zeros[0]
            changed = True
    return found if changed else None


def check_latencies(name: str, y: Vector) -> None:
    """Raise PredictorError unless a source's (N,) latencies say something."""
    if len(y) < LEAST:
        raise PredictorError(f"source {name}: {len(y)} rows can be used, at least {LEAST} are needed")
    if np.ptp(y) == 0:
        raise PredictorError(f"source {name} is constant ({y[0]:g}): it says nothing, leave it out")


# -- inside


def _paired(rows: Rows) -> tuple[int, ...]:
    """The choices themselves, not what is live of them; none where their pairs are too many."""
    own = tuple(i for i in range(len(rows.sizes)) if not (rows.labels and rows.labels[i].startswith("live ")))
    many = sum(rows.sizes[c] * rows.sizes[d] for c, d in itertools.combinations(own, 2))
    return own if many <= PAIRS else ()


def _matrix(rows: Rows, paired: Sequence[int]) -> Vector:
    """(N, columns)"""
    hot = one_hot(rows)
    ends = np.cumsum([0, *rows.sizes])
    each = [hot[:, ends[c] : ends[c + 1]] for c in paired]
    pairs = [(a[:, :, None] * b[:, None]).reshape(len(rows), -1) for a, b in itertools.combinations(each, 2)]
    return np.concatenate([hot, rows.numeric, np.ones((len(rows), 1)), *pairs], axis=1)


def _robust(matrix: Vector, y: Vector) -> Vector:
    """(columns,) weights by relative error, in which rows count less the farther they are off (Cauchy's weights)."""
    varied = (matrix != 0).any(axis=0)
    used, noise = matrix[:, varied], np.ones(len(y))
    weights = np.zeros(matrix.shape[1])
    for _ in range(ROUNDS):
        weights[varied], _ = relative_ridge(used, y, noise)
        off = np.abs(used @ weights[varied] / y - 1)
        usual = 1.4826 * float(np.median(off)) + 1e-4
        noise = 1 + (off / (BROAD * usual)) ** 2
    return weights
