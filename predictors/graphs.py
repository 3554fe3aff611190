"""Architectures as graphs of operators, many at once, for regressors of graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..spaces.description import SpaceDescription, Workload
from ..spaces.evaluation import Evaluation, check_seen, whole
from .operators import PARAMETERS, Operators
from .regressors.base import Rows
from .segments import Segment, Step, X, pieces

Floats = NDArray[np.float32]
FLAGS = ("identity", "zero", "live", "fed", "used", "reads the piece's input", "gives its output", "log copies")
AMOUNTS = PARAMETERS[:3]
"""Of a workload, what adds up: MACs, elements moved, parameters."""
ALIVE = slice(2, 5)
"""The flags that depend on the network."""


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """Graphs of as many nodes each.

    Attributes:
        nodes: (N, V, F) what is known of each node; zeros for one that is not there.
        reads: (N, V, V) 1 where the first node reads what the second one gives.
        there: (N, V) 1 where the graph has the node.
    """

    nodes: Floats
    reads: Floats
    there: Floats


class Graphs(Protocol):
    """What `Rows.graphs` may be."""

    def __getitem__(self, index: Any) -> Graphs:
        """Those that an index array, a mask or a slice picks."""

    def batch(self) -> GraphBatch:
        """All of them in full."""


@dataclass(frozen=True, eq=False)
class SpaceGraphs:
    """Of some architectures of a space; nothing is worked out before it is asked for.

    Attributes:
        layout: of the space. codes: (N, decisions) canonical.
    """

    layout: GraphLayout
    codes: np.ndarray

    def __getitem__(self, index: Any) -> SpaceGraphs:
        return SpaceGraphs(self.layout, self.codes[index])

    def batch(self) -> GraphBatch:
        """All of them in full; raises SpaceError for shapes that discovery did not meet."""
        return self.layout.batch(self.codes)


@dataclass(frozen=True, eq=False)
class GraphLayout:
    """The nodes that all architectures of a space have in common, and what each of their candidates makes of them.

    A node is a step of a segment (see `segments`): a call of a choice, or of a module beside one. Equal segments are
    there once, whatever their shapes, so that a network of equal cells has the graph of one; what is known of a node
    is then the mean over its copies, and for amounts of work the sum. Modules apart from all choices are left out:
    they are in every network. Zeros (`none`) keep the edge to what they would read: whether a runtime executes them,
    drops them, or drops what only they feed, the data decide by the flags `fed` (depends on the network's input),
    `used` (acts on its output), and `live` (both).

    Args:
        description: of the space.
    """

    description: SpaceDescription

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the (F,) features of a node."""
        table = self._table
        return (*FLAGS, *table.names, *(f"{kind} {name}" for kind in ("log sum of", "sum of") for name in AMOUNTS))

    def __len__(self) -> int:
        return len(self._nodes)

    def batch(self, codes: np.ndarray) -> GraphBatch:
        """The graphs of (N, decisions) canonical codes.

        Raises:
            SpaceError: an architecture combines shapes that discovery did not meet.
        """
        evaluation = Evaluation(self.description, codes, whole(self.description))
        workloads, fed, used = evaluation.workloads(), evaluation.fed(), evaluation.used()
        n, size = len(codes), len(self)
        nodes = np.zeros((n, size, len(self.names)), np.float32)
        reads = np.zeros((n, size, size), np.float32)
        there = np.zeros((n, size), np.float32)
        for i, node in enumerate(self._nodes):
            there[:, i] = evaluation.reached(node.step.reach)
            own: Any = 0 if node.step.decision is None else codes[:, node.step.decision]
            reads[:, i] = node.reads[own]
            alive = np.mean([[fed[v] & used[v], fed[v], used[v]] for v in node.copies], axis=0)
            nodes[:, i, : len(FLAGS)] = node.flags[own]
            nodes[:, i, ALIVE] = alive.T
            nodes[:, i, len(FLAGS) :] = self._work(node, workloads)
        return GraphBatch(nodes * there[:, :, None], reads * there[:, :, None] * there[:, None, :], there)

    # -- inside

    def _work(self, node: _Node, workloads: Mapping[int, NDArray[np.int32]]) -> Floats:
        """(N, ...) what the operators of a node's copies are."""
        table = self._table
        shown, amounts = np.zeros(1, np.float32), np.zeros(1, np.float32)
        for v in node.copies:
            check_seen(self.description.nodes[v], workloads[v])
            shown, amounts = shown + table.shown[workloads[v]], amounts + table.amounts[workloads[v]]
        relative = amounts / np.maximum(table.amounts.max(axis=0, initial=1), 1)
        return np.concatenate([shown / len(node.copies), np.log1p(amounts), relative], axis=1)

    @cached_property
    def _nodes(self) -> tuple[_Node, ...]:
        return _nodes(self.description)

    @cached_property
    def _table(self) -> _Table:
        nodes = self.description.nodes
        chosen = {w for own in self._nodes for v in own.copies for state in nodes[v].workloads for w in state}
        return _Table.of(self.description.workloads, {w for w in chosen if w is not None})


@dataclass(frozen=True, eq=False)
class _Table:
    """What is known of workloads; the last row, that of none, is 0.

    Attributes:
        names, shown: (workloads + 1, ...) of which the mean over copies counts.
        amounts: (workloads + 1, `AMOUNTS`) of which the sum does.
    """

    names: tuple[str, ...]
    shown: Floats
    amounts: Floats

    @classmethod
    def of(cls, workloads: tuple[Workload, ...], chosen: set[int]) -> _Table:
        """Each label of the `chosen` ones has a column."""
        labels = tuple(dict.fromkeys(workloads[w].op for w in sorted(chosen)))
        hot = np.array([[w.op == label for label in labels] for w in workloads], float)
        found = Operators.of([w.op for w in workloads], [w.info.get("operators", ()) for w in workloads])
        amounts = np.expm1(found.parameters[:, : len(AMOUNTS)])
        shown = np.concatenate([hot.reshape(len(workloads), len(labels)), found.parameters], axis=1)
        padded = [np.concatenate([own, np.zeros((1, own.shape[1]))]).astype(np.float32) for own in (shown, amounts)]
        return cls((*labels, *PARAMETERS), *padded)


@dataclass(frozen=True, eq=False)
class _Node:
    """A node of all graphs of a space.

    Attributes:
        step: of its segment. copies: numbers of the description's nodes that it stands for.
        reads: (candidates, V) which nodes each of its candidates reads.
        flags: (candidates, flags) what is known of each whatever the network.
    """

    step: Step
    copies: tuple[int, ...]
    reads: NDArray[np.bool_]
    flags: Floats


def _nodes(description: SpaceDescription) -> tuple[_Node, ...]:
    found = pieces(description)
    starts: dict[Segment, list[int]] = {}
    for start, segment in found:
        starts.setdefault(segment, []).append(start)
    ends = np.cumsum([len(segment.steps) for segment in starts]).tolist()
    offsets = {segment: end - len(segment.steps) for segment, end in zip(starts, ends, strict=True)}
    inputs = _inputs([segment for _, segment in found], offsets)
    return tuple(
        _node(segment, i, [start + i for start in at], offsets[segment], inputs[segment], ends[-1])
        for segment, at in starts.items()
        for i in range(len(segment.steps))
    )


def _inputs(order: list[Segment], offsets: Mapping[Segment, int]) -> dict[Segment, set[int]]:
    """Nodes that give what each segment reads, wherever it occurs."""
    found: dict[Segment, set[int]] = {segment: set() for segment in order}
    given: set[int] = set()
    for segment in order:
        found[segment] |= given
        own = {offsets[segment] + u for u in segment.outputs if u != X}
        given = own | given if X in segment.outputs else own
    return found


def _node(segment: Segment, i: int, copies: list[int], offset: int, inputs: set[int], size: int) -> _Node:
    candidates = segment.steps[i].candidates
    reads = np.zeros((len(candidates), size), bool)
    flags = np.zeros((len(candidates), len(FLAGS)), np.float32)
    for j, operator in enumerate(candidates):
        sources = operator.sources or segment.steps[i].reads
        inside = [offset + u for u in sources if u != X]
        reads[j, [*inside, *(inputs if X in sources else ())]] = True
        zero = not operator.sources
        identity = operator.kind is None and not zero
        flags[j] = (identity, zero, 0, 0, 0, X in sources, i in segment.outputs, np.log(len(copies)))
    return _Node(segment.steps[i], tuple(copies), reads, flags)


def batch_of(rows: Rows) -> GraphBatch:
    """The rows' graphs; where they have none, those of their columns (see `column_graphs`)."""
    if rows.graphs is None:
        return column_graphs(rows)
    found: GraphBatch = rows.graphs.batch()
    return found


def column_graphs(rows: Rows) -> GraphBatch:
    """Each column as a node that reads all others and shows which column it is, and its category or its number.

    Columns with as many categories each have most likely the same ones, and show them alike.
    """
    n, d, f = len(rows), len(rows.sizes), len(rows.names)
    alike = len(set(rows.sizes)) == 1
    offsets = np.zeros(d, int) if alike else np.cumsum([0, *rows.sizes])[:d]
    width = max(rows.sizes) if alike else sum(rows.sizes)
    nodes = np.zeros((n, d + f, d + f + width + f), np.float32)
    nodes[:, range(d + f), range(d + f)] = 1
    for j in range(d):
        at = np.flatnonzero(rows.choices[:, j] >= 0)
        nodes[at, j, d + f + offsets[j] + rows.choices[at, j]] = 1
    nodes[:, range(d, d + f), range(d + f + width, d + f + width + f)] = rows.numeric
    reads = np.broadcast_to(1 - np.eye(d + f, dtype=np.float32), (n, d + f, d + f))
    return GraphBatch(nodes, reads, np.ones((n, d + f), np.float32))
