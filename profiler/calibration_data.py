"""Inputs by which int8 models are calibrated: images of the user's, or random numbers where there are none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import HwnasError

if TYPE_CHECKING:
    from ..spaces.space import SearchSpace

RANDOM = "normal random numbers"


class CalibrationDataError(HwnasError):
    """Calibration data that are not inputs of the space."""


@dataclass(frozen=True, eq=False)
class CalibrationData:
    """Inputs of the networks of a space, from which the ranges of their activations are taken.

    Only whole networks are calibrated by them: what comes into a single operator is not an image.

    Attributes:
        name: what the user calls them.
        arrays: one for each input of the space, (N, ...), N alike.
    """

    name: str
    arrays: tuple[np.ndarray, ...]

    @cached_property
    def digest(self) -> str:
        """Of the numbers themselves."""
        digest = hashlib.sha256()
        for array in self.arrays:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.arrays[0])

    def batches(self, batch: int) -> list[list[np.ndarray]]:
        """All of them, so many at a time; the last ones that do not fill a batch are left out, too few are repeated."""
        arrays = [np.resize(a, (batch, *a.shape[1:])) if len(a) < batch else a for a in self.arrays]
        return [[a[i : i + batch] for a in arrays] for i in range(0, len(arrays[0]) - batch + 1, batch)]

    def check(self, space: SearchSpace) -> None:
        """Raise CalibrationDataError unless these are inputs of the space's networks."""
        inputs = space.inputs(1)
        wanted = [tuple(tensor.shape[1:]) for tensor in inputs]
        found = [array.shape[1:] for array in self.arrays]
        if found == wanted and any(
            tensor.is_floating_point() != (array.dtype.kind == "f")
            for tensor, array in zip(inputs, self.arrays, strict=True)
        ):
            kinds = ", ".join(str(tensor.dtype)[6:] for tensor in inputs)
            raise CalibrationDataError(f"calibration data {self.name!r} are {self.arrays[0].dtype}, not {kinds}")
        if found != wanted:
            raise CalibrationDataError(
                f"calibration data {self.name!r} have the shape {_text(found)}, but space {space.name!r} takes "
                f"{_text(wanted)}: use data of that shape, or a space for these (--space-arg)"
            )


def _text(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join("x".join(map(str, shape)) or "a single number" for shape in shapes)


def quantisation(dtype: str, data: CalibrationData | None) -> dict[str, Any]:
    """What a table's provenance says of how models were brought to a dtype."""
    if dtype != "int8":
        return {}
    about: dict[str, Any] = {"operators": RANDOM, "networks": RANDOM}
    if data is None:
        about["warning"] = "calibrated without data (--calibration-data): good for times, not for accuracy"
        return about
    return {**about, "networks": f"{len(data)} inputs of {data.name}", "digest": data.digest}
