"""A supernet knows what lies on a path, and in which layout all of its paths can be run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hwnas.search.supernet import Supernet
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.space import SearchSpace
from hwnas.tests.search.tiny import digest, tiny_space, tiny_supernet
from torch import Tensor, nn


class Viewing(nn.Module):
    """Only for tensors in the usual layout."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1).view(x.shape)


class Head(nn.Module):
    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x)).mean((2, 3))


def conv(wide: int = 4, out: int = 4) -> nn.Module:
    return nn.Conv2d(wide, out, 3, padding=1)


def nested() -> nn.Module:
    """The viewing candidate is met only where the first of both outer ones is taken, and the second inside."""
    inner = LayerChoice([conv(), Viewing()], label="inner")
    return Head(LayerChoice([nn.Sequential(LayerChoice([nn.Sequential(inner), conv()])), conv()]))


def after_a_plain_one() -> nn.Module:
    """Behind `Plain` the tensors have the usual layout, behind a convolution they have not."""
    return Head(LayerChoice([Plain(), conv()]), LayerChoice([conv(), Viewing()]))


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous()


def tied_widths() -> nn.Module:
    return Head(LayerChoice([conv(4, 4), conv(4, 8)], label="w"), LayerChoice([conv(4, 4), conv(8, 4)], label="w"))


@pytest.mark.parametrize(
    ("net", "fast"), [(nested, False), (after_a_plain_one, False), (tied_widths, True), (lambda: Head(), True)]
)
def test_every_path_runs_in_the_layout_that_was_found(net: object, fast: bool) -> None:
    space = SearchSpace(lambda: nn.Sequential(net(), LayerChoice([nn.Linear(4, 3), nn.Linear(4, 3)])), (1, 6, 6))  # type: ignore[operator]
    supernet = Supernet(space, space.supernet())
    assert supernet.channels_last is fast
    images = torch.randn(2, 1, 6, 6)
    if fast:
        images = images.contiguous(memory_format=torch.channels_last)
    for row in itertools.product(*[range(len(d)) for d in space.decisions]):
        assert supernet.run(np.array(row), images).shape == (2, 3)


def test_finding_the_layout_leaves_no_trace() -> None:
    space = tiny_space("nested", dropout=0.5)
    module = space.supernet()
    before, generator = digest(module.state_dict()), torch.get_rng_state()
    supernet = Supernet(space, module)
    assert supernet.channels_last
    assert digest(module.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(m.training for m in module.modules())


def test_a_path_is_what_its_plain_network_holds() -> None:
    supernet = tiny_supernet(tiny_space("nested"))
    space = supernet.space
    for codes in np.concatenate(list(space.encoding.enumerate())):
        network = space.assemble(space.decode(codes[None])[0], supernet.module, copied=False)
        leaves = {m for m in network.modules() if not list(m.children()) and isinstance(m, nn.Conv2d | nn.BatchNorm2d)}
        on_path = {m for m in supernet.on_path(codes) if isinstance(m, nn.Conv2d | nn.BatchNorm2d)}
        assert leaves <= on_path
        assert len(on_path - leaves) <= 3 * 2  # a network has no part that leads to an unchosen input
