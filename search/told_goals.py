"""What a report says of each goal."""

from __future__ import annotations

from typing import Any

import numpy as np

from .config import SearchConfig
from .preparation import Prepared


def told_goals(config: SearchConfig, prepared: Prepared, codes: np.ndarray) -> list[dict[str, Any]]:
    """Of each predictor what was asked and what it says of a network, and how good its estimated expectation was.

    Args:
        codes: (decisions,) of the network.
    """
    goals = [goal for goal in config.goals if goal.predictor is not None]
    return [
        {
            "predictor": goal.predictor,
            "unit": p.unit,
            "target": goal.target,
            "predicted": float(p.predict_codes(codes[None])[0]),
            **_held(config, prepared, i, codes),
        }
        for i, (goal, p) in enumerate(zip(goals, prepared.predictors, strict=True))
    ]


def _held(config: SearchConfig, prepared: Prepared, number: int, codes: np.ndarray) -> dict[str, float]:
    """The `upper` end that is held below the target, and the last estimate's `r2` and `error`, where there are such."""
    held = prepared.held
    if held is None:
        return {}
    bounded = config.search.objective.coverage is not None
    upper = {"upper": float(held.predicted(codes[None])[0, number])} if bounded else {}
    near = held.near.get(number)
    return upper if near is None else {**upper, "r2": near.estimate.r2, "error": near.estimate.error}
