"""What a compiled network has between its operators, as far as it depends on the architecture.

- Where several nodes' outputs are summed (or joined otherwise), one operation for each live one beyond the first.
- Where an operator with weights sees only constants, it is folded away, but its constant result is still added.
- Operators without weights that do the same to the same input are done once (common subexpressions).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .description import INPUT, SpaceDescription
from .evaluation import Evaluation

GLUE = ("glue: sum", "glue: constant")
"""Names under which the two kinds of glue have their cost; in a term their numbers follow those of the workloads."""

Column = NDArray[np.int32]


@dataclass(frozen=True)
class Join:
    """Nodes whose outputs are combined by the network itself."""

    members: tuple[int, ...]

    def columns(self, description: SpaceDescription, evaluation: Evaluation) -> list[Column]:
        """What it costs in each architecture: numbers of glue, -1 for nothing."""
        number = len(description.workloads)
        alive, constant = evaluation.live(), self._constants(description, evaluation)
        count = np.sum([alive[v] for v in self.members], axis=0)
        sums = [np.where(count > k, number, -1).astype(np.int32) for k in range(1, len(self.members))]
        return [*sums, np.where(constant & (count > 0), number + 1, -1).astype(np.int32)]

    def _constants(self, description: SpaceDescription, evaluation: Evaluation) -> NDArray[np.bool_]:
        fed, used, workloads = evaluation.fed(), evaluation.used(), evaluation.workloads()
        weighted = np.array([not w.weightless for w in description.workloads] + [False])
        found = np.zeros(evaluation.n, bool)
        for v in self.members:
            reached = evaluation.reached(description.nodes[v].reach)
            found |= used[v] & ~fed[v] & reached & weighted[workloads[v]]
        return found


def joins(description: SpaceDescription, certain: Iterable[int]) -> list[Join]:
    """Joins with a member that is not `certain` to be live."""
    sets = {sources for node in description.nodes for sources in node.data} | {description.outputs}
    surely = set(certain)
    found = {tuple(u for u in sources if u != INPUT) for sources in sets if not surely.issuperset(sources)}
    return [Join(members) for members in sorted(found) if len(members) > 1]


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
