"""Which combinations of shapes the runs of discovery have not shown yet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .dependence import Dependence
from .description import SpaceDescription
from .evaluation import CHUNK, Evaluation, product

SEARCHED = 4 * CHUNK
"""Architectures looked at: all that differ in shapes where there are no more, else as many at random."""


def undiscovered(description: SpaceDescription) -> list[NDArray[np.int16]]:
    """Rows of codes, each of an architecture in which some node meets shapes that it has not been run on."""
    dependence = Dependence(description)
    groups: dict[tuple[int, ...], list[int]] = {}
    for v, node in enumerate(description.nodes):
        if any(node.shape):
            groups.setdefault(dependence.decisions(v, live=False), []).append(v)
    found = []
    for decisions, nodes in groups.items():
        scope = dependence.scope(nodes, live=False)
        classes = dependence.classes(nodes, decisions, scope)
        for codes in _architectures(description, classes):
            unseen = Evaluation(description, codes, scope).unseen()
            found += [codes[row] for rows in unseen.values() for row in rows]
    return found


def _architectures(description: SpaceDescription, classes: Mapping[int, Sequence[int]]) -> Iterator[NDArray[np.int16]]:
    options = {d: [own.index(c) for c in range(max(own) + 1)] for d, own in classes.items()}
    if math.prod(map(len, options.values())) <= SEARCHED:
        yield from product(description, options)
        return
    rng = np.random.default_rng(0)
    for _ in range(0, SEARCHED, CHUNK):
        codes = np.zeros((CHUNK, len(description.decisions)), np.int16)
        for d, representatives in options.items():
            codes[:, d] = rng.choice(representatives, size=CHUNK)
        yield codes
