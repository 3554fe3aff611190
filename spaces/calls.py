"""A module together with the arguments it is called with: the unit that is traced, named and timed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .description import SpaceError, Workload
from .graph import Graph, Value

_SLOT = "tensor"


def signature(tensors: Sequence[Tensor | Value]) -> str:
    """Shapes and dtypes as text: `1x16x32x32 float32, 1x7 int64`."""
    return ", ".join(f"{'x'.join(map(str, t.shape))} {str(t.dtype).removeprefix('torch.')}" for t in tensors)


@dataclass(frozen=True)
class Invocation:
    """The arguments of one call; tensors may sit anywhere in lists, tuples and dicts."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def tensors(self) -> list[Tensor]:
        leaves = pytree.tree_leaves((self.args, dict(self.kwargs)))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def signature(self) -> str:
        """Two calls of equal signature are the same work: shapes, dtypes, and whatever else is passed."""
        text = self.spec()
        return signature(self.tensors()) + (f" {text}" if text else "")

    def spec(self) -> str:
        """The arguments around the tensors as JSON; empty where they are just the tensors in order.

        Raises:
            SpaceError: an argument is neither tensor nor plain data.
        """
        if not self.kwargs and all(isinstance(a, Tensor) for a in self.args):
            return ""
        count = iter(range(10**6))
        tree = pytree.tree_map_only(Tensor, lambda _: {_SLOT: next(count)}, (list(self.args), dict(self.kwargs)))
        try:
            return json.dumps(tree)
        except TypeError:
            raise SpaceError(
                "a choice is called with something that is neither a tensor nor plain data "
                f"({', '.join(type(a).__name__ for a in (*self.args, *self.kwargs.values()))}); pass tensors and numbers"
            ) from None

    def bind(self, module: nn.Module) -> nn.Module:
        """`module` as a function of this call's tensors alone."""
        return bind(module, self.spec())


def bind(module: nn.Module, spec: str) -> nn.Module:
    """`module` as a function of the tensors that `Invocation.spec` left open."""
    return _Bound(module, spec) if spec else module


class _Bound(nn.Module):
    def __init__(self, module: nn.Module, spec: str) -> None:
        super().__init__()
        self.module = module
        self.call: tuple[list[Any], dict[str, Any]] = tuple(json.loads(spec))  # type: ignore[assignment]
        self.train(module.training)

    def forward(self, *tensors: Tensor) -> Any:
        args, kwargs = (_fill(part, tensors) for part in self.call)
        return self.module(*args, **kwargs)


def _fill(tree: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(tree, dict):
        if tree.keys() == {_SLOT}:
            return tensors[tree[_SLOT]]
        return {name: _fill(part, tensors) for name, part in tree.items()}
    return [_fill(part, tensors) for part in tree] if isinstance(tree, list) else tree


class WorkloadRegistry:
    """Distinct workloads met so far: equal operators at equal shapes are one."""

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
            self.found[number] = replace(self.found[number], fixed=False, path=path)
        return number

    def ordered(self) -> tuple[tuple[Workload, ...], dict[int, int]]:
        """Candidates first, then fixed ones; and old number -> new number."""
        order = sorted(range(len(self.found)), key=lambda i: self.found[i].fixed)
        return tuple(self.found[i] for i in order), {old: new for new, old in enumerate(order)}


def _workload(module: nn.Module, graph: Graph, call: Invocation, path: str, digest: str, fixed: bool) -> Workload:
    inputs = tuple((tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in call.tensors())
    info = dict(module.workload_info()) if hasattr(module, "workload_info") else {}
    info |= {"in": list(graph.inputs[0].shape[1:]) if graph.inputs else [], "out": list(graph.outputs[0].shape[1:])}
    shapes = f"{_shapes(graph.inputs)}->{_shapes(graph.outputs)}"
    return Workload(_label(module), shapes, digest, path, inputs, call.spec(), fixed, info)


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


def example_tensors(inputs: Sequence[tuple[Sequence[int], str]], seed: int = 0) -> list[Tensor]:
    """Real tensors of given shapes and dtypes: normal for floats, zeros (a valid index anywhere) for the rest."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(*shape, generator=generator).to(getattr(torch, dtype))
        if dtype.startswith(("float", "bfloat"))
        else torch.zeros(*shape, dtype=getattr(torch, dtype))
        for shape, dtype in inputs
    ]
