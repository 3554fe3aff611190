"""Counting, drawing and listing the architectures of nested decisions.

Decisions are taken one after the other, each after all that its reach depends on. What came before matters to what may
come only through the conditions that are still open; prefixes that leave the same ones open are one state. There are
few of these even where one choice is tied across many parents, so that all is exact by dynamic programming.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .description import Decision, SpaceError

STATE_LIMIT = 200_000

Condition = tuple[tuple[int, int], ...]
State = tuple[tuple[int, frozenset[Condition]], ...]
"""Undecided decisions that nothing has settled yet, with what is left of their conditions; the empty one: reached."""

REACHED = frozenset({()})


def order_by_reach(decisions: Sequence[Decision]) -> list[int]:
    """Decision numbers, each after all that its reach depends on, and as soon after them as can be.

    Raises:
        SpaceError: choices tied by label are nested in each other.
    """
    needs = [{j for condition in d.reach for j, _ in condition} for d in decisions]
    order: list[int] = []
    while len(order) < len(decisions):
        done = set(order)
        ready = [i for i in range(len(decisions)) if i not in done and needs[i] <= done]
        if not ready:
            labels = ", ".join(repr(d.label) for i, d in enumerate(decisions) if i not in done)
            raise SpaceError(f"choices with the same label are nested in each other ({labels}): give them other labels")
        order.append(next((i for i in ready if needs[i]), ready[0]))
    return order


def components(decisions: Sequence[Decision]) -> list[list[int]]:
    """Decision numbers by independent groups, each in the order in which it is decided."""
    group = list(range(len(decisions)))
    for i, decision in enumerate(decisions):
        for j in {j for condition in decision.reach for j, _ in condition}:
            old, new = group[i], group[j]
            group = [new if g == old else g for g in group]
    found: dict[int, list[int]] = {}
    order = order_by_reach(decisions)
    for i in range(len(decisions)):
        found.setdefault(group[i], [])
    for i in order:
        found[group[i]].append(i)
    return list(found.values())


class Component:
    """Decisions that are nested in each other, and in no other.

    Attributes:
        members: decision numbers, in the order in which they are decided.
        size: how many different assignments there are, unreached decisions left out.
    """

    def __init__(self, decisions: Sequence[Decision], members: Sequence[int]) -> None:
        self.decisions = decisions
        self.members = tuple(members)
        self._layers: list[list[State]] = []
        self._next: list[list[dict[int, int]]] = []
        self._explore()

    @cached_property
    def size(self) -> int:
        return self._completions[0][0]

    def rows(self) -> NDArray[np.int16]:
        """(size, members) every assignment once; -1 where a decision is not reached."""
        found = np.empty((1, 0), np.int16)
        states = np.zeros(1, np.intp)
        for following in self._next:
            parents = [(row, k, to) for row, s in enumerate(states.tolist()) for k, to in following[s].items()]
            rows, chosen, to = (np.array(column) for column in zip(*parents, strict=True))
            found = np.concatenate([found[rows], chosen[:, None].astype(np.int16)], axis=1)
            states = to
        return found

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.int16]:
        """(n, members) assignments, each equally likely."""
        found = np.full((n, len(self.members)), -1, np.int16)
        states = np.zeros(n, np.intp)
        for layer, following in enumerate(self._next):
            drawn = rng.random(n)
            after = np.empty_like(states)
            for s in np.unique(states).tolist():
                there = np.flatnonzero(states == s)
                options, total = following[s], self._completions[layer][s]
                shares = np.cumsum([self._completions[layer + 1][to] / total for to in options.values()])
                pick = np.searchsorted(shares[:-1], drawn[there], side="right")
                found[there, layer] = np.array(list(options))[pick]
                after[there] = np.array(list(options.values()))[pick]
            states = after
        return found

    # -- the states

    def _explore(self) -> None:
        start = tuple(
            (i, frozenset(self.decisions[i].reach)) for i in self.members if () not in self.decisions[i].reach
        )
        layer: dict[State, int] = {start: 0}
        for i in self.members:
            self._layers.append(list(layer))
            following: dict[State, int] = {}
            self._next.append([self._follow(state, i, following) for state in layer])
            if len(following) > STATE_LIMIT:
                raise SpaceError("choices are nested too deeply into each other to be counted")
            layer = following

    def _follow(self, state: State, i: int, following: dict[State, int]) -> dict[int, int]:
        """Candidate (-1: not reached) -> number of the state after it."""
        pending = dict(state)
        reached = pending.pop(i, REACHED) == REACHED
        mentioned = {k for left in pending.values() for condition in left for j, k in condition if j == i}
        result: dict[int, int] = {}
        other: int | None = None
        for k in range(len(self.decisions[i])) if reached else (-1,):
            if k not in mentioned and other is not None:
                result[k] = other
                continue
            after = tuple((c, _left(conditions, i, k)) for c, conditions in pending.items())
            result[k] = following.setdefault(after, len(following))
            other = other if k in mentioned else result[k]
        return result

    @cached_property
    def _completions(self) -> list[list[int]]:
        """For each layer and state the number of ways to go on."""
        counts = [[1]]
        for following in reversed(self._next):
            counts.append([sum(counts[-1][to] for to in options.values()) for options in following])
        return counts[::-1]


def _left(conditions: frozenset[Condition], i: int, k: int) -> frozenset[Condition]:
    """What is left of `conditions` once decision `i` took candidate `k`."""
    possible = (c for c in conditions if all(candidate == k for j, candidate in c if j == i))
    left = frozenset(tuple(pair for pair in c if pair[0] != i) for c in possible)
    return REACHED if () in left else left


class Counting:
    """All architectures of a space, by its independent components."""

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self.decisions = tuple(decisions)
        self.components = [Component(self.decisions, members) for members in components(self.decisions)]

    @cached_property
    def size(self) -> int:
        return math.prod(component.size for component in self.components)

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.int16]:
        """(n, decisions) uniform over architectures; -1 where a decision is not reached."""
        codes = np.empty((n, len(self.decisions)), np.int16)
        for component in self.components:
            if len(component.members) == 1:
                codes[:, component.members[0]] = rng.integers(component.size, size=n)
            else:
                codes[:, list(component.members)] = component.sample(n, rng)
        return codes

    def blocks(self, block: int = 4096) -> Iterator[NDArray[np.int16]]:
        """Every architecture once, in blocks of rows."""
        tables = [component.rows() for component in self.components]
        for start in range(0, self.size, block):
            rest = np.arange(start, min(start + block, self.size))
            codes = np.empty((len(rest), len(self.decisions)), np.int16)
            for component, rows in reversed(list(zip(self.components, tables, strict=True))):
                rest, own = np.divmod(rest, len(rows))
                codes[:, list(component.members)] = rows[own]
            yield codes
