"""The contract of a predictor: architectures in, latencies with intervals and a differentiable expectation out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import HwnasError
from ..profiler.additive import AdditiveModel
from ..spaces.architecture import Architecture
from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .expectation import Expectation
from .extremes import extreme


class PredictorError(HwnasError):
    """A predictor that cannot be read, does not fit its space, or cannot do what was asked."""


class MissingMeasurements(PredictorError):
    """A predictor that lacks workloads of its space.

    Attributes:
        keys: which ones.
        command: what measures them.
    """

    def __init__(self, what: str, keys: Sequence[str], total: int, command: str, reasons: Mapping[str, str]) -> None:
        shown = "; ".join(key + (f" (failed: {reasons[key]})" if key in reasons else "") for key in keys[:5])
        more = f"; and {len(keys) - 5} more" if len(keys) > 5 else ""
        super().__init__(f"{what} lacks {len(keys)} of {total} workloads: {shown}{more}; measure them: {command}")
        self.keys = tuple(keys)
        self.command = command


@dataclass(frozen=True)
class Origin:
    """Where a predictor's numbers come from, for whoever wants to measure beside it.

    Attributes:
        device, settings: the device it predicts.
        lowering: the route by which its networks were lowered ("" where unknown).
        environment: hardware and runtime, as the device's session described them.
        networks: whole networks that were used to calibrate or judge it -> their measured latency then; the latency
            is None where it is not known.
    """

    device: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    lowering: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    networks: Mapping[Architecture, float | None] = field(default_factory=dict)


class Predictor(ABC):
    """Predicts the latency of the architectures of one space.

    A subclass gives `kind`, `predict_codes`, `spread`, `save` and `load`; `additive` where its predictions are sums.

    Attributes:
        kind: name in the registry.
        space: whose architectures it predicts.
        unit: "ms" or "MMACs".
    """

    kind: ClassVar[str]

    def __init__(self, space: SearchSpace, unit: str) -> None:
        if unit not in ("ms", "MMACs"):
            raise PredictorError(f"a predictor's unit is ms or MMACs, not {unit!r}")
        self.space = space
        self.unit = unit

    # -- to be given

    @abstractmethod
    def predict_codes(self, codes: np.ndarray) -> NDArray[np.float64]:
        """(N,) latencies of integer-encoded architectures.

        Args:
            codes: (N, decisions) candidate numbers as `SearchSpace.encode` gives them; what stands where a choice is
                not reached has no influence.
        """

    @abstractmethod
    def spread(self, codes: np.ndarray, coverage: float) -> NDArray[np.float64]:
        """(N,) half widths of intervals that hold a measurement with probability `coverage`, in the unit."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write the predictor to one new file, readable by `load`.

        Raises:
            PredictorError: the file exists, or cannot be written.
        """

    @classmethod
    @abstractmethod
    def load(cls, path: str | Path, space: SearchSpace) -> Self:
        """Read what `save` wrote; runs no code from the file and imports no space that it names.

        Raises:
            PredictorError: no such predictor, or one of another space.
        """

    @classmethod
    def fit(
        cls,
        space: SearchSpace,
        architectures: Sequence[Architecture],
        latency: Sequence[float],
        *,
        rng: np.random.Generator,
        unit: str = "ms",
    ) -> Self:
        """Learn from measured networks.

        Raises:
            PredictorError: this kind is not fitted on networks, or the networks are too few.
        """
        raise PredictorError(f"a predictor of kind {cls.kind!r} is not fitted on networks")

    # -- what follows

    @property
    def origin(self) -> Origin | None:
        """Where its numbers come from; None where it is tied to no device."""
        return None

    @property
    def closed_form(self) -> bool:
        """Whether `expected` is exact and costs no more than a few predictions."""
        return self.additive is not None

    @property
    def additive(self) -> AdditiveModel | None:
        """The predictions as sums, whose expectation and extremes are exact; None where they are none."""
        return None

    @property
    def measures(self) -> bool:
        """Whether predicting an architecture for the first time means measuring it on a device, which takes seconds."""
        return False

    @property
    def control(self) -> AdditiveModel | None:
        """Sums that explain much of this predictor (see `expectation`)."""
        return None

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """(N,) latencies; raises ArchitectureError for an architecture of another space."""
        return self.predict_codes(self.space.encode(architectures))

    def interval(self, architectures: Sequence[Architecture], coverage: float = 0.9) -> NDArray[np.float64]:
        """(N, 2) lower and upper ends of intervals that hold a measurement with probability `coverage`.

        Raises:
            PredictorError: `coverage` is not between 0 and 1.
        """
        if not 0 < coverage < 1:
            raise PredictorError(f"coverage must be between 0 and 1, not {coverage:g}")
        return self.ends(self.space.encode(architectures), coverage)

    def ends(self, codes: np.ndarray, coverage: float) -> NDArray[np.float64]:
        """(N, 2) as `interval`, of integer-encoded architectures; prediction -+ `spread` unless a kind knows better."""
        middle, half = self.predict_codes(codes), self.spread(codes, coverage)
        return np.stack([np.maximum(middle - half, 0), middle + half], axis=1)

    def expected(self, probabilities: Sequence[Any]) -> Any:
        """E[latency] over architectures whose decisions are drawn independently.

        Args:
            probabilities: one vector a decision, in the order of `space.decisions`: numpy arrays (gives a float), or
                torch tensors (gives a tensor that is differentiable in them).

        Raises:
            PredictorError: vectors of other lengths than the decisions have candidates.
        """
        self.check_probabilities(probabilities)
        return self.expectation(probabilities) if self.additive is None else self.additive.expected(probabilities)

    def extremes(self) -> Codes:
        """(2, decisions): the architectures with the smallest and the largest prediction.

        Of sums (see `AdditiveModel.range`), or found by local search.
        """
        if self.additive is not None:
            return np.stack([self.additive.range.smallest, self.additive.range.largest])
        return np.stack([extreme(self.predict_codes, self.space.encoding, sign) for sign in (1, -1)])

    def check_probabilities(self, probabilities: Sequence[Any]) -> None:
        """Raise PredictorError unless there is one vector of the right length for each decision."""
        decisions = self.space.decisions
        if len(probabilities) != len(decisions):
            raise PredictorError(f"{len(probabilities)} probability vectors for {len(decisions)} decisions")
        for p, decision in zip(probabilities, decisions, strict=True):
            if tuple(p.shape) != (len(decision),):
                raise PredictorError(
                    f"choice {decision.label!r} needs {len(decision)} probabilities, not {tuple(p.shape)}"
                )

    @cached_property
    def expectation(self) -> Expectation:
        """What estimates `expected` where it has no closed form."""
        return Expectation(self.predict_codes, self.space.encoding, control=self.control)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.space.name!r} in {self.unit}>"


def check_new(path: str | Path) -> Path:
    """The path, where a predictor may be written; raises PredictorError."""
    path = Path(path)
    if path.exists():
        raise PredictorError(f"{path} exists; give another path or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PredictorError(f"{path} cannot be written: {error.strerror}: {error.filename}") from error
    return path
