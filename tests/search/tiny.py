"""A search small enough for tests: supernets with every kind of choice, images in memory, an engine over both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from hwnas.predictors.base import Predictor
from hwnas.search.algorithm import Budget
from hwnas.search.algorithms import algorithm_settings, algorithm_type, create_algorithm
from hwnas.search.data.data import Data
from hwnas.search.data.in_memory import Images, as_data
from hwnas.search.data.splits import Request
from hwnas.search.engine import Engine
from hwnas.search.goals import Goal, Latency
from hwnas.search.objective import Objective
from hwnas.search.schedule import planned_updates
from hwnas.search.settings import (
    EvolutionSettings,
    GradientSettings,
    ObjectiveKind,
    ObjectiveSettings,
    RandomSettings,
    ReinforceSettings,
    SearchSettings,
    WeightSettings,
)
from hwnas.search.supernet import Supernet
from hwnas.spaces.choices import InputChoice, LayerChoice
from hwnas.spaces.space import SearchSpace
from hwnas.testing.search import Formula, made_up_table
from torch import Tensor, nn

ALGORITHMS = ("gradient", "reinforce", "evolution", "random")
WIDTH, SIDE, CLASSES = 4, 6, 3


class Zero(nn.Module):
    """A skip beside a residual."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def conv(kernel: int, norm: bool = True) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(WIDTH, WIDTH, kernel, padding=kernel // 2, bias=not norm)]
    return nn.Sequential(*layers, *([nn.BatchNorm2d(WIDTH)] if norm else []), nn.ReLU())


class Net(nn.Module):
    """A choice with a skip, one that is a skip or zero beside a residual, two that are tied."""

    def __init__(self, norm: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, WIDTH, 3, padding=1), *([nn.BatchNorm2d(WIDTH)] if norm else []))
        self.first = LayerChoice({"k1": conv(1, norm), "k3": conv(3, norm), "skip": nn.Identity()})
        self.second = LayerChoice({"k3": conv(3, norm), "k5": conv(5, norm), "zero": Zero()})
        self.third = LayerChoice([conv(1, norm), conv(3, norm)], label="tied")
        self.fourth = LayerChoice([conv(1, norm), conv(3, norm)], label="tied")
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        x = x + self.second(x)
        x = self.fourth(self.third(x))
        return self.head(self.dropout(x.mean((2, 3))))


class Nested(nn.Module):
    """A choice in a candidate of another, and two of three inputs."""

    def __init__(self, norm: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTH, 3, padding=1)
        inner = LayerChoice({"k1": conv(1, norm), "k3": conv(3, norm)}, label="inner")
        deep = nn.Sequential(conv(1, norm), nn.Dropout(dropout), inner)
        self.outer = LayerChoice({"deep": deep, "k3": conv(3, norm), "skip": nn.Identity()}, label="outer")
        self.left = LayerChoice({"k1": conv(1, norm), "k5": conv(5, norm)}, label="left")
        self.right = conv(1, norm)
        self.inputs = InputChoice(3, 2, "mean", label="inputs")
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.outer(self.stem(x))
        return self.head(self.inputs([x, self.left(x), self.right(x)]).mean((2, 3)))


NETS: Mapping[str, Callable[..., nn.Module]] = {"plain": Net, "nested": Nested}


@cache
def tiny_space(net: str = "plain", **arguments: Any) -> SearchSpace:
    return SearchSpace(lambda: NETS[net](**arguments), (1, SIDE, SIDE), name=f"tiny-{net}")


def tiny_images(n: int = 120, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """(n, 1, SIDE, SIDE) images of a pattern for each class, in noise, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    patterns = torch.randn(CLASSES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    return patterns[labels] + 0.5 * torch.randn(n, 1, SIDE, SIDE, generator=generator), labels.numpy()


def tiny_data(*, batch_size: int = 12, arch_batch_size: int = 9, seed: int = 0, shift: int = 1) -> Data:
    """72 training images (6 batches), 18 held out (2 batches), 30 for testing."""
    images, labels = tiny_images()
    source = Images(images, labels, CLASSES, np.arange(30), shift=shift)
    return as_data("tiny", source, Request(batch_size, arch_batch_size, seed))


def tiny_settings(algorithm: str = "gradient", **more: Any) -> SearchSettings:
    """6 steps of warm-up, 12 of search; 6 updates, or 5 of the algorithms whose updates come after the training."""
    settings = SearchSettings(
        algorithm=algorithm,
        warmup_epochs=1,
        every=2,
        bn_batches=2,
        valid_every=2,
        weights=WeightSettings(epochs=2, batch_size=12),
        gradient=GradientSettings(),
        reinforce=ReinforceSettings(samples=4),
        evolution=EvolutionSettings(population=6, tournament=3, batch=3, updates=5),
        random=RandomSettings(batch=3, updates=5),
    )
    return replace(settings, **more)


def bent(space: SearchSpace) -> Predictor:
    """A predictor whose expectation has no closed form, and which orders networks as the table does."""
    table = made_up_table(space)
    return Formula(space, lambda codes: table.predict_codes(codes) ** 1.5)


def tiny_latency(predictor: Predictor, share: float = 0.5) -> Latency:
    """A target at a share of the predictor's range."""
    low, high = predictor.predict_codes(predictor.extremes())
    return Latency(predictor.space, [Goal(predictor, float(low + share * (high - low)))])


def tiny_objective(latency: Latency | None, kind: ObjectiveKind = "hold", **more: Any) -> Objective:
    return Objective(latency, ObjectiveSettings(kind=kind if latency is not None else "none", **more))


def tiny_supernet(space: SearchSpace, seed: int = 0) -> Supernet:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Supernet(space, space.supernet())


def tiny_engine(
    space: SearchSpace | None = None,
    settings: SearchSettings | None = None,
    objective: Objective | None = None,
    *,
    data: Data | None = None,
    seed: int = 0,
    supernet: Supernet | None = None,
    **more: Any,
) -> Engine:
    space, settings = space or tiny_space(), settings or tiny_settings()
    data, objective = data or tiny_data(seed=seed), objective or tiny_objective(None)
    own = algorithm_settings(settings.algorithm, settings)
    updates = planned_updates(settings, len(data.train), algorithm_type(settings.algorithm), own)
    algorithm = create_algorithm(settings.algorithm, space, objective, settings, Budget(updates), seed)
    return Engine(supernet or tiny_supernet(space, seed), data, algorithm, settings, seed=seed, **more)


class Lines:
    """A log in memory."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def log(self, record: Mapping[str, Any]) -> None:
        self.records.append(dict(record))

    def position(self) -> int:
        return len(self.records)

    def truncate(self, position: int) -> None:
        del self.records[position:]


class Hook:
    """A progress that calls a function after each step, with its name and number."""

    def __init__(self, function: Callable[[str, int], None]) -> None:
        self.function = function

    def step(self, name: str, done: float, total: float) -> None:
        self.function(name, int(done))


def digest(value: Any) -> str:
    """Of tensors, arrays, numbers and texts in dicts and lists: the same exactly where all bits are."""
    found = hashlib.blake2b(digest_size=16)
    _feed(found, value)
    return found.hexdigest()


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().contiguous().numpy()
    if isinstance(value, np.ndarray):
        found.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key, part in value.items():
            found.update(repr(key).encode())
            _feed(found, part)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        found.update(f"[{len(value)}".encode())
        for part in value:
            _feed(found, part)
    else:
        found.update(f"{type(value).__name__} {value!r}".encode())


def outcome(engine: Engine) -> dict[str, Any]:
    """All that a search has made: weights, momentum, what the algorithm holds, the controllers."""
    return {
        "supernet": engine.supernet.module.state_dict(),
        "optimizer": engine.optimizer.state_dict(),
        "algorithm": engine.algorithm.state(),
        "objective": engine.algorithm.objective.state(),
        "probabilities": engine.algorithm.probabilities(),
        "ranked": [(r.codes, r.log_probability, r.ratio) for r in engine.algorithm.ranked(3)],
    }
