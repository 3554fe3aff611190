"""Lowered forms: stored and read again, found again in built networks, and served without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hwnas.cache import Cache
from hwnas.devices.data import Artifact, TensorSpec
from hwnas.profiler import artifacts
from hwnas.profiler.artifacts import Lowerer, pack, unpack
from hwnas.profiler.progress import Silent
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.zoo import ZOO
from torch import Tensor, nn

SPECS = (TensorSpec("input_0", (2, 3, 8), "float32"), TensorSpec("ids", (), "int64", 50))


@pytest.mark.parametrize("data", [b"", b"\n", b"\x00\n{}\n\xff" * 9])
def test_an_artifact_is_read_as_it_was_stored(data: bytes) -> None:
    artifact = Artifact("onnx", data, SPECS, "d1", "emitter", {"0#0/Conv_0": "stem\n#0", "x": ""})
    cost = {"lowering_ms": 1.5}
    assert unpack(pack(artifact, cost)) == (artifact, cost)


@pytest.mark.parametrize("name", ["nested", "transformer", "shared", "instance", "several"])
def test_every_node_that_is_reached_has_its_place_in_the_built_network(name: str) -> None:
    space = ZOO[name]()
    lowerer = Lowerer(space, "onnx")
    there = 0
    for architecture in space.sample(12, np.random.default_rng(0)):
        chosen = space.encode([architecture])[0]
        network = space.build(architecture)
        modules = dict(network.named_modules())
        for number, node in enumerate(space.description.nodes):
            if all(chosen[d] == c for d, c in node.reach):
                assert lowerer.built_path(number) in modules
                there += node.decision is not None
    assert there > 12


def test_the_names_of_candidates_are_left_out_of_built_paths() -> None:
    space = ZOO["nested"]()
    lowerer = Lowerer(space, "onnx")
    by_path = {node.path: lowerer.built_path(i) for i, node in enumerate(space.description.nodes)}
    assert by_path["cells.0"] == "cells.0"
    assert by_path["cells.1.double_.0"] == "cells.1.0"
    assert by_path["cells.1.deep.0.1.1"] == "cells.1.0.1"


def test_owners_name_nodes_of_the_description() -> None:
    space = ZOO["nested"]()
    lowerer = Lowerer(space, "onnx")
    (architecture,) = space.sample(1, np.random.default_rng(0))
    owners = {owner for owner in lowerer.network(architecture).owners.values() if owner}
    known = {f"{lowerer.built_path(i)}#{node.index}" for i, node in enumerate(space.description.nodes)}
    assert owners
    assert owners <= known


WITHOUT_TORCH = """
import sys
from pathlib import Path
import numpy as np
from hwnas.profiler.artifacts import Lowerer
from hwnas.spaces.registry import load_space

space = load_space("proxyless-small", {"resolution": 8})
lowerer = Lowerer(space, "onnx")
network = lowerer.network(space.sample(1, np.random.default_rng(0))[0])
workload = lowerer.workload(space.workloads()[0])
assert not [name for name in ("torch", "onnx") if name in sys.modules]
assert lowerer.seconds == 0
print(network.digest, len(network.data), workload.digest, len(network.owners) > 5)
"""


def test_what_was_lowered_before_needs_no_torch() -> None:
    space = load_space("proxyless-small", {"resolution": 8})
    lowerer = Lowerer(space, "onnx")
    network = lowerer.network(space.sample(1, np.random.default_rng(0))[0])
    workload = lowerer.workload(space.workloads()[0])
    assert lowerer.seconds > 0
    result = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [network.digest, str(len(network.data)), workload.digest, "True"]


def test_cached_forms_are_of_this_version_format_and_route(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    space = load_space("proxyless-small", {"resolution": 8})
    workload = space.workloads()[0]

    def seconds(format: str = "onnx", route: str = "emitter") -> float:
        lowerer = Lowerer(space, format, route=route)
        assert lowerer.workload(workload).format == format
        return lowerer.seconds

    seconds()
    assert seconds() == 0
    assert seconds("ops", "ops") > 0
    assert seconds("ops", "ops") == 0
    monkeypatch.setattr(artifacts, "FORMAT_VERSION", artifacts.FORMAT_VERSION + 1)
    assert seconds() > 0


def test_networks_of_user_s_spaces_are_lowered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    space = ZOO["residual"]()
    (architecture,) = space.sample(1, np.random.default_rng(0))
    kept = []
    monkeypatch.setattr(Cache, "put_bytes", lambda self, kind, name, data: kept.append(kind))
    lowerer = Lowerer(space, "onnx")
    assert lowerer.network(architecture) == lowerer.network(architecture)
    assert kept == []


class Sorted(nn.Module):
    """What neither the emitter nor torch's exporter has a form for."""

    def forward(self, x: Tensor) -> Tensor:
        return x.histc(4) + x.sum()


def test_operators_that_cannot_be_lowered_are_reported_by_digest() -> None:
    choice = LayerChoice({"plain": nn.ReLU(), "odd": Sorted()})
    space = SearchSpace(nn.Sequential(nn.Linear(4, 4), choice, nn.Flatten(0)), (4,), name="odd")
    odd = next(w for w in space.workloads() if "sorted" in w.op.lower())
    lowerer = Lowerer(space, "onnx")
    plain = next(a for a in space.enumerate() if "plain" in a.choices.values())
    failures = lowerer.choose_route(plain, Silent())
    assert list(failures) == [odd.digest]
    assert "histc" in failures[odd.digest]
    assert lowerer.route == "emitter"
