"""Pictures in files: decoding them, and the views of them that are trained on and tested."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .data import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
"""Decoders that are allowed to try; others (PostScript) would start programs."""

BRIGHTNESS, SATURATION = 32 / 255, 0.5
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
CENTRE = 0.875


def decode(path: str) -> Image:
    """The picture in RGB.

    Raises:
        DataError: the file is no picture, or is cut off.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.convert("RGB")
    except Exception as error:  # decoders of broken files raise anything
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as an image: {reason}; replace or remove it") from None


def training_view(image: Image, size: int, random: np.random.Generator) -> np.ndarray:
    """(size, size, 3) uint8: a random part, perhaps mirrored, brightness and saturation changed (arXiv:1812.00332)."""
    from PIL import ImageEnhance
    from PIL.Image import Resampling, Transpose

    part = image.resize((size, size), Resampling.BILINEAR, box=_random_box(*image.size, random))
    if random.random() < 0.5:
        part = part.transpose(Transpose.FLIP_LEFT_RIGHT)
    changes = [(ImageEnhance.Brightness, BRIGHTNESS), (ImageEnhance.Color, SATURATION)]
    for at in random.permutation(2):
        enhance, most = changes[at]
        part = enhance(part).enhance(random.uniform(1 - most, 1 + most))
    return np.asarray(part)


def testing_view(image: Image, size: int) -> np.ndarray:
    """(size, size, 3) uint8: the middle of the picture, whose shorter side becomes size / 0.875 pixels."""
    from PIL.Image import Resampling

    shorter = round(size / CENTRE)
    factor = shorter / min(image.size)
    width, height = (max(shorter, round(side * factor)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    whole = image.resize((width, height), Resampling.BILINEAR)
    return np.asarray(whole.crop((left, top, left + size, top + size)))


def _random_box(width: int, height: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """A part of 8 to 100 % of the area, 3:4 to 4:3; the widest one in the middle where ten draws do not fit."""
    for _ in range(10):
        area = width * height * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
