"""Batches of one split of a data set: the contract, and splits that lie in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .data import DataError
from .seeds import generator_of

Batch = tuple[Tensor, Tensor]
Drawn = Literal["by a thread", "by the caller", "from memory"]


class Pass(Iterator[Batch]):
    """The batches of one epoch.

    Args:
        batches: what draws them.
        drawn: "by a thread", if one likes; "by the caller" only, since drawing changes global state for a moment;
            "from memory", so fast that on the CPU a thread is not worth it.
    """

    def __init__(self, batches: Generator[Batch, None, None], drawn: Drawn) -> None:
        self.batches = batches
        self.drawn = drawn

    def __next__(self) -> Batch:
        return next(self.batches)

    def close(self) -> None:
        """Let go of threads and files."""
        self.batches.close()


class Batches(ABC):
    """One split of a data set, in batches; it has no state, so any epoch can be had at any time.

    Attributes:
        batch_size: images in a batch, of all processes together.
    """

    batch_size: int

    @abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch."""

    @abstractmethod
    def epoch(self, number: int, *, start: int = 0, shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Images (B, C, H, W), float32, and labels (B,), int64: contiguous, on the CPU.

        Order and augmentation depend on the seed and `number` alone (a sample's augmentation on its index, too), so
        that an epoch that begins at batch `start` goes on bit for bit as the whole one.

        Args:
            number: of the epoch.
            start: the batch to begin with.
            shard: (rank, world): only this rank's rows of each batch.

        Raises:
            DataError: a batch cannot be shared out evenly; a sample cannot be read.
        """


class NoBatches(Batches):
    """A split without images."""

    batch_size = 0

    def __len__(self) -> int:
        return 0

    def epoch(self, number: int, *, start: int = 0, shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        return iter(())


def first_batch(batches: Batches) -> Batch:
    """The first batch of epoch 0; the rest of the epoch is let go."""
    epoch = batches.epoch(0)
    try:
        return next(epoch)
    finally:
        close = getattr(epoch, "close", None)
        if close is not None:
            close()


def share(rows: int, shard: tuple[int, int]) -> slice:
    """This rank's of so many rows; the ranks' shares differ by one at most."""
    rank, world = shard
    return slice(rows * rank // world, rows * (rank + 1) // world)


class IndexedBatches(Batches):
    """A split whose samples can be had by number.

    Args:
        samples: how many there are.
        batch_size: must divide among the processes.
        seed: of order and augmentation.
        shuffled: in a new order each epoch, and without the last batch if it is not full; else in order, all of it.
        name: of the data set, for messages.
        split: "train", "held out" or "test"; part of the seed.

    Raises:
        DataError: a shuffled split has fewer samples than one batch.
    """

    drawn: ClassVar[Drawn] = "by a thread"

    def __init__(self, samples: int, batch_size: int, *, seed: int, shuffled: bool, name: str, split: str) -> None:
        name = f"{name}, {split}"
        if shuffled and 0 < samples < batch_size:
            raise DataError(
                f"{name}: a batch of {batch_size} images was asked for, but there are only {samples}; "
                f"use a batch size of at most {samples}"
            )
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.shuffled = shuffled
        self.name = name
        self.split = split

    def __len__(self) -> int:
        return self.samples // self.batch_size if self.shuffled else -(-self.samples // self.batch_size)

    def epoch(self, number: int, *, start: int = 0, shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        _, world = shard
        if self.shuffled and self.batch_size % world:
            raise DataError(
                f"{self.name}: a batch of {self.batch_size} images cannot be shared evenly by {world} processes; "
                f"use a multiple of {world}"
            )
        return Pass(self.draw(number, self._rows(number, start, shard)), self.drawn)

    @abstractmethod
    def draw(self, number: int, rows: list[np.ndarray]) -> Generator[Batch, None, None]:
        """The batches of epoch `number` that consist of these samples."""

    def _rows(self, number: int, start: int, shard: tuple[int, int]) -> list[np.ndarray]:
        order = np.arange(self.samples)
        if self.shuffled:
            order = generator_of(f"order of {self.split}", self.seed, number).permutation(self.samples)
        batches = (order[b * self.batch_size : (b + 1) * self.batch_size] for b in range(start, len(self)))
        return [rows[share(len(rows), shard)] for rows in batches]


class TensorBatches(IndexedBatches):
    """A split that lies in memory, augmented by shifts and flips.

    Args:
        images: (N, C, H, W), of any real type; kept as they are and normalised batch by batch.
        labels: (N,) whole numbers.
        mean, std: of each channel, in the images' own unit.
        shift: augmentation: each image moves by up to so many pixels in both directions; zeros come in.
        flip: augmentation: every second image is mirrored.
    """

    drawn = "from memory"

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        *,
        seed: int,
        shuffled: bool,
        name: str,
        split: str,
        mean: Tensor,
        std: Tensor,
        shift: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(len(images), batch_size, seed=seed, shuffled=shuffled, name=name, split=split)
        height, width = images.shape[2:]
        padded = functional.pad(images, (shift,) * 4)
        # (N, C, 2 shift + 1, 2 shift + 1, H, W): every shift of every image, as views into the padded ones
        self.shifted = padded.unfold(2, height, 1).unfold(3, width, 1)
        self.labels = labels.to(torch.int64)
        self.mean = mean.to(torch.float32).view(-1, 1, 1)
        self.std = std.to(torch.float32).view(-1, 1, 1)
        self.shift = shift
        self.flip = flip

    def draw(self, number: int, rows: list[np.ndarray]) -> Generator[Batch, None, None]:
        random = generator_of(f"augmentation of {self.split}", self.seed, number)
        shifts = random.integers(2 * self.shift + 1, size=(2, self.samples))
        flips = random.integers(2, size=self.samples, dtype=np.uint8) if self.flip else None
        for chosen in rows:
            index, vertical, horizontal = map(torch.from_numpy, (chosen, *shifts[:, chosen]))
            images = self.shifted[index, :, vertical, horizontal].to(torch.float32)
            images.sub_(self.mean).div_(self.std)
            if flips is not None:
                mirrored = torch.from_numpy(flips[chosen]).bool().view(-1, 1, 1, 1)
                images = torch.where(mirrored, images.flip(-1), images)
            yield images, self.labels[index]
