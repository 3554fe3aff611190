"""Weights in files of every kind, and out of supernets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.search.checkpoint import save_checkpoint
from hwnas.search.weights import WeightsError, network_with_weights, read_states, save_weights
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from torch import nn


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("proxyless-small", {"resolution": 8})


@pytest.fixture(scope="module")
def architecture(space: SearchSpace) -> Architecture:
    return space.sample(1, np.random.default_rng(0))[0]


@pytest.fixture
def trained(space: SearchSpace, architecture: Architecture) -> nn.Module:
    """A network with other weights than any fresh one."""
    network = network_with_weights(space, architecture, seed=9).network
    for p in network.parameters():
        p.data += 0.5
    return network


def same(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return list(one) == list(other) and all(torch.equal(one[k], other[k]) for k in one)


def test_fresh_weights_follow_from_the_seed_alone(space: SearchSpace, architecture: Architecture) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = network_with_weights(space, architecture, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert same(first.network, network_with_weights(space, architecture, seed=1).network)
    assert not same(first.network, network_with_weights(space, architecture, seed=2).network)
    assert first.source == "fresh"


def test_safetensors(space: SearchSpace, architecture: Architecture, trained: nn.Module, tmp_path: Path) -> None:
    trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_weights(tmp_path / "weights.safetensors", trained)
    for path in (tmp_path / "weights.safetensors", tmp_path):
        found = network_with_weights(space, architecture, path)
        assert found.source == "network"
        assert same(found.network, trained)
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


def test_shared_tensors(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    save_weights(tmp_path / "w.safetensors", net)
    ((_, state),) = read_states(tmp_path / "w.safetensors")
    assert torch.equal(state["0.weight"], state["1.weight"])


def test_state_dicts_wherever_they_are(
    space: SearchSpace, architecture: Architecture, trained: nn.Module, tmp_path: Path
) -> None:
    for i, data in enumerate((trained.state_dict(), {"epoch": 3, "model": {"weights": trained.state_dict()}})):
        torch.save(data, tmp_path / f"{i}.pt")
        assert same(network_with_weights(space, architecture, tmp_path / f"{i}.pt").network, trained)


def test_checkpoints_of_a_training(
    space: SearchSpace, architecture: Architecture, trained: nn.Module, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "checkpoint", 4, {"network": trained.state_dict(), "step": 4})
    for path in (tmp_path, tmp_path / "checkpoint", tmp_path / "checkpoint" / "step-000000000004.pt"):
        assert same(network_with_weights(space, architecture, path).network, trained)


def test_out_of_a_supernet(space: SearchSpace, architecture: Architecture, tmp_path: Path) -> None:
    torch.manual_seed(3)
    supernet = space.supernet()
    save_checkpoint(tmp_path / "checkpoint", 0, {"supernet": supernet.state_dict(), "alphas": [torch.zeros(6)] * 6})
    found = network_with_weights(space, architecture, tmp_path, seed=8)
    assert found.source == "supernet"
    assert same(found.network, space.build(architecture, supernet))


def test_in_the_folder_of_a_search_whatever_fits_is_found(
    space: SearchSpace, architecture: Architecture, trained: nn.Module, tmp_path: Path
) -> None:
    supernet = space.supernet()
    save_checkpoint(tmp_path / "checkpoint" / "search", 9, {"supernet": supernet.state_dict()})
    (tmp_path / "final").mkdir()
    save_weights(tmp_path / "final" / "weights.safetensors", trained)
    assert same(network_with_weights(space, architecture, tmp_path).network, trained)
    other = space.sample(1, np.random.default_rng(3))[0]
    found = network_with_weights(space, other, tmp_path)
    assert found.source == "supernet"
    assert same(found.network, space.build(other, supernet))


def test_weights_of_another_network(space: SearchSpace, trained: nn.Module, tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", trained)
    other = space.sample(1, np.random.default_rng(3))[0]
    with pytest.raises(WeightsError, match=r"does not fit the network: .* are --arch, --space"):
        network_with_weights(space, other, tmp_path / "w.safetensors")


def test_weights_for_other_classes(architecture: Architecture, trained: nn.Module, tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", trained)
    space = load_space("proxyless-small", {"resolution": 8, "classes": 4})
    with pytest.raises(WeightsError, match=r"classifier\.weight is 10x128, not 4x128 and 1 more differ"):
        network_with_weights(space, architecture, tmp_path / "w.safetensors")


class Hostile:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('code was run')",)


def write_pickle(path: Path) -> None:
    torch.save({"state": Hostile()}, path)


def write_nothing(path: Path) -> None:
    path.touch()


def write_truncated(path: Path) -> None:
    path.write_bytes((1000).to_bytes(8, "little") + json.dumps({"a": 1}).encode())


def write_no_weights(path: Path) -> None:
    torch.save({"step": 3, "empty": {}}, path)


@pytest.mark.parametrize("write", [write_pickle, write_nothing, write_truncated, write_no_weights])
def test_files_that_hold_no_weights(space: SearchSpace, architecture: Architecture, tmp_path: Path, write: Any) -> None:
    write(tmp_path / "w")
    with pytest.raises(WeightsError, match=r"w(eights)? .*(neither safetensors nor|holds no weights)"):
        network_with_weights(space, architecture, tmp_path / "w")


def test_no_file_and_an_empty_folder(space: SearchSpace, architecture: Architecture, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No such file"):
        network_with_weights(space, architecture, tmp_path / "none")
    with pytest.raises(WeightsError, match=r"neither weights\.safetensors nor a checkpoint"):
        network_with_weights(space, architecture, tmp_path)
