"""Accuracy of a path with the supernet's weights, after its batch-norm statistics were re-estimated.

The running statistics of a supernet mix those of all paths and fit none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..spaces.choices import active
from .supernet import Supernet, call
from .sync_batch_norm import unsynchronised


@contextmanager
def reestimated(
    network: nn.Module,
    modules: Sequence[nn.Module],
    run: Callable[[Any], Any],
    batches: Sequence[Any],
    *,
    keep: bool = False,
) -> Iterator[None]:
    """Inside, the network is in eval mode, and its batch norms hold the statistics of these batches.

    Args:
        network: put into eval mode meanwhile.
        modules: those that `run` runs; batch norms are looked for among them.
        run: one batch -> anything.
        batches: training inputs; the statistics are the plain mean over them.
        keep: leave the new statistics in place afterwards.
    """
    norms = [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats and m.running_mean is not None]
    before = [({k: v.clone() for k, v in m.named_buffers()}, m.momentum) for m in norms]
    training = [m for m in network.modules() if m.training]
    network.eval()
    try:
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # the cumulative mean
            m.training = True
        with torch.no_grad(), unsynchronised(norms):
            for batch in batches:
                run(batch)
        for m in norms:
            m.training = False
        yield
    finally:
        for m, (buffers, momentum) in zip(norms, before, strict=True):
            m.momentum, m.training = momentum, False
            if not keep:
                for name, value in buffers.items():
                    m.get_buffer(name).copy_(value)
        for module in training:
            module.training = True


class Scorer:
    """Scores paths of one supernet.

    Args:
        batches: training inputs for the batch-norm statistics, on the supernet's device.
        autocast: the precision to run in.
    """

    def __init__(
        self,
        supernet: Supernet,
        batches: Sequence[Any],
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.supernet = supernet
        self.batches = batches
        self.autocast = autocast

    @contextmanager
    def path(self, row: np.ndarray) -> Iterator[Callable[[Any], Tensor]]:
        """Inside, a function that runs the path as it would be deployed."""
        supernet, selection = self.supernet, self.supernet.selection(row)

        def run(inputs: Any) -> Tensor:
            with active(selection), self.autocast():
                output: Tensor = call(supernet.module, inputs)
                return output

        with reestimated(supernet.module, supernet.on_path(row), run, self.batches), torch.no_grad():
            yield run

    def accuracy(self, codes: np.ndarray, images: Any, labels: Tensor) -> np.ndarray:
        """(N,) share of right answers on one batch, one network after the other."""
        right = []
        for row in codes:
            with self.path(row) as run:
                right.append((run(images).argmax(1) == labels).double().mean())
        return torch.stack(right).cpu().numpy() if right else np.empty(0)
