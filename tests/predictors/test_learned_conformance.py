"""Predictors that were fitted on measured networks against the contract of all predictors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hwnas.predictors import learned
from hwnas.predictors.base import Predictor
from hwnas.predictors.conformal import Conformal
from hwnas.predictors.features import SpaceFeatures
from hwnas.predictors.fitting import Fitted
from hwnas.predictors.kinds import learned_type
from hwnas.predictors.learned import LearnedPredictor, Training
from hwnas.predictors.lut import LutPredictor
from hwnas.predictors.regressors.additive import AdditiveTable
from hwnas.predictors.regressors.auto import Auto
from hwnas.predictors.regressors.base import Regressor
from hwnas.predictors.regressors.boosting import BoostedTrees
from hwnas.predictors.regressors.forest import RandomForest
from hwnas.predictors.regressors.gaussian_process import GaussianProcess
from hwnas.predictors.regressors.gcn import Gcn
from hwnas.predictors.regressors.kernel_sums import KernelSums
from hwnas.predictors.regressors.linear import Linear
from hwnas.predictors.regressors.mlp import Mlp
from hwnas.predictors.regressors.stacked import Stacked
from hwnas.predictors.regressors.transfer import Transfer
from hwnas.predictors.transfer_sources import SourceCodes
from hwnas.profiler.metrics import errors
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.predictors import PredictorConformance

TRICKY: tuple[str, dict[str, Any]] = (f"{Path(__file__).parent / 'nets.py'}:tricky", {})


def latency(table: LutPredictor, codes: np.ndarray) -> np.ndarray:
    """That of a table, bent by two neighbouring choices."""
    return table.predict_codes(codes) * (1 + 0.03 * np.sin(1.0 + codes[:, 0] * (codes[:, 1] + 1.5)))


def quickly(
    regressor: Regressor, space: SearchSpace, table: LutPredictor, others: Sequence[SourceCodes] = ()
) -> LearnedPredictor:
    """A predictor without cross-validation."""
    rng = np.random.default_rng(0)
    codes = space.encoding.sample(80, rng)
    y = latency(table, codes)
    features = SpaceFeatures.of(space)
    features.learn(others)
    rows = features.rows(codes)
    predicted = regressor.fit(rows, y, rng).predict(rows)
    conformal = Conformal(np.sort(np.log(y / predicted)))
    made = learned_type(regressor.kind)
    model = Fitted(regressor.kind, regressor, rows.layout, conformal, errors(predicted, y))
    return made(space, features, model, Training(codes, y))


class Learned(PredictorConformance):
    slack: ClassVar = 0.01

    @pytest.fixture(scope="class")
    def regressor(self) -> Regressor:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def predictor(self, space: SearchSpace, make_lut: Callable[..., LutPredictor], regressor: Regressor) -> Predictor:
        return quickly(regressor, space, make_lut(space))


class TestAdditiveTable(Learned):
    @pytest.fixture(scope="class")
    def regressor(self) -> Regressor:
        return AdditiveTable()


class TestLinear(Learned):
    @pytest.fixture(scope="class")
    def regressor(self) -> Regressor:
        return Linear()


class TestAuto(Learned):
    @pytest.fixture(scope="class")
    def regressor(self) -> Regressor:
        return Auto(candidates=("lut", "linear"))


class TestNestedAndTiedChoices(Learned):
    spec: ClassVar = TRICKY

    @pytest.fixture(scope="class")
    def regressor(self) -> Regressor:
        return Linear()


class TestBoostedTrees(Learned):
    slack: ClassVar = 0.03

    @pytest.fixture(scope="class")
    def regressor(self) -> Regressor:
        return BoostedTrees(trees=60, rate=0.2)


class TestRandomForest(Learned):
    @pytest.fixture(scope="class")
    def regressor(self) -> Regressor:
        return RandomForest(trees=20)


class TestGaussianProcess(Learned):
    @pytest.fixture(scope="class")
    def regressor(self) -> Regressor:
        return GaussianProcess()


class TestMlp(Learned):
    @pytest.fixture(scope="class")
    def regressor(self) -> Regressor:
        return Mlp(members=2, layers=(16,))


class TestGraphNetwork(Learned):
    slack: ClassVar = 0.03

    @pytest.fixture(scope="class")
    def regressor(self) -> Regressor:
        return Gcn(members=2, width=8)


class TestGraphNetworkOfNestedChoices(TestGraphNetwork):
    spec: ClassVar = TRICKY


class TestKernel(Learned):
    @pytest.fixture(scope="class")
    def regressor(self) -> Regressor:
        return KernelSums()


class TestKernelOfNestedChoices(TestKernel):
    spec: ClassVar = TRICKY


class TestStacked(Learned):
    @pytest.fixture(scope="class")
    def regressor(self) -> Regressor:
        return Stacked()


class TestTransfer(Learned):
    @pytest.fixture(scope="class")
    def predictor(self, space: SearchSpace, make_lut: Callable[..., LutPredictor]) -> Predictor:
        table, codes = make_lut(space), space.encoding.sample(300, np.random.default_rng(1))
        others = [SourceCodes(f"device {power}", codes, table.predict_codes(codes) ** power) for power in (0.8, 1.2)]
        return quickly(Transfer(), space, table, others)


class TestSpaceTooLargeToListAll(TestLinear):
    """The same small space, as if it were a large one: the expectation is estimated."""

    tolerance: ClassVar = 0.01

    @pytest.fixture(scope="class", autouse=True)
    def _large(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(learned, "LISTED", 0)
            yield


def test_the_expectation_on_a_large_space_is_the_mean_of_samples(make_lut: Callable[..., LutPredictor]) -> None:
    space = load_space("proxyless")
    predictor = quickly(Linear(), space, make_lut(space))
    assert not predictor.closed_form
    rng = np.random.default_rng(2)
    p = [rng.dirichlet(np.ones(len(d))) for d in space.decisions]
    drawn = predictor.predict_codes(space.encoding.sample(20_000, rng, p))
    error = drawn.std() / np.sqrt(len(drawn))
    assert predictor.expected(p) == pytest.approx(drawn.mean(), abs=4 * error)
