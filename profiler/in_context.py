"""Times of operators inside whole networks: a runtime's node profile, attributed to the modules the nodes came from.

Node names mislead, since a fused node carries the last operator's name and inserted layout changes have none. So from
the tensor that each executed node produces one walks back in the original graph, over all operators that went into it;
the time belongs to the heaviest of them. Inserted nodes inherit from their neighbour. Integer kernels keep neither
their tensors' names nor quite their own, but each is one operator with what quantises its result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..devices.base import Artifact, NodeTime, NodeTrace

_BLOCKED = "_nchwc"
_NUMBERED = re.compile(r"_token_\d+$")
_QUANTISE = "QuantizeLinear"
_WEIGHT = {"Conv": 3, "ConvTranspose": 3, "Gemm": 3, "MatMul": 3, "LSTM": 3, "GRU": 3, "Einsum": 3}
_LIGHT = frozenset({"Add", "Mul", "Relu", "Clip", "Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Cast"})


@dataclass(frozen=True)
class Attribution:
    """Time by owner ("path#index" of a module call), ms; `unowned` belongs to none."""

    owned: Mapping[str, float]
    unowned: float


def attribute(artifact: Artifact, trace: NodeTrace) -> Attribution:
    """Give each executed node's time to a module call of the lowered network."""
    walk = _Walk(artifact, trace)
    owned: dict[str, float] = {}
    unowned = 0.0
    for node in trace.nodes:
        owner = walk.owner(node, set())
        if owner:
            owned[owner] = owned.get(owner, 0.0) + node.ms
        else:
            unowned += node.ms
    return Attribution(owned, unowned)


class _Walk:
    def __init__(self, artifact: Artifact, trace: NodeTrace) -> None:
        import onnx

        self.owners = artifact.owners
        graph = onnx.load_from_string(artifact.data).graph
        self.producer = _producers(graph)
        self.named = {op.name: op for op in graph.node if op.name}
        self.executed = {name: node for node in trace.nodes for name in node.outputs}
        self.boundary = {name for node in trace.nodes for name in self._originals(node)}
        self.sources: dict[str, list[str]] = {}
        self.users: dict[str, list[NodeTime]] = {}
        for node in onnx.load_from_string(trace.model).graph.node:
            for name in node.output:
                self.sources[name] = list(node.input)
                for source in node.input:
                    if name in self.executed:
                        self.users.setdefault(source, []).append(self.executed[name])

    def owner(self, node: NodeTime, seen: set[str]) -> str:
        """Owner of an executed node; an inserted one belongs to what made its input, or else uses its output."""
        originals = self._originals(node)
        if originals:
            return self._of_originals(originals)
        seen |= set(node.outputs)
        sources = [source for name in node.outputs for source in self.sources.get(name, [])]
        neighbours = [self.executed[source] for source in sources if source in self.executed]
        neighbours += [user for name in node.outputs for user in self.users.get(name, [])]
        for neighbour in neighbours:
            if not seen & set(neighbour.outputs):
                owner = self.owner(neighbour, seen)
                if owner:
                    return owner
        return ""

    def _originals(self, node: NodeTime) -> list[str]:
        """Tensors of the original graph that an executed node makes; blocked layouts keep them only in its name."""
        names = (*node.outputs, node.name.removesuffix(_BLOCKED))
        found = [name for name in dict.fromkeys(names) if name in self.producer]
        original = self.named.get(_NUMBERED.sub("", node.name))
        return found or (list(original.output) if original is not None else [])

    def _of_originals(self, outputs: list[str]) -> str:
        """Owner of the heaviest original operator in a node, else of the nearest that has one.

        A node made of glue alone (sums between modules) stays without: how much glue there is depends on the
        architecture, not on one operator.
        """
        covered = self._covered(outputs)
        heaviest = max(covered, key=_weight)
        return next((owner for op in (heaviest, *covered) if (owner := self._owner_of(op))), "")

    def _covered(self, outputs: list[str]) -> list[Any]:
        """Original operators between these tensors and the other executed nodes, nearest first."""
        covered: dict[int, Any] = {}
        todo = list(outputs)
        while todo:
            name = todo.pop(0)
            op = self.producer.get(name)
            if name not in outputs and (name in self.boundary or (op is not None and op.op_type == _QUANTISE)):
                continue
            if op is not None and id(op) not in covered:
                covered[id(op)] = op
                todo += op.input
        return list(covered.values())

    def _owner_of(self, op: Any) -> str:
        return next((self.owners[name] for name in op.output if self.owners.get(name)), "")


def _weight(op: Any) -> int:
    return _WEIGHT.get(op.op_type, 1 if op.op_type in _LIGHT else 2)


def _producers(graph: Any) -> dict[str, Any]:
    return {name: op for op in graph.node for name in op.output if name}
