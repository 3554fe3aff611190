"""The predictors of this package, and one that is no table, against their contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from hwnas.predictors.base import Predictor
from hwnas.predictors.files import PredictorFile
from hwnas.predictors.flops import FlopsPredictor
from hwnas.predictors.lut import LutPredictor
from hwnas.profiler.additive import AdditiveModel
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.predictors import PredictorConformance

TRICKY: tuple[str, dict[str, Any]] = (f"{Path(__file__).parent / 'nets.py'}:tricky", {})


class TestLutWithDeadOperators(PredictorConformance):
    spec: ClassVar = ("nasbench201", {})

    @pytest.fixture(scope="class")
    def predictor(self, space: SearchSpace, make_lut: Callable[..., LutPredictor]) -> Predictor:
        return make_lut(space)


class TestLutWithNestedAndTiedChoices(PredictorConformance):
    spec: ClassVar = TRICKY

    @pytest.fixture(scope="class")
    def predictor(self, space: SearchSpace, make_lut: Callable[..., LutPredictor]) -> Predictor:
        return make_lut(space)


class TestLutWithoutCalibration(PredictorConformance):
    spec: ClassVar = TRICKY

    @pytest.fixture(scope="class")
    def predictor(self, space: SearchSpace, make_lut: Callable[..., LutPredictor]) -> Predictor:
        return make_lut(space, None)


class TestFlops(PredictorConformance):
    spec: ClassVar = TRICKY

    @pytest.fixture(scope="class")
    def predictor(self, space: SearchSpace) -> Predictor:
        return FlopsPredictor.of(space)


class Bent(Predictor):
    """What a table says, bent by an interaction of neighbouring choices: no sum, so its expectation is estimated."""

    kind = "bent"

    def __init__(self, table: LutPredictor, *, with_control: bool = False, strength: float = 0.1) -> None:
        super().__init__(table.space, table.unit)
        self.table, self.with_control, self.strength = table, with_control, strength

    @property
    def control(self) -> AdditiveModel | None:
        return self.table.model if self.with_control else None

    def predict_codes(self, codes: np.ndarray) -> np.ndarray:
        rows = np.asarray(codes)
        bend = np.sin(1.0 + rows[:, :-1] * (rows[:, 1:] + 1.5)).mean(axis=1)
        return self.table.predict_codes(rows) * (1 + self.strength * bend)

    def spread(self, codes: np.ndarray, coverage: float) -> np.ndarray:
        return self.predict_codes(codes) * coverage / 10

    def save(self, path: str | Path) -> None:
        rows = {"values": np.array([row.latency for row in self.table.rows], float)}
        PredictorFile(
            self.kind, self.unit, self.space.name, self.space.fingerprint, {"strength": self.strength}, rows
        ).write(path)

    @classmethod
    def load(cls, path: str | Path, space: SearchSpace) -> Self:
        from dataclasses import replace

        file = PredictorFile.read(path)
        file.check_space(path, space)
        model: Any = _TABLES[space.name]
        rows = [replace(r, latency=float(v)) for r, v in zip(model.rows, file.arrays["values"], strict=True)]
        table = LutPredictor(space, model.provenance, rows, model.calibration)
        return cls(table, strength=file.meta["strength"])


_TABLES: dict[str, LutPredictor] = {}


class TestNoSum(PredictorConformance):
    spec: ClassVar = ("nasbench201", {})
    tolerance = 0.03
    portable = False

    @pytest.fixture(scope="class")
    def predictor(self, space: SearchSpace, make_lut: Callable[..., LutPredictor]) -> Predictor:
        table = _TABLES[space.name] = make_lut(space)
        return Bent(table)


class TestNoSumWithTheTableAsControl(TestNoSum):
    tolerance = 0.01

    @pytest.fixture(scope="class")
    def predictor(self, space: SearchSpace, make_lut: Callable[..., LutPredictor]) -> Predictor:
        table = _TABLES[space.name] = make_lut(space)
        return Bent(table, with_control=True)


@pytest.mark.parametrize("bent", [False, True])
def test_the_expectation_on_a_large_space_is_the_mean_of_samples(
    make_lut: Callable[..., LutPredictor], bent: bool
) -> None:
    space = load_space("proxyless")
    table = make_lut(space)
    predictor: Predictor = Bent(table) if bent else table
    rng = np.random.default_rng(2)
    p = [rng.dirichlet(np.ones(len(d))) for d in space.decisions]
    drawn = predictor.predict_codes(space.encoding.sample(40_000, rng, p))
    error = drawn.std() / np.sqrt(len(drawn))
    assert predictor.expected(p) == pytest.approx(drawn.mean(), abs=4 * error + (0.002 * drawn.mean() if bent else 0))
