"""A space's data flow in pieces through which everything passes by one tensor, equal pieces once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..spaces.description import Node, SpaceDescription

X = -1
"""Stands for the tensor that a segment reads."""


@dataclass(frozen=True)
class Operator:
    """What one candidate of a node does.

    Attributes:
        sources: steps of the segment (or `X`) whose sum it reads; none: it gives zeros.
        kind: name of its operator, None for an identity.
        weights: whether it has any; without them, the same operator on the same input gives the same.
        before: operators without weights that its input goes through first.
    """

    sources: tuple[int, ...]
    kind: str | None
    weights: bool = False
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One node of a segment: its decision (None: it has one candidate), where it is reached, and its candidates."""

    decision: int | None
    reach: tuple[tuple[int, int], ...]
    candidates: tuple[Operator, ...]

    @property
    def reads(self) -> tuple[int, ...]:
        """What a candidate that gives zeros would read if a runtime executed it."""
        return next((own.sources for own in self.candidates if own.sources), ())


@dataclass(frozen=True)
class Segment:
    """A piece of the network, such as a cell or a block.

    Attributes:
        steps: in topological order. outputs: steps (or `X`) whose sum is its output.
    """

    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    @property
    def decisions(self) -> tuple[int, ...]:
        """Those it depends on, ascending."""
        own = {step.decision for step in self.steps if step.decision is not None}
        return tuple(sorted(own | {d for step in self.steps for d, _ in step.reach}))


def segments(description: SpaceDescription) -> dict[Segment, int]:
    """Different segments with decisions, and how often each occurs; shapes do not count."""
    return dict(Counter(made for _, made in pieces(description)))


def pieces(description: SpaceDescription) -> list[tuple[int, Segment]]:
    """The segments with decisions in the order of the data flow, each with the number of its first node."""
    found = []
    start, tensor = 0, None
    for end, following in [*_cuts(description), (len(description.nodes), description.outputs)]:
        made = _segment(description, start, end, tensor, following)
        if made.decisions:
            found.append((start, made))
        start, tensor = end, following
    return found


def _cuts(description: SpaceDescription) -> list[tuple[int, tuple[int, ...]]]:
    """Numbers of nodes before which one sum is all that comes from earlier ones, and that sum."""
    n = len(description.nodes)
    reads: list[set[tuple[int, ...]]] = [{own for own in node.data if own} for node in description.nodes]
    reads.append({description.outputs})
    found = []
    for t in range(1, n):
        across: set[tuple[int, ...]] = set()
        for own in reads[t:]:
            across |= {early for sources in own if (early := tuple(u for u in sources if u < t))}
            if len(across) > 1:
                break
        if len(across) == 1:
            found.append((t, across.pop()))
    return found


def _segment(
    description: SpaceDescription, start: int, end: int, tensor: tuple[int, ...] | None, following: tuple[int, ...]
) -> Segment:
    def own(sources: tuple[int, ...]) -> tuple[int, ...]:
        inside = tuple(u - start for u in sources if u >= start)
        return (X, *inside) if len(inside) < len(sources) else inside

    steps = []
    for node in description.nodes[start:end]:
        candidates = tuple(_operator(description, node, j, own(data)) for j, data in enumerate(node.data))
        steps.append(Step(node.decision, node.reach, candidates))
    return Segment(tuple(steps), own(following))


def _operator(description: SpaceDescription, node: Node, j: int, sources: tuple[int, ...]) -> Operator:
    number = next((w for w in node.workloads[j] if w is not None), None)
    if number is None or not sources:
        return Operator(sources, None)
    workload = description.workloads[number]
    before = tuple(str(name) for name in workload.info.get("before", ()))
    return Operator(sources, workload.op, not workload.weightless, () if workload.weightless else before)
