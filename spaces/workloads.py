"""The distinct workloads of a space: equal operators at equal shapes are one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .calls import Invocation
from .description import Workload
from .graph import Graph, Ref, Value
from .operators import operators


class WorkloadRegistry:
    """Distinct workloads met so far."""

    def __init__(self) -> None:
        self.found: list[Workload] = []
        self._numbers: dict[str, int] = {}

    def add(self, module: nn.Module, graph: Graph, call: Invocation, path: str, *, fixed: bool) -> int | None:
        """Number of the workload; None for what computes nothing (an identity, a constant)."""
        if not graph.nodes:
            return None
        digest = graph.digest()
        number = self._numbers.setdefault(digest, len(self.found))
        if number == len(self.found):
            self.found.append(_workload(module, graph, call, path, digest, fixed))
        elif not fixed and self.found[number].fixed:
            self.found[number] = _workload(module, graph, call, path, digest, fixed)
        return number

    def ordered(self) -> tuple[tuple[Workload, ...], dict[int, int]]:
        """Candidates first, then fixed ones; and old number -> new number."""
        order = sorted(range(len(self.found)), key=lambda i: self.found[i].fixed)
        return tuple(self.found[i] for i in order), {old: new for new, old in enumerate(order)}


def _workload(module: nn.Module, graph: Graph, call: Invocation, path: str, digest: str, fixed: bool) -> Workload:
    inputs = tuple((tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in call.tensors)
    info = dict(describe()) if callable(describe := getattr(module, "workload_info", None)) else {}
    info |= {
        "in": list(graph.inputs[0].shape[1:]) if graph.inputs else [],
        "out": list(graph.outputs[0].shape[1:]) if graph.outputs else [],
    }
    if before := _before_weights(graph):
        info["before"] = before
    info["operators"] = operators(graph)
    shapes = f"{_shapes(graph.inputs)}->{_shapes(graph.outputs)}"
    weightless = not graph.constants
    return Workload(_label(module), shapes, digest, path, inputs, call.spec, fixed, weightless, info)


def _before_weights(graph: Graph) -> list[str]:
    """Operators that the only input goes through, one after the other, before anything with constants reads it.

    Other modules that read the same tensor may begin with the same ones; a runtime does these once.
    """
    if len(graph.inputs) != 1 or not graph.constants:
        return []
    found: list[str] = []
    value = graph.inputs[0].id
    while True:
        readers = [node for node in graph.nodes if value in node.input_ids]
        if len(readers) != 1 or readers[0].input_ids != (value,) or len(readers[0].outputs) != 1:
            return found
        node = readers[0]
        plain = [part for part in (*node.args, *node.kwargs.values()) if not isinstance(part, Ref)]
        found.append(" ".join([node.op, *map(str, plain)]))
        value = node.outputs[0].id


def _shapes(values: Sequence[Value]) -> str:
    return "+".join("x".join(map(str, v.shape[1:])) or "1" for v in values)


def _label(module: nn.Module) -> str:
    """Short name: what the module calls itself, else its class, else the classes in it."""
    own = getattr(module, "workload_label", None)
    if isinstance(own, str) and own:
        return own.replace(" ", "_")
    name = type(module).__name__.lower()
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return f"{name}k{'x'.join(map(str, module.kernel_size))}"
    if isinstance(module, nn.Sequential):
        inner = [_label(child) for child in module]
        return "-".join(inner[:3]) + ("-etc" if len(inner) > 3 else "") if inner else name
    return name
