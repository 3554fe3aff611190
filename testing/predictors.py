"""Conformance suite of the Predictor contract.

Subclass :class:`PredictorConformance` in a test module, give it the fixtures, and pytest runs it over your predictor::

    class TestMine(PredictorConformance):
        spec = ("nasbench201", {})

        @pytest.fixture(scope="class")
        def predictor(self, space):
            return Mine(space, ...)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from ..errors import HwnasError
from ..predictors.base import Predictor, PredictorError
from ..spaces.architecture import Architecture
from ..spaces.registry import load_space
from ..spaces.space import SearchSpace

_LOAD = """
import json, sys
from pathlib import Path
from hwnas.predictors.registry import load_predictor
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.registry import load_space
spec, arguments, path, architectures = json.loads(sys.stdin.read())
predictor = load_predictor(path, load_space(spec, arguments))
print(json.dumps(predictor.predict([Architecture.from_dict(a) for a in architectures]).tolist()))
"""


class PredictorConformance:
    """What every predictor must do, on a space small enough to be enumerated.

    Attributes:
        spec: the space and its arguments, as `load_space` takes them; it has at most 20,000 architectures.
        tolerance: relative error that the expectation and its gradient may have (0.03 or so where they are estimated).
        slack: how far above the cheapest architecture descent in the logits may end, as a share of the range; a learned
            predictor has small dents in which it gets stuck.
        portable: another process finds the kind in the registry by its name, and can build the space.
    """

    spec: ClassVar[tuple[str, Mapping[str, Any]]] = ("nasbench201", {})
    tolerance: ClassVar[float] = 1e-9
    slack: ClassVar[float] = 1e-3
    portable: ClassVar[bool] = True

    @pytest.fixture(scope="class")
    def space(self) -> SearchSpace:
        """The small space."""
        return load_space(*self.spec)

    @pytest.fixture(scope="class")
    def predictor(self, space: SearchSpace) -> Predictor:
        """The predictor under test, of `space`."""
        raise NotImplementedError("give a `predictor` fixture")

    @pytest.fixture(scope="class")
    def other_space(self) -> SearchSpace:
        """A space that the predictor is not for."""
        return load_space("proxyless-small", {"resolution": 8})

    @pytest.fixture(scope="class")
    def raw(self, space: SearchSpace) -> np.ndarray:
        """All combinations of candidates, reached or not."""
        sizes = [len(d) for d in space.decisions]
        return np.indices(sizes).reshape(len(sizes), -1).T.astype(np.int16)

    @pytest.fixture(scope="class")
    def values(self, space: SearchSpace, predictor: Predictor, raw: np.ndarray) -> np.ndarray:
        """The prediction of every combination."""
        return predictor.predict_codes(space.encoding.canonical(raw))

    @pytest.fixture
    def architectures(self, space: SearchSpace) -> list[Architecture]:
        return space.sample(25, np.random.default_rng(3))

    def test_it_says_what_it_predicts(self, predictor: Predictor, space: SearchSpace) -> None:
        assert predictor.kind
        assert predictor.unit in ("ms", "MMACs")
        assert predictor.space is space

    def test_many_at_once_are_as_one_by_one(
        self, predictor: Predictor, space: SearchSpace, architectures: list[Architecture]
    ) -> None:
        together = predictor.predict(architectures)
        assert together.shape == (25,)
        assert together.dtype == np.float64
        assert (together > 0).all()
        np.testing.assert_allclose(together, [predictor.predict([a])[0] for a in architectures], rtol=1e-9)
        np.testing.assert_allclose(together, predictor.predict_codes(space.encode(architectures)), rtol=1e-12)

    def test_nothing_gives_nothing(self, predictor: Predictor) -> None:
        assert predictor.predict([]).shape == (0,)
        assert predictor.interval([]).shape == (0, 2)

    def test_it_is_deterministic(self, predictor: Predictor, architectures: list[Architecture]) -> None:
        np.testing.assert_array_equal(predictor.predict(architectures), predictor.predict(architectures))
        p, q = _random_probabilities(predictor, 0), _random_probabilities(predictor, 1)
        first = predictor.expected(p)
        predictor.expected(q)
        assert predictor.expected(p) == first

    def test_a_certain_architecture_is_expected_as_predicted(
        self, predictor: Predictor, space: SearchSpace, architectures: list[Architecture]
    ) -> None:
        for row, predicted in zip(space.encode(architectures[:5]), predictor.predict(architectures[:5]), strict=True):
            certain = [np.eye(len(d))[max(c, 0)] for d, c in zip(space.decisions, row, strict=True)]
            expected = predictor.expected(certain)
            assert isinstance(expected, float)
            assert expected == pytest.approx(predicted, rel=1e-6)

    def test_the_expectation_is_the_weighted_sum_over_all(
        self, predictor: Predictor, raw: np.ndarray, values: np.ndarray
    ) -> None:
        for seed in range(3):
            p = _random_probabilities(predictor, seed)
            assert predictor.expected(p) == pytest.approx(_weights(p, raw) @ values, rel=self.tolerance)

    def test_torch_gives_the_same_expectation(self, predictor: Predictor) -> None:
        torch = pytest.importorskip("torch")
        p = _random_probabilities(predictor, 4)
        expected = predictor.expected([torch.tensor(v, requires_grad=True) for v in p])
        assert expected.shape == ()
        assert expected.requires_grad
        assert expected.item() == pytest.approx(predictor.expected(p), rel=1e-9)
        single = predictor.expected([torch.tensor(v, dtype=torch.float32) for v in p])
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(expected.item(), rel=1e-4)

    def test_the_gradient_in_the_logits_is_that_of_finite_differences(
        self, predictor: Predictor, raw: np.ndarray, values: np.ndarray
    ) -> None:
        torch = pytest.importorskip("torch")
        rng = np.random.default_rng(5)
        logits = [0.7 * rng.standard_normal(len(d)) for d in predictor.space.decisions]
        tensors = [torch.tensor(v, requires_grad=True) for v in logits]
        predictor.expected([t.softmax(0) for t in tensors]).backward()
        found = np.concatenate([t.grad.numpy() for t in tensors])
        step, wanted = 1e-5, []
        for i, logit in enumerate(logits):
            for j in range(len(logit)):
                ends = []
                for sign in (1, -1):
                    moved = [v.copy() for v in logits]
                    moved[i][j] += sign * step
                    ends.append(_weights([_softmax(v) for v in moved], raw) @ values)
                wanted.append((ends[0] - ends[1]) / (2 * step))
        scale = np.linalg.norm(wanted)
        assert np.linalg.norm(found - np.array(wanted)) <= max(self.tolerance * 5, 1e-6) * scale

    def test_latency_alone_drives_every_choice_to_its_cheapest(
        self, predictor: Predictor, space: SearchSpace, raw: np.ndarray, values: np.ndarray
    ) -> None:
        torch = pytest.importorskip("torch")
        logits = [torch.zeros(len(d), dtype=torch.float64, requires_grad=True) for d in space.decisions]
        rate = 30 * len(logits) / max(float(np.ptp(values)), 1e-12)
        start = predictor.expected([v.softmax(0) for v in logits]).item()
        for _ in range(150):
            loss = predictor.expected([v.softmax(0) for v in logits])
            gradients = torch.autograd.grad(loss, logits)
            with torch.no_grad():
                for v, g in zip(logits, gradients, strict=True):
                    v -= rate * g
        chosen = np.array([[int(v.argmax()) for v in logits]], np.int16)
        reached = float(predictor.predict_codes(space.encoding.canonical(chosen))[0])
        assert loss.item() < start
        assert reached <= values.min() + self.slack * np.ptp(values)

    def test_intervals_hold_the_prediction_and_widen_with_coverage(
        self, predictor: Predictor, architectures: list[Architecture]
    ) -> None:
        predicted = predictor.predict(architectures)
        narrow, middle, wide = (predictor.interval(architectures, c) for c in (0.5, 0.9, 0.99))
        for interval in (narrow, middle, wide):
            assert interval.shape == (25, 2)
            assert (interval[:, 0] <= predicted + 1e-12).all()
            assert (predicted - 1e-12 <= interval[:, 1]).all()
            assert (interval[:, 0] >= 0).all()
        for inner, outer in ((narrow, middle), (middle, wide)):
            assert (outer[:, 0] <= inner[:, 0]).all()
            assert (inner[:, 1] <= outer[:, 1]).all()
        for coverage in (0.0, 1.0, -1.0, float("nan")):
            with pytest.raises(PredictorError, match="coverage"):
                predictor.interval(architectures, coverage)

    def test_extremes_are_not_beaten_by_samples(self, predictor: Predictor, values: np.ndarray) -> None:
        low, high = predictor.predict_codes(predictor.extremes())
        assert low <= np.quantile(values, 0.01) + 1e-12
        assert high >= np.quantile(values, 0.99) - 1e-12

    def test_architectures_of_another_space_are_refused(self, predictor: Predictor, other_space: SearchSpace) -> None:
        foreign = other_space.sample(1, np.random.default_rng(0))
        with pytest.raises(HwnasError, match="space"):
            predictor.predict(foreign)

    def test_wrong_probabilities_are_refused(self, predictor: Predictor) -> None:
        p = _random_probabilities(predictor, 0)
        with pytest.raises(PredictorError, match="probabilit"):
            predictor.expected(p[:-1])
        with pytest.raises(PredictorError, match="probabilit"):
            predictor.expected([np.append(p[0], 0.0), *p[1:]])

    def test_saving_and_loading_keeps_it(
        self, predictor: Predictor, space: SearchSpace, architectures: list[Architecture], tmp_path: Path
    ) -> None:
        path = tmp_path / "predictor"
        predictor.save(path)
        again = type(predictor).load(path, space)
        assert again.unit == predictor.unit
        np.testing.assert_allclose(again.predict(architectures), predictor.predict(architectures), rtol=1e-12)
        np.testing.assert_allclose(again.interval(architectures), predictor.interval(architectures), rtol=1e-12)
        assert b"pickle" not in path.read_bytes()
        with pytest.raises(HwnasError, match="exists"):
            predictor.save(path)

    def test_another_process_loads_it(
        self, predictor: Predictor, architectures: list[Architecture], tmp_path: Path
    ) -> None:
        if not self.portable:
            pytest.skip("the kind is known in this process only")
        path = tmp_path / "predictor"
        predictor.save(path)
        request = [*self.spec, str(path), [a.as_dict() for a in architectures]]
        result = subprocess.run(
            [sys.executable, "-c", _LOAD], input=json.dumps(request), capture_output=True, text=True, timeout=100
        )
        assert result.returncode == 0, result.stderr
        np.testing.assert_allclose(json.loads(result.stdout), predictor.predict(architectures), rtol=1e-12)

    def test_it_is_not_loaded_for_another_space(
        self, predictor: Predictor, other_space: SearchSpace, tmp_path: Path
    ) -> None:
        path = tmp_path / "predictor"
        predictor.save(path)
        with pytest.raises(HwnasError, match="space"):
            type(predictor).load(path, other_space)

    def test_files_that_are_something_else_are_refused(
        self, predictor: Predictor, space: SearchSpace, tmp_path: Path
    ) -> None:
        path = tmp_path / "predictor"
        predictor.save(path)
        whole = path.read_bytes()
        for content in (b"", b"something else", whole[: len(whole) // 2]):
            path.write_bytes(content)
            with pytest.raises(HwnasError, match=r"predictor"):  # the file's name at least
                type(predictor).load(path, space)
        with pytest.raises(HwnasError):
            type(predictor).load(tmp_path / "nowhere", space)


def _random_probabilities(predictor: Predictor, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.dirichlet(np.full(len(d), 1.5)) for d in predictor.space.decisions]


def _weights(p: Sequence[np.ndarray], raw: np.ndarray) -> np.ndarray:
    """Probability of each raw combination."""
    weights = np.ones(len(raw))
    for vector, column in zip(p, raw.T, strict=True):
        weights *= vector[column]
    return weights


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max())
    return np.asarray(e / e.sum())
