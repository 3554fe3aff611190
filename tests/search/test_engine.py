"""The search as a whole: what drives it, what it may look at, and that its seed decides everything."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.predictors.base import MissingMeasurements, Predictor
from hwnas.predictors.lut import LutPredictor
from hwnas.search.algorithm import Algorithm
from hwnas.search.algorithms import algorithm_type
from hwnas.search.checkpoint import load_checkpoint
from hwnas.search.data.batches import Batches
from hwnas.search.data.data import Data
from hwnas.search.data.in_memory import Images, as_data
from hwnas.search.data.registry import load_data
from hwnas.search.data.splits import Request
from hwnas.search.engine import Engine
from hwnas.search.schedule import Phase, phases, planned_updates, updates_after
from hwnas.search.settings import GradientSettings, ReinforceSettings, SearchSettings, WeightSettings
from hwnas.search.training import TrainingDiverged
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.space import SearchSpace
from hwnas.testing.search import made_up_table
from hwnas.tests.search.tiny import (
    ALGORITHMS,
    CLASSES,
    Hook,
    Lines,
    bent,
    digest,
    outcome,
    tiny_data,
    tiny_engine,
    tiny_images,
    tiny_latency,
    tiny_objective,
    tiny_settings,
    tiny_space,
    tiny_supernet,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

PREDICTORS: dict[str, Callable[[SearchSpace], Predictor]] = {"table": made_up_table, "no closed form": bent}
MODES = ("full_v2", "full", "two")


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# -- what drives the search


def conditional_costs(predictor: Predictor) -> list[np.ndarray]:
    """Of each decision's candidates, the mean latency of all networks that use them."""
    codes = np.concatenate(list(predictor.space.encoding.enumerate()))
    value = predictor.predict_codes(codes)
    sizes = [len(d) for d in predictor.space.decisions]
    return [np.array([value[codes[:, d] == i].mean() for i in range(n)]) for d, n in enumerate(sizes)]


@pytest.mark.parametrize(
    ("algorithm", "predictor", "net"),
    [
        *((algorithm, predictor, "plain") for algorithm in (*MODES, "reinforce") for predictor in PREDICTORS),
        ("evolution", "table", "plain"),
        ("random", "table", "plain"),
        ("full_v2", "table", "nested"),
        ("two", "no closed form", "nested"),
    ],
)
def test_latency_alone_drives_every_choice_to_its_cheapest_candidate(algorithm: str, predictor: str, net: str) -> None:
    space = tiny_space(net)
    made = PREDICTORS[predictor](space)
    lowest = float(made.predict_codes(made.extremes()).min())
    name = "gradient" if algorithm in MODES else algorithm
    mode: Any = algorithm if algorithm in MODES else "full_v2"
    settings = tiny_settings(
        name,
        warmup_epochs=0,
        every=1,
        steps=4,
        bn_batches=1,
        weights=WeightSettings(epochs=2, batch_size=12),
        gradient=GradientSettings(mode=mode),
        reinforce=ReinforceSettings(lr=0.2, entropy=0, baseline_decay=0.5),
    )
    engine = tiny_engine(space, settings, tiny_objective(tiny_latency(made, 0.0), "add#linear", task=0.0))
    engine.run()
    found = engine.algorithm.ranked(1)[0].codes
    assert made.predict_codes(found[None])[0] == pytest.approx(lowest, rel=1e-9)
    if not engine.algorithm.after_training:
        probabilities = engine.algorithm.probabilities()
        argmax = np.array([int(p.argmax()) for p in probabilities])
        assert made.predict_codes(space.encoding.canonical(argmax[None]))[0] == pytest.approx(lowest, rel=1e-9)
        if net == "plain":
            assert argmax.tolist() == [int(c.argmin()) for c in conditional_costs(made)]
        assert engine.algorithm.objective.latency is not None
        assert engine.algorithm.objective.latency.expected_ratio(probabilities) < 1.15


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("mode", MODES)
def test_the_latency_term_reaches_alpha_in_a_search(mode: Any, predictor: str) -> None:
    """Bit-identical alphas with and without it is what other implementations give."""
    space = tiny_space()
    latency = tiny_latency(PREDICTORS[predictor](space), 0.1)
    found = []
    for l in (0.0, 1.0):  # noqa: E741  the original's name
        settings = tiny_settings(gradient=GradientSettings(mode=mode))
        engine = tiny_engine(space, settings, tiny_objective(latency, "add#linear", l=l))
        engine.run()
        found.append(float(latency.expected_ratio(engine.algorithm.probabilities())))
        assert engine.position.update == 6
    assert found[1] < found[0] - 0.05


@pytest.mark.parametrize("net", ["plain", "nested"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_finds_networks_on_target(algorithm: str, net: str) -> None:
    space = tiny_space(net)
    table = made_up_table(space)
    values = np.sort(table.predict_codes(np.concatenate(list(space.encoding.enumerate()))))
    latency = tiny_latency(table)
    target = float(values[len(values) // 2]) * 1.001  # some network is in the band below it
    latency = type(latency)(space, [replace(latency.goals[0], target=target)])
    lines = Lines()
    engine = tiny_engine(space, tiny_settings(algorithm), tiny_objective(latency), log=lines)
    engine.run()
    best = engine.algorithm.ranked(3)
    assert 0.98 <= latency.ratio(best[0].codes[None])[0] <= 1
    assert engine.position.finished
    assert engine.position.step == 18
    assert engine.position.update == engine.algorithm.budget.updates == (5 if engine.algorithm.after_training else 6)
    last = lines.records[-1]
    assert last["expected"]["ratio"] == pytest.approx(1)  # held during the whole search
    assert [len(p) for p in last["probabilities"]] == [len(d) for d in space.decisions]
    assert len(last["entropy"]) == len(space.decisions)


def test_it_learns() -> None:
    lines = Lines()
    settings = tiny_settings(weights=WeightSettings(epochs=8, batch_size=12, lr=0.2))
    engine = tiny_engine(tiny_space(), settings, data=tiny_data(shift=0), log=lines)
    before = engine.validate(engine.data.test).loss
    engine.run()
    after = engine.validate(engine.data.test)
    assert after.top1 > 75
    assert after.loss < before - 0.3
    valid = [r["valid"]["top1"] for r in lines.records if "valid" in r]
    assert len(valid) == 4  # every second epoch


def test_what_is_derived_is_always_the_same() -> None:
    for algorithm in ALGORITHMS:
        space = tiny_space("nested")
        engine = tiny_engine(space, tiny_settings(algorithm), tiny_objective(tiny_latency(made_up_table(space))))
        engine.run()
        before = digest(outcome(engine))
        assert len({digest([r.codes for r in engine.algorithm.ranked(1)]) for _ in range(10)}) == 1
        assert digest(outcome(engine)) == before


# -- warm-up and schedule


def test_warm_up_trains_uniformly_drawn_paths_and_no_alpha() -> None:
    paths: list[np.ndarray] = []
    alphas: set[str] = set()

    def seen(name: str, step: int) -> None:
        if name == "warm-up":
            alphas.add(digest(engine.algorithm.state()))

    settings = tiny_settings(warmup_epochs=40, weights=WeightSettings(epochs=0, batch_size=12))
    space = tiny_space()
    target = tiny_latency(made_up_table(space), 0.05)  # the tilted probabilities are far from uniform
    engine = tiny_engine(space, settings, tiny_objective(target), progress=Hook(seen))
    engine.weight_step.loss = lambda row, x, y: paths.append(row) or torch.zeros((), requires_grad=True)  # type: ignore[func-returns-value, method-assign, assignment]
    engine.weight_step.apply = lambda loss, lr: None  # type: ignore[method-assign]
    engine.run()
    assert len(paths) == 240
    assert len(alphas) == 1
    for d, column in enumerate(np.stack(paths).T):
        n = len(space.decisions[d])
        assert np.bincount(column, minlength=n).min() > 0.65 * 240 / n


def test_each_phase_has_a_cosine_of_its_own_per_batch() -> None:
    rates: list[float] = []
    settings = tiny_settings(
        warmup_epochs=2, warmup_lr=0.4, skip_first_epoch=True, weights=WeightSettings(epochs=3, lr=0.1)
    )
    updates: list[int] = []
    engine = tiny_engine(settings=settings, progress=Hook(lambda name, step: updates.append(engine.position.update)))
    real = engine.weight_step.apply
    engine.weight_step.apply = lambda loss, lr: (rates.append(lr), real(loss, lr))[1]  # type: ignore[func-returns-value, method-assign, assignment]
    engine.run()
    cosine = lambda lr, n: [lr / 2 * (1 + np.cos(np.pi * i / n)) for i in range(n)]  # noqa: E731
    np.testing.assert_allclose(rates, cosine(0.4, 12) + cosine(0.1, 18), atol=1e-12)
    assert engine.optimizer.param_groups[0]["lr"] == rates[-1]
    assert updates[:18] == [0] * 18  # warm-up, and the first epoch after it
    assert updates[18:] == [i // 2 for i in range(1, 13)]


@given(
    batches=st.integers(1, 20),
    epochs=st.integers(0, 6),
    every=st.integers(1, 9),
    steps=st.integers(1, 3),
    skip=st.booleans(),
)
def test_as_many_updates_are_planned_as_are_made(batches: int, epochs: int, every: int, steps: int, skip: bool) -> None:
    settings = SearchSettings(every=every, steps=steps, skip_first_epoch=skip, weights=WeightSettings(epochs=epochs))
    own = algorithm_type("gradient")
    made = [sum(updates_after(settings, p, i) for i in range(p.steps)) for p in phases(settings, batches, own)]
    assert made[0] == 0
    assert made[1] == planned_updates(settings, batches, own, settings.gradient)


def test_a_phase_ends_at_a_rate_of_zero() -> None:
    phase = Phase("search", 3, 0.1, 2, 5, True)
    assert phase.steps == 15
    assert phase.rate(0) == 0.1
    assert phase.rate(15) == pytest.approx(0)


@pytest.mark.parametrize(("lr", "settles"), [(3.0, True), (0.005, False)])
def test_choices_that_settle_early_are_warned_of(lr: float, settles: bool) -> None:
    lines = Lines()
    settings = tiny_settings(every=1, weights=WeightSettings(epochs=6, batch_size=12), gradient=GradientSettings(lr=lr))
    engine = tiny_engine(settings=settings, log=lines)
    engine.run()
    assert len(engine.records.warnings) == settles
    if settles:
        (warning,) = engine.records.warnings
        assert "choices settled after" in warning
        assert "smaller architecture learning rate" in warning
        share = float(warning.split("after ")[1].split(" %")[0])
        assert 0 < share < 34
    assert np.mean(lines.records[-1]["entropy"]) < 0.1 if settles else np.mean(lines.records[-1]["entropy"]) > 0.95


def test_choices_that_settle_late_are_not_warned_of() -> None:
    """lr x updates is what decides how far they settle, the end is when they should."""
    settings = tiny_settings(every=1, weights=WeightSettings(epochs=12), gradient=GradientSettings(lr=0.08))
    space = tiny_space()
    objective = tiny_objective(tiny_latency(made_up_table(space), 0.0), "add#linear", task=0.0)
    engine = tiny_engine(space, settings, objective)
    engine.run()
    assert np.max([p.max() for p in engine.algorithm.probabilities()]) > 0.9
    assert engine.records.warnings == []


# -- what is run


@pytest.mark.parametrize("net", ["plain", "nested"])
@pytest.mark.parametrize("algorithm", ["gradient", "random"])
def test_training_runs_one_candidate_of_each_choice(net: str, algorithm: str) -> None:
    """In all steps that have no update after them."""
    settings = tiny_settings(algorithm, warmup_epochs=2, weights=WeightSettings(epochs=0, batch_size=12))
    engine = tiny_engine(tiny_space(net), settings)
    engine.algorithm.budget = replace(engine.algorithm.budget, updates=0)
    ran: list[nn.Module] = []
    choices = [m for m in engine.supernet.module.modules() if isinstance(m, LayerChoice)]
    for choice in choices:
        for i in range(len(choice)):
            choice[i].register_forward_hook(lambda m, a, b: ran.append(m))
    expected = 0
    for step in range(12):
        rng = np.random.default_rng([engine.seed, 0x9A7, step])
        row = np.array([rng.integers(len(d)) for d in engine.supernet.space.decisions])
        expected += len([m for m in engine.supernet.on_path(row) if isinstance(m, LayerChoice)])
    engine.run()
    assert len(ran) == expected
    assert expected >= 12 * len([c for c in choices if c.label != "inner"])


def test_alpha_is_in_no_optimiser_of_weights() -> None:
    for algorithm in ("gradient", "reinforce"):
        engine = tiny_engine(settings=tiny_settings(algorithm))
        engine.run()
        weights = {id(p) for group in engine.optimizer.param_groups for p in group["params"]}
        assert weights == {id(p) for p in engine.supernet.module.parameters()}
        alphas = {id(a) for a in engine.algorithm.alpha.tensors}  # type: ignore[attr-defined]
        assert not weights & alphas
        own = engine.algorithm.optimizer.param_groups  # type: ignore[attr-defined]
        assert {id(p) for group in own for p in group["params"]} == alphas


def test_validation_leaves_everything_as_it_was() -> None:
    engine = tiny_engine()
    engine.run()
    seen = lambda: (  # noqa: E731
        digest(outcome(engine)),
        [(m.training, getattr(m, "momentum", 0)) for m in engine.supernet.module.modules()],
    )
    before = seen()
    found = engine.validate(engine.data.held_out)
    assert seen() == before
    assert found == engine.validate(engine.data.held_out)
    assert found.n == 18


# -- what it may look at


class Forbidden(Batches):
    """Nobody may look at these."""

    batch_size = 1

    def __len__(self) -> int:
        raise AssertionError("the test images were counted")

    def epoch(self, number: int, *, start: int = 0, shard: tuple[int, int] = (0, 1)) -> Any:
        raise AssertionError("the test images were looked at")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_search_looks_at_test_images(algorithm: str) -> None:
    space = tiny_space()
    data = replace(tiny_data(), test=Forbidden())
    objective = tiny_objective(tiny_latency(made_up_table(space)))
    tiny_engine(space, tiny_settings(algorithm, valid_every=1), objective, data=data).run()


def seen_by(batches: Batches, epochs: int = 3) -> set[int]:
    return {int(v) for e in range(epochs) for images, _ in batches.epoch(e) for v in images.flatten(1).mean(1).round()}


@pytest.mark.parametrize("seed", range(3))
def test_weights_alphas_and_tests_have_images_of_their_own(seed: int) -> None:
    labels = np.arange(90) % CLASSES
    images = torch.arange(90.0).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    source = Images(images, labels, CLASSES, np.arange(0, 90, 4), mean=torch.zeros(1), std=torch.ones(1))
    data = as_data("numbered", source, Request(4, 4, seed))
    train, held_out, test = seen_by(data.train), seen_by(data.held_out), seen_by(data.test)
    assert test == set(range(0, 90, 4))
    assert not train & held_out
    assert not (train | held_out) & test
    assert np.ptp(np.bincount(labels[sorted(held_out)])) <= 1


def test_the_digits_are_kept_apart() -> None:
    data = load_data("digits", batch_size=64, arch_batch_size=64, seed=3)
    seen: dict[str, set[bytes]] = {}
    for name in ("train", "held_out", "test"):
        part = getattr(data, name)
        part.shift = 0  # as they are
        still = part.shifted[:, :, part.shifted.shape[2] // 2, part.shifted.shape[3] // 2]
        seen[name] = {image.contiguous().numpy().tobytes() for image in still}
    assert min(map(len, seen.values())) > 200
    assert not seen["train"] & seen["held_out"]
    assert not (seen["train"] | seen["held_out"]) & seen["test"]


def swapped(data: Data, part: str) -> Data:
    """The same with other images in one part."""
    images, labels = tiny_images(seed=5)
    other = as_data("tiny", Images(images, labels, CLASSES, np.arange(30)), Request(12, 9, 1))
    return replace(data, **{part: getattr(other, part)})


def test_weights_learn_from_training_images_and_alpha_from_held_out_ones() -> None:
    """Other held-out images change alpha, and weights only through the paths; in the warm-up not at all."""

    def run(data: Data) -> tuple[str, str, str]:
        after: list[str] = []

        def seen(name: str, step: int) -> None:
            if (name, step) == ("warm-up", 6):
                after.append(digest(engine.supernet.module.state_dict()))

        engine = tiny_engine(data=data, progress=Hook(seen))
        engine.run()
        return after[0], digest(engine.algorithm.state()), digest(engine.supernet.module.state_dict())

    usual = run(tiny_data())
    assert run(tiny_data()) == usual
    assert run(swapped(tiny_data(), "test")) == usual
    held_out, train = run(swapped(tiny_data(), "held_out")), run(swapped(tiny_data(), "train"))
    assert (held_out[0] == usual[0], held_out[1] == usual[1]) == (True, False)
    assert train[0] != usual[0]


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any, **more: Any) -> Any:
        raise AssertionError("a search opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.mark.usefixtures("_no_network")
def test_a_search_needs_no_network() -> None:
    space = tiny_space()
    tiny_engine(space, tiny_settings(), tiny_objective(tiny_latency(made_up_table(space)))).run()


def test_missing_measurements_are_all_named_and_none_is_made_up() -> None:
    space = tiny_space()
    whole = made_up_table(space)
    assert len(whole.rows) > 4
    for missing in ([0], [2], [0, 1, 3], list(range(len(whole.rows)))):
        rows = [row for i, row in enumerate(whole.rows) if i not in missing]
        with pytest.raises(MissingMeasurements) as caught:
            LutPredictor(space, whole.provenance, rows, whole.calibration)
        assert sorted(caught.value.keys) == sorted(whole.rows[i].key for i in missing)


# -- seeds


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_seed_decides_everything(algorithm: str) -> None:
    """Of dropout, too; the process's own generators play no part, and go on as if nothing had been."""
    space = tiny_space("plain", dropout=0.3)
    found, logged = [], []
    for seed, foreign in ((0, 1), (0, 2), (1, 1)):
        lines = Lines()
        objective = tiny_objective(tiny_latency(made_up_table(space)))
        supernet = tiny_supernet(space)
        torch.manual_seed(foreign)
        np.random.seed(foreign)
        engine = tiny_engine(space, tiny_settings(algorithm), objective, seed=seed, supernet=supernet, log=lines)
        engine.run()
        found.append(digest(outcome(engine)))
        logged.append(lines.records)
        drawn = torch.rand(3)
        torch.manual_seed(foreign)
        assert torch.equal(drawn, torch.rand(3))
    assert found[0] == found[1]
    assert logged[0] == logged[1]
    assert found[0] != found[2]


def test_two_searches_share_a_process() -> None:
    """One inside the other, each as it is alone."""
    alone = tiny_engine(seed=3)
    alone.run()

    def inner(name: str, step: int) -> None:
        if (name, step) == ("search", 5):
            second.run()

    space = tiny_space()
    second = tiny_engine(space, seed=3)
    first = tiny_engine(space, seed=4, progress=Hook(inner))
    first.run()
    other = tiny_engine(space, seed=4)
    other.run()
    assert digest(outcome(second)) == digest(outcome(alone))
    assert digest(outcome(first)) == digest(outcome(other))


# -- when it fails


class Poisoned(Batches):
    """Another's batches, from one of epoch 1 on without any number in them."""

    def __init__(self, batches: Batches, at: int) -> None:
        self.batches, self.batch_size, self.at = batches, batches.batch_size, at

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, *, start: int = 0, shard: tuple[int, int] = (0, 1)) -> Any:
        for i, (images, labels) in enumerate(self.batches.epoch(number, start=start, shard=shard), start):
            yield (images * float("nan") if (number, i) == (1, self.at) else images), labels


def test_a_loss_that_is_no_number_stops_with_step_rate_and_checkpoint(tmp_path: Path) -> None:
    data = tiny_data()
    bad = replace(data, train=Poisoned(data.train, 3))
    engine = tiny_engine(data=bad, folder=tmp_path)
    with pytest.raises(TrainingDiverged) as caught:
        engine.run()
    rate = phases(engine.settings, 6, type(engine.algorithm))[1].rate(3)
    assert "the loss is nan at step 9" in str(caught.value)
    assert f"learning rate {rate:.4g}" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    kept = load_checkpoint(tmp_path)
    assert kept is not None
    assert kept["position"] == {"step": 9, "update": 1, "finished": False}
    weights = dict(tiny_space().supernet().named_parameters())
    assert all(torch.isfinite(kept["supernet"][name]).all() for name in weights)
    # with the data mended it goes on from there, as if nothing had been
    mended = tiny_engine(data=data, folder=tmp_path)
    mended.run()
    unbroken = tiny_engine(data=data)
    unbroken.run()
    for name, weight in unbroken.supernet.module.named_parameters():
        assert torch.equal(weight, mended.supernet.module.get_parameter(name))
    assert digest(mended.algorithm.state()) == digest(unbroken.algorithm.state())


def test_a_learning_rate_that_is_too_large_stops_it(tmp_path: Path) -> None:
    engine = tiny_engine(
        tiny_space("plain", norm=False), tiny_settings(warmup_epochs=2, warmup_lr=1e18), folder=tmp_path
    )
    with pytest.raises(TrainingDiverged, match=r"the loss is (nan|inf) at step \d+, with learning rate 1e\+18|e\+17"):
        engine.run()
    assert load_checkpoint(tmp_path) is not None


def test_gates_that_are_no_numbers_stop_it() -> None:
    data = tiny_data()
    bad = replace(data, held_out=Poisoned(data.held_out, 1))
    space = tiny_space()
    engine = tiny_engine(space, tiny_settings(), tiny_objective(tiny_latency(made_up_table(space))), data=bad)
    alphas = []
    engine.progress = Hook(lambda name, step: alphas.append(digest(engine.algorithm.state())))
    with pytest.raises(
        TrainingDiverged, match=r"architecture update 3 gave a loss of nan.* at step 14, with .* rate 0\."
    ):
        engine.run()
    assert digest(engine.algorithm.state()) == alphas[-1]


def test_an_algorithm_of_ones_own() -> None:
    """Needs nothing but the contract."""

    class First(Algorithm):
        name = "first"

        def probabilities(self) -> list[np.ndarray]:
            return [np.eye(len(d))[0] for d in self.space.decisions]

        def update(self, task: Any, step: int) -> dict[str, float]:
            return {"accuracy": float(task.accuracy(np.zeros((1, len(self.space.decisions)), int))[0])}

        def ranked(self, n: int) -> Any:
            from hwnas.search.derive import Derived

            return [Derived(np.zeros(len(self.space.decisions), int), 0.0, None)]

        def state(self) -> dict[str, Any]:
            return {}

        def load_state(self, state: Any) -> None:
            pass

    usual = tiny_engine()
    own = First(usual.supernet.space, usual.algorithm.objective, None, usual.algorithm.budget, 0)
    lines = Lines()
    settings = replace(usual.settings, warmup_epochs=0)
    engine = Engine(usual.supernet, usual.data, own, settings, log=lines)
    engine.run()
    assert engine.position.update == 6
    assert 0 <= lines.records[-1]["update"]["accuracy"] <= 1
    start = tiny_supernet(usual.supernet.space).module.get_parameter("first.k3.0.weight")
    assert torch.equal(engine.supernet.module.get_parameter("first.k3.0.weight"), start)
