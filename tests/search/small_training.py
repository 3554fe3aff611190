"""Data and a network that train in a moment."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from hwnas.search.data.batches import Batches
from hwnas.search.data.data import Data
from hwnas.search.settings import WeightSettings
from torch import Tensor, nn

SETTINGS = WeightSettings(epochs=3, batch_size=16, lr=0.1)


class Rows(Batches):
    """Images that lie in memory; shuffled anew each epoch, or in order."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, *, shuffled: bool) -> None:
        self.images, self.labels, self.batch_size, self.shuffled = images, labels, batch_size, shuffled

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, number: int, *, start: int = 0, shard: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        rank, world = shard
        order = np.random.default_rng(number).permutation(len(self.labels)) if self.shuffled else None
        for i in range(start, len(self)):
            rows = np.arange(len(self.labels))[i * self.batch_size : (i + 1) * self.batch_size][rank::world]
            chosen = rows if order is None else order[rows]
            yield self.images[chosen], self.labels[chosen]


def make_data(held_out: int = 20) -> Data:
    """Three classes of 4x4 images that differ in their mean: 64 for training, 30 for testing."""
    generator = torch.Generator().manual_seed(0)

    def split(n: int, size: int, *, shuffled: bool) -> Rows:
        labels = torch.arange(n) % 3
        images = torch.randn(n, 2, 4, 4, generator=generator) + labels.view(-1, 1, 1, 1) - 1
        return Rows(images, labels, size, shuffled=shuffled)

    parts = (split(64, 16, shuffled=True), split(held_out, 4, shuffled=True), split(30, 8, shuffled=False))
    return Data("three means", (2, 4, 4), 3, *parts)


def make_network(*, norm: bool = True, dropout: float = 0.2, seed: int = 0) -> nn.Module:
    """A network of one convolution."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        middle = [nn.BatchNorm2d(6)] if norm else []
        return nn.Sequential(
            nn.Conv2d(2, 6, 3), *middle, nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(24, 3)
        )
