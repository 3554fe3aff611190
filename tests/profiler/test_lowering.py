"""`lower`: routes, verification, owners, formats, and errors that name what is in the way."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hwnas.devices.data import Artifact
from hwnas.devices.flops import count
from hwnas.profiler.lowering import LoweringError, lower, randomise_batch_norms
from hwnas.profiler.lowering import verify as verification
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, channels: int, act: type[nn.Module] = nn.ReLU6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self, tail: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.block = Block(8)
        self.nothing = nn.Identity()
        self.head = nn.Linear(8, 5)
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.nothing(self.block(self.stem(x)))).mean((2, 3))
        return self.head(x) if self.tail is None else self.tail(self.head(x))


def net(tail: Callable[[Tensor], Tensor] | None = None) -> Net:
    module = Net(tail)
    randomise_batch_norms(module)
    return module


IMAGE = torch.randn(2, 3, 9, 9)


def run(artifact: Artifact, *inputs: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(artifact.data, providers=["CPUExecutionProvider"])
    return session.run(None, {spec.name: tensor.numpy() for spec, tensor in zip(artifact.inputs, inputs, strict=True)})


def watched(module: Net) -> dict[str, nn.Module]:
    return {"cells.0": module.block, "cells.0/norm": module.block.norm, "head": module.head, "skip": module.nothing}


@pytest.mark.parametrize("route", ["emitter", "torch.onnx"])
def test_both_routes_compute_what_torch_does(route: str) -> None:
    module = net()
    artifact = lower(module, [IMAGE], route=route)
    assert (artifact.format, artifact.route) == ("onnx", route)
    onnx.checker.check_model(onnx.load_from_string(artifact.data), full_check=True)
    expected = module.eval()(IMAGE).detach().numpy()
    np.testing.assert_allclose(run(artifact, IMAGE)[0], expected, rtol=1e-3, atol=1e-5)


def test_lowering_is_deterministic_and_leaves_the_module_alone() -> None:
    module = net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    first, second = lower(module, [IMAGE]), lower(module, [IMAGE])
    assert first == second
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert first.digest == lower(net(), [IMAGE]).digest
    assert first.digest != lower(net(), [IMAGE[:1]]).digest


def test_emitted_model_is_what_a_good_exporter_gives() -> None:
    nodes = [node.op_type for node in onnx.load_from_string(lower(net(), [IMAGE]).data).graph.node]
    block = ["Conv", "Clip", "Add"]
    assert nodes == ["Conv", *block, *block, "GlobalAveragePool", "Reshape", "Gemm"]


def test_attention_keeps_its_rank() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    artifact = lower(layer, [torch.randn(2, 5, 16)], watch={"ff": layer.linear1})
    model = onnx.load_from_string(artifact.data)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("LayerNormalization") == 2
    assert kinds.count("Softmax") == 1
    feed_forward = [node.op_type for node in model.graph.node if artifact.owners[node.output[0]] == "ff#0"]
    assert feed_forward == ["MatMul", "Add"]


def test_owners_cover_every_tensor_and_tell_the_calls_apart() -> None:
    module = net()
    artifact = lower(module, [IMAGE], watch=watched(module))
    model = onnx.load_from_string(artifact.data)
    produced = [name for node in model.graph.node for name in node.output]
    assert set(artifact.owners) == set(produced)
    owners = [artifact.owners[name] for name in produced]
    expected = ["", *["cells.0#0"] * 3, *["cells.0#1"] * 3, "", "", "head#0"]
    assert owners == expected
    assert all(owner in node.name for node, owner in zip(model.graph.node, owners, strict=True))


def test_owners_of_the_exporter_follow_its_scopes() -> None:
    module = net(lambda x: x.cumsum(1))
    artifact = lower(module, [IMAGE], watch=watched(module))
    assert artifact.route == "torch.onnx"
    model = onnx.load_from_string(artifact.data)
    by_kind = {node.op_type: artifact.owners[node.output[0]] for node in model.graph.node}
    assert by_kind["CumSum"] == ""
    assert by_kind["Clip"] == "cells.0#0"
    assert by_kind["Gemm"] == "head#0"
    assert not any(node.metadata_props for node in model.graph.node)


def test_exporter_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    lower(net(), [IMAGE], route="torch.onnx")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_fallback_keeps_the_digest_of_the_operators() -> None:
    first, second = (lower(net(lambda x: x.cumsum(1)), [IMAGE]) for _ in range(2))
    assert first.digest == second.digest
    assert first.digest != lower(net(), [IMAGE]).digest


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum().item() > 0 else x


def test_what_no_route_can_lower_is_named() -> None:
    with pytest.raises(LoweringError, match=r"Branches.*_local_scalar_dense.*torch\.onnx"):
        lower(Branches(), [IMAGE])
    with pytest.raises(LoweringError, match=r"Branches.*emitter.*_local_scalar_dense"):
        lower(Branches(), [IMAGE], route="emitter")
    with pytest.raises(LoweringError, match="cumsum"):
        lower(net(lambda x: x.cumsum(1)), [IMAGE], route="emitter")


def test_shapes_that_depend_on_data_are_left_to_the_exporter() -> None:
    class Positive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nonzero(x > 0)

    assert lower(Positive(), [IMAGE]).route == "torch.onnx"


def test_a_wrong_model_is_caught_and_the_exporter_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwnas.profiler.lowering import pointwise

    monkeypatch.setitem(pointwise.TABLE, "hardtanh", pointwise.TABLE["sigmoid"])
    assert lower(net(), [IMAGE]).route == "torch.onnx"
    with pytest.raises(LoweringError, match="differs from torch"):
        lower(net(), [IMAGE], route="emitter")
    assert lower(net(), [IMAGE], route="emitter", verify=False).route == "emitter"


def test_a_wrong_model_of_the_exporter_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "difference", lambda *_: "it is wrong")
    with pytest.raises(LoweringError, match=r"Net comes out wrong from torch\.onnx.*it is wrong"):
        lower(net(), [IMAGE])


def test_integer_and_several_inputs() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 4)

        def forward(self, tokens: Tensor, x: Tensor, unused: Tensor) -> dict[str, Any]:
            return {"y": self.table(tokens) + x, "all": [x, tokens]}

    tokens, x = torch.tensor([[3, 41, 7]]), torch.randn(1, 3, 4)
    artifact = lower(Pair(), [tokens, x, x])
    assert [(spec.name, spec.shape, spec.dtype, spec.high) for spec in artifact.inputs] == [
        ("input_0", (1, 3), "int64", 42), ("input_1", (1, 3, 4), "float32", 1), ("input_2", (1, 3, 4), "float32", 1),
    ]  # fmt: skip
    assert [array.shape for array in run(artifact, tokens, x, x)] == [(1, 3, 4), (1, 3, 4), (1, 3)]


def test_identity_and_constant_modules() -> None:
    assert lower(nn.Identity(), [IMAGE], route="emitter").owners
    assert run(lower(nn.Identity(), [IMAGE]), IMAGE)[0].shape == tuple(IMAGE.shape)


def test_random_batch_norms_are_seeded_and_not_trivial() -> None:
    first, second, third = (nn.BatchNorm2d(4) for _ in range(3))
    for module, seed in ((first, 1), (second, 1), (third, 2)):
        randomise_batch_norms(module, seed)
    for name in ("running_mean", "running_var", "weight", "bias"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert not torch.equal(getattr(first, name), getattr(third, name))
        assert getattr(first, name).unique().numel() == 4
    randomise_batch_norms(nn.BatchNorm1d(4, affine=False, track_running_stats=False), 0)


def test_exceptions_of_the_module_are_its_own() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        lower(net(), [torch.randn(1, 4, 9, 9)])


def test_unknown_format_or_route() -> None:
    with pytest.raises(ValueError, match="coreml"):
        lower(net(), [IMAGE], format="coreml")
    with pytest.raises(ValueError, match=r"tflite.*torch\.onnx"):
        lower(net(), [IMAGE], format="tflite", route="torch.onnx")
    with pytest.raises(ValueError, match="magic"):
        lower(net(), [IMAGE], route="magic")


OPS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "net": (net(), (2, 3, 9, 9)),
    "grouped": (nn.Conv2d(8, 4, 3, 2, 1, groups=2), (3, 8, 9, 7)),
    "transposed": (nn.ConvTranspose2d(8, 4, 3, 2, groups=2), (2, 8, 5, 7)),
    "no batch": (nn.Conv1d(8, 4, 3), (8, 9)),
    "encoder": (nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), (2, 5, 16)),
    "linear": (nn.Linear(16, 4, bias=False), (3, 16)),
}


@pytest.mark.parametrize("name", OPS)
def test_ops_format_adds_up_to_the_counts(name: str) -> None:
    module, shape = OPS[name]
    x = torch.randn(shape)
    artifact = lower(module, [x], format="ops")
    assert (artifact.format, artifact.route) == ("ops", "ops")
    data, total = json.loads(artifact.data), count(module, [x])
    assert (data["macs"], data["params"]) == (total.macs, total.params)
    assert data["activation_bytes"] == total.activation_bytes
    assert sum(op["macs"] for op in data["ops"]) == total.macs
    assert artifact.digest == lower(module, [x]).digest


def test_ops_format_names_calls_and_shapes() -> None:
    module = net()
    operators = json.loads(lower(module, [IMAGE], format="ops", watch=watched(module)).data)["ops"]
    assert [op["call"] for op in operators if op["op"] == "convolution"] == ["", "cells.0#0", "cells.0#1"]
    stem = {"op": "convolution", "inputs": [[2, 3, 9, 9], [8, 3, 3, 3], [8]], "outputs": [[2, 8, 4, 4]], "macs": 6912}
    assert operators[0] == {**stem, "call": ""}


def test_ops_format_of_what_cannot_be_traced_has_its_counts() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(9, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) if x.sum().item() > -1e9 else x

    data = json.loads(lower(Gate(), [IMAGE], format="ops").data)
    assert (data["macs"], data["ops"]) == (2 * 27 * 18, [])
