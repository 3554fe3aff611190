"""The smallest and largest prediction of a space, and the network that skips wherever it can."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ..spaces.encoding import Codes, Encoding

STARTS = 24
_SKIP = re.compile(r"skip|identity", re.IGNORECASE)


def extreme(predict: Callable[[np.ndarray], np.ndarray], encoding: Encoding, sign: int) -> Codes:
    """(decisions,) the row with the smallest (`sign` 1) or largest (-1) prediction found by coordinate descent.

    Args:
        predict: (N, decisions) -> (N,).
    """
    starts = encoding.sample(STARTS, np.random.default_rng(0))
    found = [_descend(predict, encoding, np.maximum(row, 0), sign) for row in starts]
    best = min(found, key=lambda item: item[0])[1]
    return encoding.canonical(best[None])[0]


def all_skip(encoding: Encoding, otherwise: np.ndarray) -> Codes | None:
    """(decisions,) the row that skips wherever a candidate of that name is there; None where there is none at all.

    Args:
        otherwise: the row to follow in choices that cannot skip.
    """
    row = np.maximum(np.asarray(otherwise), 0).astype(np.int16)
    skips = False
    for i, decision in enumerate(encoding.decisions):
        named = [c for c, name in enumerate(decision.candidates) if decision.kind == "layer" and _SKIP.search(name)]
        if named:
            row[i], skips = named[-1], True
    return encoding.canonical(row[None])[0] if skips else None


def _descend(
    predict: Callable[[np.ndarray], np.ndarray], encoding: Encoding, row: np.ndarray, sign: int
) -> tuple[float, np.ndarray]:
    value = np.inf
    while True:
        for i, decision in enumerate(encoding.decisions):
            options = np.repeat(row[None], len(decision), axis=0)
            options[:, i] = range(len(decision))
            row = options[int(np.argmin(sign * predict(encoding.canonical(options))))]
            row = np.maximum(row, 0)
        now = float(sign * predict(encoding.canonical(row[None]))[0])
        if now >= value:
            return now, row
        value = now
