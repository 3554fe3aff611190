"""Many architectures at once on a description: which states, workloads and live operators its nodes have.

The unit is a column over architectures for each node. A `Scope` restricts the work to the nodes that matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .description import INPUT, Node, SpaceDescription, SpaceError

UNSEEN = -2
"""State of a node that sees a combination of shapes which no run of discovery has shown."""
CHUNK = 8192
"""Rows evaluated at a time, so that the columns stay in the cache."""

Column = NDArray[np.bool_]


@dataclass(frozen=True)
class Scope:
    """Which nodes matter to a question; the tuples ascend.

    Attributes:
        states: nodes whose shapes must be known.
        fed, used: nodes of which it must be found out whether they see the network's input, reach its output.
        surely_fed, surely_used: nodes (or INPUT) that do once they are called.
    """

    states: tuple[int, ...]
    fed: tuple[int, ...]
    used: tuple[int, ...]
    surely_fed: frozenset[int]
    surely_used: frozenset[int]


def whole(description: SpaceDescription) -> Scope:
    """The scope of everything."""
    every = tuple(range(len(description.nodes)))
    return Scope(every, every, every, frozenset({INPUT}), frozenset(description.outputs))


class Evaluation:
    """The columns for some architectures.

    Args:
        codes: (N, decisions) integer rows; entries of unreached decisions do not matter.
    """

    def __init__(self, description: SpaceDescription, codes: np.ndarray, scope: Scope) -> None:
        self.nodes = description.nodes
        self.n = len(codes)
        self.codes = np.ascontiguousarray(codes.T)
        self.scope = scope
        self.reached = cache(self._reached)
        self.workloads = cache(self._workloads)
        self.fed = cache(self._fed)
        self.used = cache(self._used)

    def _workloads(self) -> dict[int, NDArray[np.int32]]:
        """Number of the workload of each node in `scope.states`: -1 for none, UNSEEN where shapes are unknown."""
        return {v: workloads for v, (_, workloads) in self._states().items()}

    def live(self) -> dict[int, Column]:
        """Whether each node in both `scope.fed` and `scope.used` sees the input and reaches the output."""
        fed, used = self.fed(), self.used()
        return {v: fed[v] & used[v] for v in self.scope.fed if v in used}

    # -- shapes

    def _states(self) -> dict[int, tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """For each node the state of its output and its workload."""
        found: dict[int, tuple[NDArray[np.int32], NDArray[np.int32]]] = {}
        for v in self.scope.states:
            node = self.nodes[v]
            states, workloads = np.full((2, self.n), -1, np.int32)
            for j, at in self._by_candidate(node):
                before, after = _transition(node, j, [found[u][0][at] for u in node.shape[j]], len(at))
                table = np.array([-1 if w is None else w for w in node.workloads[j]] or [-1], np.int32)
                states[at] = after
                workloads[at] = np.where(before < 0, before, table[np.clip(before, 0, len(table) - 1)])
            found[v] = states, workloads
        return found

    def unseen(self) -> dict[int, NDArray[np.intp]]:
        """Rows in which a node meets an undiscovered combination of known shapes: one for each such combination."""
        found = self._states()
        first = {}
        for v, (_, workloads) in found.items():
            rows = np.flatnonzero(workloads == UNSEEN)
            if len(rows):
                node = self.nodes[v]
                sources = sorted({u for own in node.shape for u in own})
                own = np.zeros(len(rows), np.int32) if node.decision is None else self.codes[node.decision][rows]
                context = np.stack([own, *(found[u][0][rows] for u in sources)])
                known = (context[1:] != UNSEEN).all(axis=0)
                first[v] = rows[known][np.unique(context[:, known], axis=1, return_index=True)[1]]
        return first

    # -- liveness

    def _fed(self) -> dict[int, Column]:
        """Whether each node in `scope.fed` is called and sees the network's input."""
        fed: dict[int, Column] = {}
        for v in self.scope.fed:
            node = self.nodes[v]
            if v in self.scope.surely_fed:
                fed[v] = self.reached(node.reach)
                continue
            surely = [not self.scope.surely_fed.isdisjoint(sources) for sources in node.data]
            column = self._selects(node, surely)
            for u in {u for sources in node.data for u in sources if u in fed}:
                column = column | (self._selects(node, [u in sources for sources in node.data]) & fed[u])
            fed[v] = column & self.reached(node.reach)
        return fed

    def _used(self) -> dict[int, Column]:
        """Whether the network's output depends on each node in `scope.used`, if that is called."""
        used: dict[int, Column] = {}
        inside = set(self.scope.used)
        for v in reversed(self.scope.used):
            node = self.nodes[v]
            column = used.setdefault(v, np.zeros(self.n, bool))
            if v in self.scope.surely_used:
                column[:] = True
            here = column & self.reached(node.reach)
            for u in {u for sources in node.data for u in sources if u in inside and u not in self.scope.surely_used}:
                uses = self._selects(node, [u in sources for sources in node.data])
                used[u] = used.setdefault(u, np.zeros(self.n, bool)) | (here & uses)
        return used

    # -- who is called

    def _reached(self, reach: tuple[tuple[int, int], ...]) -> Column:
        reached = np.ones(self.n, bool)
        for decision, candidate in reach:
            reached &= self.codes[decision] == candidate
        return reached

    def _selects(self, node: Node, candidates: list[bool]) -> Column:
        """Where the node's own decision is one of `candidates`."""
        if node.decision is None or all(candidates) or not any(candidates):
            return np.full(self.n, candidates[0])
        return np.array(candidates)[self.codes[node.decision]]

    def _by_candidate(self, node: Node) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Each candidate that is used somewhere, and the rows in which it is."""
        reached = self.reached(node.reach)
        if node.decision is None:
            yield 0, np.flatnonzero(reached)
            return
        own = self.codes[node.decision]
        for j in range(len(node.data)):
            at = np.flatnonzero(reached & (own == j))
            if len(at):
                yield j, at


def _transition(
    node: Node, candidate: int, context: list[NDArray[np.int32]], n: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """State of the input and of the output in each row."""
    before, after = np.full((2, n), UNSEEN, np.int32)
    for key, state_in, state_out in node.states[candidate]:
        same = np.ones(n, bool)
        for column, state in zip(context, key, strict=True):
            same &= column == state
        before[same], after[same] = state_in, state_out
    return before, after


def usage(description: SpaceDescription, codes: np.ndarray, *, live: bool) -> NDArray[np.int32]:
    """(N, nodes) number of the workload that each node uses in each architecture, -1 for none.

    Args:
        codes: (N, decisions) canonical integer rows.
        live: leave out operators whose output nothing uses, or that only see constants; a compiled runtime drops them.

    Raises:
        SpaceError: an architecture combines shapes that discovery did not meet.
    """
    result = np.empty((len(codes), len(description.nodes)), np.int32)
    scope = whole(description)
    for start in range(0, len(codes), CHUNK):
        evaluation = Evaluation(description, codes[start : start + CHUNK], scope)
        alive = evaluation.live() if live else {}
        for v, workloads in evaluation.workloads().items():
            check_seen(description.nodes[v], workloads)
            result[start : start + CHUNK, v] = np.where(alive[v], workloads, -1) if live else workloads
    return result


def occurrences(used: NDArray[np.int32], n: int) -> NDArray[np.float64]:
    """(N, n) how often each of n workloads occurs among (N, nodes) numbers of them, -1 for none."""
    flat = (used + np.arange(len(used))[:, None] * (n + 1) + 1).ravel()
    return np.bincount(flat, minlength=len(used) * (n + 1)).reshape(-1, n + 1)[:, 1:].astype(float)


def check_seen(node: Node, workloads: NDArray[np.int32]) -> None:
    """SpaceError where the node meets shapes that discovery did not."""
    if (workloads == UNSEEN).any():
        raise SpaceError(f"module {node.path!r} meets a combination of input shapes that was not discovered")


def liveness(description: SpaceDescription, codes: np.ndarray) -> Column:
    """(N, nodes): the node depends on the network's input and the network's output depends on it."""
    alive = Evaluation(description, codes, whole(description)).live()
    return np.stack([alive[v] for v in range(len(description.nodes))], axis=1)


def product(description: SpaceDescription, options: Mapping[int, Sequence[int]]) -> Iterator[NDArray[np.int16]]:
    """Every combination of some decisions' candidates (0 elsewhere), the last decision fastest, in chunks."""
    sizes = [len(own) for own in options.values()]
    total = int(np.prod(sizes, dtype=np.int64))
    for start in range(0, total, CHUNK):
        ranks = np.arange(start, min(start + CHUNK, total))
        codes = np.zeros((len(ranks), len(description.decisions)), np.int16)
        if options:
            for d, index in zip(options, np.unravel_index(ranks, sizes), strict=True):
                codes[:, d] = np.array(options[d], np.int16)[index]
        yield codes
