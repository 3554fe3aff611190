"""Which images are for training, held out, or for testing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .data import DataError
from .seeds import generator_of

HELD_OUT = 0.2
"""Share of the training set that is held out, up to MOST_HELD_OUT images."""
MOST_HELD_OUT = 50_000

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """How a data set is wanted.

    Attributes:
        batch_size, arch_batch_size: images in a batch of `train` and `test`, and of `held_out`.
        seed: of the held-out part, of orders and augmentation; the test split does not depend on it.
        held_out: share of the training set, 0 (nothing) to below 1; None: 20 %, at most 50,000 images.

    Raises:
        DataError: a share or batch size that cannot be.
    """

    batch_size: int
    arch_batch_size: int
    seed: int
    held_out: float | None = None

    def __post_init__(self) -> None:
        if self.held_out is not None and not 0 <= self.held_out < 1:
            raise DataError(f"the held-out share must be at least 0 and below 1, not {self.held_out}")
        for name in ("batch_size", "arch_batch_size"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} must be at least 1, not {getattr(self, name)}")


def rows_for_testing(labels: np.ndarray, part: float) -> Rows:
    """Rows of a test split: this part of every class, always the same."""
    counts = np.round(np.bincount(labels) * part).astype(int)
    return _draw(labels, counts, generator_of("test split"))


def split_training(labels: np.ndarray, request: Request, name: str) -> tuple[Rows, Rows]:
    """Rows of the training set that are trained on, and those that are held out: as many of each class.

    A class gives at most half of its images, so that none is lost to training.

    Raises:
        DataError: the classes are too small to hold anything out.
    """
    every = np.arange(len(labels))
    if request.held_out == 0:
        return every, every[:0]
    wanted = len(labels) * request.held_out if request.held_out else min(len(labels) * HELD_OUT, MOST_HELD_OUT)
    have = np.bincount(labels)
    classes = int(np.count_nonzero(have))
    each = max(1, round(wanted / max(1, classes)))
    held_out = _draw(labels, np.minimum(each, have // 2), generator_of("held-out part", request.seed))
    if not len(held_out):
        raise DataError(f"{name}: no class has two training images, so that none can be held out for the search")
    return np.setdiff1d(every, held_out), held_out


def _draw(labels: np.ndarray, counts: np.ndarray, random: np.random.Generator) -> Rows:
    """So many rows of each class, ascending."""
    order = random.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    have = np.bincount(labels, minlength=len(counts))
    place = np.arange(len(labels)) - np.repeat(np.cumsum(have) - have, have)  # within its class
    return np.sort(by_class[place < counts[labels[by_class]]])
