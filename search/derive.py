"""From choice probabilities to architectures: the most probable ones that are on target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .goals import LISTED, ROUNDING, Latency
from .kbest import k_best
from .neighbours import Distance, improve, log_probability, walk
from .tilt import softmax, solve

Rule = Literal["band", "limit", "argmax"]
"""low to high times the target; at most high times the target; whatever the latency."""

LEAST = 1e-300
"""Probabilities below count as this, so that something can be found beside certain choices."""
SAMPLES = 4096
TRIES = 16


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
    probabilities: Sequence[np.ndarray],
    latency: Latency | None,
    *,
    rule: Rule,
    n: int = 5,
    low: float = 0.98,
    high: float = 1.0,
    scale: float = 1.0,
    seed: int = 0,
) -> list[Derived]:
    """The (up to) n most probable architectures whose latency / target the rule allows, best first; deterministic.

    Exact for spaces of up to 50,000 architectures (all are listed), and without nested choices for any where latency is
    a sum over the decisions: one table, or the weighted mean of several, in which no two choices act on one operator's
    cost (see `kbest`). Otherwise by samples from the probabilities (tilted to the target, and flattened) and local
    search with changes of one and two decisions.

    Where no architecture is allowed, those nearest to the band that were found are given instead: their ratio tells.

    Args:
        probabilities: one vector a decision.
        latency: None: as rule "argmax".
        rule: "argmax": the most probable candidate of each decision, then what is most probable beside it.
        low, high: of the band.
        scale: factor on the predicted latency, such as one that was refitted.
        seed: of the samples.
    """
    logs = [np.log(np.maximum(np.asarray(p, float), LEAST)) for p in probabilities]
    away = None if latency is None or rule == "argmax" else _Away(latency, rule, low, high, scale)
    if (rows := _exact(space, logs, away, n)) is None:
        rows = _searched(space, logs, away, n, seed)
    if rule == "argmax" or latency is None:
        first = space.encoding.canonical(np.array([[int(log.argmax()) for log in logs]]))
        rest = rows[(rows != first).any(axis=1)]
        rows = np.concatenate([first, rest])[:n]
    ratio = [None] * len(rows) if latency is None else (scale * latency.ratio(rows)).tolist()
    return [Derived(row, float(log), r) for row, log, r in zip(rows, log_probability(rows, logs), ratio, strict=True)]


def draw_in_band(
    space: SearchSpace, latency: Latency | None, n: int, rng: np.random.Generator, *, rule: Rule, low: float = 0.98
) -> Codes:
    """(n, decisions) independent draws among the architectures that the rule allows, (nearly) uniform.

    Exactly uniform for spaces of up to 50,000 architectures, and where `most_probable` is exact: draws under a tilt to
    the target, of which those that the tilt favours are kept less often. Otherwise uniform draws over the whole space
    as far as they are allowed, and a random walk that repairs the others. Where nothing is allowed, those nearest to
    the band.
    """
    if latency is None or rule == "argmax":
        return space.encoding.sample(n, rng)
    away = _Away(latency, rule, low, 1.0, 1.0)
    if latency.listed is not None:
        codes, ratio = latency.listed
        distance = away.of(ratio)
        allowed = np.flatnonzero(distance == 0)
        if len(allowed):
            return np.asarray(codes[rng.choice(allowed, n)])
        return np.asarray(codes[np.resize(np.argsort(distance, kind="stable")[:n], n)])
    found = _tilted(space, latency, away, n, rng)
    if len(found) < n:
        more = space.encoding.sample(n - len(found) + SAMPLES, rng)
        found = np.concatenate([found, more[away(more) == 0]])[:n]
    if len(found) < n:
        found = np.concatenate([found, walk(space.encoding, more[: n - len(found)], away, rng)])
    return np.asarray(rng.permutation(found))


class _Away:
    """How far latency / target is from what the rule allows."""

    def __init__(self, latency: Latency, rule: Rule, low: float, high: float, scale: float) -> None:
        self.latency = latency
        self.low, self.high = (-math.inf if rule == "limit" else low), high
        self.scale = scale

    def __call__(self, codes: np.ndarray) -> NDArray[np.float64]:
        """(N,) of architectures."""
        return self.of(self.latency.ratio(codes))

    def of(self, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) of their predicted ratios."""
        ratio = self.scale * ratio
        away = np.maximum(ratio - self.high, self.low - ratio)
        return np.where(away <= ROUNDING, 0.0, away)


def _exact(space: SearchSpace, logs: Sequence[np.ndarray], away: _Away | None, n: int) -> Codes | None:
    """The best rows, where they can be found exactly; None where they cannot, or where nothing is allowed."""
    if space.size <= LISTED:
        codes, ratio = (_listed(space), None) if away is None else away.latency.listed or (_listed(space), None)
        distance = np.zeros(len(codes)) if away is None or ratio is None else away.of(ratio)
        order = np.lexsort((-log_probability(codes, logs), distance))
        if distance[order[0]] == 0:
            order = order[distance[order] == 0]
        return np.asarray(codes[order[:n]])
    if any(d.reach != ((),) for d in space.decisions):
        return None
    if away is None:
        found = k_best(logs, [np.zeros(len(log)) for log in logs])
    elif (linear := _linear(away.latency)) is not None:
        offset, costs = linear
        found = k_best(
            logs, [away.scale * c for c in costs], away.low - away.scale * offset, away.high - away.scale * offset
        )
    else:
        return None
    rows = [row for _, row in islice(found, n)]
    return np.array(rows, np.int16) if rows else None


def _linear(latency: Latency) -> tuple[float, list[np.ndarray]] | None:
    """Latency / target as a constant and a sum over the decisions, where it is one."""
    linear = latency.ratios.linear if latency.closed_form else None
    if linear is None or len(linear.offset) > 1:
        return None
    return float(linear.offset[0]), latency.ratios.split(linear.costs[0])


def _searched(space: SearchSpace, logs: Sequence[np.ndarray], away: _Away | None, n: int, seed: int) -> Codes:
    """By samples and local search."""
    rng = np.random.default_rng(seed)
    encoding = space.encoding
    starts = [[np.exp(log) for log in flat] for flat in (logs, *([p * log for log in logs] for p in (0.5, 0.25, 0.0)))]
    rows = [np.array([[int(log.argmax()) for log in logs]])]
    if away is not None:
        rows.append(np.stack(away.latency.range()[2:]))
        if not away.latency.measures:
            starts.append(_on_target(away, logs))
    rows += [encoding.sample(SAMPLES, rng, [p / p.sum() for p in start]) for start in starts]
    pool = np.unique(encoding.canonical(np.concatenate(rows)), axis=0)
    distance: Distance = (lambda codes: np.zeros(len(codes))) if away is None else away
    best = improve(encoding, pool, distance, logs, n, rng)
    allowed = distance(best) == 0
    return np.asarray(best[allowed] if allowed.any() else best)


def _on_target(away: _Away, logs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Probabilities whose expected latency is on target."""
    ratios = away.latency.ratios
    logits = ratios.join(logs, -np.inf)
    tilt = solve(ratios, logits, limit=away.low == -math.inf, ends=lambda: away.latency.range()[2:])
    return ratios.split(softmax(logits - tilt.shift))


def _tilted(space: SearchSpace, latency: Latency, away: _Away, n: int, rng: np.random.Generator) -> Codes:
    """(up to n, decisions) exactly uniform draws, where latency is a sum over the decisions."""
    found: Codes = np.empty((0, len(space.decisions)), np.int16)
    if _linear(latency) is None or any(d.reach != ((),) for d in space.decisions):
        return found
    ratios = latency.ratios
    logits = np.where(ratios.mask, 0.0, -np.inf)
    tilt = solve(ratios, logits, limit=away.low == -math.inf, ends=lambda: latency.range()[2:])
    p = ratios.split(softmax(logits - tilt.shift))
    mu = float(tilt.multipliers[0])
    for _ in range(TRIES + n // 16):
        rows = space.encoding.sample(SAMPLES, rng, p)
        ratio = latency.ratio(rows)
        # the tilt drew a row in proportion to exp(-mu * ratio)
        kept = rng.random(len(rows)) < np.exp(np.minimum(mu * (ratio - (away.high if mu > 0 else away.low)), 0.0))
        found = np.concatenate([found, rows[kept & (away.of(ratio) == 0)]])[:n]
        if len(found) == n:
            break
    return found


def _listed(space: SearchSpace) -> Codes:
    return np.concatenate(list(space.encoding.enumerate()))
