"""The user's own loaders: any iterable of (images, labels), made repeatable."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Iterator, Sized
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from .batches import Batch, Batches, Drawn, Pass, first_batch, share
from .data import DataError
from .random_state import OwnRandomness


def wrap_loader(loader: Iterable[Any], *, seed: int, name: str) -> Batches:
    """A loader as `Batches`.

    The pass of an epoch draws from generators of its own, seeded from (seed, epoch): the global ones of torch, numpy
    and Python are exchanged for them while the loader works and put back afterwards, and so are generators that a
    DataLoader was given. A loader that keeps randomness elsewhere (a numpy Generator in its data set, workers that
    persist) does not repeat itself.

    Args:
        loader: a torch DataLoader, a list, or whatever has a length and can be iterated over again and again.
        name: for messages, and part of the seed.

    Raises:
        DataError: it has no length, is empty, can be used only once, or does not give batches of images and labels.
    """
    return LoaderBatches(loader, seed=seed, name=name)


class LoaderBatches(Batches):
    """See `wrap_loader`.

    Args:
        stream: part of the seed instead of `name`.

    Attributes:
        plain: a list or tuple, from which drawing can neither use random numbers nor take time.
        classes: if known, labels from it on are refused.
        whole: every row counts, even where the processes do not get equally many; otherwise a batch that they cannot
            share evenly loses its last rows.
        input_shape: of one image, as in the first batch.
    """

    def __init__(
        self, loader: Iterable[Any], *, seed: int, name: str, stream: str | None = None, whole: bool = False
    ) -> None:
        self.loader = loader
        self.plain = type(loader) in (list, tuple)
        self.seed = seed
        self.name = name
        self.stream = stream or name
        self.whole = whole
        self.classes: int | None = None
        self.input_shape: tuple[int, ...] | None = None
        if isinstance(loader, Iterator):
            raise DataError(f"{name}: the loader can be iterated over only once; give a list or a DataLoader")
        if not len(self):
            raise DataError(f"{name}: the loader is empty{_why_empty(loader)}")
        if getattr(loader, "persistent_workers", False):
            warnings.warn(
                f"{name}: workers that persist go on with their random numbers from epoch to epoch, so that a resumed "
                "run differs from an unbroken one; use persistent_workers=False",
                stacklevel=3,
            )
        images, _ = first_batch(self)
        self.input_shape = tuple(images.shape[1:])
        self.batch_size = len(images)

    def __len__(self) -> int:
        length = getattr(self.loader, "__len__", None)
        try:
            return int(length()) if length is not None else self._no_length("")
        except TypeError as error:  # a DataLoader of an IterableDataset without a length
            return self._no_length(f" ({error})")

    def _no_length(self, reason: str) -> int:
        raise DataError(f"{self.name}: the loader, a {type(self.loader).__name__}, has no length{reason}")

    def epoch(self, number: int, *, start: int = 0, shard: tuple[int, int] = (0, 1)) -> Pass:
        drawn: Drawn = "from memory" if self.plain else "by the caller"
        return Pass(self._draw(number, start, shard), drawn)

    def _draw(self, number: int, start: int, shard: tuple[int, int]) -> Generator[Batch, None, None]:
        lent = self._randomness(number)
        with lent():
            iterator = self._opened()
        for index in range(len(self)):
            with lent():
                drawn = self._next(iterator, index)
            if index >= start:
                images, labels = self._checked(drawn, index)
                rows = self._share(len(labels), index, shard)
                yield images[rows].contiguous(), labels[rows].contiguous()

    def _randomness(self, number: int) -> Any:
        if self.plain:
            return nullcontext
        return OwnRandomness((self.seed, number, *self.stream.encode()), _generators(self.loader)).lent

    def _opened(self) -> Iterator[Any]:
        try:
            return iter(self.loader)
        except Exception as error:  # foreign code: it may raise anything
            raise self._failed("cannot be iterated over", error) from error

    def _next(self, iterator: Iterator[Any], index: int) -> Any:
        try:
            return next(iterator)
        except StopIteration:
            raise DataError(
                f"{self.name}: the loader ended after {index} of its {len(self)} batches; its length must be that of "
                "every pass over it"
            ) from None
        except Exception as error:  # foreign code: it may raise anything
            raise self._failed(f"fails at batch {index}", error) from error

    def _failed(self, what: str, error: Exception) -> DataError:
        return DataError(f"{self.name}: the loader {what}: {type(error).__name__}: {' '.join(str(error).split())}")

    def _checked(self, batch: Any, index: int) -> Batch:
        where = f"{self.name}, batch {index}"
        if not isinstance(batch, (list, tuple)) or len(batch) != 2:
            found = f"{len(batch)} things" if isinstance(batch, Sized) else f"a {type(batch).__name__}"
            raise DataError(f"{where}: expected a pair (images, labels), found {found}")
        images, labels = (_as_tensor(part, f"{where}: {what}") for part, what in zip(batch, PARTS, strict=True))
        if images.ndim < 2 or labels.ndim != 1 or len(images) != len(labels) or not len(labels):
            raise DataError(
                f"{where}: expected images (B, C, H, W) and labels (B,), found {shape(images)} and {shape(labels)}"
            )
        if self.input_shape is not None and tuple(images.shape[1:]) != self.input_shape:
            raise DataError(f"{where}: images are {shape(images[0])}, those of batch 0 {shape(self.input_shape)}")
        images = images.to(torch.float32) if images.is_floating_point() else images
        return images, checked_labels(labels, self.classes, where)

    def _share(self, rows: int, index: int, shard: tuple[int, int]) -> slice:
        _, world = shard
        even = rows if self.whole else rows - rows % world
        if not even:
            raise DataError(
                f"{self.name}: batch {index} has {rows} images, too few for {world} processes; use drop_last=True or "
                "larger batches"
            )
        return share(even, shard)


PARTS = ("images", "labels")


def checked_labels(labels: Tensor, classes: int | None, where: str) -> Tensor:
    """The labels as int64.

    Raises:
        DataError: they are no whole numbers from 0 to classes - 1.
    """
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise DataError(f"{where}: labels must be whole numbers, not {str(labels.dtype).removeprefix('torch.')}")
    labels = labels.to(torch.int64)
    low, high = (int(end) for end in labels.aminmax())
    if low < 0 or (classes is not None and high >= classes):
        wanted = "at least 0" if classes is None else f"from 0 to {classes - 1}"
        raise DataError(f"{where}: labels must be {wanted}, found {low if low < 0 else high}")
    return labels


def shape(of: Tensor | tuple[int, ...]) -> str:
    """A shape as people write it: 3x32x32."""
    return "x".join(map(str, of.shape if isinstance(of, Tensor) else of)) or "a single number"


def _as_tensor(value: Any, what: str) -> Tensor:
    try:
        return torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} are no tensor but a {type(value).__name__}: {error}") from None


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators that a DataLoader and its samplers were given, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    places = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
    found = [getattr(place, "generator", None) for place in places]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _why_empty(loader: Iterable[Any]) -> str:
    """Where a DataLoader drops the only batch that it has."""
    images = getattr(getattr(loader, "dataset", None), "__len__", int)()
    if not getattr(loader, "drop_last", False) or not images:
        return ""
    size = getattr(loader, "batch_size", None)
    return f": its {images} images are less than a batch{f' of {size}' if size else ''}, and drop_last drops them"
