"""A data set in its three parts, and whether it fits a search space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import HwnasError

if TYPE_CHECKING:
    from ...spaces.space import SearchSpace
    from .batches import Batches


class DataError(HwnasError):
    """Data that cannot be had, or that do not fit what they are wanted for."""


@dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        name: as it was asked for.
        input_shape: of one image, (C, H, W).
        classes: labels are 0 to classes - 1.
        train: shuffled and augmented; the last batch is left out where it is not full.
        held_out: a class-balanced part of the training set, which `train` has no image of; shuffled, not augmented.
        test: in order, all of it; used for nothing but testing.
        exact: False where `classes` is only the highest label seen plus one, since the user's loaders say no more.
    """

    name: str
    input_shape: tuple[int, ...]
    classes: int
    train: Batches
    held_out: Batches
    test: Batches
    exact: bool = True


def check_data(space: SearchSpace, data: Data) -> None:
    """Whether a space can be searched, or its networks trained, with these data.

    Looks at the first batch of each part; from then on the user's loaders refuse labels that the space has no output
    for. The held-out part may be empty.

    Raises:
        DataError: images, channels or classes are not the space's, a label is out of range, a part is empty.
    """
    from .agreement import check

    check(space, data)
