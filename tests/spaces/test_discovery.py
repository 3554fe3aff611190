"""Discovery: what it finds in supernets of many kinds, and what it says where one cannot be used."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.errors import HwnasError
from hwnas.spaces import discovery
from hwnas.spaces.calls import bind, example_tensors
from hwnas.spaces.choices import InputChoice, LayerChoice
from hwnas.spaces.description import SpaceDescription, SpaceError
from hwnas.spaces.registry import load_space, space_names
from hwnas.spaces.space import SearchSpace
from hwnas.spaces.tracer import trace
from hwnas.testing.zoo import ZOO
from hwnas.testing.zoo_graphs import Head, conv
from torch import Tensor, nn

EVERY = [*ZOO, *space_names()]


def make(name: str) -> SearchSpace:
    return ZOO[name]() if name in ZOO else load_space(name)


class Chain(nn.Module):
    """Modules one after the other, with glue in front of the last one."""

    def __init__(self, *parts: nn.Module, glue: Callable[[Tensor, Tensor], Tensor] = lambda first, x: x) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.glue = glue

    def forward(self, x: Tensor) -> Tensor:
        first = x
        for part in self.parts[:-1]:
            x = part(x)
        return torch.as_tensor(self.parts[-1](self.glue(first, x)))


def space(*parts: nn.Module, glue: Callable[[Tensor, Tensor], Tensor] = lambda first, x: x) -> SearchSpace:
    return SearchSpace(lambda: Chain(*parts, glue=glue), (3, 8, 8), name="s")


# -- what is found


def test_shapes_downstream_of_strides() -> None:
    """Each candidate is met at every shape that the ones before it can give, and at no other."""
    ops = {w.op: set[str]() for w in make("strided").workloads()}
    for w in make("strided").workloads():
        ops[w.op].add(w.shapes)
    assert ops["conv2dk1x1"] == {"3x16x16->4x16x16", "3x16x16->6x16x16", "4x16x16->4x8x8", "4x8x8->4x4x4"}
    assert ops["conv2dk3x3"] == {"4x16x16->4x16x16", "6x16x16->4x16x16"}  # the widths are tied


def test_lengths_that_depend_on_kernels() -> None:
    last = {w.shapes for w in make("audio").workloads() if w.path.startswith("layers.4.")}
    lengths = {n for first in (49, 47) for k in (3, 5, 9) for n in (first - k + 1, (first - k + 1) // 2)}
    assert last == {f"4x{n}->4x{n - k + 1}" for n in lengths for k in (3, 5)}


def test_reach_of_nested_and_tied_choices() -> None:
    decisions = make("transformer").decisions
    assert [d.label for d in decisions] == [
        "layers.0", "heads", "layers.0.layer.mlp", "layers.1", "layers.1.layer.mlp", "layers.2", "layers.2.layer.mlp",
    ]  # fmt: skip
    assert decisions[0].reach == ((),)
    assert decisions[1].reach == (((0, 0),), ((3, 0),), ((5, 0),))
    assert decisions[4].reach == (((3, 0),),)


def test_parts_that_are_called_one_by_one() -> None:
    fixed = [node.path for node in make("needs-data").description.nodes if node.decision is None]
    assert fixed == ["parts.0", "parts.1", "parts.2"]


@pytest.mark.parametrize("name", EVERY)
def test_workloads_can_be_made_again(name: str) -> None:
    """From what the description keeps of it, each workload is traced to the same operators."""
    own = make(name)
    supernet = own.supernet().to("meta")
    for w in own.workloads():
        module = bind(supernet.get_submodule(w.path), w.call)
        inputs = [t.to("meta") for t in example_tensors(w.inputs)]
        assert trace(module, inputs).simplified().digest() == w.digest
        assert w.key() == f"{w.op} {w.shapes}{w.key().partition(w.shapes)[2]}"
    assert len({w.key() for w in own.workloads()}) == len(own.workloads())


def test_attention_on_one_tensor_stays_so() -> None:
    """query is key is value: one projection, not three."""
    attention = next(w for w in make("transformer").workloads() if w.op == "attention")
    assert attention.inputs == (((1, 12, 16), "float32"),)


def test_on_data_and_without_it_is_the_same() -> None:
    for name in ("residual", "transformer", "darts", "nested", "strided"):
        own = make(name)
        real = discovery.Discovery(own.supernet(), own.inputs()).run()
        assert real == own.description


def test_one_run_where_shapes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[object] = []
    explore = discovery.Discovery._explore

    def counted(self: discovery.Discovery, *plan: Any) -> Any:
        runs.append(plan)
        return explore(self, *plan)

    monkeypatch.setattr(discovery.Discovery, "_explore", counted)
    assert len(load_space("nasbench201")._discover(1).nodes) == 95
    assert len(runs) == 1


def test_the_users_module_is_left_as_it_was() -> None:
    module = Chain(LayerChoice([nn.Conv2d(3, 3, 1), nn.Identity()]), nn.BatchNorm2d(3)).train()
    before = {name: (value.clone(), value.device) for name, value in module.state_dict().items()}
    for factory in (module, lambda: module):
        own = SearchSpace(factory, (3, 8, 8), name="s")
        assert len(own.workloads()) == 2
        net = own.build(own.sample(1, np.random.default_rng(0))[0], module)
        net(torch.ones(2, 3, 8, 8))  # in training mode: the copy's statistics change
        for name, value in module.state_dict().items():
            assert torch.equal(value, before[name][0])
            assert value.device == before[name][1]
    assert all(child.training for child in module.modules())
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in module.modules())


# -- the description as data


@pytest.mark.parametrize("name", EVERY)
def test_description_through_json(name: str) -> None:
    description = make(name).description
    again = SpaceDescription.from_dict(json.loads(json.dumps(description.to_dict())))
    assert again == description
    assert again.fingerprint == description.fingerprint


@pytest.mark.parametrize("name", ["residual", "transformer", "strided", "shared", "proxyless-small"])
def test_batches(name: str) -> None:
    """At another batch the same operators in the same places; the fingerprint of a space is that of batch 1."""
    own = make(name)
    fingerprint = make(name).fingerprint
    many, one = own.describe(8), own.description
    assert own.fingerprint == fingerprint == one.fingerprint
    assert (many.batch, one.batch) == (8, 1)
    assert [(w.op, w.shapes, w.path, w.fixed) for w in many.workloads] == [
        (w.op, w.shapes, w.path, w.fixed) for w in one.workloads
    ]
    assert many.nodes == one.nodes
    for w, w1 in zip(many.workloads, one.workloads, strict=True):
        assert [shape[0] for shape, _ in w.inputs] == [8 * shape[0] for shape, _ in w1.inputs]
        assert "b8 fp32" in w.key(8)


def test_fingerprint_in_another_process() -> None:
    names = ["darts", "nested", "strided", "several"]
    code = f"from hwnas.testing.zoo import ZOO\nfor n in {names}: print(ZOO[n]().fingerprint)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert found.stdout.split() == [make(name).fingerprint for name in names]
    assert len(set(found.stdout.split())) == len(names)


def test_fingerprints_tell_heads_apart() -> None:
    """Labels and shapes alike; only the operators differ."""

    def attention(heads: int) -> SearchSpace:
        layers = LayerChoice({"a": nn.MultiheadAttention(8, heads), "b": nn.MultiheadAttention(8, 1)})
        return SearchSpace(Attention(layers), (4, 8), name="s")

    assert attention(2).fingerprint != attention(4).fingerprint
    assert attention(2).fingerprint == attention(2).fingerprint


class Attention(nn.Module):
    def __init__(self, choice: LayerChoice) -> None:
        super().__init__()
        self.choice = choice

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.choice(x, x, x)[0])


# -- what cannot be used


def boom(*_: Any, **__: Any) -> Any:
    raise RuntimeError("on fire\nand more")


def strides(label: str = "stride") -> LayerChoice:
    return LayerChoice({"s1": conv(3, 3), "s2": conv(3, 3, 3, 2)}, label=label)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: space(nn.Conv2d(3, 3, 1), nn.ReLU()), "no LayerChoice and no InputChoice"),
        (
            lambda: space(LayerChoice([nn.ReLU()]), nn.Linear(7, 2)),
            r"supernet cannot run; module 'parts.1' \(Linear\) fails on 1x3x8x8: RuntimeError: ",
        ),
        (
            lambda: space(strides(), nn.Flatten(), nn.Linear(192, 2)),
            r"'stride': candidate 's2' returns 1x3x4x4 float32 where 's1' returns 1x3x8x8 float32.*"
            r"'parts.2' \(Linear\) fails on 1x48",
        ),
        (
            lambda: space(strides(), nn.ReLU(), glue=torch.add),
            r"'stride': candidate 's2' returns 1x3x4x4.*cannot take it; module 'the network itself' \(Chain\)",
        ),
        (
            lambda: space(strides(), nn.Flatten(), LayerChoice([nn.Identity(), nn.Linear(192, 2)], label="last")),
            r"'stride': candidate 's2' returns 1x3x4x4.*'last': candidate '1' cannot take its input \(1x48 float32\)",
        ),
        (
            lambda: space(LayerChoice({"a": nn.ReLU(), "b": nn.Conv2d(5, 3, 1)}, label="op")),
            r"choice 'op': candidate 'b' cannot take its input \(1x3x8x8 float32\): RuntimeError: .*5 channels",
        ),
        (
            lambda: space(
                LayerChoice({"a": nn.ReLU(), "b": nn.Tanh()}, label="op"), LayerChoice([nn.ReLU()], label="op")
            ),
            r"choices of label 'op' share one decision but differ: a \| b and 0",
        ),
        (
            lambda: space(LayerChoice([nn.ReLU(), LayerChoice([nn.ReLU(), nn.Tanh()], label="op")], label="op")),
            r"choice 'op' is nested in itself at 'parts.0.1'",
        ),
        (lambda: SearchSpace(boom, (3,), name="s"), "space 's': its supernet cannot be built: RuntimeError: on fire$"),
        (lambda: SearchSpace(lambda: 3, (3,), name="s"), "the factory returned a int"),  # type: ignore[arg-type, return-value]
        (lambda: SearchSpace(lambda: space(nn.ReLU()), (3,), name="s"), "returned a SearchSpace"),  # type: ignore[arg-type, return-value]
        (
            lambda: space(LayerChoice([nn.ReLU()]), nn.Identity(), glue=lambda first, x: boom()),
            r"cannot run; module 'the network itself' \(Chain\) fails on 1x3x8x8: RuntimeError: on fire$",
        ),
        (lambda: SearchSpace(Called(), (3,), name="s"), "called with a slice"),
    ],
)
def test_spaces_that_cannot_be_used(make: Callable[[], SearchSpace], message: str) -> None:
    with pytest.raises(HwnasError, match=message) as caught:
        _ = make().description
    assert "\n" not in str(caught.value)


class Called(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.choice = LayerChoice([Sliced(), nn.Identity()])

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.choice(x, slice(0, 1)))


class Sliced(nn.Module):
    def forward(self, x: Tensor, part: slice) -> Tensor:
        return x[part]


def test_entangled_shapes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "MAX_RUNS", 10)
    entangled = [InputChoice(4, None, "concat", label=f"c{i}") for i in range(4)]

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choices = nn.ModuleList(entangled)
            self.head = Head(1)

        def forward(self, x: Tensor) -> Tensor:
            joined = torch.cat([choice([x] * 4) for choice in self.choices], 1)
            return torch.as_tensor(self.head(joined.mean(1, keepdim=True)))

    with pytest.raises(SpaceError, match="more than 10 combinations of choices"):
        _ = SearchSpace(Wide, (1, 4, 4), name="s").description


def test_a_candidate_that_cannot_be_traced_keeps_its_place() -> None:
    class Looks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float(x.sum() > 0)

    def net() -> nn.Module:
        return nn.Sequential(LayerChoice({"linear": nn.Linear(4, 4), "looks": Looks()}), nn.Linear(4, 2))

    workloads = SearchSpace(net, input_shape=(4,)).workloads()
    assert [w.op for w in workloads] == ["linear", "looks", "linear"]
    assert workloads[1].digest == SearchSpace(net, input_shape=(4,)).workloads()[1].digest
