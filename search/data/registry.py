"""Data by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from .data import Data, DataError
from .splits import Request

_BUILTIN = {
    "digits": ".digits",
    "mnist5k": ".mnist5k",
    "cifar10": ".cifar10",
    "imagefolder": ".imagefolder",
}
"""Modules whose `load(argument, request)` gives the data set; argument: what follows the name's colon."""


def data_names() -> tuple[str, ...]:
    """The names of the built-in data sets."""
    return tuple(_BUILTIN)


def load_data(spec: str, *, batch_size: int, arch_batch_size: int, seed: int, held_out: float | None = None) -> Data:
    """The data set that `spec` stands for.

    Args:
        spec: `digits[:SIZE]`, `mnist5k[:SIZE]`, `cifar10:PATH`, `imagefolder:PATH[:SIZE]`, or
            `package.module:function` or `path/file.py:function` (see `user.load`).
        batch_size: images in a batch of the training and test parts, of all processes together.
        arch_batch_size: likewise, of the held-out part.
        seed: of the held-out part, of orders and augmentation.
        held_out: share of the training set that is held out; 0 keeps all of it for training; None: 20 %, at most
            50,000 images.

    Raises:
        DataError: there is no such data set, or it cannot be read.
    """
    request = Request(batch_size, arch_batch_size, seed, held_out)
    name, _, argument = spec.partition(":")
    if name in _BUILTIN:
        load: Callable[[str | None, Request], Data] = importlib.import_module(_BUILTIN[name], __package__).load
        return load(argument or None, request)
    if ":" in spec:
        return importlib.import_module(".user", __package__).load(spec, request)
    raise DataError(
        f"unknown data {spec!r}; built in are {', '.join(_BUILTIN)}, "
        "your own are package.module:function or path/file.py:function"
    )
