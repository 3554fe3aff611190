"""Reading columns of Parquet files, and whether they can be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .base import PredictorError

if TYPE_CHECKING:
    import pandas as pd


def read_columns(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Some columns of a file, rows numbered from 0; raises PredictorError where it cannot be read or lacks one."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = list(dict.fromkeys(columns))
    try:
        there = pq.read_schema(path).names
        absent = [name for name in wanted if name not in there]
        if absent:
            raise PredictorError(f"{path} has no column {', '.join(map(repr, absent))}; it has {_list(there)}")
        return pd.read_parquet(path, columns=wanted, engine="pyarrow").reset_index(drop=True)
    except OSError as error:
        raise PredictorError(f"{path} cannot be read: {error.strerror or error}") from error
    except (pa.ArrowException, ValueError) as error:
        raise PredictorError(f"{path} is no Parquet file that can be read: {error}") from error


def check_numeric(column: pd.Series, what: str) -> None:
    """Raise PredictorError for a column of anything but numbers."""
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        raise PredictorError(f"{what} holds {column.dtype}, not numbers")


def check_whole(column: pd.Series, path: Path, *, holes: bool) -> None:
    """Raise PredictorError for a column with missing or infinite values, which are allowed where `holes`."""
    import pandas as pd

    bad = column.isna()
    if pd.api.types.is_float_dtype(column):
        bad |= ~np.isfinite(column.to_numpy(float, na_value=np.nan))
    if bad.any() and not holes:
        raise PredictorError(f"column {column.name!r} of {path}: {int(bad.sum())} of {len(column)} rows have no value")


def check_varied(column: pd.Series, path: Path) -> None:
    """Raise PredictorError for a constant column."""
    try:
        distinct = column.nunique(dropna=False)
    except TypeError as error:
        raise PredictorError(f"column {column.name!r} of {path} holds neither numbers nor texts") from error
    if distinct < 2:
        raise PredictorError(
            f"column {column.name!r} of {path} is constant ({column.iloc[0]}): it says nothing, leave it out"
        )


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
