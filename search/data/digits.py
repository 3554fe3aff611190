"""`digits`: the 1,797 handwritten digits of 8x8 pixels that come with scikit-learn."""

from __future__ import annotations

import numpy as np
import torch

from .data import Data
from .in_memory import Images, as_data, resized, side_of
from .splits import Request, rows_for_testing

TEST = 0.25
SHIFT = 2


def load(argument: str | None, request: Request) -> Data:
    """The data set, its images resized where `argument` gives a side."""
    from sklearn.datasets import load_digits

    side = side_of("digits", argument, 8)
    digits = load_digits()
    images = resized(torch.from_numpy(digits.images).to(torch.float32).unsqueeze(1), side)
    labels = digits.target.astype(np.int64)
    name = "digits" if argument is None else f"digits:{side}"
    return as_data(name, Images(images, labels, 10, rows_for_testing(labels, TEST), shift=SHIFT), request)
