"""Tilting probabilities towards cheap or dear candidates until the expected latency is exactly on target.

Of all product distributions q whose expected ratios R_k(q) meet the target, the one nearest to p = softmax(alpha) (in
the Kullback-Leibler divergence of q from p) is

    q = softmax(alpha - sum over k of mu_k t_k),      t_k = dR_k/dq

The multipliers mu maximise a concave dual whose derivative by mu_k is R_k - 1; it is climbed by Newton's method. Where
R is not linear, t depends on q: t is taken at the last q until both agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .ratios import Matrix, Ratios

TOLERANCE = 1e-11
"""Of the largest ratio around 1."""
ROUNDS = 40
"""Of taking the slopes anew."""
MEMORY = 2
"""Earlier rounds from which the next shift is extrapolated."""
MARGIN = 1e-3
"""Share of the range of a linear approximation that its target keeps from the ends, which need not be real."""
NEWTON = 100
STRIDE = 16.0
"""How far a logit may move in one Newton step."""


@dataclass(frozen=True)
class Tilt:
    """What to subtract from the logits.

    Attributes:
        shift: (decisions, candidates).
        multipliers: (ratios,) mu; the last tried, where the shift lies between two that miss the target.
        ratio: the largest expected ratio afterwards.
    """

    shift: Matrix
    multipliers: Matrix
    ratio: float


def solve(ratios: Ratios, logits: Matrix, *, limit: bool, ends: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Tilt:
    """The tilt after which the largest expected ratio is 1 (`limit`: at most 1), as far as it can be.

    Args:
        ratios: one (then mu may be negative), or several: each is at most 1.
        logits: (decisions, candidates) float64, -inf where padded.
        ends: architectures with the smallest and the largest ratio, for where the tilt alone does not lead there.
    """
    q = softmax(logits)
    value, slopes = ratios(q)
    mu = np.zeros(len(value))
    if limit and value.max() <= 1:
        return Tilt(np.zeros_like(q), mu, float(value.max()))
    sides: dict[bool, tuple[float, Matrix]] = {}
    rounds = _Rounds(np.zeros_like(q))
    for _ in range(ROUNDS if ratios.linear is None else 1):
        slopes = _relative(slopes, ratios.mask)
        offset = value - (slopes * q).sum(axis=(1, 2))
        aim = np.ones(len(value)) if ratios.linear is not None else _aim(offset, slopes)
        mu = _multipliers(logits, offset - aim + 1, slopes, mu, limit=limit)
        shift = rounds.following(_weighted(mu, slopes))
        q = softmax(logits - shift)
        value, slopes = ratios(q)
        gap = float(value.max()) - 1
        if abs(gap) <= TOLERANCE and (ratios.linear is not None or rounds.settled):
            return Tilt(shift, mu, gap + 1)
        if abs(gap) < sides.get(gap > 0, (np.inf,))[0]:
            sides[gap > 0] = abs(gap), shift
        if rounds.settled:
            break
    return _between(ratios, logits, sides, mu, limit, ends)


class _Rounds:
    """Anderson acceleration of the iteration that takes the slopes at the last shift.

    Attributes:
        settled: the last round hardly moved the shift.
    """

    def __init__(self, shift: Matrix) -> None:
        self._shift = shift
        self._tried: list[tuple[Matrix, Matrix]] = []
        self.settled = False

    def following(self, wanted: Matrix) -> Matrix:
        """The shift to try, where the slopes at the last one ask for `wanted`."""
        miss = wanted - self._shift
        self.settled = bool(np.abs(miss).max() <= 1e-6 * (1 + np.abs(wanted).max()))
        before = self._tried
        self._tried = [*before[-MEMORY + 1 :], (wanted, miss)]
        if before:
            misses = np.stack([(miss - m).ravel() for _, m in before], axis=1)
            shares = np.linalg.lstsq(misses, miss.ravel(), rcond=1e-8)[0]
            wanted = wanted - sum(share * (wanted - w) for share, (w, _) in zip(shares, before, strict=True))
        self._shift = wanted
        return wanted


def softmax(logits: Matrix) -> Matrix:
    """Along the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


# -- linear ratios


def _aim(offset: Matrix, slopes: Matrix) -> Matrix:
    """(ratios,) 1, or what is nearest to it that a linear approximation reaches."""
    reach = slopes.max(axis=2).sum(axis=1)
    return np.clip(1.0, offset + MARGIN * reach, offset + (1 - MARGIN) * reach)


def _relative(slopes: Matrix, mask: np.ndarray) -> Matrix:
    """Slopes above the smallest of each decision: the same tilt from smaller numbers."""
    low = np.where(mask, slopes, np.inf).min(axis=-1, keepdims=True)
    return np.where(mask, slopes - low, 0.0)


def _multipliers(logits: Matrix, offset: Matrix, slopes: Matrix, start: Matrix, *, limit: bool) -> Matrix:
    """mu for R_k = offset[k] + sum of slopes[k] * q; of several ratios none negative, unless all are below 1."""
    bounded = limit or len(offset) > 1
    if bounded and not limit and _linear(logits, offset, slopes, np.zeros(len(offset)))[1].max() < 1:
        return _raised(logits, offset, slopes)
    mu = np.maximum(start, 0) if bounded else start
    dual, value, covariance = _linear(logits, offset, slopes, mu)
    for _ in range(NEWTON):
        rise = value - 1
        free = (mu > 0) | (rise > 0) if bounded else np.ones(len(mu), bool)
        if not free.any() or np.abs(rise[free]).max() <= TOLERANCE / 10:
            break
        move = _newton(rise, covariance, free, slopes)
        if move is None:
            break
        for _ in range(20):
            trial = np.maximum(mu + move, 0) if bounded else mu + move
            found = _linear(logits, offset, slopes, trial)
            gain = float(rise @ (trial - mu))
            if found[0] >= dual + 1e-4 * gain - 1e-13 * (1 + abs(dual)):
                break
            move = move / 2
        else:
            break  # rounding hides what is left to be gained
        mu, (dual, value, covariance) = trial, found
    return mu


def _newton(rise: Matrix, covariance: Matrix, free: np.ndarray, slopes: Matrix) -> Matrix | None:
    """The step of the free multipliers, shortened to `STRIDE`; None where nothing can be gained any more."""
    own = covariance[np.ix_(free, free)]
    size = float(np.trace(own))
    if size < 1e-200:
        return None
    own[np.diag_indices_from(own)] += 1e-13 * size
    move = np.zeros(len(rise))
    move[free] = np.linalg.solve(own, rise[free])
    reach = float(np.abs(_weighted(move, slopes)).max())
    return move * min(1.0, STRIDE / reach) if reach > 0 else None


def _linear(logits: Matrix, offset: Matrix, slopes: Matrix, mu: Matrix) -> tuple[float, Matrix, Matrix]:
    """The dual, its derivative plus 1 (the ratios), and minus its second derivative."""
    tilted = logits - _weighted(mu, slopes)
    top = tilted.max(axis=-1, keepdims=True)
    e = np.exp(tilted - top)
    total = e.sum(axis=-1, keepdims=True)
    q = e / total
    weighted = slopes * q
    means = weighted.sum(axis=-1)
    n = len(offset)
    covariance = weighted.reshape(n, -1) @ slopes.reshape(n, -1).T - means @ means.T
    dual = float(-(top.sum() + np.log(total).sum()) + mu @ (offset - 1))
    return dual, offset + means.sum(axis=-1), covariance


def _weighted(mu: Matrix, slopes: Matrix) -> Matrix:
    """Sum over k of mu[k] * slopes[k]."""
    return np.asarray((mu @ slopes.reshape(len(mu), -1)).reshape(slopes.shape[1:]))


def _raised(logits: Matrix, offset: Matrix, slopes: Matrix) -> Matrix:
    """All ratios are below 1: the common negative multiplier with which the largest is 1."""

    def gap(mu: float) -> float:
        return float(_linear(logits, offset, slopes, np.full(len(offset), mu))[1].max()) - 1

    total = float(slopes.sum(axis=0).max())
    far = -1.0 / total if total > 0 else 0.0
    while far and gap(far) < 0 and -far * total < 1e4:
        far *= 2
    return np.full(len(offset), root(gap, 0.0, far))


# -- where that is not enough


def _between(
    ratios: Ratios,
    logits: Matrix,
    sides: dict[bool, tuple[float, Matrix]],
    mu: Matrix,
    limit: bool,
    ends: Callable[[], tuple[np.ndarray, np.ndarray]],
) -> Tilt:
    """On the line between two shifts of which one misses the target from above, the other from below."""
    gap, shift = min(sides.values(), key=lambda side: side[0])
    if gap <= TOLERANCE:
        return Tilt(shift, mu, float(ratios(softmax(logits - shift))[0].max()))
    for above in (True, False):
        if above not in sides:
            sides[above] = np.inf, _certain(logits, ends()[int(above)])

    def miss(share: float) -> float:
        mixed = (1 - share) * sides[False][1] + share * sides[True][1]
        return float(ratios(softmax(logits - mixed))[0].max()) - 1

    share = root(miss, 0.0, 1.0)
    found = miss(share)
    if abs(found) >= gap and not (limit and found <= 0):
        return Tilt(shift, mu, float(ratios(softmax(logits - shift))[0].max()))
    mixed = (1 - share) * sides[False][1] + share * sides[True][1]
    return Tilt(mixed, mu, found + 1)


def _certain(logits: Matrix, codes: np.ndarray) -> Matrix:
    """The shift after which the reached decisions of an architecture are almost certain."""
    finite = logits[np.isfinite(logits)]
    height = 60.0 + float(np.ptp(finite))
    others = np.arange(logits.shape[1]) != codes[:, None]
    return np.where(others & np.isfinite(logits) & (codes[:, None] >= 0), height, 0.0)


def root(f: Callable[[float], float], a: float, b: float) -> float:
    """Where f is 0 between a and b (Illinois); the end nearer to that, where f has one sign at both."""
    fa, fb = f(a), f(b)
    if fa * fb > 0:
        return a if abs(fa) < abs(fb) else b
    x, side = a if abs(fa) < abs(fb) else b, 0
    for n in range(200):
        if min(abs(fa), abs(fb)) <= TOLERANCE / 2 or a == b:
            break
        # every fourth step by bisection, since where f is nearly a step the secant creeps
        x = (a + b) / 2 if n % 4 == 3 else (a * fb - b * fa) / (fb - fa)
        fx = f(x)
        if fx * fb > 0:
            b, fb, fa, side = x, fx, fa / 2 if side == 1 else fa, 1
        else:
            a, fa, fb, side = x, fx, fb / 2 if side == -1 else fb, -1
    return x
