"""`imagefolder:PATH[:SIZE]`: pictures in a folder for each class, such as ImageNet's."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .batches import Batch, IndexedBatches
from .data import Data, DataError
from .images import SUFFIXES, decode, testing_view, training_view
from .seeds import generator_of
from .splits import Request, rows_for_testing, split_training

SIZE = 224
TEST = 0.2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AHEAD = 2
"""Batches that are decoded while one is used."""


@dataclass(frozen=True)
class Files:
    """Labelled files: paths, labels (N,) and the classes' names."""

    paths: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __getitem__(self, rows: np.ndarray) -> Files:
        return Files(self.paths[rows], self.labels[rows], self.classes)


def load(argument: str | None, request: Request) -> Data:
    """The data set: PATH/train/CLASS/* and PATH/val/CLASS/*, or PATH/CLASS/*, of which a fixed fifth is for testing.

    Args:
        argument: the folder, perhaps with the side of the images (224), after a colon.

    Raises:
        DataError: there is no such folder, or no pictures where they should be.
    """
    folder, size = _parsed(argument)
    name = f"imagefolder:{argument}"
    training, test = _found(folder)
    kept, held_out = split_training(training.labels, request, name)

    def part(files: Files, split: str, batch_size: int) -> FileBatches:
        return FileBatches(files, size, batch_size, seed=request.seed, name=name, split=split)

    return Data(
        name,
        (3, size, size),
        len(training.classes),
        part(training[kept], "train", request.batch_size),
        part(training[held_out], "held out", request.arch_batch_size),
        part(test, "test", request.batch_size),
    )


class FileBatches(IndexedBatches):
    """A split whose pictures are decoded when they are wanted, by several threads, ahead of their use.

    Args:
        split: "train" is augmented, "test" is in order.
    """

    def __init__(self, files: Files, size: int, batch_size: int, *, seed: int, name: str, split: str) -> None:
        super().__init__(len(files.paths), batch_size, seed=seed, shuffled=split != "test", name=name, split=split)
        self.files = files
        self.size = size
        self.augmented = split == "train"
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (MEAN, STD))

    def draw(self, number: int, rows: list[np.ndarray]) -> Generator[Batch, None, None]:
        pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
        try:
            waiting: deque[tuple[np.ndarray, list[Future[np.ndarray]]]] = deque()
            for chosen in rows:
                waiting.append((chosen, [pool.submit(self._view, number, int(row)) for row in chosen]))
                if len(waiting) > AHEAD:
                    yield self._joined(*waiting.popleft())
            while waiting:
                yield self._joined(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _view(self, number: int, row: int) -> np.ndarray:
        image = decode(str(self.files.paths[row]))
        if not self.augmented:
            return testing_view(image, self.size)
        return training_view(image, self.size, generator_of(f"augmentation of {self.split}", self.seed, number, row))

    def _joined(self, rows: np.ndarray, views: list[Future[np.ndarray]]) -> Batch:
        pixels = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        for at, view in enumerate(views):
            pixels[at] = view.result()
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return images.sub_(self.mean).div_(self.std), torch.from_numpy(self.files.labels[rows])


def _parsed(argument: str | None) -> tuple[Path, int]:
    path, colon, side = (argument or "").rpartition(":")
    if not colon or not side.isascii() or not side.isdigit():
        path, side = argument or "", str(SIZE)
    folder = Path(path).expanduser()
    if not path or not folder.is_dir():
        found = f"there is no folder {folder}" if path else "a folder is needed"
        raise DataError(f"data imagefolder: {found}; give imagefolder:PATH or imagefolder:PATH:SIZE")
    if not 8 <= int(side) <= 1024:
        raise DataError(f"data imagefolder:{argument}: the side must be 8 to 1024 pixels")
    return folder, int(side)


def _found(folder: Path) -> tuple[Files, Files]:
    """The training set and the test split."""
    if (folder / "train").is_dir():
        if not (folder / "val").is_dir():
            raise DataError(f"data imagefolder: {folder} has a folder train, but none called val to test on")
        training = _listed(folder / "train")
        return training, _listed(folder / "val", training.classes)
    files = _listed(folder)
    test = rows_for_testing(files.labels, TEST)
    return files[np.setdiff1d(np.arange(len(files.labels)), test)], files[test]


def _listed(folder: Path, classes: tuple[str, ...] | None = None) -> Files:
    """The pictures below; classes are those given, or else the folder's, in order of their names."""
    own = tuple(sorted(entry.name for entry in _entries(folder) if entry.is_dir()))
    if not own:
        raise DataError(f"data imagefolder: {folder} has no folders, one for each class")
    known = classes or own
    unknown = sorted(set(own) - set(known))
    if unknown:
        raise DataError(f"data imagefolder: {folder} has a class {unknown[0]!r}, which is not among those of training")
    paths: list[str] = []
    labels: list[int] = []
    for name in own:
        found = sorted(e.path for e in _entries(folder / name) if "." + e.name.rpartition(".")[2].lower() in SUFFIXES)
        if not found:
            raise DataError(f"data imagefolder: {folder / name} has no images ({', '.join(sorted(SUFFIXES))})")
        paths += found
        labels += [known.index(name)] * len(found)
    return Files(np.array(paths, dtype=object), np.array(labels, dtype=np.int64), known)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"data imagefolder: {folder} cannot be read: {error.strerror}") from None
