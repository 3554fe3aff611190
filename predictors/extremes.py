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
    rows = np.maximum(encoding.sample(STARTS, np.random.default_rng(0)), 0)
    each = np.arange(STARTS)
    value = np.full(STARTS, np.inf)
    while True:
        for i, decision in enumerate(encoding.decisions):
            options = np.repeat(rows[:, None], len(decision), axis=1)
            options[:, :, i] = range(len(decision))
            found = sign * predict(encoding.canonical(options.reshape(-1, rows.shape[1])))
            rows = options[each, found.reshape(STARTS, -1).argmin(axis=1)]
        now = sign * predict(encoding.canonical(rows))
        if not (now < value).any():
            return encoding.canonical(rows[[int(np.argmin(now))]])[0]
        value = now


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
