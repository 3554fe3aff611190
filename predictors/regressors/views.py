"""Ways to look at rows: which columns a learner by distance sees, and which of them share a length."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import TABLE, Rows

BY_COLUMN, BY_CATEGORY = "column", "category"
ALL, ALL_WITH_CHOICES = "all hypotheses", "all hypotheses with choices"


@dataclass(frozen=True)
class View:
    """Some columns of rows.

    Attributes:
        name: for people.
        numeric: numbers of the numeric columns; each is a group of its own.
        choices: numbers of the categorical columns, which are shown one-hot.
        by: which of these share a length: all of a "column", or the same "category" in all columns.
        counted: whether it is shown, too, how many of the columns have each category.
    """

    name: str
    numeric: tuple[int, ...] = ()
    choices: tuple[int, ...] = ()
    by: str = BY_COLUMN
    counted: bool = False

    def matrix(
        self, rows: Rows, dtype: type[np.floating[Any]] = np.float64, less: NDArray[np.float64] | float = 0.0
    ) -> NDArray[Any]:
        """(N, F)

        Args:
            less: (numbers,) subtracted from the numeric columns, so that few digits are enough for what is left.
        """
        own = rows.choices[:, list(self.choices)]
        sizes = [rows.sizes[c] for c in self.choices]
        most = max(sizes, default=0) if self.counted else 0
        starts = np.cumsum([len(self.numeric), *sizes])
        width = int(starts[-1]) + most
        found = np.zeros((len(rows), width + 1), dtype)  # the last column takes the rows that have no category
        found[:, : len(self.numeric)] = rows.numeric[:, list(self.numeric)] - less
        places = np.where(own < 0, width, own + starts[:-1]) + np.arange(len(rows))[:, None] * (width + 1)
        found.ravel()[places] = 1
        for k in range(most):
            found[:, starts[-1] + k] = (own == k).sum(axis=1)
        return found[:, :width]

    def groups(self, rows: Rows) -> NDArray[np.intp]:
        """(F,) number of each column's group."""
        sizes = [rows.sizes[c] for c in self.choices]
        numbers = np.arange(len(self.numeric))
        owner = [np.full(size, j) if self.by == BY_COLUMN else np.arange(size) for j, size in enumerate(sizes)]
        hot = np.concatenate(owner).astype(np.intp) if owner else np.empty(0, np.intp)
        parts = [numbers, hot + len(numbers)]
        if self.counted:
            parts.append(np.arange(max(sizes, default=0)) + int(hot.max(initial=-1)) + 1 + len(numbers))
        return np.concatenate(parts).astype(np.intp)

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "name": self.name,
            "numeric": list(self.numeric),
            "choices": list(self.choices),
            "by": self.by,
            "counted": self.counted,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> View:
        """The inverse of `as_dict`; raises KeyError, TypeError or ValueError for damaged data."""
        numeric, choices = (tuple(int(i) for i in data[name]) for name in ("numeric", "choices"))
        by = str(data["by"])
        if by not in (BY_COLUMN, BY_CATEGORY) or min((*numeric, *choices), default=0) < 0:
            raise ValueError("the view is damaged")
        return cls(str(data["name"]), numeric, choices, by, bool(data["counted"]))


def everything(rows: Rows) -> View:
    """All columns."""
    return View("everything", tuple(range(len(rows.names))), tuple(range(len(rows.sizes))))


def views(rows: Rows) -> list[View]:
    """Different ways to look at rows; which of them serves to predict, only data can tell.

    With blocks, each of these is a hypothesis of what a runtime makes of a network: alone, with the choices that it
    says are left, and all of them together; a table's prediction goes with each. Without, choices and whatever numbers
    there are.
    """
    by = BY_CATEGORY if _tied(rows) else BY_COLUMN
    return _of_blocks(rows, by) if rows.blocks else _of_columns(rows, by)


def _of_blocks(rows: Rows, by: str) -> list[View]:
    shown = tuple(i for i, name in enumerate(rows.names) if name == TABLE)
    core, more, choices = (
        tuple(dict.fromkeys(itertools.chain.from_iterable(parts)))
        for parts in zip(*((b.core, b.more, b.choices) for b in rows.blocks), strict=True)
    )
    found = []
    for block in rows.blocks:
        found.append(View(block.name, (*block.core, *shown)))
        found.append(View(f"{block.name} with choices", (*block.core, *block.more, *shown), block.choices, by))
    if len(rows.blocks) > 1:
        found.append(View(ALL, (*core, *shown)))
        found.append(View(ALL_WITH_CHOICES, (*core, *more, *shown), choices, by))
    return found


def _of_columns(rows: Rows, by: str) -> list[View]:
    numbers, choices = tuple(range(len(rows.names))), tuple(range(len(rows.sizes)))
    counted = by == BY_CATEGORY
    found = [View("numbers", numbers)] if numbers else []
    if choices:
        found.append(View("choices", (), choices, by, counted))
    if choices and counted:
        found.append(View("choices by place", (), choices))
    if choices and numbers:
        found.append(View("choices and numbers", numbers, choices, by, counted))
    return found


def _tied(rows: Rows) -> bool:
    """Whether all choices are between as many categories; these are most likely the same ones."""
    return len(rows.sizes) > 1 and len(set(rows.sizes)) == 1
