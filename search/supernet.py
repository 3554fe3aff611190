"""A supernet as search uses it: run one path, freeze its weights, know what lies on a path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from ..spaces.choices import InputChoice, LayerChoice, Selection, active, reduce_inputs
from ..spaces.space import SearchSpace
from ..spaces.structure import read_structure
from .training import takes_channels_last


class Supernet:
    """The module that holds all candidates, on a device.

    Args:
        space: whose supernet it is.
        module: the supernet; taken as it is, not copied.
        device: where to.

    Attributes:
        module: in training mode.
        channels_last: whether images and 4-D weights have their channels last, in which convolutions are about twice
            as fast on CPUs; a candidate that calls `view` on its activations cannot do with it.
        decision_of: choice module -> number of its decision.
        copying: choices whose inputs or outputs are changed in place by what runs after (found out by `gates`).
    """

    def __init__(self, space: SearchSpace, module: nn.Module, device: torch.device | str = "cpu") -> None:
        self.space = space
        self.device = torch.device(device)
        self.module = module.to(self.device).train()
        self.decision_of = read_structure(module).decision_of
        self.copying: set[nn.Module] = set()
        self.channels_last = self._takes_channels_last()
        if self.channels_last:
            _to_channels_last(self.module)

    def selection(self, row: np.ndarray) -> Selection:
        """The context in which choices use the candidates of an encoded architecture.

        Unreached decisions may hold any number; -1 stands for the first candidate.
        """
        chosen = np.maximum(row, 0).tolist()
        return Selection({choice: chosen[d] for choice, d in self.decision_of.items()})

    def run(self, row: np.ndarray, inputs: Tensor | Sequence[Tensor]) -> Any:
        """The output of one path."""
        with active(self.selection(row)):
            return call(self.module, inputs)

    def on_path(self, row: np.ndarray) -> list[nn.Module]:
        """Every module that is not inside a candidate left out by the path."""
        chosen = self.selection(row).chosen
        found: dict[nn.Module, None] = {}

        def visit(module: nn.Module) -> None:
            if module in found:
                return
            found[module] = None
            for child in [module[chosen[module]]] if isinstance(module, LayerChoice) else module.children():
                visit(child)

        visit(self.module)
        return list(found)

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """All weights; listed once, for walking through a thousand modules costs as much as a layer."""
        return list(self.module.parameters())

    @cached_property
    def batch_norms(self) -> list[nn.Module]:
        """All batch norms."""
        return [module for module in self.module.modules() if isinstance(module, _BatchNorm)]

    def _takes_channels_last(self) -> bool:
        images = [tensor.to(self.device) for tensor in self.space.inputs(2)]
        if len(images) != 1:
            return False
        with active(_EveryCandidate()):
            return takes_channels_last(self.module, images[0])

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, weights get no gradient, and batch norms use the batch's statistics without keeping them."""
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        tracking = [module for module in self.batch_norms if module.track_running_stats]
        for parameter in trained:
            parameter.requires_grad_(False)
        for module in tracking:
            module.__dict__["track_running_stats"] = False  # without Module's own bookkeeping
        try:
            yield
        finally:
            for module in tracking:
                module.__dict__["track_running_stats"] = True
            for parameter in trained:
                parameter.requires_grad_(True)


class _EveryCandidate:
    """The context in which every choice that is reached tries all its candidates, on inputs in channels_last.

    What a candidate is given depends on those before it; so each is given the layout that is hardest for it.
    """

    def layer(self, choice: LayerChoice, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        last_args, last_kwargs = tree_map(_laid_out, (args, kwargs))
        output = choice[0](*last_args, **last_kwargs)
        for i in range(1, len(choice)):
            try:
                choice[i](*last_args, **last_kwargs)
            except RuntimeError:
                if _runs(choice[i], *tree_map(_plain, (args, kwargs))):
                    raise
        return tree_map(_laid_out, output)

    def inputs(self, choice: InputChoice, tensors: Sequence[Tensor]) -> Any:
        return tree_map(_laid_out, reduce_inputs([tensors[i] for i in choice.subsets[0]], choice.reduction))


def _runs(candidate: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether it takes these at all: it may go only with a tied candidate before it."""
    try:
        candidate(*args, **kwargs)
    except RuntimeError:
        return False
    return True


def _plain(value: Any) -> Any:
    return value.contiguous() if isinstance(value, Tensor) else value


def _laid_out(value: Any) -> Any:
    images = isinstance(value, Tensor) and value.ndim == 4
    return value.contiguous(memory_format=torch.channels_last) if images else value


def call(module: nn.Module, inputs: Tensor | Sequence[Tensor]) -> Any:
    """A network's output on one input, or on several."""
    return module(inputs) if isinstance(inputs, Tensor) else module(*inputs)


def _to_channels_last(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
