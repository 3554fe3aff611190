"""Images of a data set, by which int8 models are calibrated."""

from __future__ import annotations

from contextlib import closing
from typing import Any, cast

import torch

from ...profiler.calibration_data import CalibrationData
from ...spaces.space import SearchSpace
from .batches import Batches
from .registry import load_data

IMAGES = 32
"""For models that are to be measured: times do not depend on them, and each network has to be calibrated."""
EXPORT_IMAGES = 128


def load_calibration_data(spec: str, space: SearchSpace, images: int = IMAGES) -> CalibrationData:
    """The first training images of a data set, as `load_data` names it.

    Raises:
        DataError: there is no such data set, or it cannot be read.
        CalibrationDataError: its images are not inputs of the space.
    """
    data = load_data(spec, batch_size=1, arch_batch_size=1, seed=0, held_out=0)
    found = first_images(spec, data.train, images)
    found.check(space)
    return found


def first_images(name: str, batches: Batches, images: int) -> CalibrationData:
    """The first images of epoch 0; fewer, where there are no more."""
    parts: list[torch.Tensor] = []
    with closing(cast(Any, batches.epoch(0))) as epoch:
        for batch, _ in epoch:
            parts.append(batch[: images - sum(map(len, parts))])
            if sum(map(len, parts)) >= images:
                break
    return CalibrationData(name, (torch.cat(parts).numpy(),))
