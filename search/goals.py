"""Latency goals: predictors with targets, and what they say together of an architecture or of probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import HwnasError
from ..predictors.base import Predictor
from ..predictors.extremes import extreme
from ..spaces.architecture import Architecture
from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .estimates import Near
from .ratios import Ratios

ROUNDING = 1e-9
"""Relative difference below which a latency counts as being on its target."""

LISTED = 50_000
"""Architectures up to which all of a space are looked at."""


class GoalError(HwnasError):
    """Goals that make no sense, or that are of another space."""


class TargetUnreachable(HwnasError):
    """Targets that no architecture of the space meets.

    Attributes:
        targets: one a goal, in its unit.
        minimum, maximum: latency of each goal, in its unit, of the two architectures.
        smallest, largest: the architectures at both ends of the range.
    """

    def __init__(
        self,
        message: str,
        targets: Sequence[float],
        minimum: Sequence[float],
        maximum: Sequence[float],
        smallest: Architecture,
        largest: Architecture,
    ) -> None:
        super().__init__(message)
        self.targets = tuple(targets)
        self.minimum, self.maximum = tuple(minimum), tuple(maximum)
        self.smallest, self.largest = smallest, largest


@dataclass(frozen=True)
class Goal:
    """One device's target.

    Attributes:
        predictor: of the device's latency.
        target: in the predictor's unit.
        weight: relative to those of the other goals.
        name: for messages and logs; by default the device's.

    Raises:
        GoalError: target or weight is not a positive finite number.
    """

    predictor: Predictor
    target: float
    weight: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        for what, value in (("target", self.target), ("weight", self.weight)):
            if not math.isfinite(value) or value <= 0:
                raise GoalError(f"a goal's {what} must be a positive finite number, not {value!r}")


class Latency:
    """What several goals say together, as latency / target: 1 is on target.

    Args:
        space: where to search; every predictor is of it.
        goals: at least one.
        combine: of several ratios their "weighted" mean, or the "worst" (largest).

    Attributes:
        closed_form: every predictor's expectation is exact and cheap.
        measures: for some predictor every new architecture means a measurement.
        near: number of each goal whose expectation is neither closed nor measured -> its estimate (see `follow`).
        names: one a goal, all different.
        weights: (goals,) that sum to 1.

    Raises:
        GoalError: no goals, or a predictor of another space.
    """

    def __init__(
        self, space: SearchSpace, goals: Sequence[Goal], combine: Literal["weighted", "worst"] = "weighted"
    ) -> None:
        if not goals:
            raise GoalError("latency needs at least one goal: a predictor with a target")
        if combine not in ("weighted", "worst"):
            raise GoalError(f"goals are combined as 'weighted' or 'worst', not {combine!r}")
        for goal in goals:
            theirs = goal.predictor.space
            if theirs is not space and theirs.fingerprint != space.fingerprint:
                raise GoalError(
                    f"the predictor {goal.predictor!r} is of another space than {space.name!r} that is searched "
                    f"({theirs.fingerprint}, not {space.fingerprint}): use one that was made for it"
                )
        self.space = space
        self.goals = tuple(goals)
        self.combine = combine
        self.closed_form = all(goal.predictor.closed_form for goal in goals)
        self.measures = any(goal.predictor.measures for goal in goals)
        self.near = {
            i: Near(goal.predictor)
            for i, goal in enumerate(goals)
            if not goal.predictor.closed_form and not goal.predictor.measures
        }
        self._ratios: Ratios | None = None
        self.names = _names(goals)
        self.targets = np.array([goal.target for goal in goals], float)
        total = sum(goal.weight for goal in goals)
        self.weights = np.array([goal.weight / total for goal in goals])

    # -- of architectures

    def predicted(self, codes: np.ndarray) -> NDArray[np.float64]:
        """(N, goals) latencies of encoded architectures (N, decisions), each in its goal's unit."""
        return np.stack([goal.predictor.predict_codes(codes) for goal in self.goals], axis=1)

    def ratio(self, codes: np.ndarray) -> NDArray[np.float64]:
        """(N,) weighted mean, or largest, of latency / target."""
        ratios = self.predicted(codes) / self.targets
        return np.asarray(ratios.max(axis=1) if self.combine == "worst" else ratios @ self.weights)

    @cached_property
    def listed(self) -> tuple[Codes, NDArray[np.float64]] | None:
        """Every architecture with its ratio, where there are at most 50,000."""
        if self.space.size > LISTED:
            return None
        codes = np.concatenate(list(self.space.encoding.enumerate()))
        return codes, self.ratio(codes)

    # -- of probabilities

    def expected(self, probabilities: Sequence[Any]) -> list[Any]:
        """Expected latency of each goal, in its unit: floats, or tensors where the probabilities are.

        What has no closed form is told by the estimate in use (see `follow`).

        Args:
            probabilities: one vector a decision; decisions are drawn independently.
        """
        return [p.expected(probabilities) for p in self._expecting]

    def follow(self, probabilities: Sequence[np.ndarray], *, smooth: bool) -> bool:
        """Estimate anew what was estimated too far from here (see `Near.follow`); tells whether anything was."""
        moved = [near.follow(probabilities, smooth=smooth) for near in self.near.values()]
        if any(moved):
            self._ratios = None
        return any(moved)

    def state(self) -> list[Any]:
        """The estimates."""
        return [near.state() for near in self.near.values()]

    def load_state(self, state: Sequence[Any]) -> None:
        """The inverse of `state`."""
        for near, own in zip(self.near.values(), state, strict=True):
            near.load_state(own)
        self._ratios = None

    def expected_ratio(self, probabilities: Sequence[Any]) -> Any:
        """Weighted mean, or largest, of expected latency / target; differentiable where the probabilities are tensors.

        Of several goals' "worst" it is the largest of the expectations, not the expectation of the largest.
        """
        ratios = [e / t for e, t in zip(self.expected(probabilities), self.targets.tolist(), strict=True)]
        if self.combine == "weighted":
            return sum(w * r for w, r in zip(self.weights.tolist(), ratios, strict=True))
        return max(ratios, key=lambda ratio: float(ratio.detach() if hasattr(ratio, "detach") else ratio))

    @property
    def ratios(self) -> Ratios:
        """The same for the solver of the tilt, with derivatives; not for predictors that measure."""
        if self._ratios is None:
            scales = 1 / self.targets
            weights = (scales * self.weights)[None] if self.combine == "weighted" else np.diag(scales)
            self._ratios = Ratios(self.space.decisions, self._expecting, weights)
        return self._ratios

    @property
    def _expecting(self) -> list[Predictor | Near]:
        return [self.near.get(i, goal.predictor) for i, goal in enumerate(self.goals)]

    # -- what can be reached

    def range(self) -> tuple[float, float, Codes, Codes]:
        """(smallest ratio, largest ratio, and the (decisions,) architectures that have them).

        Exact where the predictor's `extremes` are, and for the weighted mean of tables without interacting choices.
        """
        return self._range

    @cached_property
    def _range(self) -> tuple[float, float, Codes, Codes]:
        if len(self.goals) == 1:
            ends = self.goals[0].predictor.extremes()
        elif (linear := self.ratios.linear if self.closed_form else None) is not None and len(linear.offset) == 1:
            costs = np.where(self.ratios.mask, linear.costs[0], np.nan)
            ends = np.stack([np.nanargmin(costs, axis=1), np.nanargmax(costs, axis=1)])
            ends = self.space.encoding.canonical(ends)
        else:
            ends = np.stack([extreme(self.ratio, self.space.encoding, sign) for sign in (1, -1)])
        low, high = self.ratio(ends).tolist()
        return low, high, ends[0], ends[1]

    def check_reachable(self, *, limit: bool, low: float = 0.98) -> None:
        """Refuse targets that the space does not reach.

        Args:
            limit: it is enough to be below the target; otherwise also `low` times it must be reached.

        Nothing is refused where a predictor measures: its range is not known beforehand.

        Raises:
            TargetUnreachable: with the range, and the architectures at both ends.
        """
        if self.measures:
            return
        least, most, *ends = self.range()
        too_low, too_high = least > 1 + ROUNDING, not limit and most < low - ROUNDING
        if not too_low and not too_high:
            return
        predicted = self.predicted(np.stack(ends)).tolist()
        smallest, largest = self.space.decode(np.stack(ends))
        shown = [
            f"{self._with_units(values)} ({architecture.short()})"
            for values, architecture in zip(predicted, (smallest, largest), strict=True)
        ]
        wrong = "below what the space reaches" if too_low else "above what the space reaches"
        asked = f"target {self._with_units(self.targets.tolist())} is {wrong}: {shown[0]} to {shown[1]}"
        if len(self.goals) > 1:
            asked += f"; together ({self.combine}) {least:.4g} to {most:.4g} times the targets"
        raise TargetUnreachable(asked, self.targets.tolist(), predicted[0], predicted[1], smallest, largest)

    def _with_units(self, values: Sequence[float]) -> str:
        parts = [f"{value:.4g} {goal.predictor.unit}" for value, goal in zip(values, self.goals, strict=True)]
        if len(parts) == 1:
            return parts[0]
        return ", ".join(f"{name} {part}" for name, part in zip(self.names, parts, strict=True))


def plain(value: Any) -> float:
    """A number, or what a tensor holds."""
    return float(value.detach() if hasattr(value, "detach") else value)


def _names(goals: Sequence[Goal]) -> list[str]:
    """Their own, else the device's, else the unit; numbered where they would be the same."""
    names: list[str] = []
    for goal in goals:
        origin = goal.predictor.origin
        name = goal.name or (origin.device if origin is not None else "") or goal.predictor.unit
        again = 2
        unique = name
        while unique in names:
            unique, again = f"{name}{again}", again + 1
        names.append(unique)
    return names
