"""Architectures as integers: one column a decision, the candidate's number in it, -1 where it is not reached."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .architecture import Architecture, ArchitectureError
from .description import Decision, SpaceError

Codes = NDArray[np.int16]
"""(N, number of decisions)"""

ENUMERABLE = 1_000_000


class Encoding:
    """Both ways between architectures and integers, counting and sampling, for the decisions of one space."""

    def __init__(self, space: str, decisions: Sequence[Decision]) -> None:
        self.space = space
        self.decisions = tuple(decisions)
        self.index = {decision.label: i for i, decision in enumerate(self.decisions)}

    # -- conversions

    def encode(self, architectures: Sequence[Architecture]) -> Codes:
        """(N, decisions) int16 of checked architectures.

        Raises:
            ArchitectureError: one of them is of another space, lacks a choice, or names an unknown one.
        """
        codes = np.full((len(architectures), len(self.decisions)), -1, np.int16)
        for row, architecture in zip(codes, architectures, strict=True):
            self._encode_one(architecture, row)
        for row, reached, architecture in zip(codes, self.reached(codes), architectures, strict=True):
            if (reached != (row >= 0)).any():
                self._explain(architecture, row, reached)
        return codes

    def decode(self, codes: np.ndarray) -> list[Architecture]:
        """Architectures of integer rows; entries of unreached decisions are ignored.

        Raises:
            ArchitectureError: wrong width, or a reached entry outside its candidates.
        """
        rows = self.canonical(codes)
        values = [[self._chosen(d, c) for c in range(len(d))] for d in self.decisions]
        labels = [d.label for d in self.decisions]
        return [
            Architecture(self.space, {labels[i]: values[i][c] for i, c in enumerate(row) if c >= 0})
            for row in rows.tolist()
        ]

    def canonical(self, codes: np.ndarray) -> Codes:
        """The rows with -1 in every decision that is not reached.

        Raises:
            ArchitectureError: wrong width, not integers, or a reached entry outside its candidates.
        """
        rows = np.asarray(codes)
        if rows.ndim != 2 or rows.shape[1] != len(self.decisions) or not np.issubdtype(rows.dtype, np.integer):
            raise ArchitectureError(
                f"encoded architectures must be integers of shape (N, {len(self.decisions)}), "
                f"not {rows.dtype} {rows.shape}"
            )
        reached = self.reached(rows)
        sizes = np.array([len(d) for d in self.decisions])
        wrong = reached & ((rows < 0) | (rows >= sizes))
        if wrong.any():
            i, j = np.argwhere(wrong)[0]
            d = self.decisions[j]
            raise ArchitectureError(
                f"row {i}: choice {d.label!r} has no candidate number {rows[i, j]}; there are {len(d)}"
            )
        return np.where(reached, rows, -1).astype(np.int16)

    def reached(self, codes: np.ndarray) -> NDArray[np.bool_]:
        """(N, decisions): whether each decision is reached, given the ones above it."""
        reached = np.ones(codes.shape, bool)
        for i in self._by_depth:
            if () in self.decisions[i].reach:
                continue
            reached[:, i] = False
            for condition in self.decisions[i].reach:
                holds = np.ones(len(codes), bool)
                for j, candidate in condition:
                    holds &= reached[:, j] & (codes[:, j] == candidate)
                reached[:, i] |= holds
        return reached

    # -- counting and sampling

    @cached_property
    def size(self) -> int:
        """The number of different architectures."""
        return math.prod(sum(counts) for _, _, counts in self._groups)

    def sample(self, n: int, rng: np.random.Generator, probabilities: Sequence[np.ndarray] | None = None) -> Codes:
        """n rows: uniform over architectures, or each decision drawn from its own `probabilities`."""
        codes = np.zeros((n, len(self.decisions)), np.int16)
        if probabilities is not None:
            for i, p in enumerate(self._checked(probabilities)):
                codes[:, i] = np.searchsorted(np.cumsum(p)[:-1], rng.random(n), side="right")
            return self.canonical(codes)
        for i, decision in enumerate(self.decisions):
            codes[:, i] = rng.integers(len(decision), size=n)
        for parents, rows, counts in self._groups:
            if parents:  # a nested candidate stands for as many architectures as its inner choices allow
                weights = np.array([float(c) for c in counts])
                codes[:, list(parents)] = np.array(rows)[rng.choice(len(rows), size=n, p=weights / weights.sum())]
        return self.canonical(np.where(codes < 0, 0, codes))

    def enumerate(self) -> Iterator[Codes]:
        """Every architecture once, as blocks of rows.

        Raises:
            SpaceError: there are more than a million.
        """
        if self.size > ENUMERABLE:
            raise SpaceError(f"space {self.space!r} has {self.size:.3g} architectures: too many to enumerate")
        block: list[tuple[int, ...]] = []
        seen: set[tuple[int, ...]] = set()
        for row in itertools.product(*(range(len(d)) for d in self.decisions)):
            block.append(row)
            if len(block) == 4096:
                yield self._fresh(block, seen)
                block = []
        if block:
            yield self._fresh(block, seen)

    def _fresh(self, block: list[tuple[int, ...]], seen: set[tuple[int, ...]]) -> Codes:
        """Canonical rows not met before; without nesting each is new."""
        rows = self.canonical(np.array(block, np.int16).reshape(len(block), len(self.decisions)))
        if all(() in d.reach for d in self.decisions):
            return rows
        keep = []
        for row in map(tuple, rows.tolist()):
            if row not in seen:
                seen.add(row)
                keep.append(row)
        return np.array(keep, np.int16).reshape(len(keep), len(self.decisions))

    # -- inside

    def _encode_one(self, architecture: Architecture, row: np.ndarray) -> None:
        if architecture.space != self.space:
            raise ArchitectureError(f"the architecture is of space {architecture.space!r}, not {self.space!r}")
        for label, value in architecture.choices.items():
            if label not in self.index:
                known = ", ".join(list(self.index)[:8]) + (", ..." if len(self.index) > 8 else "")
                raise ArchitectureError(f"space {self.space!r} has no choice {label!r}; it has {known}")
            i = self.index[label]
            name = value if isinstance(value, str) else ",".join(map(str, value))
            if name not in self.decisions[i].candidates:
                there = " | ".join(self.decisions[i].candidates)
                raise ArchitectureError(f"choice {label!r} has no candidate {name!r}; it has {there}")
            row[i] = self.decisions[i].candidates.index(name)

    def _explain(self, architecture: Architecture, row: np.ndarray, reached: np.ndarray) -> None:
        for i, decision in enumerate(self.decisions):
            if reached[i] and row[i] < 0:
                there = " | ".join(decision.candidates)
                raise ArchitectureError(f"the architecture lacks choice {decision.label!r}; it has {there}")
            if not reached[i] and row[i] >= 0:
                raise ArchitectureError(
                    f"the architecture decides {decision.label!r}, which its other choices do not reach; leave it out"
                )

    def _chosen(self, decision: Decision, candidate: int) -> str | tuple[int, ...]:
        name = decision.candidates[candidate]
        return name if decision.kind == "layer" else tuple(int(i) for i in name.split(","))

    def _checked(self, probabilities: Sequence[np.ndarray]) -> list[np.ndarray]:
        if len(probabilities) != len(self.decisions):
            raise SpaceError(f"{len(probabilities)} probability vectors for {len(self.decisions)} decisions")
        checked = [np.asarray(p, float) for p in probabilities]
        for p, decision in zip(checked, self.decisions, strict=True):
            if p.shape != (len(decision),) or not np.isfinite(p).all() or (p < 0).any() or abs(p.sum() - 1) > 1e-6:
                raise SpaceError(f"choice {decision.label!r} needs {len(decision)} probabilities that sum to 1")
        return checked

    @cached_property
    def _by_depth(self) -> list[int]:
        """Decisions after all that their reach depends on."""
        done: list[int] = []
        while len(done) < len(self.decisions):
            ready = [
                i
                for i, d in enumerate(self.decisions)
                if i not in done and all(j in done or j == i for condition in d.reach for j, _ in condition)
            ]
            if not ready:
                raise SpaceError("choices that are tied by label are nested in each other in a circle")
            done += ready
        return done

    @cached_property
    def _groups(self) -> list[tuple[tuple[int, ...], list[tuple[int, ...]], list[int]]]:
        """Independent groups: deciding parents, their canonical assignments, architectures for each of them."""
        group = list(range(len(self.decisions)))
        for i, d in enumerate(self.decisions):
            if () in d.reach:
                continue
            for condition in d.reach:
                for j, _ in condition:
                    old, new = group[j], group[i]
                    group = [new if g == old else g for g in group]
        return [self._count([i for i, g in enumerate(group) if g == label]) for label in dict.fromkeys(group)]

    def _count(self, members: list[int]) -> tuple[tuple[int, ...], list[tuple[int, ...]], list[int]]:
        conditional = [self.decisions[i] for i in members if () not in self.decisions[i].reach]
        parents = tuple(sorted({j for d in conditional for condition in d.reach for j, _ in condition}))
        sizes = [len(self.decisions[j]) for j in parents]
        if math.prod(sizes) > ENUMERABLE:
            raise SpaceError("choices are nested too deeply into each other to be counted")
        rows = np.zeros((math.prod(sizes), len(self.decisions)), np.int16)
        if parents:
            rows[:, list(parents)] = np.indices(sizes).reshape(len(parents), -1).T
        reached = self.reached(rows)
        assignments: dict[tuple[int, ...], int] = {}
        for row, there in zip(rows.tolist(), reached.tolist(), strict=True):
            own = tuple(row[j] if there[j] else -1 for j in parents)
            free = (len(self.decisions[i]) for i in members if i not in parents and there[i])
            assignments[own] = math.prod(free)
        return parents, list(assignments), list(assignments.values())
