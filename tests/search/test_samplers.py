"""REINFORCE, evolution and random search: their formulas, and what they ask for."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.search import algorithms
from hwnas.search.algorithm import Algorithm, Budget, SearchError
from hwnas.search.algorithms import algorithm_names, algorithm_settings, algorithm_type, create_algorithm
from hwnas.search.evolution import Evolution
from hwnas.search.goals import Goal, Latency
from hwnas.search.gradient import Gradient
from hwnas.search.objective import Objective
from hwnas.search.random_search import RandomSearch
from hwnas.search.reinforce import Reinforce, log_probability
from hwnas.search.sampled import Sampled, distinct
from hwnas.search.settings import (
    EvolutionSettings,
    ObjectiveKind,
    ObjectiveSettings,
    RandomSettings,
    ReinforceSettings,
    SearchSettings,
)
from hwnas.spaces.encoding import Codes
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.search import Formula, TabulatedTask, made_up_accuracy, made_up_table
from hwnas.testing.zoo import ZOO


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return ZOO["residual"]()


@pytest.fixture(scope="module")
def nested() -> SearchSpace:
    return ZOO["nested"]()


class Measuring(Formula):
    """A predictor that counts how often each network is measured."""

    measures = True

    def __init__(self, space: SearchSpace, function: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(space, function)
        self.measured: list[tuple[int, ...]] = []

    def predict_codes(self, codes: np.ndarray) -> np.ndarray:
        self.measured += [tuple(row) for row in codes.tolist()]
        return super().predict_codes(codes)


class Asking:
    """A task that keeps what it was asked for."""

    def __init__(self, accuracy: Callable[[Codes], np.ndarray]) -> None:
        self.asked: list[Codes] = []
        self._accuracy = accuracy

    def accuracy(self, codes: Codes) -> np.ndarray:
        self.asked.append(codes.copy())
        return self._accuracy(codes)

    def gates(self, request: Any) -> Any:
        raise AssertionError("only accuracies are asked for")


def objective(space: SearchSpace, share: float, kind: ObjectiveKind = "hold") -> Objective:
    """With a made-up table, and the target at that quantile."""
    table = made_up_table(space)
    codes = space.encoding.sample(2000, np.random.default_rng(0))
    target = float(np.quantile(table.predict_codes(codes), share))
    return Objective(Latency(space, [Goal(table, target)]), ObjectiveSettings(kind=kind))


def free(space: SearchSpace) -> Objective:
    return Objective(None, ObjectiveSettings(kind="none"))


def reinforce(
    space: SearchSpace, settings: ReinforceSettings, goal: Objective | None = None, updates: int = 50
) -> Reinforce:
    return Reinforce(space, goal or free(space), settings, Budget(updates), 0)


# -- REINFORCE


def test_the_baseline_is_a_running_mean_that_begins_with_the_first_reward(space: SearchSpace) -> None:
    rewards = [0.5, 0.9, 0.1]
    algorithm = reinforce(space, ReinforceSettings(baseline_decay=0.9))
    baselines = []
    for step, reward in enumerate(rewards):
        baselines.append(algorithm.update(Asking(lambda codes, r=reward: np.full(len(codes), r)), step)["baseline"])  # type: ignore[misc]
    assert baselines == pytest.approx([0.5, 0.9 * 0.5 + 0.1 * 0.9, 0.9 * 0.54 + 0.1 * 0.1])


def test_the_step_is_that_of_the_policy_gradient(nested: SearchSpace) -> None:
    """Against the derivative written out: mean over samples of (R - b) * (p - onehot), reached decisions only."""
    algorithm = reinforce(nested, ReinforceSettings(samples=40, entropy=0.0))
    before = [p.copy() for p in algorithm.probabilities()]
    task = Asking(made_up_accuracy(nested))
    algorithm.update(task, 0)
    (codes,) = task.asked
    drawn = nested.encoding.sample(40, np.random.default_rng([0, 0x2E1F, 0]), before)
    assert {tuple(row) for row in drawn.tolist()} == {tuple(row) for row in codes.tolist()}
    rewards = made_up_accuracy(nested)(drawn)
    for d, (p, tensor) in enumerate(zip(before, algorithm.alpha.tensors, strict=True)):
        wanted = np.zeros(len(p))
        for row, reward in zip(drawn, rewards, strict=True):
            if row[d] >= 0:
                wanted += (reward - rewards.mean()) * (p - np.eye(len(p))[row[d]]) / len(drawn)
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), wanted, atol=1e-12)


def test_decisions_that_no_sample_reaches_stay(nested: SearchSpace) -> None:
    algorithm = reinforce(nested, ReinforceSettings(entropy=0.0))
    row = next(row for row in np.concatenate(list(nested.encoding.enumerate())) if (row < 0).any())
    with torch.no_grad():
        for tensor, candidate in zip(algorithm.alpha.tensors, row, strict=True):
            if candidate >= 0:
                tensor[candidate] = 40.0
    before = [t.detach().clone() for t in algorithm.alpha.tensors]
    rewards = iter([0.2, 0.8])
    for step in range(2):
        algorithm.update(Asking(lambda codes: np.full(len(codes), next(rewards))), step)
    for tensor, start, candidate in zip(algorithm.alpha.tensors, before, row, strict=True):
        if candidate < 0:
            assert torch.equal(tensor, start)


def test_log_probabilities_are_over_reached_decisions(nested: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    p = [rng.dirichlet(np.ones(len(d))) for d in nested.decisions]
    every = np.concatenate(list(nested.encoding.enumerate()))
    logs = log_probability([torch.from_numpy(np.log(v)) for v in p], every)
    assert float(logs.exp().sum()) == pytest.approx(1)


def test_duplicates_in_an_update_are_scored_once_and_count_each_time(space: SearchSpace) -> None:
    algorithm = reinforce(space, ReinforceSettings(samples=300))
    task = Asking(lambda codes: np.linspace(0, 1, len(codes)))
    logged = algorithm.update(task, 0)
    (codes,) = task.asked
    assert len(codes) < 300
    assert len(np.unique(codes, axis=0)) == len(codes)
    drawn = space.encoding.sample(
        300, np.random.default_rng([0, 0x2E1F, 0]), reinforce(space, ReinforceSettings()).probabilities()
    )
    np.testing.assert_array_equal(distinct(drawn)[0], codes)
    assert logged["reward"] == pytest.approx(np.linspace(0, 1, len(codes))[distinct(drawn)[1]].mean())


def test_the_entropy_bonus_keeps_choices_open(space: SearchSpace) -> None:
    def entropy(weight: float) -> float:
        algorithm = reinforce(space, ReinforceSettings(lr=0.3, entropy=weight))
        task = TabulatedTask.of(space, made_up_accuracy(space))
        return [algorithm.update(task, step)["entropy"] for step in range(50)][-1]

    assert entropy(0.0) < 0.5 < 0.9 < entropy(1.0)


def test_the_learning_rate_follows_the_number_of_updates(space: SearchSpace) -> None:
    def lr(given: float | None, updates: int) -> float:
        return reinforce(space, ReinforceSettings(lr=given), updates=updates).optimizer.param_groups[0]["lr"]

    assert lr(None, 500) == pytest.approx(lr(None, 50) / 10)
    assert lr(None, 0) == lr(None, 1) == 0.3
    assert lr(0.01, 500) == 0.01


def test_measured_latency_is_asked_once_for_each_network(space: SearchSpace) -> None:
    table = made_up_table(space)
    predictor = Measuring(space, table.predict_codes)
    goal = Objective(Latency(space, [Goal(predictor, 5.0)]), ObjectiveSettings(kind="hold"))
    algorithm = reinforce(space, ReinforceSettings(lr=0.3), goal)
    assert len(algorithm.ranked(2)) == 2
    task = Asking(made_up_accuracy(space))
    for step in range(20):
        if step == 10:
            file = io.BytesIO()
            torch.save([algorithm.state(), goal.state()], file)
            file.seek(0)
            state, of_objective = torch.load(file, weights_only=True)
            algorithm = reinforce(space, ReinforceSettings(lr=0.3), goal)
            algorithm.load_state(state)
            goal.load_state(of_objective)
        algorithm.update(task, step)
    ranked = algorithm.ranked(3)
    asked = {tuple(row) for codes in task.asked for row in codes.tolist()}
    assert sorted(predictor.measured) == sorted(asked)
    assert {tuple(r.codes.tolist()) for r in ranked} <= asked
    assert [r.ratio for r in ranked] == pytest.approx(
        (table.predict_codes(np.stack([r.codes for r in ranked])) / 5.0).tolist()
    )


@pytest.mark.parametrize("settings", [ReinforceSettings(samples=0), ReinforceSettings(baseline_decay=1.5)])
def test_settings_that_make_no_sense_are_refused(space: SearchSpace, settings: ReinforceSettings) -> None:
    with pytest.raises(SearchError, match="reinforce"):
        reinforce(space, settings)


def test_accuracies_that_are_infinite_stop_the_search(space: SearchSpace) -> None:
    with pytest.raises(SearchError, match="update 0"):
        reinforce(space, ReinforceSettings()).update(Asking(lambda codes: np.full(len(codes), np.inf)), 0)


# -- evolution and random search


@pytest.mark.parametrize(
    ("name", "kind"), [("evolution", "hold"), ("evolution", "limit"), ("random", "hold"), ("random", "none")]
)
def test_no_network_is_scored_twice_and_all_are_on_target(name: str, kind: ObjectiveKind) -> None:
    space = load_space("proxyless-small")
    goal = objective(space, 0.4, kind)
    task = Asking(made_up_accuracy(space))
    algorithm = create_algorithm(name, space, goal, SearchSettings(), Budget(30), 0)
    for step in range(30):
        assert algorithm.update(task, step)["new"] == 5
    rows = np.concatenate(task.asked)
    assert len(np.unique(rows, axis=0)) == len(rows) == 150
    assert goal.latency is not None
    assert goal.accepts(goal.latency.ratio(rows)).all()


@pytest.mark.parametrize("name", ["evolution", "random"])
@pytest.mark.parametrize("kind", ["hold", "none"])
def test_an_exhausted_space_ends_the_asking(space: SearchSpace, name: str, kind: ObjectiveKind) -> None:
    goal = objective(space, 0.5, kind)
    task = Asking(made_up_accuracy(space))
    algorithm = create_algorithm(name, space, goal, SearchSettings(), Budget(80), 0)
    logged = [algorithm.update(task, step) for step in range(80)]
    every = np.concatenate(list(space.encoding.enumerate()))
    assert goal.latency is not None
    there = every[goal.accepts(goal.latency.ratio(every))]
    rows = np.concatenate(task.asked)
    assert {tuple(r) for r in rows.tolist()} == {tuple(r) for r in there.tolist()}
    assert len(rows) == len(there)
    assert logged[-1]["new"] == 0
    best = there[np.argmax(made_up_accuracy(space)(there))]
    assert made_up_accuracy(space)(algorithm.ranked(1)[0].codes[None]) == made_up_accuracy(space)(best[None])


def test_where_nothing_is_on_target_the_nearest_stand_in(space: SearchSpace) -> None:
    table = made_up_table(space)
    codes = np.concatenate(list(space.encoding.enumerate()))
    ratio = np.where(codes[:, 0] == 0, 0.9, 1.2)
    index = {row.tobytes(): r for row, r in zip(codes, ratio, strict=True)}
    gap = Formula(space, lambda rows: np.array([index[row.tobytes()] for row in rows]))
    goal = Objective(Latency(space, [Goal(gap, 1.0)]), ObjectiveSettings(kind="hold"))
    assert table.space is space
    for name in ("evolution", "random"):
        algorithm = create_algorithm(name, space, goal, SearchSettings(), Budget(5), 0)
        task = TabulatedTask.of(space, made_up_accuracy(space))
        for step in range(5):
            algorithm.update(task, step)
        assert algorithm.ranked(1)[0].ratio == pytest.approx(0.9)


def test_children_differ_from_a_member_in_one_decision_or_two(space: SearchSpace) -> None:
    big = load_space("proxyless-small")
    for goal, most in ((free(big), 1), (objective(big, 0.4), 2)):
        algorithm = Evolution(big, goal, EvolutionSettings(population=10, tournament=10, batch=1), Budget(40), 0)
        task = Asking(made_up_accuracy(big))
        for step in range(30):
            members = algorithm.scored.codes[-10:]
            best = members[np.argmax(algorithm.scored.worth[-10:])] if step >= 10 else None
            algorithm.update(task, step)
            if best is not None:
                assert 1 <= (task.asked[-1][0] != best).sum() <= most


def test_the_oldest_member_dies_however_good(space: SearchSpace) -> None:
    algorithm = Evolution(space, free(space), EvolutionSettings(population=5, tournament=5, batch=5), Budget(4), 0)
    scores = iter([np.array([0.1, 0.1, 0.9, 0.1, 0.1]), np.full(5, 0.2), np.full(5, 0.3)])
    task = Asking(lambda codes: next(scores))
    for step in range(3):
        algorithm.update(task, step)
    first, second, third = task.asked
    assert ((second != first[2]).sum(axis=1) == 1).all()
    assert all(((row != second).sum(axis=1) == 1).any() for row in third)
    assert algorithm.ranked(1)[0].codes.tolist() == first[2].tolist()


def test_children_of_nested_choices_are_whole(nested: SearchSpace) -> None:
    algorithm = Evolution(nested, objective(nested, 0.5, "limit"), EvolutionSettings(population=10), Budget(20), 0)
    task = Asking(made_up_accuracy(nested))
    for step in range(10):
        algorithm.update(task, step)
    rows = np.concatenate(task.asked)
    np.testing.assert_array_equal(nested.encoding.canonical(rows), rows)
    assert nested.decode(rows)


def test_random_search_draws_uniformly_from_what_is_on_target(space: SearchSpace) -> None:
    goal = objective(space, 0.5, "limit")
    assert goal.latency is not None
    every = np.concatenate(list(space.encoding.enumerate()))
    there = every[goal.accepts(goal.latency.ratio(every))]
    counts = np.zeros(len(there))
    index = {row.tobytes(): i for i, row in enumerate(there)}
    for seed in range(400):
        task = Asking(made_up_accuracy(space))
        RandomSearch(space, goal, RandomSettings(batch=10), Budget(1), seed).update(task, 0)
        counts[[index[row.tobytes()] for row in task.asked[0]]] += 1
    expected = 4000 / len(there)
    assert ((counts - expected) ** 2 / expected).sum() < len(there) + 5 * np.sqrt(2 * len(there))


def test_measuring_is_refused_where_most_would_be_in_vain(space: SearchSpace) -> None:
    goal = Objective(
        Latency(space, [Goal(Measuring(space, made_up_table(space).predict_codes), 1.0)]), ObjectiveSettings()
    )
    for name in ("evolution", "random"):
        with pytest.raises(SearchError, match="reinforce"):
            create_algorithm(name, space, goal, SearchSettings(), Budget(1), 0)


@pytest.mark.parametrize("what", ["population", "tournament", "mutations", "batch"])
def test_evolution_needs_positive_numbers(space: SearchSpace, what: str) -> None:
    settings = EvolutionSettings(**{what: 0})
    with pytest.raises(SearchError, match=what):
        Evolution(space, free(space), settings, Budget(1), 0)


def test_within_the_band_only_accuracy_counts(space: SearchSpace) -> None:
    formula = Formula(space, made_up_table(space).predict_codes)
    every = np.concatenate(list(space.encoding.enumerate()))
    target = float(np.median(formula.predict_codes(every)))
    goal = Objective(Latency(space, [Goal(formula, target)]), ObjectiveSettings(kind="hold"))
    algorithm = create_algorithm("random", space, goal, SearchSettings(), Budget(1), 0)
    task = Asking(lambda codes: np.full(len(codes), 0.5))
    algorithm.update(task, 0)
    assert isinstance(algorithm, RandomSearch)
    assert set(algorithm.scored.worth.tolist()) == {0.5}


def test_sampled_networks_are_found_again() -> None:
    sampled = Sampled(2)
    sampled.add(np.array([[0, 1], [2, -1]], np.int16), np.array([1.0, 2.0]), np.array([0.1, 0.2]))
    sampled.add(np.array([[1, 1]], np.int16), None, np.array([0.3]))
    again = Sampled(2)
    again.load_state(sampled.state())
    for one in (sampled, again):
        assert one.find(np.array([[1, 1], [0, 0], [2, -1]], np.int16)).tolist() == [2, -1, 1]
        assert np.isnan(one.ratio[2])
    again.add(np.array([[0, 0]], np.int16), None, np.array([0.0]))
    assert len(sampled) == 3


# -- the registry


@dataclass(frozen=True)
class OwnSettings:
    updates: int = 7


class Own(RandomSearch):
    name = "own"
    settings_type = OwnSettings


def _entry(name: str, load: Callable[[], Any]) -> Any:
    return SimpleNamespace(name=name, value="package:Own", load=load)


def test_the_built_in_algorithms_have_their_settings(space: SearchSpace) -> None:
    settings = SearchSettings(reinforce=ReinforceSettings(samples=3))
    types: Mapping[str, type[Algorithm]] = {
        "gradient": Gradient,
        "reinforce": Reinforce,
        "evolution": Evolution,
        "random": RandomSearch,
    }
    assert set(algorithm_names()) >= set(types)
    for name, kind in types.items():
        assert algorithm_type(name) is kind
        assert kind.name == name
        assert algorithm_settings(name, settings) is getattr(settings, name)
    made = create_algorithm("reinforce", space, free(space), settings, Budget(3), 0)
    assert made.settings.samples == 3


def test_other_packages_add_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Any:
        raise ValueError("broken")

    points = [_entry("own", lambda: Own), _entry("bad", fails), _entry("none", lambda: dict), _entry("random", fails)]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points if group == algorithms.GROUP else [])
    assert algorithm_names() == ("gradient", "reinforce", "evolution", "random", "own", "bad", "none")
    assert algorithm_type("own") is Own
    assert algorithm_settings("own", SearchSettings()) == OwnSettings(7)
    assert algorithm_type("random") is RandomSearch
    with pytest.raises(SearchError, match="fails to import: ValueError"):
        algorithm_type("bad")
    with pytest.raises(SearchError, match="no subclass"):
        algorithm_type("none")
    with pytest.raises(SearchError, match="there is no algorithm 'x'; there are: gradient, reinforce"):
        algorithm_type("x")
