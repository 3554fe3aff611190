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

from ..spaces.choices import LayerChoice, Selection, active
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
        """Tried with as many paths as use every candidate once."""
        images = [tensor.to(self.device) for tensor in self.space.inputs(2)]
        if len(images) != 1 or images[0].ndim != 4:
            return False
        for i in range(max(len(d) for d in self.space.decisions)):
            row = np.array([min(i, len(d) - 1) for d in self.space.decisions])
            with active(self.selection(row)):
                if not takes_channels_last(self.module, images[0]):
                    return False
        return True

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


def call(module: nn.Module, inputs: Tensor | Sequence[Tensor]) -> Any:
    """A network's output on one input, or on several."""
    return module(inputs) if isinstance(inputs, Tensor) else module(*inputs)


def _to_channels_last(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
