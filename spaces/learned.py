"""What discovery knows of one call in the data flow, and how that becomes a `Node` of the description."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from .choices import ChosenInputs, InputChoice, LayerChoice
from .description import INPUT, Node, SpaceError
from .observation import Reach
from .structure import Structure, holds_choice

ABSENT = -1
"""State of a node that a run did not call."""

States = Mapping[int, int]
"""Node -> state of its output in one run, in the order of the calls; absent ones left out."""


@dataclass(frozen=True)
class Traced:
    """One candidate on one input: state of its output, and which inputs its output depends on."""

    output: int
    positions: tuple[int, ...]


@dataclass
class Learned:
    """What is known of one node; lists are per candidate.

    Attributes:
        path, reach, index: identify it: the index-th call of this module under these choices.
        leaves: None for a candidate with choices of its own.
        data, shape: nodes its output's values, and its input's shapes, come from.
        transitions: states of all nodes in a run, state of its input, of its output.
        inputs, outputs: what the states stand for.
        traced: (input state, candidate).
        entered: (input state, candidate) for which a run was made to see it there.
        realised: output states that a run shows downstream.
    """

    path: str
    reach: Reach
    index: int
    decision: int | None
    leaves: list[nn.Module | None]
    data: list[set[int]]
    shape: list[set[int]]
    transitions: list[list[tuple[States, int, int]]]
    workloads: list[dict[int, int | None]]
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    traced: dict[tuple[int, int], Traced] = field(default_factory=dict)
    entered: set[tuple[int, int]] = field(default_factory=set)
    realised: set[int] = field(default_factory=set)

    @classmethod
    def blank(cls, path: str, reach: Reach, index: int, structure: Structure) -> Learned:
        module = structure.watched[path]
        leaves: list[nn.Module | None] = [module]
        if isinstance(module, LayerChoice):
            leaves = [
                None if holds_choice(candidate) else candidate for candidate in map(module.__getitem__, module.names)
            ]
        elif isinstance(module, InputChoice):
            leaves = [ChosenInputs(subset, module.reduction) for subset in module.subsets]
        every = range(len(leaves))
        return cls(
            path=path,
            reach=reach,
            index=index,
            decision=structure.decision_of.get(module),
            leaves=leaves,
            data=[set() for _ in every],
            shape=[set() for _ in every],
            transitions=[[] for _ in every],
            workloads=[{} for _ in every],
        )

    def candidate(self, chosen: Mapping[int, int]) -> int | None:
        """Which candidate a run with these decisions uses, if it comes here."""
        if any(chosen[d] != c for d, c in self.reach):
            return None
        return 0 if self.decision is None else chosen[self.decision]


def number(known: list[str], item: str) -> int:
    """Position of `item`, which is added where it is new."""
    if item not in known:
        known.append(item)
    return known.index(item)


Run = tuple[Mapping[int, int], States]
"""Candidate of every decision, state of every node that was called."""


def as_nodes(
    learned: Sequence[Learned], runs: Sequence[Run], outputs: Iterable[int], renumbered: Mapping[int, int]
) -> tuple[tuple[Node, ...], tuple[int, ...]]:
    """Nodes in topological order, and those that the network's outputs are made of.

    Args:
        learned: by number.
        runs: all that were made.
        outputs: numbers of nodes, or INPUT.
        renumbered: workload numbers as learned -> as described.
    """
    variable = [_variable(v, learned, runs) for v in range(len(learned))]
    order = _topological([_sources(n, own) for n, own in zip(learned, variable, strict=True)])
    place = {v: new for new, v in enumerate(order)} | {INPUT: INPUT}
    nodes = tuple(_node(v, learned[v], variable[v], runs, place, renumbered) for v in order)
    return nodes, tuple(sorted(place[u] for u in outputs))


def _sources(node: Learned, variable: Sequence[Sequence[int]]) -> set[int]:
    return {u for sources in (*node.data, *node.shape, *variable) for u in sources if u != INPUT}


def _variable(v: int, learned: Sequence[Learned], runs: Sequence[Run]) -> list[list[int]]:
    """For each candidate the sources of its input's shape that have several states.

    Code that looks at shapes may call a module for some of them only; the nodes that tell when are sources, too.
    """
    node = learned[v]
    found = []
    for j, sources in enumerate(node.shape):
        own = sorted(u for u in sources if u != INPUT and len(learned[u].outputs) > 1)
        came = [states for chosen, states in runs if node.candidate(chosen) == j and v in states]
        missed = [states for chosen, states in runs if node.candidate(chosen) == j and v not in states]
        if came and missed and {_context(s, own) for s in came} & {_context(s, own) for s in missed}:
            before = [list(states)[: list(states).index(v)] for states in came]
            earlier = [u for u in before[0] if len(learned[u].outputs) > 1 and all(u in others for others in before)]
            own = sorted({*own, *_telling(came, missed, earlier)})
        found.append(own)
    return found


def _telling(came: Sequence[States], missed: Sequence[States], candidates: Sequence[int]) -> Sequence[int]:
    """The latest node whose state tells these runs apart, else all."""
    for u in reversed(candidates):
        if not {_context(s, [u]) for s in came} & {_context(s, [u]) for s in missed}:
            return [u]
    return candidates


def _context(states: States, sources: Sequence[int]) -> tuple[int, ...]:
    return tuple(states.get(u, ABSENT) for u in sources)


def _node(
    v: int,
    node: Learned,
    variable: Sequence[Sequence[int]],
    runs: Sequence[Run],
    place: Mapping[int, int],
    renumbered: Mapping[int, int],
) -> Node:
    tables: list[dict[tuple[int, ...], tuple[int, int]]] = [{} for _ in node.leaves]
    for chosen, states in runs:
        j = node.candidate(chosen)
        if j is not None and v not in states:
            tables[j][_context(states, variable[j])] = (ABSENT, ABSENT)
    for table, sources, transitions in zip(tables, variable, node.transitions, strict=True):
        table.update({_context(states, sources): (before, after) for states, before, after in transitions})
    used = (
        tuple(None if (w := per_state.get(s)) is None else renumbered[w] for s in range(len(node.inputs)))
        for per_state in node.workloads
    )
    return Node(
        path=node.path,
        index=node.index,
        decision=node.decision,
        reach=node.reach,
        data=tuple(tuple(sorted(place[u] for u in sources)) for sources in node.data),
        shape=tuple(tuple(place[u] for u in sources) for sources in variable),
        states=tuple(tuple(sorted((key, *states) for key, states in table.items())) for table in tables),
        workloads=tuple(used),
    )


def _topological(sources: Sequence[set[int]]) -> list[int]:
    """Node numbers, each after its sources, otherwise in the order met."""
    order: list[int] = []
    placed: set[int] = set()
    waiting = list(range(len(sources)))
    while waiting:
        ready = [v for v in waiting if sources[v] <= placed]
        if not ready:
            raise SpaceError("modules feed each other in a circle that depends on the architecture: not supported")
        order += ready
        placed.update(ready)
        waiting = [v for v in waiting if v not in placed]
    return order
