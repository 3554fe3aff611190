"""Data sets that lie in memory as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .batches import TensorBatches
from .data import Data, DataError
from .splits import Request, split_training


@dataclass(frozen=True)
class Images:
    """A labelled data set whose test split is fixed.

    Attributes:
        images: (N, C, H, W).
        labels: (N,) from 0 to classes - 1.
        test: rows of the test split.
        mean, std: of each channel, in the images' unit; None: those of the training images.
        shift, flip: augmentation of the training images (see `TensorBatches`).
    """

    images: Tensor
    labels: np.ndarray
    classes: int
    test: np.ndarray
    mean: Tensor | None = None
    std: Tensor | None = None
    shift: int = 0
    flip: bool = False


def as_data(name: str, source: Images, request: Request) -> Data:
    """The data set in its three parts."""
    training = np.setdiff1d(np.arange(len(source.labels)), source.test)
    kept, held_out = split_training(source.labels[training], request, name)
    mean, std = source.mean, source.std
    if mean is None or std is None:
        pixels = source.images[torch.from_numpy(training)].to(torch.float64)
        mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)).clamp_min(1e-6)

    def part(rows: np.ndarray, split: str, size: int, shift: int = 0, flip: bool = False) -> TensorBatches:
        return TensorBatches(
            source.images[torch.from_numpy(rows)],
            torch.from_numpy(source.labels[rows]),
            size,
            seed=request.seed,
            shuffled=split != "test",
            name=name,
            split=split,
            mean=mean,
            std=std,
            shift=shift,
            flip=flip,
        )

    return Data(
        name,
        tuple(source.images.shape[1:]),
        source.classes,
        part(training[kept], "train", request.batch_size, source.shift, source.flip),
        part(training[held_out], "held out", request.arch_batch_size),
        part(source.test, "test", request.batch_size),
    )


def resized(images: Tensor, size: int) -> Tensor:
    """(N, C, size, size), bilinear (averaging where they shrink); as they are where that is their size."""
    if images.shape[2:] == (size, size):
        return images
    return functional.interpolate(
        images.to(torch.float32), (size, size), mode="bilinear", align_corners=False, antialias=True
    )


def side_of(name: str, argument: str | None, default: int) -> int:
    """The side that `name:SIZE` asks for.

    Raises:
        DataError: it is no whole number from 1 to 1024.
    """
    if argument is None:
        return default
    if not (argument.isascii() and argument.isdigit() and 1 <= int(argument) <= 1024):
        raise DataError(f"data {name}:{argument}: the side must be a whole number of pixels, 1 to 1024: {name}:28")
    return int(argument)
