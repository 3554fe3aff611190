"""Batch files of CIFAR-10, which are pickles, read without running anything that they ask for.

A pickle may call whatever it can name. Here it can name only what an array of bytes consists of, and gets stand-ins for
it, which check what they are given and call nothing.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np


class Refused(Exception):
    """The file is not what it should be; the message says why."""


def read_batch(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3072), uint8, and labels (N,), int64, of the bytes of a batch file.

    Raises:
        Refused: they are no batch of CIFAR-10.
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Refused:
        raise
    except Exception as error:  # a broken pickle raises anything
        raise Refused(f"{type(error).__name__}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise Refused(f"it holds a {type(content).__name__}, not a dict")
    named = {_text(key): value for key, value in content.items()}
    pixels, labels = named.get("data"), named.get("labels")
    pixels = pixels.value if isinstance(pixels, _Array) else None
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise Refused("its 'data' is no array of N x 3072 bytes")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise Refused(f"its 'labels' is no list of {len(pixels)} numbers")
    if not all(type(y) is int and 0 <= y <= 9 for y in labels):
        raise Refused("its labels are not whole numbers from 0 to 9")
    return pixels, np.array(labels, dtype=np.int64)


class _Named:
    """Something that a pickle may name: to be called, and never to be changed."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any] | None) -> None:
        self.call = call

    def __call__(self, *args: Any) -> Any:
        if self.call is None:
            raise Refused("it calls what is only to be named")
        return self.call(*args)

    def __setstate__(self, state: Any) -> None:
        raise Refused("it changes what it names")


class _Dtype:
    """Stands for a numpy dtype; only that of bytes exists."""

    __slots__ = ()

    def __init__(self, code: Any, *_: Any) -> None:
        if _text(code) not in ("u1", "|u1"):
            raise Refused("it holds an array of other numbers than bytes")

    def __setstate__(self, state: Any) -> None:
        pass  # byte order, which bytes have none of


class _Array:
    """Stands for an array of bytes; made empty, it gets its shape and content by `__setstate__`."""

    __slots__ = ("value",)

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.fill(content, dtype, shape, "F" if fortran else "C")

    def fill(self, content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        if not isinstance(dtype, _Dtype) or not isinstance(content, (bytes, bytearray)) or order not in ("C", "F"):
            raise Refused("it holds an array of something else than bytes")
        self.value = np.frombuffer(bytes(content), np.uint8).reshape(shape, order=order)
        return self


def _encode(text: Any, encoding: Any = "utf-8", *_: Any) -> bytes:
    if not isinstance(text, str) or _text(encoding) not in ("latin1", "latin-1"):
        raise Refused("it encodes something else than bytes written as text")
    return text.encode("latin-1")


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array().fill(content, dtype, shape, order)


_NAMES: dict[tuple[str, str], Callable[..., Any] | None] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): None,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise Refused(f"it asks for {module}.{name}, which that format does not need")
        return _Named(_NAMES[module, name])

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("it refers to something outside itself")


def _text(key: Any) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else key if isinstance(key, str) else ""
