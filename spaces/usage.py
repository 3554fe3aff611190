"""Which workloads an architecture uses: evaluated for many architectures at once, and as small dense terms.

A latency that is a sum over workloads is a sum of *terms*: arrays over the candidates of a few decisions each. That
makes prediction a lookup and the expectation under independent choice probabilities an exact multilinear form, with
nesting, ties, changing shapes and dead operators all accounted for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .description import INPUT, Node, SpaceDescription, SpaceError

TERM_LIMIT = 2_000_000
"""Entries one term may have before it is too large to hold."""

UNSEEN = -2


@dataclass(frozen=True)
class Term:
    """The nodes whose workload depends on the same decisions.

    Attributes:
        decisions: which ones, ascending.
        sizes: the candidates of each.
        workloads: (nodes, product of sizes) number of the workload each node uses, -1 for none.
    """

    decisions: tuple[int, ...]
    sizes: tuple[int, ...]
    workloads: NDArray[np.int32]


def usage(description: SpaceDescription, codes: np.ndarray, *, live: bool) -> NDArray[np.int32]:
    """(N, nodes) number of the workload that each node uses in each architecture, -1 for none.

    Args:
        codes: (N, decisions) canonical integer rows.
        live: leave out operators whose output nothing uses, or that only see constants; a compiled runtime drops them.

    Raises:
        SpaceError: an architecture combines shapes that discovery did not meet.
    """
    workloads = _workloads(description, codes)
    if (workloads == UNSEEN).any():
        node = description.nodes[int(np.argwhere(workloads == UNSEEN)[0, 1])]
        raise SpaceError(f"module {node.path!r} meets a combination of input shapes that was not discovered")
    if live:
        workloads[~liveness(description, codes)] = -1
    return workloads


def liveness(description: SpaceDescription, codes: np.ndarray) -> NDArray[np.bool_]:
    """(N, nodes): the node depends on the network's input and the network's output depends on it."""
    nodes = description.nodes
    fed = np.zeros((len(codes), len(nodes)), bool)
    for v, node in enumerate(nodes):
        for holds, j in _choices(node, codes):
            for u in node.data[j]:
                fed[:, v] |= holds if u == INPUT else holds & fed[:, u]
    used = np.zeros_like(fed)
    for u in description.outputs:
        if u != INPUT:
            used[:, u] = True
    for v in reversed(range(len(nodes))):
        for holds, j in _choices(nodes[v], codes):
            for u in nodes[v].data[j]:
                if u != INPUT:
                    used[:, u] |= holds & used[:, v]
    return fed & used


def terms(description: SpaceDescription, *, live: bool) -> list[Term]:
    """The space's nodes grouped by the decisions that their workload depends on.

    Raises:
        SpaceError: a node depends on more combinations than can be held.
    """
    dependence = Dependence(description)
    groups: dict[tuple[int, ...], list[int]] = {}
    for v, node in enumerate(description.nodes):
        if any(w is not None for per_state in node.workloads for w in per_state):
            groups.setdefault(dependence.decisions(v, live=live), []).append(v)
    for small in sorted(groups, key=len):
        larger = next((g for g in groups if len(g) > len(small) and set(small) <= set(g)), None)
        if larger is not None:
            groups[larger] += groups.pop(small)
    return [_term(description, decisions, nodes, live) for decisions, nodes in groups.items()]


def _term(description: SpaceDescription, decisions: tuple[int, ...], nodes: list[int], live: bool) -> Term:
    sizes = tuple(len(description.decisions[d]) for d in decisions)
    n = math.prod(sizes)
    if n > TERM_LIMIT:
        labels = ", ".join(description.decisions[d].label for d in decisions[:6])
        raise SpaceError(f"{n:.3g} combinations of {len(decisions)} choices ({labels}, ...) act on one operator's cost")
    codes = np.zeros((n, len(description.decisions)), np.int16)
    if decisions:
        codes[:, list(decisions)] = np.indices(sizes).reshape(len(sizes), -1).T
    found = _workloads(description, codes)[:, nodes]
    if live:
        found[~liveness(description, codes)[:, nodes]] = -1
    return Term(decisions, sizes, found.T.copy())


def _choices(node: Node, codes: np.ndarray) -> Iterable[tuple[NDArray[np.bool_], int]]:
    """For each candidate of a node: where the node is reached and uses it."""
    reached = np.ones(len(codes), bool)
    for decision, candidate in node.reach:
        reached &= codes[:, decision] == candidate
    if node.decision is None:
        yield reached, 0
        return
    own = codes[:, node.decision]
    for j in range(len(node.data)):
        yield reached & (own == j), j


def _workloads(description: SpaceDescription, codes: np.ndarray) -> NDArray[np.int32]:
    """As `usage`, dead or not, with UNSEEN where the shapes were not met."""
    nodes = description.nodes
    states = np.full((len(codes), len(nodes)), -1, np.int32)
    found = np.full((len(codes), len(nodes)), -1, np.int32)
    for v, node in enumerate(nodes):
        for holds, j in _choices(node, codes):
            if not holds.any():
                continue
            at = np.flatnonzero(holds)
            inputs, outputs = _transition(node, j, states[at])
            states[at, v] = outputs
            table = np.array([-1 if w is None else w for w in node.workloads[j]] or [-1], np.int32)
            found[at, v] = np.where(inputs < 0, UNSEEN, table[np.minimum(np.maximum(inputs, 0), len(table) - 1)])
    return found


def _transition(node: Node, candidate: int, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Input and output state of each row; -2 where the combination of states is unknown."""
    inputs = np.full(len(states), UNSEEN, np.int32)
    outputs = np.full(len(states), UNSEEN, np.int32)
    context = states[:, list(node.shape[candidate])]
    for key, state_in, state_out in node.states[candidate]:
        same = (context == np.array(key, np.int32)).all(axis=1)
        inputs[same], outputs[same] = state_in, state_out
    return inputs, outputs


class Dependence:
    """Finds the decisions that a node's workload depends on."""

    def __init__(self, description: SpaceDescription) -> None:
        self.nodes = description.nodes
        self.outputs = description.outputs
        self.consumers: list[list[int]] = [[] for _ in self.nodes]
        for w, node in enumerate(self.nodes):
            for u in {u for sources in node.data for u in sources if u != INPUT}:
                self.consumers[u].append(w)

    def decisions(self, v: int, *, live: bool) -> tuple[int, ...]:
        """Ascending numbers of the decisions that node `v`'s workload depends on."""
        node = self.nodes[v]
        found = {d for d, _ in node.reach} | self._shape(v)
        if node.decision is not None:
            found.add(node.decision)
        if live:
            given = dict(node.reach)
            found |= self._used(v, given) | self._fed(v, given)
        return tuple(sorted(found))

    def _shape(self, v: int) -> set[int]:
        """Decisions that the shapes at node `v` depend on."""
        found: set[int] = set()
        open_nodes = {u for sources in self.nodes[v].shape for u in sources}
        seen: set[int] = set()
        while open_nodes:
            u = open_nodes.pop()
            seen.add(u)
            node = self.nodes[u]
            found |= {d for d, _ in node.reach}
            if node.decision is not None:
                found.add(node.decision)
            open_nodes |= {w for sources in node.shape for w in sources} - seen
        return found

    def _uses(self, w: int, u: int, given: Mapping[int, int]) -> bool:
        """Whether node `w` uses node `u` whatever is decided beyond `given`."""
        node = self.nodes[w]
        if any(given.get(d) != c for d, c in node.reach):
            return False
        if node.decision is not None and node.decision in given:
            return u in node.data[given[node.decision]]
        return all(u in sources for sources in node.data)

    def _used(self, v: int, given: Mapping[int, int]) -> set[int]:
        """Decisions on which it depends whether anything uses node `v`."""
        certain = set(self.outputs) - {INPUT}
        for u in reversed(range(len(self.nodes))):
            if any(w in certain and self._uses(w, u, given) for w in self.consumers[u]):
                certain.add(u)
        found: set[int] = set()
        open_nodes, seen = {v} - certain, set()
        while open_nodes:
            u = open_nodes.pop()
            seen.add(u)
            for w in self.consumers[u]:
                if not self._uses(w, u, given):
                    found |= self._deciding(w)
                open_nodes |= {w} - certain - seen
        return found

    def _fed(self, v: int, given: Mapping[int, int]) -> set[int]:
        """Decisions on which it depends whether node `v`, once reached, sees anything but constants."""
        certain = {INPUT}
        for w, node in enumerate(self.nodes):
            chosen = node.data if node.decision not in given else (node.data[given[node.decision]],)
            if all(certain & set(sources) for sources in chosen):
                certain.add(w)
        found: set[int] = set()
        open_nodes, seen = {v} - certain, set()
        while open_nodes:
            w = open_nodes.pop()
            seen.add(w)
            found |= self._deciding(w)
            open_nodes |= {u for sources in self.nodes[w].data for u in sources} - certain - seen
        return found

    def _deciding(self, w: int) -> set[int]:
        node = self.nodes[w]
        own = set() if node.decision is None else {node.decision}
        return own | {d for d, _ in node.reach}
