"""SearchSpace: built networks, inputs, names, and descriptions from the cache."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.cache import Cache
from hwnas.spaces.architecture import Architecture, ArchitectureError
from hwnas.spaces.choices import InputChoice, LayerChoice, Selection, active
from hwnas.spaces.description import SpaceError
from hwnas.spaces.registry import load_space, space_names
from hwnas.spaces.space import SearchSpace
from hwnas.spaces.structure import read_structure
from hwnas.testing.zoo import ZOO
from torch import Tensor, nn


def make(name: str) -> SearchSpace:
    return ZOO[name]() if name in ZOO else load_space(name)


@pytest.mark.parametrize("name", [*ZOO, "proxyless-small", "nasbench201"])
def test_built_networks_compute_what_the_supernet_does(name: str) -> None:
    """With its weights, and without any choice; the weights are the network's own."""
    space = make(name)
    supernet = space.supernet().eval()
    inputs = space.inputs(2)
    for architecture in space.sample(4, np.random.default_rng(0)):
        net = space.build(architecture, supernet).eval()
        assert not any(isinstance(module, LayerChoice | InputChoice) for module in net.modules())
        codes = space.encode([architecture])[0].tolist()
        chosen = read_structure(supernet).selection({d: c for d, c in enumerate(codes) if c >= 0})
        with torch.no_grad(), active(Selection(chosen)):
            torch.testing.assert_close(net(*inputs), supernet(*inputs))
        assert not {id(p) for p in net.parameters()} & {id(p) for p in supernet.parameters()}


@pytest.mark.parametrize("name", [name for name in ZOO if name != "instance"])
def test_networks_are_trained_like_any(name: str) -> None:
    space = make(name)
    net = space.build(space.sample(1, np.random.default_rng(1))[0]).train()
    result = net(*space.inputs(4))
    result.square().sum().backward()
    assert any(p.grad is not None for p in net.parameters())
    assert set(net.state_dict()) == set(space.build(space.sample(1, np.random.default_rng(1))[0]).state_dict())


def test_networks_do_not_share_weights() -> None:
    for name in ("residual", "instance"):
        space = make(name)
        architecture = space.decode(np.zeros((1, len(space.decisions)), np.int16))[0]
        one, other = space.build(architecture), space.build(architecture)
        assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}


def test_shared_modules_stay_shared() -> None:
    space = make("shared")
    net = space.build(space.decode(np.zeros((1, 2), np.int16))[0])
    weights = [p for p in net.parameters() if p.shape == (3, 3, 3, 3)]
    assert len(weights) == 1


def test_only_what_is_chosen_is_kept() -> None:
    space = make("nested")
    largest, smallest = (space.build(Architecture("nested", c)) for c in NESTED)
    assert sum(p.numel() for p in smallest.parameters()) == sum(p.numel() for p in nn.Linear(3, 10).parameters())
    assert sum(1 for m in largest.modules() if isinstance(m, nn.Conv2d)) == 3


NESTED: list[dict[str, Any]] = [
    {"cells.0": "double", "cells.0.double_.0": "k5", "cells.1": "plain", "tied": "k3"},
    {"cells.0": "skip", "cells.1": "skip"},
]


def test_build_checks_the_architecture() -> None:
    with pytest.raises(ArchitectureError, match=r"'cells.0' has no candidate 'dubble'; it has plain \| double"):
        make("nested").build(Architecture("nested", {"cells.0": "dubble"}))
    with pytest.raises(ArchitectureError, match="is of space 'proxyless', not 'nested'"):
        make("nested").build(Architecture("proxyless", {}))


@pytest.mark.parametrize("name", [n for n in ZOO if n != "darts"])
def test_enumeration(name: str) -> None:
    space = make(name)
    every = list(space.enumerate())
    assert len(every) == len(set(every)) == space.size
    assert space.decode(space.encode(every)) == every


def test_equal_networks_have_equal_architectures() -> None:
    """In `nested` no two architectures build networks of the same modules, as long as something tells them apart."""
    space = make("nested")
    built = {repr(space.build(a)) for a in space.enumerate()}
    assert len(built) == space.size


# -- inputs


def test_inputs() -> None:
    several = make("several")
    assert [tuple(t.shape) for t in several.inputs(3)] == [(3, 3, 8, 8), (3, 1, 8, 8)]
    assert torch.equal(several.inputs()[0], several.inputs()[0])


def test_example_inputs_at_other_batches() -> None:
    ids, mask, scalar = torch.arange(6).reshape(2, 3), torch.ones(3, 3), torch.tensor(2.0)
    space = SearchSpace(LayerChoice([nn.ReLU()]), example_inputs=(ids, mask, scalar))
    one, two, four = (space.inputs(n) for n in (1, 2, 4))
    assert torch.equal(one[0], ids[:1])
    assert torch.equal(two[0], ids)
    assert torch.equal(four[0], ids[[0, 0, 0, 0]])
    for tensors in (one, two, four):
        assert tensors[1] is mask
        assert tensors[2] is scalar
    assert torch.equal(SearchSpace(LayerChoice([nn.ReLU()]), example_inputs=ids).inputs()[0], ids[:1])


@pytest.mark.parametrize("shape", [(3, 0), (3, -1), (3, 2.5), ((3, 8), (0,))])
def test_bad_shapes(shape: Any) -> None:
    with pytest.raises(SpaceError, match="positive whole numbers"):
        SearchSpace(LayerChoice([nn.ReLU()]), shape)


def test_either_shape_or_examples() -> None:
    for arguments in ({}, {"input_shape": (3,), "example_inputs": torch.ones(1, 3)}):
        with pytest.raises(SpaceError, match="either input_shape or example_inputs"):
            SearchSpace(LayerChoice([nn.ReLU()]), **arguments)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="module or a function"):
        SearchSpace("net", (3,))  # type: ignore[arg-type]


def test_names() -> None:
    def my_net() -> nn.Module:
        return LayerChoice([nn.ReLU()])

    assert SearchSpace(my_net, (3,)).name == "my_net"
    assert SearchSpace(LayerChoice([nn.ReLU()]), (3,)).name == "LayerChoice"
    assert SearchSpace(my_net, (3,), name="mine").sample(1, np.random.default_rng(0))[0].space == "mine"


# -- the cache


USES = """
import sys
import numpy as np
from hwnas.spaces.registry import load_space
from hwnas.spaces.usage import terms, usage
space = load_space({name!r})
architectures = space.sample(5, np.random.default_rng(0))
usage(space.description, space.encode(architectures), live=True), terms(space.description, live=True)
print(space.fingerprint, len(space.workloads()), "torch" in sys.modules)
"""


@pytest.mark.parametrize("name", space_names())
def test_built_in_spaces_are_used_without_torch_the_second_time(name: str, tmp_path: Path) -> None:
    def run() -> list[str]:
        environment = {"HWNAS_CACHE": str(tmp_path), "PATH": ""}
        command = [sys.executable, "-P", "-c", USES.format(name=name)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=100
        ).stdout.split()

    first, second = run(), run()
    assert first[:2] == second[:2]
    assert (first[2], second[2]) == ("True", "False")


def test_a_foreign_cache_entry_is_replaced() -> None:
    space = load_space("proxyless-small")
    key = space._cache_key(1)
    foreign: list[Any] = [{}, [], {"decisions": 3}, {"decisions": [{}], "workloads": [], "nodes": [], "outputs": []}]
    for data in foreign:
        Cache().put_json("space", key, data)
        assert load_space("proxyless-small").size == 86_436
    assert load_space("proxyless-small")._cached(1) == space.description


def test_users_spaces_are_never_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    assert make("residual").size == 250
    assert list(tmp_path.iterdir()) == []


class Listed(nn.Module):
    """Keeps its blocks in a plain list, and one in a dictionary, a method and a partial function."""

    def __init__(self) -> None:
        super().__init__()
        self.op = LayerChoice({"relu": nn.ReLU(), "double": nn.Sequential(nn.ReLU(), nn.Linear(3, 3))})
        self.blocks = [self.op, nn.Tanh()]
        self.by_name = {"op": (self.op,)}
        self.method = self.run
        self.function = partial(self.run, times=1)

    def run(self, x: Tensor, times: int = 1) -> Tensor:
        for _ in range(times):
            x = self.op(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.function(self.method(torch.as_tensor(self.by_name["op"][0](x))))


def test_choices_in_plain_attributes_are_replaced_too() -> None:
    space = SearchSpace(Listed, (3,), name="listed")
    supernet = space.supernet()
    before = dict(vars(supernet))
    net = space.build(Architecture("listed", {"op": "double"}), supernet)
    assert isinstance(net, Listed)
    calls: list[nn.Module] = []
    for module in net.modules():
        module.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    net(*space.inputs())
    assert sum(isinstance(module, nn.Linear) for module in calls) == 4
    assert vars(supernet) == before
    assert net.blocks[0] is net.op
    assert net.method.__self__ is net  # type: ignore[attr-defined]


def test_a_factory_that_gives_the_same_module_again_shares_nothing() -> None:
    module = nn.Sequential(LayerChoice([nn.Linear(4, 4), nn.Linear(4, 4)]))
    space = SearchSpace(lambda: module, (4,))
    space.supernet().to("meta")
    network, again = (space.build(space.sample(1, np.random.default_rng(0))[0]) for _ in range(2))
    assert not {id(p) for p in network.parameters()} & {id(p) for p in again.parameters()}
    assert len(list(module.parameters())) == 4
    assert all(p.device.type == "cpu" for p in module.parameters())
