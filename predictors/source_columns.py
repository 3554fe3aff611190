"""Columns of Parquet files that say what architectures take on other devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .base import PredictorError
from .fitting import aggregate
from .frame_codes import encode_frame, is_conditional
from .parquet import check_numeric, check_whole, read_columns
from .transfer_sources import ROWS, SourceCodes, check_latencies

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SourceColumn:
    """Latencies on another device.

    Attributes:
        data: a Parquet file. column: of it.
    """

    data: Path
    column: str

    @property
    def name(self) -> str:
        """`FILE:COLUMN`."""
        return f"{self.data}:{self.column}"


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """Some architectures with their latencies on another device, in random order, each once.

    Attributes:
        name: of the source.
        frame: their feature columns. codes: the same as codes where there is a space, else None.
        latency: (N,) positive.
        dropped: rows of the file without a latency that is a positive number.
    """

    name: str
    frame: pd.DataFrame
    codes: Codes | None
    latency: NDArray[np.float64]
    dropped: int

    @property
    def of_space(self) -> SourceCodes:
        """As architectures of the space that it was read with."""
        assert self.codes is not None
        return SourceCodes(self.name, self.codes, self.latency)

    def notes(self) -> list[str]:
        """What a user should know."""
        return [f"source {self.name}: {self.dropped} rows without a positive latency are left out"] * bool(self.dropped)


def check_columns(sources: Sequence[SourceColumn], target: SourceColumn | None) -> None:
    """Raise PredictorError for a source that is given twice, or is the target."""
    seen = set()
    for own in sources:
        place = own.data.resolve(), own.column
        if target is not None and place == (target.data.resolve(), target.column):
            raise PredictorError(f"source {own.name} is the target itself")
        if place in seen:
            raise PredictorError(f"source {own.name} is given twice")
        seen.add(place)


def read_source(source: SourceColumn, features: Sequence[str], space: SearchSpace | None = None) -> SourceFrame:
    """Read a column; of many architectures, a random part.

    Raises:
        PredictorError: the file cannot be read, lacks a column, or one holds something that cannot be used.
    """
    frame = read_columns(source.data, [*features, source.column])
    what = f"source {source.name}"
    check_numeric(frame[source.column], what)
    y = frame[source.column].to_numpy(float, na_value=np.nan)
    good = np.isfinite(y) & (y > 0)
    if not good.any():
        raise PredictorError(f"{what}: no row has a latency that is a positive number")
    kept, y = frame.loc[good, list(features)], y[good]
    for name in features:
        check_whole(kept[name], source.data, holes=space is not None and is_conditional(space, features, name))
    codes = None if space is None else encode_frame(kept, features, space)
    first, latency, _ = aggregate(numbered(kept, features) if codes is None else codes, y)
    check_latencies(source.name, latency)
    order = np.random.default_rng(0).permutation(len(first))[:ROWS]
    there = first[order]
    own = None if codes is None else codes[there]
    return SourceFrame(source.name, kept.iloc[there], own, latency[order], int((~good).sum()))


def numbered(frame: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.int64]:
    """(N, columns) numbers of the distinct values."""
    import pandas as pd

    return np.stack([pd.factorize(frame[name])[0] for name in columns], axis=1).astype(np.int64)
