"""The space `proxyless-small`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hwnas.spaces.builtin.small import proxyless_small
from hwnas.spaces.description import SpaceError


def test_choices_by_default() -> None:
    space = proxyless_small()
    counts = {d.label: len(d.candidates) for d in space.decisions}
    assert counts == {f"stages.{i}.{j}": 6 if i and not j else 7 for i in range(3) for j in range(2)}
    assert space.size == 86_436


@pytest.mark.parametrize(("resolution", "final"), [(8, 2), (28, 7), (47, 12), (48, 6), (64, 8)])
def test_sizes_of_image(resolution: int, final: int) -> None:
    space = proxyless_small(resolution=resolution, channels=3, classes=4, width=0.5)
    assert len(space.decisions[0].candidates) == (7 if resolution < 48 else 6)
    net = space.build(space.sample(1, np.random.default_rng(1))[0]).eval()
    seen: list[torch.Size] = []
    net.get_submodule("head").register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    with torch.no_grad():
        assert net(torch.zeros(2, 3, resolution, resolution)).shape == (2, 4)
    assert seen == [(2, 128, final, final)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"resolution": 7}, "resolution"),
        ({"resolution": 65}, "resolution"),
        ({"resolution": True}, "resolution"),
        ({"channels": 0}, "channels"),
        ({"classes": -1}, "classes"),
        ({"width": -1.0}, "width"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(SpaceError, match=named):
        proxyless_small(**arguments)
