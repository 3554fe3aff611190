"""Seeded generators of numpy, each for one purpose."""

from __future__ import annotations

import zlib

import numpy as np


def generator_of(purpose: str, *numbers: int) -> np.random.Generator:
    """A generator that depends on its purpose and on these numbers alone."""
    return np.random.default_rng([zlib.crc32(purpose.encode()), *(n % 2**64 for n in numbers)])
