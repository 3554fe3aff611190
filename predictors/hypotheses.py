"""What a runtime may make of a network: which operators it executes, merges or drops. The data decide which it does.

Each architecture's operators are numbered by what they compute (value numbering; Cocke and Schwartz, 1970), many
architectures at once: equal numbers are equal tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .segments import Operator, Segment, Step, X

Ids = NDArray[np.uint64]
Who = NDArray[np.int32]
NONE = np.int32(-1)
INPUT, ADD, ZERO = "input", "add", "zero"
RUN, CONSTANT, FOLDED = "run", "constant", "folded"


@dataclass(frozen=True)
class Hypothesis:
    """What happens to zeros, to operators that compute the same, and to those that nothing uses.

    Attributes:
        zeros: "run": computed from their input; "constant": one tensor that depends on nothing; "folded": they, and
            what only sees them, are not there.
        merged: operators without weights that do the same to the same tensor are one.
        pruned: what does not act on the output is not there.
    """

    zeros: str
    merged: bool
    pruned: bool = True

    @property
    def name(self) -> str:
        """Such as `zeros run, merged`."""
        return f"zeros {self.zeros}" + (", merged" if self.merged else "") + ("" if self.pruned else ", all kept")


HYPOTHESES = (
    Hypothesis(RUN, merged=False, pruned=False),
    Hypothesis(RUN, merged=True),
    Hypothesis(CONSTANT, merged=True),
    Hypothesis(FOLDED, merged=True),
    Hypothesis(FOLDED, merged=False),
    Hypothesis(CONSTANT, merged=False),
)
MORE = ("tensors at once", "longest path", "weights to add", "weights to plain", "add to plain")
"""Names of the second part of what is counted; "plain" are operators without weights in front of others."""


def core_names(segment: Segment) -> tuple[str, ...]:
    """Names of the first part: operators of each kind, plain ones, sums, zeros, and sums of a tensor with itself."""
    candidates = [own for step in segment.steps for own in step.candidates]
    kinds = dict.fromkeys(own.kind for own in candidates if own.kind is not None)
    plain = dict.fromkeys(name for own in candidates for name in own.before)
    return (*kinds, *(name for name in plain if name not in kinds), ADD, ZERO, "doubled")


def count(segment: Segment, codes: np.ndarray, hypothesis: Hypothesis) -> dict[str, NDArray[np.float64]]:
    """(N,) of each of `core_names` and `MORE` in (N, decisions) codes: distinct operators of the segment."""
    return _Numbering(segment, codes, hypothesis).counts()


@dataclass(frozen=True, eq=False)
class _Value:
    """A tensor in each architecture: its number, the instance that computes it (-1: absent), operators up to it."""

    id: Ids
    who: Who
    depth: Who

    def where(self, mask: NDArray[np.bool_]) -> _Value:
        """Absent elsewhere."""
        return _Value(np.where(mask, self.id, 0), np.where(mask, self.who, NONE), np.where(mask, self.depth, 0))

    def either(self, other: _Value) -> _Value:
        """This one, the other one where this is absent."""
        own = self.who >= 0
        pairs = ((self.id, other.id), (self.who, other.who), (self.depth, other.depth))
        return _Value(*(np.where(own, a, b) for a, b in pairs))  # type: ignore[arg-type]  # in this order


class _Numbering:
    """One segment under one hypothesis.

    An instance is one operator, in the rows where its number is not 0.
    """

    def __init__(self, segment: Segment, codes: np.ndarray, hypothesis: Hypothesis) -> None:
        self.n = len(codes)
        self.segment, self.codes, self.hypothesis = segment, codes, hypothesis
        self.kinds: list[str] = []
        self.roles: list[str] = []
        self.ids: list[Ids] = []
        self.inputs: list[tuple[_Value, ...]] = []
        self.sums: dict[tuple[int, ...], _Value] = {}
        self.values = {X: self._emit(INPUT, "input", np.ones(self.n, bool))}
        for i, step in enumerate(segment.steps):
            self.values[i] = self._step(step)
        self.output = self._sum(segment.outputs)

    # -- building

    def _emit(self, kind: str, role: str, mask: NDArray[np.bool_], *inputs: _Value) -> _Value:
        merged = self.hypothesis.merged and role != "weights"
        salt = np.uint64(0 if merged else len(self.ids) + 1)
        known = self.kinds.index(kind) if kind in self.kinds else len(self.kinds)
        number = np.where(mask, _mixed(np.uint64(known + 1), salt, *(v.id for v in inputs)), np.uint64(0))
        depth = 1 + np.max([v.depth for v in inputs], axis=0) if inputs else np.zeros(self.n)
        who = np.where(mask, np.int32(len(self.ids)), NONE)
        self.kinds.append(kind)
        self.roles.append(role)
        self.ids.append(number)
        self.inputs.append(inputs)
        return _Value(number, who, np.where(mask, depth, 0).astype(np.int32))

    def _nothing(self) -> _Value:
        return _Value(np.zeros(self.n, np.uint64), np.full(self.n, NONE), np.zeros(self.n, np.int32))

    def _sum(self, sources: tuple[int, ...]) -> _Value:
        """The sum of some steps' values from left to right; a beginning that others have, too, is the same tensor."""
        if not sources:
            return self._nothing()
        if sources not in self.sums:
            last = self.values[sources[-1]]
            if len(sources) == 1:
                self.sums[sources] = last
            else:
                self.sums[sources] = self._added(self._sum(sources[:-1]), last)
        return self.sums[sources]

    def _added(self, one: _Value, other: _Value) -> _Value:
        both = (one.who >= 0) & (other.who >= 0)
        first, second = one, other
        if self.hypothesis.merged:  # the order of summands does not matter
            swap = one.id > other.id
            first = other.where(swap).either(one.where(~swap))
            second = one.where(swap).either(other.where(~swap))
        return self._emit(ADD, ADD, both, first, second).either(one.where(~both)).either(other.where(~both))

    def _step(self, step: Step) -> _Value:
        found = self._nothing()
        for at, operator in self._grouped(step):
            if operator.sources:
                found = found.either(self._applied(operator, at))
            else:
                found = found.either(self._zeros(step, at))
        return found

    def _grouped(self, step: Step) -> list[tuple[NDArray[np.bool_], Operator]]:
        """Rows of each candidate."""
        reached = np.ones(self.n, bool)
        for decision, candidate in step.reach:
            reached &= self.codes[:, decision] == candidate
        if step.decision is None:
            return [(reached, step.candidates[0])]
        own = self.codes[:, step.decision]
        return [(reached & (own == j), operator) for j, operator in enumerate(step.candidates)]

    def _applied(self, operator: Operator, at: NDArray[np.bool_]) -> _Value:
        value = self._sum(operator.sources).where(at)
        for name in operator.before:
            value = self._emit(name, "plain", value.who >= 0, value)
        if operator.kind is None:
            return value
        return self._emit(operator.kind, "weights" if operator.weights else "other", value.who >= 0, value)

    def _zeros(self, step: Step, at: NDArray[np.bool_]) -> _Value:
        if self.hypothesis.zeros == RUN:
            value = self._sum(step.reads).where(at)
            return self._emit(ZERO, ZERO, value.who >= 0, value)
        if self.hypothesis.zeros == CONSTANT:
            return self._emit(ZERO, ZERO, at)
        return self._nothing()

    # -- counting

    def counts(self) -> dict[str, NDArray[np.float64]]:
        ids = np.stack(self.ids)
        first, kept = _first(ids), self._live() if self.hypothesis.pruned else ids > 0
        live = np.zeros_like(kept)
        rows = np.arange(self.n)
        for own, mask in zip(first, kept, strict=True):
            live[own[mask], rows[mask]] = True
        found = dict.fromkeys(core_names(self.segment), np.zeros(self.n))
        doubled = np.zeros(self.n)
        uses, fused = np.zeros((2, *live.shape), np.int32)
        for i, (kind, role) in enumerate(zip(self.kinds, self.roles, strict=True)):
            if kind in found:
                found[kind] = found[kind] + live[i]
            sources = [first[v.who, rows] for v in self.inputs[i]]
            doubled += live[i] & (sources[0] == sources[1]) if role == ADD else 0
            for own in sources:
                uses[own[live[i]], rows[live[i]]] += 1
                # What each is read by, as one digit: exact where it is read once.
                fused[own[live[i]], rows[live[i]]] = {ADD: 1, "plain": 2}.get(role, 0)
        return {**found, "doubled": doubled, **self._more(live, first, uses, fused)}

    def _live(self) -> NDArray[np.bool_]:
        """(instances, N) what the output depends on."""
        live = np.zeros((len(self.ids), self.n), bool)
        rows = np.arange(self.n)
        waiting: list[tuple[NDArray[np.bool_], _Value]] = [(np.ones(self.n, bool), self.output)]
        for i in reversed(range(-1, len(self.ids))):
            for mask, value in waiting:
                here = mask & (value.who >= 0)
                live[value.who[here], rows[here]] = True
            waiting = [(live[i], value) for value in self.inputs[i]] if i >= 0 else []
            # An instance is only read by later ones, so that all its readers have been seen.
        return live

    def _more(
        self, live: NDArray[np.bool_], first: NDArray[np.intp], uses: np.ndarray, fused: np.ndarray
    ) -> dict[str, NDArray[np.float64]]:
        rows = np.arange(self.n)
        roles = np.array(self.roles)

        def once(role: str, reader: int) -> NDArray[np.float64]:
            own = roles == role
            return np.asarray((live & (uses == 1) & (fused == reader))[own].sum(axis=0), float)

        last = np.full(live.shape, len(self.ids), np.int32)  # what nothing reads stays
        for i, inputs in enumerate(self.inputs):
            for value in inputs:
                last[first[value.who, rows][live[i]], rows[live[i]]] = i
        peak = np.zeros(self.n)
        for i in range(len(self.ids)):
            alive = (live[: i + 1] & (last[: i + 1] >= i)).sum(axis=0)
            peak = np.maximum(peak, np.where(live[i], alive, 0))
        values = (peak, self.output.depth.astype(float), once("weights", 1), once("weights", 2), once(ADD, 2))
        return dict(zip(MORE, values, strict=True))


def _first(ids: NDArray[np.uint64]) -> NDArray[np.intp]:
    """(instances, N) the first instance with the same number."""
    order = np.argsort(ids, axis=0, kind="stable")
    ordered = np.take_along_axis(ids, order, axis=0)
    starts = np.zeros(ids.shape, np.intp)
    starts[1:] = np.where(ordered[1:] != ordered[:-1], np.arange(1, len(ids))[:, None], 0)
    starts = np.maximum.accumulate(starts, axis=0)
    first = np.empty(ids.shape, np.intp)
    np.put_along_axis(first, order, np.take_along_axis(order, starts, axis=0), axis=0)
    return first


def _mixed(*parts: NDArray[np.uint64] | np.uint64) -> Ids:
    """A number for each row's parts in order, never 0 (finaliser of splitmix64)."""
    mixed: Ids = np.array(0x9E3779B97F4A7C15, np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            mixed = (mixed ^ part) * np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(31)
            mixed = mixed * np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(29)
    return mixed | np.uint64(1)
