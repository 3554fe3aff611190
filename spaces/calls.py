"""A module together with the arguments it is called with: the unit that is traced, named and timed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .description import SpaceError
from .graph import Value
from .recorder import tensors_in

_TENSOR, _TUPLE = "$tensor", "$tuple"


def signature(tensors: Sequence[Tensor | Value]) -> str:
    """Shapes and dtypes as text: `1x16x32x32 float32, 1x7 int64`."""
    return ", ".join(f"{'x'.join(map(str, t.shape))} {str(t.dtype).removeprefix('torch.')}" for t in tensors)


@dataclass(frozen=True)
class Invocation:
    """The arguments of one call; tensors may sit anywhere in lists, tuples and mappings."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @cached_property
    def sources(self) -> tuple[int, ...]:
        """Of each distinct tensor its first position among all of them: `attention(x, x, x)` has one."""
        first: dict[int, int] = {}
        for position, tensor in enumerate(tensors_in((self.args, self.kwargs))):
            first.setdefault(id(tensor), position)
        return tuple(first.values())

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The distinct tensors."""
        everything = list(tensors_in((self.args, self.kwargs)))
        return [everything[position] for position in self.sources]

    @cached_property
    def spec(self) -> str:
        """The arguments around the tensors as JSON; empty where they are just the tensors in order.

        Raises:
            SpaceError: an argument is neither tensor nor plain data.
        """
        if not self.kwargs and len(self.tensors) == len(self.args) and all(isinstance(a, Tensor) for a in self.args):
            return ""
        slots = {id(tensor): slot for slot, tensor in enumerate(self.tensors)}
        try:
            return json.dumps([_plain(list(self.args), slots), _plain(dict(self.kwargs), slots)])
        except TypeError as error:
            raise SpaceError(f"a module is called with {error}; pass tensors, numbers and text") from None

    @cached_property
    def signature(self) -> str:
        """Two calls of equal signature are the same work: shapes, dtypes, and whatever else is passed."""
        return signature(self.tensors) + (f" {self.spec}" if self.spec else "")

    def bind(self, module: nn.Module) -> nn.Module:
        """`module` as a function of this call's tensors alone."""
        return bind(module, self.spec)


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


def _plain(tree: Any, slots: Mapping[int, int]) -> Any:
    if isinstance(tree, Tensor):
        return {_TENSOR: slots[id(tree)]}
    if isinstance(tree, Mapping):
        return {str(name): _plain(part, slots) for name, part in tree.items()}
    if isinstance(tree, tuple):
        return {_TUPLE: [_plain(part, slots) for part in tree]}
    if isinstance(tree, list):
        return [_plain(part, slots) for part in tree]
    if tree is None or isinstance(tree, str | int | float):
        return tree
    raise TypeError(f"a {type(tree).__name__}")


def _fill(tree: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(tree, dict):
        if tree.keys() == {_TENSOR}:
            return tensors[tree[_TENSOR]]
        if tree.keys() == {_TUPLE}:
            return tuple(_fill(part, tensors) for part in tree[_TUPLE])
        return {name: _fill(part, tensors) for name, part in tree.items()}
    return [_fill(part, tensors) for part in tree] if isinstance(tree, list) else tree


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """`tree` with every tensor in its lists, tuples and mappings replaced; what holds none is passed through."""
    if isinstance(tree, Tensor):
        return function(tree)
    if not isinstance(tree, Mapping | list | tuple) or next(tensors_in(tree), None) is None:
        return tree
    if isinstance(tree, Mapping):
        changed = {name: map_tensors(function, part) for name, part in tree.items()}
        return type(tree)(**changed) if is_dataclass(tree) else type(tree)(changed)  # type: ignore[call-arg]
    parts = [map_tensors(function, part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


def example_tensors(inputs: Sequence[tuple[Sequence[int], str]], seed: int = 0) -> list[Tensor]:
    """Real tensors of given shapes and dtypes: normal for floats, zeros (a valid index anywhere) for the rest."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(*shape, generator=generator).to(getattr(torch, dtype))
        if dtype.startswith(("float", "bfloat"))
        else torch.zeros(*shape, dtype=getattr(torch, dtype))
        for shape, dtype in inputs
    ]
