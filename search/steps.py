"""The two kinds of step of a search: one that trains the weights of a path, one that differentiates its gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..spaces.choices import active
from .data.batches import Batch, Batches, Pass
from .data.prefetch import prefetch
from .distributed import Ranks
from .gates import GateRequest, GateResult, gate_gradients
from .scoring import Scorer
from .settings import Precision
from .supernet import Supernet, call
from .training import TrainingDiverged, autocast, make_scaler, resolve_precision, set_lr, smoothed_cross_entropy

FP16_SCALE = 1024.0
"""Keeps derivatives of an fp16 gate step above what fp16 can hold."""
FIXED_IMAGES = 1000
"""Held-out images by which networks are scored that are to be compared across updates."""


class WeightStep:
    """Trains the weights on one sampled path; what is not on it keeps weights, momentum and statistics.

    The optimiser passes over parameters without gradient, so nothing needs to be known of who owns which.
    """

    def __init__(
        self,
        supernet: Supernet,
        optimizer: torch.optim.Optimizer,
        *,
        label_smoothing: float = 0.0,
        precision: Precision = "fp32",
        ranks: Ranks | None = None,
    ) -> None:
        self.supernet = supernet
        self.optimizer = optimizer
        self.label_smoothing = label_smoothing
        self.precision: Precision = resolve_precision(supernet.device, precision)
        self.ranks = ranks or Ranks.single()
        self.scaler = make_scaler(supernet.device, self.precision)

    def loss(self, row: np.ndarray, images: Any, labels: Tensor) -> Tensor:
        """Of the path on the batch, with its graph."""
        with autocast(self.supernet.device, self.precision), active(self.supernet.selection(row)):
            output = call(self.supernet.module, images)
            return smoothed_cross_entropy(output, labels, self.label_smoothing)

    def apply(self, loss: Tensor, lr: float) -> None:
        """Differentiate and step; no gradient is left, which would take memory from what comes next."""
        self.scaler.scale(loss).backward()
        if self.ranks.world > 1:
            self.ranks.average([p.grad for p in self.supernet.parameters if p.grad is not None])
        set_lr(self.optimizer, lr)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def __call__(self, row: np.ndarray, images: Any, labels: Tensor, lr: float) -> Tensor:
        """Both; returns the loss, detached."""
        loss = self.loss(row, images, labels)
        self.apply(loss, lr)
        return loss.detach()


class HeldOut:
    """What an algorithm may ask (`algorithm.Task`), on the held-out images.

    Args:
        start: number of the first update, whose batch comes first.
        fixed: score all networks on the same images, instead of each update's on a batch of its own.
    """

    def __init__(
        self,
        supernet: Supernet,
        scorer: Scorer,
        batches: Batches,
        *,
        precision: Precision = "fp32",
        ranks: Ranks | None = None,
        start: int = 0,
        fixed: bool = False,
    ) -> None:
        self.supernet = supernet
        self.scorer = scorer
        self.ranks = ranks or Ranks.single()
        self.precision: Precision = resolve_precision(supernet.device, precision)
        self._fixed = _first_images(batches, supernet) if fixed else None
        stream = _endless(batches, start)
        self._stream: Any = prefetch(stream, device=supernet.device, channels_last=supernet.channels_last)
        self._batch: tuple[Any, Tensor] | None = self._fixed

    def advance(self) -> None:
        """Go to the batch of the next update."""
        if self._fixed is None:
            self._batch = next(self._stream)

    def close(self) -> None:
        """End the loading."""
        self._stream.close()

    def accuracy(self, codes: np.ndarray) -> np.ndarray:
        """(N,) share of right answers; each process scores its share of the networks, on the whole batch."""
        images, labels = self._now()
        rank, world = self.ranks.shard
        own = np.full(len(codes), np.nan)
        own[rank::world] = self.scorer.accuracy(codes[rank::world], images, labels)
        if world > 1:
            every = self.ranks.gather(own)
            for other in range(world):
                own[other::world] = every[other][other::world]
        return own

    def gates(self, request: GateRequest) -> GateResult:
        """Cross-entropy without smoothing; every process differentiates its share of the batch."""
        images, labels = self._now()
        rank, world = self.ranks.shard
        if world > 1:
            self.ranks.agree("the sampled path", request.path)
            images, labels = images[rank::world], labels[rank::world]
        scale = FP16_SCALE if self.precision == "fp16" else 1.0
        result = gate_gradients(
            self.supernet,
            request,
            images,
            lambda output: scale * smoothed_cross_entropy(output, labels),
            autocast=partial(autocast, self.supernet.device, self.precision),
        )
        loss = torch.tensor([result.loss], dtype=torch.float64)
        if world > 1:
            share = world * len(labels) / len(self._now()[1])  # ranks may have one image more or less
            for mean in (loss, *result.gradients):
                mean *= share
            self.ranks.average([loss, *result.gradients])
        value = float(loss) / scale
        if not math.isfinite(value):
            raise TrainingDiverged(f"a loss of {value} on held-out images")
        return GateResult(value, [g / scale for g in result.gradients])

    def _now(self) -> tuple[Any, Tensor]:
        if self._batch is None:
            self.advance()
        assert self._batch is not None
        return self._batch


def make_scorer(supernet: Supernet, batches: Batches, n: int, precision: Precision) -> Scorer:
    """A scorer that re-estimates batch norms on n training batches."""
    context: Callable[[], AbstractContextManager[Any]] = partial(autocast, supernet.device, precision)
    return Scorer(supernet, [images for images, _ in _first(batches, n, supernet)], context)


def _endless(batches: Batches, start: int) -> Pass:
    """One epoch after the other, drawn as they want to be (see `Pass`)."""
    epoch, index = divmod(start, len(batches))
    first = batches.epoch(epoch, start=index)

    def every() -> Generator[Batch, None, None]:
        yield from first
        for number in count(epoch + 1):
            yield from batches.epoch(number)

    return Pass(every(), getattr(first, "drawn", "by a thread"))


def _first_images(batches: Batches, supernet: Supernet) -> tuple[Any, Tensor]:
    pairs = _first(batches, -(-FIXED_IMAGES // batches.batch_size), supernet)
    return torch.cat([images for images, _ in pairs]), torch.cat([labels for _, labels in pairs])


def _first(batches: Batches, n: int, supernet: Supernet) -> list[tuple[Any, Tensor]]:
    """The first n batches of epoch 0, or as many as there are."""
    stream: Any = prefetch(batches.epoch(0), device=supernet.device, channels_last=supernet.channels_last)
    try:
        return [pair for _, pair in zip(range(n), stream, strict=False)]
    finally:
        stream.close()
