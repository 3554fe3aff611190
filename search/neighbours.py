"""Architectures that differ in one or two decisions: for local search, and for walks within a band of latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..spaces.encoding import Codes, Encoding

Distance = Callable[[np.ndarray], NDArray[np.float64]]
"""(N, decisions) canonical codes -> (N,) how far each is from where it should be; 0: it is there."""

BEAM = 16
PAIRS = 8192
"""Pairs of changes that are tried in a round."""
ROUNDS = 40
PATIENCE = 4
"""Rounds in a row that must have found nothing."""
STEPS = 300


def improve(
    encoding: Encoding, rows: Codes, distance: Distance, logs: Sequence[np.ndarray], n: int, rng: np.random.Generator
) -> Codes:
    """The n best of the rows and of what local search finds from them, best first: nearer, then more probable ones.

    Every single change of the 16 best is tried, and some thousand pairs of changes, until none of them helps.

    Args:
        rows: (N, decisions) canonical.
        logs: log probabilities, one vector a decision.
    """
    keep = max(n, 4 * BEAM)
    best, order = _sorted(rows, distance, logs, keep)
    idle = 0
    for _ in range(ROUNDS):
        beam = best[:BEAM]
        filled = _filled(beam, logs)
        tried = np.concatenate([_singles(encoding, filled), _pairs(encoding, filled, rng)])
        pool = np.unique(np.concatenate([best, encoding.canonical(tried)]), axis=0)
        found, keys = _sorted(pool, distance, logs, keep)
        idle = idle + 1 if np.array_equal(keys[:BEAM], order[:BEAM]) else 0
        best, order = found, keys
        if idle == PATIENCE:
            break
    return best[:n]


def walk(encoding: Encoding, rows: Codes, distance: Distance, rng: np.random.Generator) -> Codes:
    """Each row after 300 random changes of one or two decisions, none of which took it farther away.

    Once a row is there, this is a random walk among all that are, whose limit is uniform (without nested choices).
    """
    here, away = rows, distance(rows)
    sizes = np.array([len(d) for d in encoding.decisions])
    everyone = np.arange(len(rows))
    for _ in range(STEPS):
        moved = _filled(here, None, rng, sizes)
        for one_of in (1.0, 0.5):
            d = rng.integers(len(sizes), size=len(rows))
            chosen = (rng.random(len(rows)) * sizes[d]).astype(np.int16)
            moved[everyone, d] = np.where(rng.random(len(rows)) < one_of, chosen, moved[everyone, d])
        moved = encoding.canonical(moved)
        then = distance(moved)
        better = then <= away
        here, away = np.where(better[:, None], moved, here), np.where(better, then, away)
    return np.asarray(here)


def log_probability(codes: np.ndarray, logs: Sequence[np.ndarray]) -> NDArray[np.float64]:
    """(N,) sums over the decisions that each row reaches."""
    total = np.zeros(len(codes))
    for column, log in zip(codes.T, logs, strict=True):
        total += np.where(column >= 0, log[column], 0.0)
    return total


def _sorted(
    rows: Codes, distance: Distance, logs: Sequence[np.ndarray], keep: int
) -> tuple[Codes, NDArray[np.float64]]:
    """The first rows by distance and minus log probability, and (N, 2) these."""
    away, unlikely = distance(rows), -log_probability(rows, logs)
    order = np.lexsort((unlikely, away))[:keep]
    return rows[order], np.stack([away, unlikely], axis=1)[order]


def _filled(
    rows: Codes,
    logs: Sequence[np.ndarray] | None,
    rng: np.random.Generator | None = None,
    sizes: np.ndarray | None = None,
) -> Codes:
    """A candidate for what is not reached, in case that a change reaches it: the most probable one, or a random one."""
    if logs is not None:
        instead = np.array([int(log.argmax()) for log in logs], np.int16)
        return np.asarray(np.where(rows < 0, instead, rows), np.int16)
    assert rng is not None
    assert sizes is not None
    return np.asarray(np.where(rows < 0, (rng.random(rows.shape) * sizes).astype(np.int16), rows), np.int16)


def _singles(encoding: Encoding, rows: Codes) -> Codes:
    found = []
    for d, decision in enumerate(encoding.decisions):
        changed = np.repeat(rows, len(decision), axis=0)
        changed[:, d] = np.tile(np.arange(len(decision)), len(rows))
        found.append(changed)
    return np.concatenate(found)


def _pairs(encoding: Encoding, rows: Codes, rng: np.random.Generator) -> Codes:
    sizes = np.array([len(d) for d in encoding.decisions])
    changed = rows[rng.integers(len(rows), size=PAIRS)]
    for _ in range(2):
        d = rng.integers(len(sizes), size=PAIRS)
        changed[np.arange(PAIRS), d] = (rng.random(PAIRS) * sizes[d]).astype(np.int16)
    return np.asarray(changed)
