"""`cifar10:PATH`: CIFAR-10 (Krizhevsky, 2009) from its Python archive, packed or unpacked."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from .cifar_pickle import Refused, read_batch
from .data import Data, DataError
from .in_memory import Images, as_data
from .splits import Request

TRAINING = tuple(f"data_batch_{n}" for n in range(1, 6))
TEST = "test_batch"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SHIFT = 4
ARCHIVE, FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
LARGEST = 64 * 2**20
"""Bytes of a batch file that are read at most; the original's have 31 million."""


def load(argument: str | None, request: Request) -> Data:
    """The data set, with the usual augmentation: shifts of up to 4 pixels and mirroring.

    Args:
        argument: the archive, the folder unpacked from it, or a folder that holds either.

    Raises:
        DataError: there is no such file, it is broken, or asks for something that the format does not need.
    """
    if not argument:
        raise DataError(f"data cifar10 needs the path of {ARCHIVE} or of the folder unpacked from it: cifar10:PATH")
    path = _located(Path(argument).expanduser())
    with _opener(path) as opened:
        parts = [opened(name) for name in (*TRAINING, TEST)]
    pixels = np.concatenate([p for p, _ in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([y for _, y in parts])
    test = np.arange(len(labels) - len(parts[-1][1]), len(labels))
    mean, std = (torch.tensor(values) * 255 for values in (MEAN, STD))
    source = Images(torch.from_numpy(pixels), labels, 10, test, mean, std, SHIFT, flip=True)
    return as_data(f"cifar10:{argument}", source, request)


def _located(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"data cifar10: there is no {path}; get {ARCHIVE} and give its path")
    for inside in (path / FOLDER, path / ARCHIVE):
        if inside.exists() and not (path / TEST).exists():
            return inside
    return path


class _Opener:
    """Reads batch files of the folder or archive by name."""

    def __init__(self, path: Path, archive: tarfile.TarFile | None) -> None:
        self.path = path
        self.archive = archive
        members = archive.getmembers() if archive is not None else []
        self.members = {Path(m.name).name: m for m in members if m.isfile()}

    def __call__(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        where = f"{self.path}/{name}"
        try:
            with self._file(name) as file:
                data = file.read(LARGEST + 1)
        except (OSError, KeyError):
            raise DataError(f"data cifar10: {self.path} has no {name}; is it {ARCHIVE}, whole?") from None
        if len(data) > LARGEST:
            raise DataError(f"data cifar10: {where} is larger than a batch of CIFAR-10 can be")
        try:
            return read_batch(data)
        except Refused as error:
            raise DataError(f"data cifar10: {where} is no batch of CIFAR-10: {error}") from None

    def _file(self, name: str) -> BinaryIO:
        if self.archive is None:
            return (self.path / name).open("rb")
        file = self.archive.extractfile(self.members[name])
        if file is None:
            raise KeyError(name)
        return file  # type: ignore[return-value]


@contextmanager
def _opener(path: Path) -> Iterator[_Opener]:
    if path.is_dir():
        yield _Opener(path, None)
        return
    try:
        with tarfile.open(path) as archive:
            yield _Opener(path, archive)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"data cifar10: {path} is no archive that can be read, or is cut off: {reason}") from None
