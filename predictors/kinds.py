"""The kinds of predictors that are fitted on measured networks: a regressor (see `regressors`) on a space each."""

from __future__ import annotations

from functools import cache

from .learned import LearnedPredictor
from .regressors.registry import regressor_type


@cache  # so that a kind is one class
def learned_type(kind: str) -> type[LearnedPredictor]:
    """The predictor with a regressor of this kind; raises PredictorError where there is none."""
    made = regressor_type(kind)
    own = {"kind": kind, "__doc__": made.__doc__, "__module__": __name__}
    return type(f"{made.__name__}Predictor", (LearnedPredictor,), own)
