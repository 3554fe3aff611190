"""Regularised evolution: Real, Aggarwal, Huang, Le, AAAI 2019, arXiv:1802.01548."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .algorithm import Budget, SearchError, Task
from .objective import Objective
from .random_search import Scoring
from .sampled import distinct
from .settings import EvolutionSettings

TRIES = 50
"""Parents that are tried for a child before a network is drawn instead."""


class Evolution(Scoring):
    """The best of `tournament` random members has a child, which differs in `mutations` decisions; the oldest member
    dies. Begins with `population` networks on target.

    A child that the objective does not accept is repaired: one of the networks that are accepted and differ from it in
    one more decision takes its place. What was scored before is never scored again. Where 50 parents give no new
    network, one on target is drawn. The reward is the fitness.
    """

    name: ClassVar[str] = "evolution"

    def __init__(
        self, space: SearchSpace, objective: Objective, settings: EvolutionSettings, budget: Budget, seed: int
    ) -> None:
        super().__init__(space, objective, settings, budget, seed)
        for what in ("population", "tournament", "mutations"):
            if getattr(settings, what) < 1:
                raise SearchError(f"evolution: {what} must be at least 1, not {getattr(settings, what)}")
        self.sizes = np.array([len(d) for d in space.decisions])

    def update(self, task: Task, step: int) -> Mapping[str, float]:
        rng = np.random.default_rng([self.seed, 0xE701, step])
        missing = self.settings.population - len(self.scored)
        if missing > 0:
            rows = self.on_target.draw(min(self.settings.batch, missing), rng, self.scored)
            if len(rows):
                return self.score(task, rows)
        rows = np.empty((0, len(self.sizes)), np.int16)
        if not self.on_target.exhausted(self.scored):
            for _ in range(self.settings.batch):
                rows = np.concatenate([rows, self._child(rng, rows)])
        return self.score(task, rows)

    # -- inside

    def _child(self, rng: np.random.Generator, siblings: Codes) -> Codes:
        """(1, decisions), or (0, decisions) where nothing new is on target."""
        for _ in range(TRIES):
            options = self._mutated(self._parent(rng), rng)[None]
            if not self.on_target.accepts(options)[0]:
                options = self._neighbours(options[0], rng)
                options = options[self.on_target.accepts(options)]
            options = self._new(options, siblings)
            if len(options):
                return np.asarray(options[[rng.integers(len(options))]])
        return self._new(self.on_target.draw(len(siblings) + 1, rng, self.scored), siblings)[:1]

    def _new(self, codes: Codes, siblings: Codes) -> Codes:
        """Those rows that were not scored and are not about to be."""
        taken = (codes[:, None] == siblings[None]).all(axis=2).any(axis=1)
        return np.asarray(codes[(self.scored.find(codes) < 0) & ~taken])

    def _parent(self, rng: np.random.Generator) -> Codes:
        """(decisions,) the winner of a tournament among the youngest `population`."""
        first = max(0, len(self.scored) - self.settings.population)
        there = np.arange(first, len(self.scored))
        members = rng.choice(there, min(self.settings.tournament, len(there)), replace=False)
        return np.asarray(self.scored.codes[members[np.argmax(self.scored.worth[members])]])

    def _mutated(self, row: Codes, rng: np.random.Generator) -> Codes:
        """(decisions,) with other candidates in a few of the decisions that the network reaches."""
        free = np.flatnonzero((row >= 0) & (self.sizes > 1))
        child = self._filled(row, rng)
        for d in rng.choice(free, min(self.settings.mutations, len(free)), replace=False):
            child[d] = (child[d] + rng.integers(1, self.sizes[d])) % self.sizes[d]
        return self.space.encoding.canonical(child[None])[0]

    def _neighbours(self, row: Codes, rng: np.random.Generator) -> Codes:
        """(N, decisions) all networks that differ in one decision that the network reaches."""
        start = self._filled(row, rng)
        found = []
        for d in np.flatnonzero(row >= 0):
            options = np.repeat(start[None], self.sizes[d], axis=0)
            options[:, d] = np.arange(self.sizes[d])
            found.append(options)
        return distinct(self.space.encoding.canonical(np.concatenate(found)))[0]

    def _filled(self, row: Codes, rng: np.random.Generator) -> Codes:
        """The row with random candidates where it reaches none, for in a child they may be reached."""
        return np.where(row < 0, rng.integers(self.sizes), row).astype(np.int16)
