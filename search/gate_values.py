"""Tensors between a forward pass and the use of their derivatives: kept, watched, multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


class Kept:
    """Values that are needed later; knows whether something has changed them in place since.

    Args:
        copied: keep a copy, so that nothing can.
    """

    def __init__(self, value: Any, *, copied: bool) -> None:
        leaves, self._spec = tree_flatten(value)
        self._copied = copied
        self._leaves = [(t.clone() if copied else t).detach() if isinstance(t, Tensor) else t for t in leaves]
        self._tensors = [t for t in self._leaves if isinstance(t, Tensor)]
        self._versions = [t._version for t in self._tensors]

    @property
    def overwritten(self) -> bool:
        return [t._version for t in self._tensors] != self._versions

    def holds(self, tensor: Tensor) -> bool:
        """Whether it is one of the values themselves."""
        return any(t.data_ptr() == tensor.data_ptr() for t in self._tensors)

    def value(self) -> Any:
        """The values; a fresh copy where copies are kept, since who gets it may change it, too."""
        leaves = self._leaves
        if self._copied:
            leaves = [t.clone() if isinstance(t, Tensor) else t for t in leaves]
        return tree_unflatten(leaves, self._spec)


def is_gated(value: Any) -> bool:
    """Whether it is a tensor that has a derivative."""
    return isinstance(value, Tensor) and value.is_floating_point()


def shapes_of(values: Sequence[Any]) -> list[Any]:
    """Shapes of the tensors, types of anything else."""
    return [tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for v in values]


def own_node(tensor: Tensor, given: Kept, *, copied: bool) -> Tensor:
    """The same values as a node of the graph whose hook sees what flows through this choice alone."""
    if not tensor.requires_grad:
        # Nothing before it is differentiated. A clone, since what follows may write into it, which a leaf forbids.
        return tensor.detach().requires_grad_().clone()
    if copied:
        return tensor.clone()
    return tensor.view_as(tensor) if tensor._is_view() or given.holds(tensor) else tensor


class Derivative:
    """dL/dy, laid out once to be multiplied with the outputs of all candidates."""

    def __init__(self, dy: Tensor) -> None:
        self._dy = dy
        self._order = sorted(range(dy.dim()), key=dy.stride, reverse=True)  # as it lies in memory
        self._flat = dy.permute(self._order).reshape(-1)

    def times(self, output: Tensor) -> Tensor:
        """The sum of all products, at least in float32."""
        dy = self._dy
        if output.stride() == dy.stride() and output.dtype == dy.dtype and dy.dtype in (torch.float32, torch.float64):
            return torch.dot(output.permute(self._order).reshape(-1), self._flat)
        return (output * dy).sum(dtype=torch.promote_types(output.dtype, torch.float32))
