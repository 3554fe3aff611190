"""What a search space is, as plain data: decisions, workloads, and how its choices feed each other. No torch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from ..errors import HwnasError

INPUT = -1
"""The node number that stands for the network's own inputs."""


class SpaceError(HwnasError):
    """A search space that cannot be built, run or understood."""


@dataclass(frozen=True)
class Decision:
    """What one or several (tied) choices decide together.

    Attributes:
        label: its name in an architecture.
        kind: "layer" or "input".
        candidates: names of the operators, or the subsets of inputs as "0,2".
        reach: it is made only where one of these conditions holds; a condition is pairs (decision, candidate) that
            all hold. Empty condition: always.
    """

    label: str
    kind: str
    candidates: tuple[str, ...]
    reach: tuple[tuple[tuple[int, int], ...], ...] = ((),)

    def __len__(self) -> int:
        return len(self.candidates)


@dataclass(frozen=True)
class Workload:
    """One thing that a device can time: a module at its input shapes.

    Attributes:
        op: short name of the operator, `mbconv3x3_e6`.
        shapes: `24x56x56->24x56x56`, without batch.
        digest: of the traced operators, weights left out.
        path: where in the supernet such a module sits (the first of them).
        inputs: its input tensors (shape with batch, dtype).
        call: the arguments around these tensors, as JSON; empty where it is called with just them.
        weightless: it has neither weights nor other constants.
        fixed: True for a module that every network of its place has.
        info: facts by which other tools name the operator (kernel, expansion, ...).
    """

    op: str
    shapes: str
    digest: str
    path: str
    inputs: tuple[tuple[tuple[int, ...], str], ...]
    call: str = ""
    fixed: bool = False
    weightless: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)

    def key(self, batch: int = 1, dtype: str = "fp32") -> str:
        """The workload's name in a table."""
        stride = f" s{self.info['stride']}" if "stride" in self.info else ""
        return f"{self.op} {self.shapes}{stride} b{batch} {dtype} #{self.digest[:6]}"


@dataclass(frozen=True)
class Node:
    """One call of a choice, or of a module that holds none, in the data flow of the supernet.

    A node without decision has exactly one candidate. Per candidate:

    Attributes:
        path, index: module path in the supernet, and which of its calls.
        decision: number of its decision, or None.
        reach: pairs (decision, candidate) that must hold for it to be called at all.
        data: nodes whose values the output depends on.
        shape: nodes whose output shape can change this node's shapes.
        states: transitions (states of `shape` in order) -> (input state, output state).
        workloads: number of its workload for each input state; None where it costs nothing or holds nodes of its own.
    """

    path: str
    index: int
    decision: int | None
    reach: tuple[tuple[int, int], ...]
    data: tuple[tuple[int, ...], ...]
    shape: tuple[tuple[int, ...], ...]
    states: tuple[tuple[tuple[tuple[int, ...], int, int], ...], ...]
    workloads: tuple[tuple[int | None, ...], ...]


@dataclass(frozen=True)
class SpaceDescription:
    """A search space as its predictor, its profiler and its tables see it.

    Attributes:
        decisions: in the order of the supernet's modules.
        workloads: distinct ones, candidates first.
        nodes: in topological order of the data flow.
        outputs: nodes (or INPUT) that the network's outputs are made of.
        batch: the batch size the workloads' input shapes are for.
    """

    decisions: tuple[Decision, ...]
    workloads: tuple[Workload, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    batch: int = 1

    @cached_property
    def index(self) -> dict[str, int]:
        """Number of the decision with a given label."""
        return {decision.label: i for i, decision in enumerate(self.decisions)}

    @cached_property
    def nodes_of(self) -> list[list[int]]:
        """For each decision the numbers of the nodes that it makes."""
        found: list[list[int]] = [[] for _ in self.decisions]
        for v, node in enumerate(self.nodes):
            if node.decision is not None:
                found[node.decision].append(v)
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Digest by which a table or predictor knows its space again; only that of batch 1 is ever compared."""
        content = {
            "decisions": [(d.label, d.kind, d.candidates, d.reach) for d in self.decisions],
            "workloads": [(w.op, w.shapes, w.digest, w.fixed) for w in self.workloads],
            "nodes": [(n.path, n.index, n.decision, n.reach, n.data) for n in self.nodes],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """JSON form; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SpaceDescription:
        """Read what `to_dict` gave (possibly through JSON); raises KeyError or TypeError for another form."""
        return cls(
            decisions=tuple(Decision(**_tuples(d)) for d in data["decisions"]),
            workloads=tuple(Workload(**{**_tuples(w), "info": dict(w["info"])}) for w in data["workloads"]),
            nodes=tuple(Node(**_tuples(n)) for n in data["nodes"]),
            outputs=tuple(data["outputs"]),
            batch=int(data["batch"]),
        )


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists only; the dataclasses hold tuples."""

    def deep(value: Any) -> Any:
        return tuple(deep(v) for v in value) if isinstance(value, list | tuple) else value

    return {name: deep(value) for name, value in data.items()}
