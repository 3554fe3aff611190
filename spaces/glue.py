"""What a compiled network has between its operators, as far as it depends on the architecture.

- Where several nodes' outputs are summed (or joined otherwise), one operation for each live one beyond the first.
- Where an operator with weights sees only constants, it is folded away, but its constant result is still added, unless
  another operator with weights takes it up into its bias.
- Where an identity is chosen, what follows the choice (a residual sum, say) finds no operator to fuse with.
- Operators without weights that do the same to the same input are done once (common subexpressions).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .description import INPUT, SpaceDescription
from .evaluation import Evaluation

GLUE = ("glue: sum", "glue: constant", "glue: pass")
"""Names under which the kinds of glue have their cost; in a term their numbers follow those of the workloads."""

Column = NDArray[np.int32]
Flags = NDArray[np.bool_]


class Sums:
    """Which nodes' outputs each node reads combined, and who else reads the same."""

    def __init__(self, description: SpaceDescription) -> None:
        self.description = description
        self.weightless = np.array([w.weightless for w in description.workloads] + [True])
        several = [{own for own in node.data if own} for node in description.nodes]
        self.reads = [next(iter(own)) if len(own) == 1 else () for own in several]
        self.readers: dict[tuple[int, ...], list[int]] = {}
        for v, own in enumerate(self.reads):
            self.readers.setdefault(own, []).append(v)
        self.all = {sources for own in several for sources in own} | {description.outputs}

    def behind(self, members: Iterable[int]) -> set[int]:
        """The members, and all nodes on which it depends whether a constant added to one is taken up further back."""
        found: set[int] = set()
        waiting = set(members)
        while waiting:
            v = waiting.pop()
            found.add(v)
            sources = self.reads[v]
            if sources and INPUT not in sources and self._passes(v):
                waiting |= {*sources, *self.readers[sources]} - found
        return found

    def _passes(self, v: int) -> bool:
        """Whether some candidate of a node is an identity."""
        node = self.description.nodes[v]
        return any(own and None in used for own, used in zip(node.data, node.workloads, strict=True))

    def takes(self, v: int, evaluation: Evaluation, known: dict[int, Flags]) -> Flags:
        """Whether node `v` is live and takes a constant up.

        It has weights, or it passes its input on, nobody else reads that, and there the constant is taken up or joins
        another one.
        """
        if v not in known:
            alive, workloads = evaluation.live(), evaluation.workloads()
            result = alive[v] & ~self.weightless[workloads[v]]
            sources = self.reads[v]
            if sources and INPUT not in sources and self._passes(v):
                alone = np.sum([alive[u] for u in self.readers[sources]], axis=0) == 1
                further = np.any([self.takes(u, evaluation, known) for u in sources], axis=0)
                further |= self.constant(sources, evaluation)
                result = result | (alive[v] & (workloads[v] < 0) & alone & further)
            known[v] = result
        return known[v]

    def constant(self, members: Iterable[int], evaluation: Evaluation) -> Flags:
        """Whether one of the nodes has weights but sees only constants, so that its own is left of it."""
        fed, used, workloads = evaluation.fed(), evaluation.used(), evaluation.workloads()
        found = np.zeros(evaluation.n, bool)
        for v in members:
            reached = evaluation.reached(self.description.nodes[v].reach)
            found |= used[v] & reached & ~fed[v] & ~self.weightless[workloads[v]]
        return found


@dataclass(frozen=True)
class Join:
    """Nodes whose outputs are combined by the network itself.

    Attributes:
        members: these nodes. nodes: all that its cost depends on.
    """

    members: tuple[int, ...]
    nodes: tuple[int, ...]
    sums: Sums

    def columns(self, description: SpaceDescription, evaluation: Evaluation) -> list[Column]:
        """What it costs in each architecture: numbers of glue, -1 for nothing."""
        number = len(description.workloads)
        alive = evaluation.live()
        count = np.sum([alive[v] for v in self.members], axis=0)
        sums = [np.where(count > k, number, -1).astype(np.int32) for k in range(1, len(self.members))]
        known: dict[int, Flags] = {}
        taken = np.any([self.sums.takes(v, evaluation, known) for v in self.members], axis=0)
        constant = self.sums.constant(self.members, evaluation) & ~taken & (count > 0)
        return [*sums, np.where(constant, number + 1, -1).astype(np.int32)]


def joins(description: SpaceDescription, certain: Iterable[int]) -> list[Join]:
    """Joins with a member that is not `certain` to be live."""
    sums = Sums(description)
    surely = set(certain)
    found = {tuple(u for u in sources if u != INPUT) for sources in sums.all if not surely.issuperset(sources)}
    return [Join(members, tuple(sorted(sums.behind(members))), sums) for members in sorted(found) if len(members) > 1]


def twins(description: SpaceDescription) -> dict[int, tuple[int, ...]]:
    """For each node the earlier ones that may do the same, without weights, to the same input."""
    by_source: dict[frozenset[int], list[int]] = {}
    weightless = [w.weightless for w in description.workloads]
    offers: list[set[int]] = []
    for v, node in enumerate(description.nodes):
        offers.append({w for per_state in node.workloads for w in per_state if w is not None and weightless[w]})
        sources = {frozenset(own) for own in node.data if own}
        if offers[v] and len(sources) == 1:
            by_source.setdefault(sources.pop(), []).append(v)
    return {
        v: earlier
        for group in by_source.values()
        for i, v in enumerate(group)
        if (earlier := tuple(u for u in group[:i] if offers[u] & offers[v]))
    }


def without_repeats(
    description: SpaceDescription, columns: Mapping[int, Column], v: int, earlier: Sequence[int]
) -> Column:
    """Node `v`'s live workloads without those that an earlier node computes already."""
    weightless = np.array([w.weightless for w in description.workloads] + [False])
    own = columns[v]
    repeated = np.zeros(len(own), bool)
    for u in earlier:
        repeated |= (own == columns[u]) & weightless[own]
    return np.where(repeated, -1, own).astype(np.int32)
