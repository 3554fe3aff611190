"""Columns of a data frame as the codes of a space's architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..spaces.architecture import ArchitectureError
from ..spaces.description import Decision
from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .base import PredictorError

if TYPE_CHECKING:
    import pandas as pd


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


def is_conditional(space: SearchSpace, features: Sequence[str], name: str) -> bool:
    """Whether the column is for a choice that is not always reached."""
    where = features.index(name) if name in features else -1
    return 0 <= where < len(space.decisions) and () not in space.decisions[where].reach


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
