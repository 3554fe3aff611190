"""From choice probabilities to architectures: the most probable ones that are on target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .goals import Latency

Rule = Literal["band", "limit", "argmax"]


@dataclass(frozen=True, eq=False)
class Derived:
    """An architecture that a search found.

    Attributes:
        codes: (decisions,) as `SearchSpace.encode` gives them.
        log_probability: natural logarithm of its probability; over reached decisions only.
        ratio: predicted latency / target; None where latency plays no part.
    """

    codes: np.ndarray
    log_probability: float
    ratio: float | None


def most_probable(
    space: SearchSpace,
    probabilities: list[np.ndarray],
    latency: Latency | None,
    *,
    rule: Rule,
    n: int = 5,
    low: float = 0.98,
    high: float = 1.0,
    scale: float = 1.0,
    seed: int = 0,
) -> list[Derived]:
    """The n best, best first."""
    rng = np.random.default_rng(seed)
    codes = np.unique(space.encoding.sample(4096, rng, probabilities), axis=0)
    total = np.zeros(len(codes))
    for i, p in enumerate(probabilities):
        total += np.where(codes[:, i] >= 0, np.log(np.maximum(p, 1e-300))[codes[:, i]], 0.0)
    order = np.argsort(-total, kind="stable")
    ratio = scale * latency.ratio(codes) if latency is not None else None
    if ratio is not None and rule != "argmax":
        away = np.maximum(ratio - high, 0) + (np.maximum(low - ratio, 0) if rule == "band" else 0)
        order = np.lexsort((-total, away))
    return [Derived(codes[i], float(total[i]), None if ratio is None else float(ratio[i])) for i in order[:n]]


def draw_in_band(
    space: SearchSpace, latency: Latency | None, n: int, rng: np.random.Generator, *, rule: Rule, low: float = 0.98
) -> Codes:
    """(n, decisions) architectures on target, drawn nearly uniformly."""
    if latency is None or rule == "argmax":
        return space.encoding.sample(n, rng)
    codes = space.encoding.sample(64 * n + 4096, rng)
    ratio = latency.ratio(codes)
    away = np.maximum(ratio - 1, 0) + (np.maximum(low - ratio, 0) if rule == "band" else 0)
    return np.asarray(codes[np.argsort(away, kind="stable")[:n]])
