"""Predictors that were fitted on measured networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import HwnasError
from ..profiler.additive import AdditiveModel, CostTerm
from ..profiler.progress import Progress
from ..profiler.table import Provenance
from ..spaces.architecture import Architecture
from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .base import Origin, Predictor, PredictorError
from .control import additive_control
from .features import SpaceFeatures
from .files import PredictorFile
from .fitting import Fitted, aggregate, fingerprint, fit_regressor
from .regressors.base import nested, part
from .transfer_sources import SourceCodes

LISTED = 20_000
"""Combinations of candidates up to which all are predicted once."""


@dataclass(frozen=True, eq=False)
class Training:
    """What a predictor was fitted on.

    Attributes:
        codes, latency: (N, decisions) and (N,).
        source: where they come from, for people.
        provenance: of the measurements; None where it is not known.
        repeated: how many rows were measured more than once, and became one with their median.
    """

    codes: Codes
    latency: NDArray[np.float64]
    source: str = ""
    provenance: Provenance | None = None
    repeated: int = 0

    @cached_property
    def fingerprint(self) -> str:
        """Digest of codes and latencies."""
        return fingerprint(self.codes, self.latency)


class LearnedPredictor(Predictor):
    """A regressor on the features of a space.

    Intervals are conformal (see `conformal`). Where the space has few combinations of candidates, all of them are
    predicted once, and the expectation is exact; elsewhere it is estimated (see `expectation`) with an additive model
    of the predictor itself as control variate, whose own expectation is exact.

    Args:
        space, unit: of the predictor. features: how its architectures become rows. fitted: the regressor.
        training: what it was fitted on.
    """

    kind: ClassVar[str]

    def __init__(
        self, space: SearchSpace, features: SpaceFeatures, fitted: Fitted, training: Training, *, unit: str = "ms"
    ) -> None:
        super().__init__(space, unit)
        self.features = features
        self.fitted = fitted
        self.training = training

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
        """Learn from measured networks; one that was measured several times counts once, with the median.

        Raises:
            PredictorError: too few networks, or latencies that are no positive numbers.
        """
        return cls.fit_codes(space, space.encode(architectures), np.asarray(latency, float), rng=rng, unit=unit)

    @classmethod
    def fit_codes(
        cls,
        space: SearchSpace,
        codes: np.ndarray,
        latency: NDArray[np.float64],
        *,
        rng: np.random.Generator,
        unit: str = "ms",
        table: AdditiveModel | None = None,
        source: str = "",
        provenance: Provenance | None = None,
        judges: NDArray[np.bool_] | None = None,
        others: Sequence[SourceCodes] = (),
        progress: Progress | None = None,
    ) -> Self:
        """As `fit`, of (N, decisions) codes.

        Args:
            table: a latency table's sums for the space, which become a feature.
            source, provenance: see `Training`.
            judges: (N,) networks from which error and intervals are taken; None: from all.
            others: what other devices take, for a kind that learns from that.
        """
        if len(codes) != len(latency):
            raise PredictorError(f"{len(codes)} architectures do not have {len(latency)} latencies")
        codes = space.encoding.canonical(codes)
        first, middle, _ = aggregate(codes, latency)
        training = Training(codes[first], middle, source, provenance, len(codes) - len(first))
        features = SpaceFeatures.of(space, table)
        features.learn(others)
        rows = features.rows(training.codes)
        judges = None if judges is None else judges[first]
        fitted = fit_regressor(cls.kind, rows, middle, rng, judges=judges, progress=progress)
        return cls(space, features, fitted, training, unit=unit)

    # -- prediction

    def predict_codes(self, codes: np.ndarray) -> NDArray[np.float64]:
        rows = self._checked(codes)
        return self._worked_out(rows) if self.additive is None else self.additive.predict(rows)

    def spread(self, codes: np.ndarray, coverage: float) -> NDArray[np.float64]:
        return np.asarray(np.ptp(self.ends(codes, coverage), axis=1) / 2)

    def ends(self, codes: np.ndarray, coverage: float) -> NDArray[np.float64]:
        codes, conformal = self._checked(codes), self.fitted.conformal
        if conformal.difficulty is None:
            return self.predict_codes(codes)[:, None] * conformal.factors(None, coverage)
        rows = self.features.rows(codes)
        predicted = self.fitted.predict(rows) if self.additive is None else self.additive.predict(codes)
        return predicted[:, None] * self.fitted.factors(rows, coverage)

    @cached_property
    def additive(self) -> AdditiveModel | None:
        """The prediction of every combination of candidates; where they are many, as the regressor's sums, or None."""
        sizes = [len(d) for d in self.space.decisions]
        if math.prod(sizes) > LISTED:
            return self.fitted.regressor.sums(self.space, self.features.table)
        raw = np.indices(sizes).reshape(len(sizes), -1).T.astype(np.int16)
        values = self._worked_out(self.space.encoding.canonical(raw)).reshape(sizes)
        return AdditiveModel(self.space.encoding, [CostTerm(tuple(range(len(sizes))), values)], 0.0)

    @cached_property
    def control(self) -> AdditiveModel:
        return additive_control(self)

    @property
    def source_names(self) -> tuple[str, ...]:
        """Of the other devices that it learned from."""
        return () if self.features.sources is None else self.features.sources.names

    @cached_property
    def origin(self) -> Origin | None:
        about = self.training.provenance
        if about is None:
            return None
        networks = dict(zip(self.space.decode(self.training.codes), self.training.latency.tolist(), strict=True))
        return Origin(about.device, about.settings, about.lowering, about.environment, networks)

    def _worked_out(self, codes: np.ndarray) -> NDArray[np.float64]:
        return self.fitted.predict(self.features.rows(codes))

    def _checked(self, codes: np.ndarray) -> np.ndarray:
        """Canonical codes; raises PredictorError for what are none."""
        try:
            return self.space.encoding.canonical(codes)
        except HwnasError as error:
            raise PredictorError(str(error)) from error

    # -- files

    def save(self, path: str | Path) -> None:
        """Write one file; the training data are in it, so that it can be fitted again and knows what it has seen."""
        training = self.training
        meta, arrays = nested({"fitted": self.fitted.state(), "features": self.features.state()})
        arrays |= {"training/codes": training.codes, "training/latency": training.latency}
        about = {
            "fingerprint": training.fingerprint,
            "source": training.source,
            "repeated": training.repeated,
            "provenance": None if training.provenance is None else training.provenance.to_json(),
        }
        space = self.space
        PredictorFile(self.kind, self.unit, space.name, space.fingerprint, {**meta, "training": about}, arrays).write(
            path
        )

    @classmethod
    def load(cls, path: str | Path, space: SearchSpace) -> Self:
        file = PredictorFile.of(cls.kind, path, space)
        try:
            fitted = Fitted.from_state(*part("fitted", file.meta, file.arrays))
            features = SpaceFeatures.from_state(space, *part("features", file.meta, file.arrays))
            training = _read_training(file)
            self = cls(space, features, fitted, training, unit=file.unit)
            self.predict_codes(space.encoding.sample(1, np.random.default_rng(0)))
        except (HwnasError, KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise PredictorError(f"{path} is a damaged predictor, or one of another version: {error}") from error
        return self


def _read_training(file: PredictorFile) -> Training:
    about = file.meta["training"]
    text = about["provenance"]
    provenance = None if text is None else Provenance.from_json(text)
    codes, latency = file.arrays["training/codes"].astype(np.int16), file.arrays["training/latency"].astype(float)
    training = Training(codes, latency, str(about["source"]), provenance, int(about["repeated"]))
    if len(codes) != len(latency) or training.fingerprint != about["fingerprint"]:
        raise ValueError("the training data are not those of its fingerprint")
    return training
