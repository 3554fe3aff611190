"""A path is scored with batch-norm statistics of its own, and nobody sees afterwards that it was."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.search.scoring import Scorer, reestimated
from hwnas.search.supernet import Supernet
from hwnas.search.training import evaluate
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.space import SearchSpace
from hwnas.tests.search.tiny import digest, tiny_data, tiny_engine, tiny_settings, tiny_space, tiny_supernet
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


class Scale(nn.Module):
    def __init__(self, by: float, shift: float) -> None:
        super().__init__()
        self.by, self.shift = by, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.by * x + self.shift


class Brightness(nn.Module):
    """Tells dark images from bright ones, after a batch norm that all candidates share."""

    def __init__(self) -> None:
        super().__init__()
        self.pick = LayerChoice({"as is": Scale(1, 0), "amplified": Scale(50, 400)})
        self.norm = nn.BatchNorm2d(1)
        self.head = nn.Linear(1, 2, bias=False)
        self.head.weight.data = torch.tensor([[-1.0], [1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.pick(x)).mean((2, 3)))


def bright_and_dark(n: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    return (2.0 * labels - 1).view(-1, 1, 1, 1) + 0.1 * torch.randn(n, 1, 4, 4, generator=generator), labels


def test_statistics_of_all_paths_fit_none_and_reestimated_ones_do() -> None:
    space = SearchSpace(Brightness, (1, 4, 4))
    supernet = Supernet(space, space.supernet())
    images, _ = bright_and_dark(40, 0)
    for i in range(60):  # what training of sampled paths leaves behind
        supernet.run(np.array([i % 2]), images)
    test = bright_and_dark(30, 1)
    codes = np.array([[0], [1]])

    supernet.module.eval()
    with torch.no_grad():
        running = [float((supernet.run(row, test[0]).argmax(1) == test[1]).float().mean()) for row in codes]
    supernet.module.train()
    assert running == [0.5, 0.5]
    assert Scorer(supernet, [images]).accuracy(codes, *test).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("net", ["plain", "nested"])
def test_a_score_is_that_of_the_plain_network_with_statistics_of_its_own(net: str) -> None:
    space, data = tiny_space(net, dropout=0.5), tiny_data()
    engine = tiny_engine(space, tiny_settings(), data=data)
    engine.run()
    images, labels = next(data.test.epoch(0))
    batches = [x for x, _ in data.train.epoch(3)][:3]
    codes = np.concatenate(list(space.encoding.enumerate()))[::5]
    with Scorer(engine.supernet, batches).path(codes[0]) as run:
        assert not engine.supernet.module.training
        assert run(images).shape == (len(labels), 3)
    found = Scorer(engine.supernet, batches).accuracy(codes, images, labels)
    for architecture, accuracy in zip(space.decode(codes), found, strict=True):
        network = space.build(architecture, engine.supernet.module).eval()
        for norm in [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            for batch in batches:
                network(batch)
        assert evaluate(network.eval(), [(images, labels)], torch.device("cpu")).top1 / 100 == pytest.approx(accuracy)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.BatchNorm2d(2), nn.Dropout(0.5), nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2).eval()
    )
    for _ in range(3):
        made(torch.randn(8, 2, 3, 3) + 3)
    return made


def test_the_statistics_are_the_mean_over_the_batches() -> None:
    network = net()
    batches = [torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(i)) * (i + 1) for i in range(4)]
    with reestimated(network, list(network.modules()), network, batches):
        mean, var = network[0].get_buffer("running_mean"), network[0].get_buffer("running_var")
        assert torch.allclose(mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0), atol=1e-6)
        assert torch.allclose(var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0), rtol=1e-5)
        assert not any(m.training for m in network.modules())
        again = network(batches[0]), network(batches[0])
    assert torch.equal(*again)


@pytest.mark.parametrize("fails", [False, True])
def test_all_is_as_it_was_afterwards(fails: bool) -> None:
    network = net()
    seen = lambda: (digest(network.state_dict()), [(m.training, getattr(m, "momentum", 0)) for m in network.modules()])  # noqa: E731
    before = seen()

    def run(batch: Tensor) -> Any:
        network(batch)
        if fails:
            raise ZeroDivisionError

    try:
        with reestimated(network, list(network.modules()), run, [torch.randn(8, 2, 3, 3)]):
            assert not fails
            assert seen() != before
    except ZeroDivisionError:
        assert fails
    assert seen() == before


def test_they_can_be_kept() -> None:
    network, batch = net(), torch.randn(8, 2, 3, 3)
    with reestimated(network, list(network.modules()), network, [batch], keep=True):
        inside = copy.deepcopy(network.state_dict())
    assert digest(network.state_dict()) == digest(inside)
    assert network[0].momentum == 0.1
    assert network.training


def test_norms_beside_the_path_are_left_alone() -> None:
    supernet = tiny_supernet(tiny_space())
    images, _ = next(tiny_data().train.epoch(0))
    row = np.array([0, 0, 0])
    beside = set(supernet.module.modules()) - set(supernet.on_path(row))
    touched: list[nn.Module] = []
    for m in beside:
        if isinstance(m, nn.BatchNorm2d):
            m.reset_running_stats = partial(touched.append, m)  # type: ignore[method-assign]
    assert len(beside) > 4
    with Scorer(supernet, [images]).path(row) as run:
        run(images)
    assert touched == []


def test_nothing_to_score() -> None:
    supernet = tiny_supernet(tiny_space())
    images, labels = next(tiny_data().train.epoch(0))
    assert Scorer(supernet, [images]).accuracy(np.empty((0, 3), int), images, labels).shape == (0,)
