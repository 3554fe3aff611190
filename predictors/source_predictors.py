"""Other devices' predictors, as sources to transfer from."""

from __future__ import annotations

import numpy as np

from ..spaces.space import SearchSpace
from .registry import load_predictor
from .transfer_sources import ROWS, SourceCodes


def predicted(source: str, space: SearchSpace, *, space_option: str | None = None) -> SourceCodes:
    """What a predictor says of random architectures.

    Args:
        source, space_option: see `load_predictor`.

    Raises:
        HwnasError: it cannot be read, or is of another space.
    """
    predictor = load_predictor(source, space, space_option=space_option)
    codes = np.unique(space.encoding.sample(ROWS, np.random.default_rng(0)), axis=0)
    codes = np.random.default_rng(0).permutation(codes)
    return SourceCodes(source, codes, predictor.predict_codes(codes))
