"""Tables of measured architectures, one row each, from Parquet files: checked, and as rows for the regressors."""

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
from .columns import rows_of
from .features import SpaceFeatures
from .fitting import aggregate
from .frame_codes import encode_frame, is_conditional
from .parquet import check_numeric, check_varied, check_whole, read_columns
from .regressors.base import Rows
from .source_columns import SourceColumn, SourceFrame, check_columns, numbered, read_source
from .transfer_sources import SourceRows, Sources

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FrameRequest:
    """What to read.

    Attributes:
        data: a Parquet file. target: the column of latencies.
        features: columns that describe an architecture; with a space, its decisions in order.
        group: a column; rows of one value of it stay together when rows are split.
        sources: latencies on other devices, which become columns.
    """

    data: Path
    target: str
    features: tuple[str, ...]
    group: str | None = None
    sources: tuple[SourceColumn, ...] = ()


@dataclass(frozen=True, eq=False)
class Measured:
    """Architectures with their latencies; each is there once.

    Attributes:
        rows, latency: (N,).
        codes: (N, decisions) where there is a space, else None.
        groups: (N,) numbers; rows of one number stay together. None: each row is for itself.
        missing: rows that were left out, since they have no latency.
        disconnected: rows that were left out, since their network's output does not depend on its input.
        repeated: rows that became one with another of the same architecture; `differing`: of how many architectures
            these had different latencies.
        more: sentences on rows of sources.
    """

    rows: Rows
    latency: NDArray[np.float64]
    codes: Codes | None
    groups: NDArray[np.intp] | None
    missing: int
    disconnected: int
    repeated: int
    differing: int
    more: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """What a user should know of rows that are not there as they were."""
        said = []
        if self.missing:
            said.append(f"{self.missing} rows without a latency are left out")
        if self.disconnected:
            said.append(f"{self.disconnected} rows are left out: their output does not depend on their input")
        if self.repeated:
            same = f"{self.repeated} rows repeat an architecture and became one with it"
            said.append(f"{same}; {self.differing} architectures had different latencies, their median counts")
        return [*said, *self.more]


def read_measured(request: FrameRequest, space: SearchSpace | None = None) -> Measured:
    """Read and check a file.

    Args:
        space: whose architectures they are; without one, the columns say for themselves what they are.

    Raises:
        PredictorError: the file cannot be read, lacks a column, or a column holds something that cannot be used; or
            that of a source.
    """
    frame, missing = _with_target(_read(request), request)
    _check_features(frame, request, space)
    check_columns(request.sources, SourceColumn(request.data, request.target))
    others = [read_source(own, request.features, space) for own in request.sources]
    codes = None if space is None else encode_frame(frame, request.features, space)
    features = None if space is None else SpaceFeatures.of(space)
    connected = np.ones(len(frame), bool) if codes is None or features is None else features.alive(codes)
    there = np.flatnonzero(connected)
    identity = numbered(frame, request.features) if codes is None else codes
    y = frame[request.target].to_numpy(float)[there]
    first, latency, back = aggregate(identity[there], y)
    kept = there[first]
    own = None if codes is None else codes[kept]
    if own is None or features is None:
        rows = _with_sources(frame.iloc[kept], request.features, others)
    else:
        features.learn([other.of_space for other in others])
        rows = features.rows(own)
    return Measured(
        rows=rows,
        latency=latency,
        codes=own,
        groups=None if request.group is None else _together(numbered(frame, [request.group])[there, 0], back)[first],
        missing=missing,
        disconnected=len(frame) - len(there),
        repeated=len(there) - len(first),
        differing=int((_spans(y, back, len(first)) > 0).sum()),
        more=tuple(note for other in others for note in other.notes()),
    )


def _with_sources(frame: pd.DataFrame, features: Sequence[str], others: Sequence[SourceFrame]) -> Rows:
    """Rows of the features, and of what sources say; equal values are equal in all of them."""
    import pandas as pd

    if not others:
        return rows_of(frame, features)
    together = rows_of(pd.concat([frame[list(features)], *(own.frame for own in others)]), features)
    ends = np.cumsum([len(frame), *(len(own.frame) for own in others)])
    rows = together.take(slice(len(frame)))
    found = []
    for own, start, end in zip(others, ends[:-1], ends[1:], strict=True):
        known = together.take(slice(start, end))
        _check_known(rows, known, own.name)
        found.append(SourceRows(own.name, known, own.latency))
    return Sources.learned(found).added(rows)


def _check_known(rows: Rows, known: Rows, name: str) -> None:
    """Raise PredictorError where rows have categories of which a source says nothing."""
    for column, seen, label in zip(rows.choices.T, known.choices.T, rows.labels, strict=True):
        new = np.setdiff1d(column, seen)
        if len(new):
            raise PredictorError(
                f"source {name} has no row with {len(new)} of the values of column {label!r} that the target has: it "
                "says nothing of these"
            )


# -- checks


def _read(request: FrameRequest) -> pd.DataFrame:
    if len(set(request.features)) < len(request.features) or request.target in request.features:
        raise PredictorError("a feature column is given twice, or is the target")
    if not request.features:
        raise PredictorError("no feature column is given")
    return read_columns(request.data, [*request.features, request.target, *filter(None, [request.group])])


def _with_target(frame: pd.DataFrame, request: FrameRequest) -> tuple[pd.DataFrame, int]:
    """The rows that have a latency, and how many have none."""
    column = frame[request.target]
    check_numeric(column, f"target {request.target!r} of {request.data}")
    known = frame[column.notna()].reset_index(drop=True)
    y = known[request.target].to_numpy(float)
    wrong = ~(np.isfinite(y) & (y > 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise PredictorError(
            f"target {request.target!r} of {request.data}: {int(wrong.sum())} of {len(y)} latencies are not positive "
            f"numbers, such as {y[row]:g}"
        )
    if not len(y):
        raise PredictorError(f"target {request.target!r} of {request.data}: no row has a latency")
    return known, len(frame) - len(known)


def _check_features(frame: pd.DataFrame, request: FrameRequest, space: SearchSpace | None) -> None:
    for name in (*request.features, *filter(None, [request.group])):
        holes = space is not None and is_conditional(space, request.features, name)
        check_whole(frame[name], request.data, holes=holes)
        check_varied(frame[name], request.data)


def _spans(y: NDArray[np.float64], back: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    """(n,) largest minus smallest latency of each architecture."""
    low, high = np.full(n, np.inf), np.full(n, -np.inf)
    np.minimum.at(low, back, y)
    np.maximum.at(high, back, y)
    return high - low


def _together(groups: NDArray[np.int64], back: NDArray[np.intp]) -> NDArray[np.intp]:
    """The groups of rows, joined where they have an architecture in common."""
    n = int(back.max(initial=-1)) + 1
    while True:
        lowest = np.full(n, np.iinfo(np.int64).max)
        np.minimum.at(lowest, back, groups)
        joined = np.full(int(groups.max(initial=0)) + 1, np.iinfo(np.int64).max)
        np.minimum.at(joined, groups, lowest[back])
        now = joined[groups]
        if (now == groups).all():
            return now
        groups = now
