"""Architectures as integers: one column a decision, the candidate's number in it, -1 where it is not reached."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .architecture import Architecture, ArchitectureError
from .counting import Counting, order_by_reach
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
        return self._counting.size

    def sample(self, n: int, rng: np.random.Generator, probabilities: Sequence[np.ndarray] | None = None) -> Codes:
        """n rows: uniform over architectures, or each decision drawn from its own `probabilities`."""
        if probabilities is None:
            return self._counting.sample(n, rng)
        codes = np.zeros((n, len(self.decisions)), np.int16)
        for i, p in enumerate(self._checked(probabilities)):
            codes[:, i] = np.searchsorted(np.cumsum(p / p.sum())[:-1], rng.random(n), side="right")
        return self.canonical(codes)

    def enumerate(self) -> Iterator[Codes]:
        """Every architecture once, as blocks of rows.

        Raises:
            SpaceError: there are more than a million.
        """
        if self.size > ENUMERABLE:
            raise SpaceError(
                f"space {self.space!r} has about 10^{math.log10(self.size):.0f} architectures: too many to list"
            )
        yield from self._counting.blocks()

    # -- inside

    def _encode_one(self, architecture: Architecture, row: np.ndarray) -> None:
        if architecture.space != self.space:
            raise ArchitectureError(f"the architecture is of space {architecture.space!r}, not {self.space!r}")
        for label, value in architecture.choices.items():
            if label not in self.index:
                known = ", ".join(list(self.index)[:8]) + (", ..." if len(self.index) > 8 else "")
                raise ArchitectureError(f"space {self.space!r} has no choice {label!r}; it has {known}")
            i = self.index[label]
            if isinstance(value, str) != (self.decisions[i].kind == "layer"):
                wanted = "a candidate's name" if self.decisions[i].kind == "layer" else "a list of inputs, such as [0]"
                raise ArchitectureError(f"choice {label!r} takes {wanted}, not {value!r}")
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
    def _counting(self) -> Counting:
        return Counting(self.decisions)

    @cached_property
    def _by_depth(self) -> list[int]:
        return order_by_reach(self.decisions)
