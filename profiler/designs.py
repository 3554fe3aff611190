"""Which whole networks calibrate a table, and which ones it is tried on."""

from __future__ import annotations

import hashlib

import numpy as np

from ..spaces.architecture import Architecture
from ..spaces.encoding import Codes, Encoding


def designed(encoding: Encoding, n: int, *, ends: Codes | None = None) -> Codes:
    """Up to `n` different rows that cover a space evenly.

    First the given `ends` (smallest and largest; without them, networks with the same candidate wherever it exists),
    then rows in which each decision runs through its candidates in an order of its own: as typical as random ones, and
    after as many rows as a decision has candidates, each candidate has occurred.
    """
    rows = list(uniform(encoding) if ends is None else encoding.canonical(ends))
    rng = np.random.default_rng(1812_00332)
    orders: list[np.ndarray] = []
    for r in range(4 * n):  # some come out alike
        if r % max(map(len, encoding.decisions)) == 0:
            orders = [rng.permutation(len(d)) for d in encoding.decisions]
        rows.append(np.array([order[r % len(order)] for order in orders], np.int16))
    return _distinct(encoding, np.stack(rows), n)


def uniform(encoding: Encoding) -> Codes:
    """One row for each candidate name: it wherever it exists, elsewhere the candidate of the same rank."""
    names = list(dict.fromkeys(name for d in encoding.decisions if d.kind == "layer" for name in d.candidates))
    longest = max(map(len, encoding.decisions))
    names = names[:12] if names else [str(i) for i in range(min(longest, 12))]
    rows = [
        [d.candidates.index(name) if name in d.candidates else rank % len(d) for d in encoding.decisions]
        for rank, name in enumerate(names)
    ]
    return encoding.canonical(np.array(rows, np.int16))


def held_out(encoding: Encoding, n: int, seed: int, taken: Codes) -> Codes:
    """Up to `n` uniformly drawn rows, none of them among `taken`."""
    rng = np.random.default_rng(seed)
    known = {tuple(row) for row in taken.tolist()}
    rows: list[list[int]] = []
    for row in encoding.sample(20 * n + 20, rng).tolist():
        if tuple(row) not in known and len(rows) < n:
            known.add(tuple(row))
            rows.append(row)
    return np.array(rows, np.int16).reshape(len(rows), len(encoding.decisions))


def network_key(architecture: Architecture, batch: int, dtype: str) -> str:
    """Name of a whole network in a table."""
    digest = hashlib.sha256(architecture.to_json().encode()).hexdigest()
    return f"network {architecture.space} b{batch} {dtype} #{digest[:10]}"


def _distinct(encoding: Encoding, rows: np.ndarray, n: int) -> Codes:
    canonical = encoding.canonical(rows)
    _, first = np.unique(canonical, axis=0, return_index=True)
    return canonical[np.sort(first)][:n]
