"""Columns of a data frame as rows for the regressors, where no search space says what they mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .base import PredictorError
from .regressors.base import Rows

if TYPE_CHECKING:
    import pandas as pd

CATEGORIES = 64
"""Different values up to which a column of whole numbers is taken for a choice."""


def rows_of(frame: pd.DataFrame, columns: Sequence[str]) -> Rows:
    """Rows of a checked data frame.

    Texts, truth values and whole numbers of few different values are choices, all else are numbers. Columns whose names
    differ in their number only (op0, op1, ...) are alike: how often they have each value is counted, and, of numbers,
    the sum is taken.

    Raises:
        PredictorError: a column that is neither.
    """
    choices: dict[str, tuple[NDArray[np.int16], list[object]]] = {}
    numbers: dict[str, NDArray[np.float64]] = {}
    for name in columns:
        values = frame[name]
        if _is_choice(values, name):
            distinct = sorted(values.unique().tolist(), key=lambda v: (str(type(v)), v))
            place = {value: i for i, value in enumerate(distinct)}
            choices[name] = np.array([place[v] for v in values.tolist()], np.int16), distinct
        else:
            numbers[name] = values.to_numpy(float)
    for stem, members in _alike(columns).items():
        own = [choices[name] for name in members if name in choices]
        if len(own) > 1:
            numbers |= _counts(stem, own)
        sums = [numbers[name] for name in members if name in numbers]
        if len(sums) > 1:
            numbers[f"sum of {stem}"] = np.sum(sums, axis=0)
    codes = np.stack([code for code, _ in choices.values()], 1) if choices else np.empty((len(frame), 0), np.int16)
    numeric = np.stack(list(numbers.values()), 1) if numbers else np.empty((len(frame), 0))
    return Rows(codes, tuple(len(d) for _, d in choices.values()), numeric, tuple(numbers), tuple(choices))


def _is_choice(values: pd.Series, name: str) -> bool:
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        if not all(isinstance(v, str | bool) for v in values.unique().tolist()):
            raise PredictorError(f"column {name!r} holds {values.dtype}: neither numbers nor texts")
        return True
    distinct = values.unique().astype(float)
    return len(distinct) <= CATEGORIES and bool((distinct == np.floor(distinct)).all())


def _alike(columns: Sequence[str]) -> dict[str, list[str]]:
    """Columns by their names without the number at the end."""
    found: dict[str, list[str]] = {}
    for name in columns:
        found.setdefault(re.sub(r"[\d_.\-\[\]]+$", "", name) or name, []).append(name)
    return found


def _counts(stem: str, members: Sequence[tuple[NDArray[np.int16], list[object]]]) -> dict[str, NDArray[np.float64]]:
    """How many of the columns have each value, and the sum of the values where these are numbers."""
    values = list(dict.fromkeys(value for _, distinct in members for value in distinct))
    found: dict[str, NDArray[np.float64]] = {}
    if len(values) <= CATEGORIES:
        for value in values:
            hits = [code == distinct.index(value) for code, distinct in members if value in distinct]
            found[f"{stem} = {value}"] = np.sum(hits, axis=0, dtype=float)
    if all(isinstance(value, int | float) for value in values):
        total = [np.array([float(v) for v in distinct])[code] for code, distinct in members]  # type: ignore[arg-type]
        found[f"sum of {stem}"] = np.sum(total, axis=0)
    return found
