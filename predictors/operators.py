"""What workloads consist of, as numbers: amounts of each family of operators, and parameters of the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spaces.evaluation import occurrences, usage
from ..spaces.space import SearchSpace
from .base import PredictorError

Vector = NDArray[np.float64]
MEASURES = ("count", "macs", "moved", "params")
"""Of each family: how many operators, multiply-accumulates, elements read and written, elements of constants."""
PARAMETERS = (
    "MACs",
    "elements moved",
    "parameters",
    "kernel",
    "channels in",
    "channels out",
    "widest channels",
    "positions",
    "stride",
    "operators",
)
"""Of a workload, as logarithms; kernel is the largest one's elements, positions the last result's."""
FREE = frozenset({"reshape"})
"""Families that no runtime spends time on."""


@dataclass(frozen=True, eq=False)
class Operators:
    """Some workloads in numbers.

    Attributes:
        names: of the workloads.
        types: what is alike in kind: the operators with weights in order, else all.
        families: "pointwise", "depthwise 5x5", ...: an operator's family (see `spaces.operators`) and its kernel.
        amounts: (W, families, measures).
        parameters: (W, `PARAMETERS`) logarithms.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    families: tuple[str, ...]
    amounts: Vector
    parameters: Vector

    @classmethod
    def of(cls, names: Sequence[str], parts: Sequence[Any]) -> Operators:
        """From what `spaces.operators.operators` gives for each, possibly read from a file.

        Raises:
            PredictorError: something in the parts is not what it gives.
        """
        try:
            cleaned = [[_cleaned(operator) for operator in own] for own in parts]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise PredictorError(f"the operators of a workload cannot be read: {error!r}") from error
        counted = [[operator for operator in own if operator["op"] not in FREE] for own in cleaned]
        families = tuple(sorted({_family(operator) for own in counted for operator in own}))
        amounts = np.zeros((len(counted), len(families), len(MEASURES)))
        for i, own in enumerate(counted):
            for operator in own:
                amounts[i, families.index(_family(operator))] += _measures(operator)
        parameters = np.array([_parameters(own) for own in counted]).reshape(len(counted), len(PARAMETERS))
        return cls(tuple(names), tuple(map(_type, counted)), families, amounts, parameters)

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: Any) -> Operators:
        """Those that an array of numbers or a mask picks."""
        numbers = np.arange(len(self))[index]
        return replace(
            self,
            names=tuple(self.names[i] for i in numbers),
            types=tuple(self.types[i] for i in numbers),
            amounts=self.amounts[numbers],
            parameters=self.parameters[numbers],
        )


@dataclass(frozen=True, eq=False)
class OperatorLayout:
    """What the workloads of a space consist of, for sums over architectures.

    Args:
        space: whose workloads, at batch 1.
    """

    space: SearchSpace

    @cached_property
    def operators(self) -> Operators:
        workloads = self.space.workloads()
        return Operators.of([w.key() for w in workloads], [w.info.get("operators", ()) for w in workloads])

    def counts(self, codes: np.ndarray, *, live: bool) -> Vector:
        """(N, workloads) how often each occurs in (N, decisions) canonical codes.

        Args:
            live: leave out those whose result does not act on the output, or that the input does not act on.
        """
        return occurrences(usage(self.space.description, codes, live=live), len(self.operators))


@dataclass(frozen=True, eq=False)
class OperatorRows:
    """Sums over the workloads of some architectures; worked out when they are asked for.

    Attributes:
        layout: of the space. codes: (N, decisions) canonical.
    """

    layout: OperatorLayout
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: Any) -> OperatorRows:
        return OperatorRows(self.layout, self.codes[index])

    @property
    def families(self) -> tuple[str, ...]:
        """As of `Operators`."""
        return self.layout.operators.families

    def sums(self, *, live: bool) -> Vector:
        """(N, families, measures)."""
        amounts = self.layout.operators.amounts
        flat = self.layout.counts(self.codes, live=live) @ amounts.reshape(len(amounts), -1)
        return flat.reshape(len(self.codes), *amounts.shape[1:])


def _cleaned(operator: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"op": str(operator["op"])}
    for name in ("macs", "read", "written", "params"):
        found[name] = float(operator[name])
    for name in ("channels", "kernel", "stride"):
        found[name] = [float(value) for value in operator.get(name, ())]
    numbers = [value for own in found.values() for value in (own if isinstance(own, list) else [own])]
    if any(isinstance(value, float) and not (math.isfinite(value) and value >= 0) for value in numbers):
        raise ValueError(f"{found['op']!r} has sizes that are no sizes")
    return found


def _family(operator: Mapping[str, Any]) -> str:
    kernel = "x".join(f"{size:g}" for size in operator["kernel"])
    return operator["op"] if max(operator["kernel"], default=1) == 1 else f"{operator['op']} {kernel}"


def _measures(operator: Mapping[str, Any]) -> list[float]:
    return [1.0, operator["macs"], operator["read"] + operator["written"], operator["params"]]


def _type(own: Sequence[Mapping[str, Any]]) -> str:
    return ">".join(o["op"] for o in own if o["channels"]) or ">".join(o["op"] for o in own)


def _parameters(own: Sequence[Mapping[str, Any]]) -> list[float]:
    weighted = [operator for operator in own if operator["channels"]]
    channels = [operator["channels"] for operator in weighted] or [[1.0, 1.0]]
    _, macs, moved, params = np.sum([_measures(o) for o in own] or [[0.0] * len(MEASURES)], axis=0)
    written = (weighted or own or [{"written": 1.0}])[-1]["written"]
    values = (
        1 + macs,
        1 + moved,
        1 + params,
        max(math.prod(operator["kernel"]) for operator in own) if own else 1.0,
        channels[0][0],
        channels[-1][-1],
        max(map(max, channels)),
        written / max(channels[-1][-1], 1),
        math.prod(math.prod(operator["stride"]) for operator in own),
        1 + len(own),
    )
    return [math.log(max(value, 1.0)) for value in values]
