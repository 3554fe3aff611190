"""Conformance suite of the Algorithm contract, and a task that answers from a table instead of training anything.

Subclass :class:`AlgorithmConformance` in a test module, say how the algorithm is made, and pytest runs it::

    class TestMine(AlgorithmConformance):
        def create(self, space, objective, budget, seed):
            return Mine(space, objective, Mine.settings_type(), budget, seed)
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from ..predictors.base import Predictor, PredictorError
from ..predictors.lut import LutPredictor
from ..profiler.table import Provenance, Row
from ..search.algorithm import Algorithm, Budget
from ..search.algorithms import create_algorithm
from ..search.derive import Derived
from ..search.gates import GateRequest, GateResult
from ..search.goals import Goal, Latency
from ..search.objective import Objective
from ..search.settings import ObjectiveKind, ObjectiveSettings, SearchSettings
from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .zoo import ZOO

KINDS: tuple[ObjectiveKind, ...] = ("hold", "limit", "mul#log", "add#linear", "none")


class TabulatedTask:
    """Answers what an algorithm asks from known accuracies.

    Args:
        space: whose networks are asked for.
        rows_of: (N, decisions) codes -> (N,) row of the table that holds each network, -1 where none does; several
            architectures may be one network.
        accuracy: (rows,) from 0 to 1.

    Attributes:
        queries: the rows that were asked for, each once, in the order of the first time. Networks that the table does
            not hold have accuracy NaN and are no queries.
    """

    def __init__(
        self, space: SearchSpace, rows_of: Callable[[Codes], NDArray[np.intp]], accuracy: NDArray[np.float64]
    ) -> None:
        self.space = space
        self.queries: dict[int, None] = {}
        self._rows_of = rows_of
        self._accuracy = np.append(accuracy, np.nan)

    @classmethod
    def of(cls, space: SearchSpace, accuracy: Callable[[Codes], NDArray[np.float64]]) -> Self:
        """All architectures of a space that can be listed."""
        codes = np.concatenate(list(space.encoding.enumerate()))
        index = {row.tobytes(): i for i, row in enumerate(codes)}
        return cls(space, lambda asked: np.array([index[row.tobytes()] for row in asked], np.intp), accuracy(codes))

    def accuracy(self, codes: Codes) -> NDArray[np.float64]:
        """(N,) as the table says."""
        rows = self._rows_of(np.ascontiguousarray(codes, np.int16))
        self.queries |= dict.fromkeys(rows[rows >= 0].tolist())
        return np.asarray(self._accuracy[rows])

    def gates(self, request: GateRequest) -> GateResult:
        """The share of wrong answers, and for each candidate what it would be with that one in the path."""
        import torch

        encoding, path = self.space.encoding, np.asarray(request.path)
        found = []
        for d, decision in enumerate(self.space.decisions):
            rows = np.repeat(path[None], len(decision), axis=0)
            rows[:, d] = np.arange(len(decision))
            wrong = 1 - np.nan_to_num(self._accuracy[self._rows_of(encoding.canonical(rows))], nan=0.0)
            if request.partner is not None:
                wrong[~np.isin(np.arange(len(decision)), (path[d], request.partner[d]))] = 0
            found.append(torch.from_numpy(wrong))
        own = self._rows_of(encoding.canonical(path[None]))
        return GateResult(float(1 - np.nan_to_num(self._accuracy[own][0], nan=0.0)), found)


class Formula(Predictor):
    """Latency by any function of the codes, so that its expectation can only be estimated."""

    kind: ClassVar[str] = "formula"

    def __init__(self, space: SearchSpace, function: Callable[[np.ndarray], np.ndarray], unit: str = "ms") -> None:
        super().__init__(space, unit)
        self.function = function

    def predict_codes(self, codes: np.ndarray) -> NDArray[np.float64]:
        return np.asarray(self.function(self.space.encoding.canonical(codes)), float)

    def spread(self, codes: np.ndarray, coverage: float) -> NDArray[np.float64]:
        return np.zeros(len(codes))

    def save(self, path: str | Path) -> None:
        raise PredictorError("a formula cannot be saved")

    @classmethod
    def load(cls, path: str | Path, space: SearchSpace) -> Self:
        raise PredictorError("a formula cannot be loaded")


def made_up_table(space: SearchSpace, seed: int = 0) -> LutPredictor:
    """A lookup table whose operators cost random amounts from 0.1 to 1 ms."""
    rng = np.random.default_rng(seed)
    rows = []
    for workload in space.workloads():
        ms = float(rng.uniform(0.1, 1))
        kind: Any = "fixed" if workload.fixed else "candidate"
        rows.append(Row(workload.key(), workload.op, kind, ms, "ms", ms, ms, 3, 9, "ok", ""))
    provenance = Provenance("cpu", "ms", {"batch": 1, "threads": 1}, space.name, fingerprint=space.fingerprint)
    return LutPredictor(space, provenance, rows, {"factor": 1.0, "extra": 0.1, "live": True})


def made_up_accuracy(space: SearchSpace, seed: int = 0) -> Callable[[Codes], NDArray[np.float64]]:
    """From 0.2 to 0.9: what each candidate is good for, alone and beside the one before it."""
    rng = np.random.default_rng(seed)
    sizes = [len(d) for d in space.decisions]
    alone = [rng.standard_normal(n) for n in sizes]
    beside = [0.5 * rng.standard_normal((m, n)) for m, n in pairwise(sizes)]

    def accuracy(codes: Codes) -> NDArray[np.float64]:
        own = sum(np.where(c >= 0, a[c], 0.0) for a, c in zip(alone, codes.T, strict=True))
        joint = sum(
            np.where((c >= 0) & (d >= 0), b[c, d], 0.0) for b, c, d in zip(beside, codes.T, codes.T[1:], strict=False)
        )
        return np.asarray(0.55 + 0.35 * np.tanh((own + joint) / np.sqrt(2 * len(sizes))))

    return accuracy


class AlgorithmConformance:
    """What every search algorithm must do, on a space small enough to be listed.

    Attributes:
        name: in the registry, for `create`.
        zoo: name of the space in `testing.zoo`.
        updates: of a whole search.
    """

    name: ClassVar[str] = ""
    zoo: ClassVar[str] = "residual"
    updates: ClassVar[int] = 60

    def create(self, space: SearchSpace, objective: Objective, budget: Budget, seed: int) -> Algorithm:
        """The algorithm under test."""
        return create_algorithm(self.name, space, objective, SearchSettings(algorithm=self.name), budget, seed)

    @pytest.fixture(scope="class")
    def space(self) -> SearchSpace:
        """The small space."""
        return ZOO[self.zoo]()

    @pytest.fixture(scope="class")
    def every(self, space: SearchSpace) -> Codes:
        """All its architectures."""
        return np.concatenate(list(space.encoding.enumerate()))

    @pytest.fixture(scope="class", params=["table", "formula"])
    def predictor(self, request: pytest.FixtureRequest, space: SearchSpace) -> Predictor:
        """A table, whose expectation has a closed form, or what is no sum of anything."""
        table = made_up_table(space)
        if request.param == "table":
            return table
        return Formula(space, lambda codes: table.predict_codes(codes) ** 1.5)

    @pytest.fixture
    def task(self, space: SearchSpace) -> TabulatedTask:
        return TabulatedTask.of(space, made_up_accuracy(space))

    def objective(self, predictor: Predictor, target: float, kind: ObjectiveKind, task: float = 1.0) -> Objective:
        """With one goal."""
        settings = ObjectiveSettings(kind=kind, task=task)
        return Objective(Latency(predictor.space, [Goal(predictor, target)]), settings)

    def searched(
        self, space: SearchSpace, objective: Objective, task: TabulatedTask, updates: int, seed: int = 0
    ) -> tuple[Algorithm, list[Mapping[str, float]]]:
        """The algorithm after that many updates, which are all of them, and what they gave to be logged."""
        algorithm = self.create(space, objective, Budget(updates), seed)
        return algorithm, [algorithm.update(task, step) for step in range(updates)]

    def test_probabilities_are_probabilities(
        self, space: SearchSpace, predictor: Predictor, every: Codes, task: TabulatedTask
    ) -> None:
        target = float(np.median(predictor.predict_codes(every)))
        for kind in KINDS:
            algorithm = self.create(space, self.objective(predictor, target, kind), Budget(10), 0)
            _check_probabilities(algorithm)
            for step in range(10):
                logged = algorithm.update(task, step)
                assert all(isinstance(v, float) and np.isfinite(v) for v in logged.values()), logged
                _check_probabilities(algorithm)

    def test_seeds_decide_everything(
        self, space: SearchSpace, predictor: Predictor, every: Codes, task: TabulatedTask
    ) -> None:
        target = float(np.median(predictor.predict_codes(every)))
        runs = [
            _record(*self.searched(space, self.objective(predictor, target, "limit"), task, 10, seed))
            for seed in (3, 3, 4)
        ]
        assert runs[0] == runs[1]
        assert runs[0] != runs[2]

    def test_a_search_goes_on_bit_by_bit(
        self, space: SearchSpace, predictor: Predictor, every: Codes, task: TabulatedTask
    ) -> None:
        import torch

        target = float(np.median(predictor.predict_codes(every)))
        whole, first, second = (
            self.create(space, self.objective(predictor, target, "hold"), Budget(10), 5) for _ in range(3)
        )
        logged = [whole.update(task, step) for step in range(10)]
        again = [first.update(task, step) for step in range(5)]
        file = io.BytesIO()
        torch.save({"algorithm": first.state(), "objective": first.objective.state()}, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        second.load_state(state["algorithm"])
        second.objective.load_state(state["objective"])
        assert _record(second, []) == _record(first, [])
        again += [second.update(task, step) for step in range(5, 10)]
        assert _record(second, again) == _record(whole, logged)

    @pytest.mark.parametrize("kind", ["hold", "limit", "none"])
    def test_ranked_networks_are_accepted_different_and_always_the_same(
        self, space: SearchSpace, predictor: Predictor, every: Codes, task: TabulatedTask, kind: ObjectiveKind
    ) -> None:
        target = float(np.quantile(predictor.predict_codes(every), 0.4))
        objective = self.objective(predictor, target, kind)
        algorithm, _ = self.searched(space, objective, task, 20)
        ranked = algorithm.ranked(5)
        assert 1 <= len(ranked) <= 5
        assert _codes(ranked) == _codes(algorithm.ranked(5))
        assert _codes(ranked)[:2] == _codes(algorithm.ranked(2))
        assert len(set(_codes(ranked))) == len(ranked)
        logs = [r.log_probability for r in ranked]
        assert logs == sorted(logs, reverse=True)
        rows = np.stack([r.codes for r in ranked])
        np.testing.assert_array_equal(rows, space.encoding.canonical(rows))
        assert objective.latency is not None
        ratio = objective.latency.ratio(rows)
        assert objective.accepts(ratio).all()
        if kind != "none":
            np.testing.assert_allclose(np.array([r.ratio for r in ranked], float), ratio, rtol=1e-9)

    def test_there_is_a_best_network_before_the_first_update(
        self, space: SearchSpace, predictor: Predictor, every: Codes
    ) -> None:
        target = float(np.median(predictor.predict_codes(every)))
        objective = self.objective(predictor, target, "hold")
        rows = self.create(space, objective, Budget(10), 0).ranked(1)[0].codes[None]
        assert objective.latency is not None
        assert objective.accepts(objective.latency.ratio(rows)).all()

    def test_latency_alone_drives_every_choice_to_its_cheapest(
        self, space: SearchSpace, predictor: Predictor, every: Codes, task: TabulatedTask
    ) -> None:
        latency = predictor.predict_codes(every)
        objective = self.objective(predictor, float(latency.min()), "add#linear", task=0.0)
        algorithm, _ = self.searched(space, objective, task, self.updates)
        if algorithm.after_training:
            row = algorithm.ranked(1)[0].codes
        else:
            row = np.array([int(p.argmax()) for p in algorithm.probabilities()])
        reached = float(predictor.predict_codes(space.encoding.canonical(row[None]))[0])
        assert reached <= latency.min() + 1e-3 * np.ptp(latency)

    def test_it_finds_better_networks_than_chance(
        self, space: SearchSpace, predictor: Predictor, every: Codes, task: TabulatedTask
    ) -> None:
        latency = predictor.predict_codes(every)
        objective = self.objective(predictor, float(np.median(latency)), "hold")
        algorithm, _ = self.searched(space, objective, task, self.updates)
        assert objective.latency is not None
        there = task.accuracy(every[objective.accepts(objective.latency.ratio(every))])
        found = task.accuracy(algorithm.ranked(1)[0].codes[None])[0]
        assert found >= np.quantile(there, 0.9)

    def test_networks_that_fail_do_not_stop_it(self, space: SearchSpace, predictor: Predictor, every: Codes) -> None:
        accuracy = made_up_accuracy(space)
        task = TabulatedTask.of(space, lambda codes: np.where(codes[:, 0] == 0, np.nan, accuracy(codes)))
        target = float(np.median(predictor.predict_codes(every)))
        algorithm, logged = self.searched(space, self.objective(predictor, target, "limit"), task, self.updates)
        assert all(np.isfinite(value) for record in logged for value in record.values())
        assert algorithm.ranked(1)[0].codes[0] != 0

    def test_it_searches_without_latency(self, space: SearchSpace, task: TabulatedTask) -> None:
        algorithm, _ = self.searched(space, Objective(None, ObjectiveSettings(kind="none")), task, 20)
        assert [r.ratio for r in algorithm.ranked(3)] == [None] * 3


def _check_probabilities(algorithm: Algorithm) -> None:
    probabilities = algorithm.probabilities()
    assert [p.shape for p in probabilities] == [(len(d),) for d in algorithm.space.decisions]
    for p in probabilities:
        assert p.dtype == np.float64
        assert (p >= 0).all()
        assert p.sum() == pytest.approx(1, abs=1e-9)


def _record(algorithm: Algorithm, logged: Sequence[Mapping[str, float]]) -> Any:
    """All that can be seen of a search, for comparing bit by bit."""
    ranked = algorithm.ranked(5)
    probabilities = [p.tolist() for p in algorithm.probabilities()]
    return probabilities, _codes(ranked), [r.log_probability for r in ranked], [dict(r) for r in logged]


def _codes(ranked: Sequence[Derived]) -> list[tuple[int, ...]]:
    return [tuple(r.codes.tolist()) for r in ranked]
