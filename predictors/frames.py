"""Tables of measured architectures, one row each, from Parquet files: checked, and as rows for the regressors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..spaces.architecture import ArchitectureError
from ..spaces.description import Decision
from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .base import PredictorError
from .columns import rows_of
from .features import SpaceFeatures
from .fitting import aggregate
from .regressors.base import Rows

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FrameRequest:
    """What to read.

    Attributes:
        data: a Parquet file. target: the column of latencies.
        features: columns that describe an architecture; with a space, its decisions in order.
        group: a column; rows of one value of it stay together when rows are split.
    """

    data: Path
    target: str
    features: tuple[str, ...]
    group: str | None = None


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
    """

    rows: Rows
    latency: NDArray[np.float64]
    codes: Codes | None
    groups: NDArray[np.intp] | None
    missing: int
    disconnected: int
    repeated: int
    differing: int

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
        return said


def read_measured(request: FrameRequest, space: SearchSpace | None = None) -> Measured:
    """Read and check a file.

    Args:
        space: whose architectures they are; without one, the columns say for themselves what they are.

    Raises:
        PredictorError: the file cannot be read, lacks a column, or a column holds something that cannot be used.
    """
    frame, missing = _with_target(_read(request), request)
    _check_features(frame, request, space)
    codes = None if space is None else encode_frame(frame, request.features, space)
    features = None if space is None else SpaceFeatures.of(space)
    connected = np.ones(len(frame), bool) if codes is None or features is None else features.alive(codes)
    there = np.flatnonzero(connected)
    identity = _numbered(frame, request.features) if codes is None else codes
    y = frame[request.target].to_numpy(float)[there]
    first, latency, back = aggregate(identity[there], y)
    kept = there[first]
    own = None if codes is None else codes[kept]
    return Measured(
        rows=rows_of(frame.iloc[kept], request.features) if own is None or features is None else features.rows(own),
        latency=latency,
        codes=own,
        groups=None if request.group is None else _together(_numbered(frame, [request.group])[there, 0], back)[first],
        missing=missing,
        disconnected=len(frame) - len(there),
        repeated=len(there) - len(first),
        differing=int((_spans(y, back, len(first)) > 0).sum()),
    )


def encode_frame(frame: pd.DataFrame, features: Sequence[str], space: SearchSpace) -> Codes:
    """(N, decisions) codes from columns of candidates' names or numbers.

    Raises:
        PredictorError: other columns than decisions, or a value that is no candidate.
    """
    decisions = space.decisions
    if len(features) != len(decisions):
        labels = ", ".join(d.label for d in decisions[:8]) + (", ..." if len(decisions) > 8 else "")
        raise PredictorError(
            f"space {space.name!r} has {len(decisions)} choices ({labels}), {len(features)} feature columns are "
            "given: name one for each, in this order"
        )
    columns = [_candidates(frame[name], name, d) for name, d in zip(features, decisions, strict=True)]
    try:
        return space.encoding.canonical(np.stack(columns, axis=1))
    except ArchitectureError as error:
        raise PredictorError(f"the feature columns do not fit space {space.name!r}: {error}") from error


# -- reading and checks


def _read(request: FrameRequest) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = request.data
    wanted = list(dict.fromkeys([*request.features, request.target, *filter(None, [request.group])]))
    if len(set(request.features)) < len(request.features) or request.target in request.features:
        raise PredictorError("a feature column is given twice, or is the target")
    if not request.features:
        raise PredictorError("no feature column is given")
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


def _with_target(frame: pd.DataFrame, request: FrameRequest) -> tuple[pd.DataFrame, int]:
    """The rows that have a latency, and how many have none."""
    import pandas as pd

    column = frame[request.target]
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        raise PredictorError(f"target {request.target!r} of {request.data} holds {column.dtype}, not numbers")
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
        conditional = space is not None and _conditional(space, request.features, name)
        _check_column(frame[name], name, request.data, holes=conditional)


def _check_column(column: pd.Series, name: str, path: Path, *, holes: bool) -> None:
    """Raise PredictorError for a constant column, or one with missing or infinite values (allowed where `holes`)."""
    import pandas as pd

    bad = column.isna()
    if pd.api.types.is_float_dtype(column):
        bad |= ~np.isfinite(column.to_numpy(float, na_value=np.nan))
    if bad.any() and not holes:
        raise PredictorError(f"column {name!r} of {path}: {int(bad.sum())} of {len(column)} rows have no value")
    try:
        distinct = column.nunique(dropna=False)
    except TypeError as error:
        raise PredictorError(f"column {name!r} of {path} holds neither numbers nor texts") from error
    if distinct < 2:
        raise PredictorError(f"column {name!r} of {path} is constant ({column.iloc[0]}): it says nothing, leave it out")


def _conditional(space: SearchSpace, features: Sequence[str], name: str) -> bool:
    """Whether the column is for a choice that is not always reached."""
    where = features.index(name) if name in features else -1
    return 0 <= where < len(space.decisions) and () not in space.decisions[where].reach


# -- what the values mean


def _candidates(column: pd.Series, name: str, decision: Decision) -> NDArray[np.int64]:
    """Numbers of candidates, -1 where there is no value."""
    import pandas as pd

    known = column.dropna()
    if pd.api.types.is_numeric_dtype(column):
        numbers = known.to_numpy(float)
        wrong = (numbers != np.floor(numbers)) | (numbers < -1) | (numbers >= len(decision))
        values: Any = numbers.astype(np.int64)
    else:
        names = {candidate: i for i, candidate in enumerate(decision.candidates)}
        values = known.astype(str).map(names)
        wrong = values.isna().to_numpy()
    if wrong.any():
        odd = known.iloc[int(np.argmax(wrong))]
        raise PredictorError(
            f"column {name!r}: choice {decision.label!r} has no candidate {str(odd)!r}; it has "
            f"{' | '.join(decision.candidates)}, or their numbers from 0"
        )
    found = np.full(len(column), -1, np.int64)
    found[column.notna().to_numpy()] = np.asarray(values, np.int64)
    return found


def _numbered(frame: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.int64]:
    """(N, columns) numbers of the distinct values."""
    import pandas as pd

    return np.stack([pd.factorize(frame[name])[0] for name in columns], axis=1).astype(np.int64)


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


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
