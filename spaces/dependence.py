"""On which decisions the workload of a node depends, and which of their candidates act alike in that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from .description import INPUT, Node, SpaceDescription
from .evaluation import Scope


class Dependence:
    """Follows the data flow of one description."""

    def __init__(self, description: SpaceDescription) -> None:
        self.nodes = description.nodes
        self.outputs = frozenset(description.outputs) - {INPUT}
        self.sizes = [len(decision) for decision in description.decisions]
        self.consumers: list[list[int]] = [[] for _ in self.nodes]
        for w, node in enumerate(self.nodes):
            for u in {u for sources in node.data for u in sources if u != INPUT}:
                self.consumers[u].append(w)
        self.surely_fed = self._surely_fed({})
        self.surely_used = self._surely_used({})

    def decisions(self, v: int, *, live: bool) -> tuple[int, ...]:
        """Ascending numbers of the decisions that node `v`'s workload depends on."""
        node = self.nodes[v]
        found = self._deciding(v)
        for u in self.shape_cone([v]):
            found |= self._deciding(u)
        if live:
            given = dict(node.reach)
            found |= self._deciding_use(v, given) | self._deciding_feed(v, given)
        return tuple(sorted(found))

    def scope(self, group: Sequence[int], *, live: bool) -> Scope:
        """The nodes that matter to the workloads of `group`."""
        states = tuple(sorted({*group, *self.shape_cone(group)}))
        if not live:
            return Scope(states, (), (), frozenset(), frozenset())
        fed = _closure(group, lambda w: {u for own in self.nodes[w].data for u in own} - self.surely_fed)
        used = _closure(group, lambda u: [] if u in self.surely_used else self.consumers[u])
        return Scope(states, tuple(sorted(fed)), tuple(sorted(used)), self.surely_fed, self.surely_used)

    def classes(self, group: Sequence[int], decisions: Iterable[int], scope: Scope) -> dict[int, tuple[int, ...]]:
        """For each decision the class of every candidate; candidates of one class give `group` the same workloads."""
        relevant = sorted({*scope.states, *scope.fed, *scope.used})
        return {d: self._classes(d, set(group), relevant, scope) for d in decisions}

    def _classes(self, d: int, group: Collection[int], relevant: Sequence[int], scope: Scope) -> tuple[int, ...]:
        told_apart = {c for u in relevant for decision, c in self.nodes[u].reach if decision == d}
        own = [u for u in relevant if self.nodes[u].decision == d]
        numbers: dict[object, int] = {}
        result = []
        for j in range(self.sizes[d]):
            effect = (j if j in told_apart else None, tuple(self._effect(u, j, group, scope) for u in own))
            result.append(numbers.setdefault(effect, len(numbers)))
        return tuple(result)

    def _effect(self, u: int, j: int, group: Collection[int], scope: Scope) -> tuple[object, ...]:
        """What candidate `j` of node `u` means to the workloads of `group`."""
        node = self.nodes[u]
        effect: list[object] = []
        if u in group:
            effect += [node.workloads[j], node.shape[j], node.states[j]]
        elif u in scope.states:
            effect += [node.shape[j], tuple((key, after) for key, _, after in node.states[j])]
        sources = frozenset(node.data[j])
        if u in scope.fed and u not in scope.surely_fed:
            effect.append(None if sources & scope.surely_fed else sources & frozenset(scope.fed))
        if u in scope.used:
            effect.append(sources & frozenset(scope.used) - scope.surely_used)
        return tuple(effect)

    def shape_cone(self, group: Iterable[int]) -> set[int]:
        """Nodes whose output shapes matter to the shapes at `group`."""
        start = {u for v in group for sources in self.nodes[v].shape for u in sources}
        return _closure(start, lambda w: {u for sources in self.nodes[w].shape for u in sources})

    # -- what is certain, whatever is decided beyond `given`

    def _surely_used(self, given: Mapping[int, int]) -> frozenset[int]:
        certain = set(self.outputs)
        for u in reversed(range(len(self.nodes))):
            if any(w in certain and self._uses(w, u, given) for w in self.consumers[u]):
                certain.add(u)
        return frozenset(certain)

    def _surely_fed(self, given: Mapping[int, int]) -> frozenset[int]:
        certain = {INPUT}
        for w, node in enumerate(self.nodes):
            if all(not certain.isdisjoint(sources) for sources in _possible(node, given)):
                certain.add(w)
        return frozenset(certain)

    def _uses(self, w: int, u: int, given: Mapping[int, int]) -> bool:
        """Whether node `w` is called and uses node `u`."""
        node = self.nodes[w]
        if any(given.get(d) != c for d, c in node.reach):
            return False
        return all(u in sources for sources in _possible(node, given))

    # -- what decides the rest

    def _deciding_use(self, v: int, given: Mapping[int, int]) -> set[int]:
        """Decisions on which it depends whether anything uses node `v`."""
        certain = self._surely_used(given) if given else self.surely_used
        found: set[int] = set()
        for u in _closure({v} - certain, lambda u: set(self.consumers[u]) - certain):
            for w in self.consumers[u]:
                if not self._uses(w, u, given):
                    found |= self._deciding(w)
        return found

    def _deciding_feed(self, v: int, given: Mapping[int, int]) -> set[int]:
        """Decisions on which it depends whether node `v`, once reached, sees anything but constants."""
        certain = self._surely_fed(given) if given else self.surely_fed
        found: set[int] = set()
        for w in _closure({v} - certain, lambda w: {u for own in self.nodes[w].data for u in own} - certain):
            found |= self._deciding(w)
        return found

    def _deciding(self, w: int) -> set[int]:
        node = self.nodes[w]
        own = set() if node.decision is None else {node.decision}
        return own | {d for d, _ in node.reach}


def _possible(node: Node, given: Mapping[int, int]) -> Sequence[tuple[int, ...]]:
    """What the node's output may be made of."""
    if node.decision is None or node.decision not in given:
        return node.data
    return (node.data[given[node.decision]],)


def _closure(start: Iterable[int], following: Callable[[int], Iterable[int]]) -> set[int]:
    found: set[int] = set()
    waiting = set(start)
    while waiting:
        v = waiting.pop()
        found.add(v)
        waiting |= set(following(v)) - found
    return found
