"""`lower` to TFLite: what the files hold, routes, and errors that name what is in the way."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hwnas.profiler.artifacts import Lowerer
from hwnas.profiler.lowering import LoweringError, lower
from hwnas.profiler.lowering import verify as verification
from hwnas.profiler.lowering.exporting import ExportFailed
from hwnas.profiler.lowering.tflite import activations, emitter, export, writer
from hwnas.profiler.progress import Silent
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.random_spaces import random_space
from hwnas.testing.zoo import ZOO
from hwnas.tests.profiler.operator_cases import Function
from hwnas.tests.profiler.tflite_files import emitted, kinds, parsed, run
from torch import Tensor, nn

IMAGE = torch.randn(2, 8, 6, 10)
INSTALLED = importlib.util.find_spec("litert_torch") is not None


def conv(width: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    parts = nn.Conv2d(width, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)
    return nn.Sequential(*parts)


class MBConv(nn.Module):
    """Inverted residual with squeeze-excitation and h-swish, as in MobileNetV3."""

    def __init__(self, width: int, wide: int) -> None:
        super().__init__()
        self.expand, self.depthwise = conv(width, wide, 1), conv(wide, wide, 5, groups=wide)
        self.squeeze, self.excite = nn.Conv2d(wide, 4, 1), nn.Conv2d(4, wide, 1)
        self.project = conv(wide, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.depthwise(F.relu6(self.expand(x))))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return x + self.project(y * gate)


class Attention(nn.Module):
    """Self-attention with one matrix for queries, keys and values, as in vision transformers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


# -- what a file holds


def test_images_lie_channels_last_from_end_to_end() -> None:
    module = conv(3, 4, stride=2)
    x = torch.randn(2, 3, 9, 12)
    artifact = lower(module, [x], format="tflite")
    assert (artifact.format, artifact.route) == ("tflite", "emitter")
    assert [(spec.name, spec.shape, spec.dtype) for spec in artifact.inputs] == [("input_0", (2, 9, 12, 3), "float32")]
    (found,) = run(artifact.data, x.permute(0, 2, 3, 1).contiguous().numpy())
    expected = module.eval()(x).detach().permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_signature_names_inputs_and_outputs_in_order() -> None:
    module = Function(lambda x, y, unused: {"sum": x.sum((2, 3)) + y, "all": [y, x * 2]})
    model = parsed(emitted(module, IMAGE, torch.randn(8), torch.randn(3)))
    (signature,) = model.signatureDefs
    assert signature.signatureKey == b"serving_default"
    graph = model.subgraphs[0]
    for kind, named, tensors in (
        ("input", signature.inputs, graph.inputs),
        ("output", signature.outputs, graph.outputs),
    ):
        assert [each.name.decode() for each in named] == [f"{kind}_{i}" for i in range(3)]
        assert [each.tensorIndex for each in named] == list(tensors)
        assert len(set(tensors)) == 3
    assert [tuple(graph.tensors[i].shape) for i in graph.outputs] == [(2, 8), (8,), (2, 6, 10, 8)]


def test_constants_are_aligned_and_equal_weights_are_stored_once() -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1)
    once, twice = emitted(layer, IMAGE), emitted(Function(lambda x: layer(layer(x))), IMAGE)
    weights = layer.weight.numel() * 4
    assert len(twice) < len(once) + weights / 2
    for data in (once, twice):
        array = np.frombuffer(data, np.uint8)
        places = [_place(array, np.asarray(buffer.data)) for buffer in parsed(data).buffers if buffer.data is not None]
        assert places
        assert all(place % 16 == 0 for place in places)


def _place(data: np.ndarray, part: np.ndarray) -> int:
    return data.tobytes().index(part.tobytes())


def test_lowering_is_deterministic_and_knows_its_owners() -> None:
    module = nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 4))
    watch = {"first": module[0], "second": module[2]}
    first, second = (lower(module, [IMAGE], format="tflite", watch=watch) for _ in range(2))
    assert first == second
    assert list(first.owners.values()) == ["first#0", "second#0"]
    names = {tensor.name.decode() for tensor in parsed(first.data).subgraphs[0].tensors}
    assert set(first.owners) <= names
    assert first.digest == lower(module, [IMAGE]).digest


WITHOUT_ONNX = """
import sys
import torch
from hwnas.profiler.lowering import lower
lower(torch.nn.Conv2d(3, 4, 3), [torch.randn(1, 3, 8, 8)], format="tflite")
assert not [name for name in ("onnx", "onnxruntime") if name in sys.modules]
"""


def test_no_onnx_is_needed_and_nothing_is_printed() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_ONNX], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_operator_has_one_handler() -> None:
    modules = [value for value in vars(emitter).values() if hasattr(value, "TABLE")]
    assert len(emitter.handlers()) == sum(len(module.TABLE) for module in modules)
    assert len(emitter.handlers()) > 150


# -- the operators that a phone runs, and none besides

RELU6 = nn.ReLU6(inplace=True)
FORMS: dict[str, tuple[nn.Module, Sequence[int], str]] = {
    "mbconv": (
        nn.Sequential(conv(8, 24, 1), RELU6, conv(24, 24, 7, groups=24), RELU6, conv(24, 8, 1)), (1, 8, 6, 6),
        "CONV_2D DEPTHWISE_CONV_2D CONV_2D",
    ),
    "strided, odd": (conv(8, 8, 3, 2, 8), (1, 8, 7, 9), "DEPTHWISE_CONV_2D"),
    "strided, even": (conv(8, 8, 3, 2, 8), (1, 8, 8, 8), "PAD DEPTHWISE_CONV_2D"),
    "squeeze-excitation": (
        MBConv(8, 16), (2, 8, 6, 6),
        "CONV_2D DEPTHWISE_CONV_2D HARD_SWISH MEAN CONV_2D CONV_2D MUL MUL CONV_2D ADD",
    ),
    "squeeze-excitation by linear layers": (
        Function(lambda x: x * torch.sigmoid(F.linear(x.mean((2, 3)), torch.ones(8, 8)))[:, :, None, None]),
        (2, 8, 6, 6), "MEAN FULLY_CONNECTED LOGISTIC RESHAPE MUL",
    ),
    "pre-activation": (nn.Sequential(nn.ReLU(), conv(8, 8)), (1, 8, 6, 6), "RELU CONV_2D"),
    "average pool": (nn.AvgPool2d(3, 1, 1, count_include_pad=False), (1, 8, 6, 6), "AVERAGE_POOL_2D"),
    "average pool, padding counted": (nn.AvgPool2d(3, 1, 1), (1, 8, 6, 6), "PAD AVERAGE_POOL_2D"),
    "max pool": (nn.MaxPool2d(3, 2, 1), (1, 8, 6, 6), "PADV2 MAX_POOL_2D"),
    "max pool of what is not negative": (
        nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)), (1, 8, 6, 6), "CONV_2D PAD MAX_POOL_2D"
    ),
    "head": (
        nn.Sequential(conv(8, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
        (3, 8, 6, 6), "CONV_2D MEAN FULLY_CONNECTED",
    ),
    "flatten": (
        nn.Sequential(conv(8, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30, 7), nn.ReLU()), (2, 8, 5, 6),
        "CONV_2D RESHAPE FULLY_CONNECTED",
    ),
    "dense": (
        Function(lambda x: torch.cat([x, F.max_pool2d(x, 1), x[:, 2:4]], 1)), (2, 8, 5, 6),
        "MAX_POOL_2D SLICE CONCATENATION",
    ),
    "channels taken apart": (
        Function(lambda x: torch.cat([part * i for i, part in enumerate(x.chunk(2, 1), 2)], 1)), (1, 8, 5, 6),
        "SPLIT MUL MUL CONCATENATION",
    ),
    "channel shuffle": (nn.ChannelShuffle(2), (2, 8, 5, 6), "RESHAPE TRANSPOSE RESHAPE"),
    "pixel shuffle": (nn.PixelShuffle(2), (2, 8, 5, 6), "RESHAPE TRANSPOSE RESHAPE"),
    "transposed convolution": (nn.ConvTranspose2d(8, 4, 4, 2, 1), (2, 8, 5, 6), "TRANSPOSE_CONV"),
    "there and back": (
        Function(lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)), (2, 8, 5, 6),
        "MEAN SQUARED_DIFFERENCE MEAN ADD RSQRT SUB MUL",
    ),
    "patches": (
        Function(lambda x: F.conv2d(x, torch.ones(4, 8, 2, 2), stride=2).flatten(2).transpose(1, 2)), (2, 8, 4, 6),
        "CONV_2D RESHAPE",
    ),
    "signal": (
        nn.Sequential(nn.Conv1d(1, 4, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 4, 3), nn.ReLU()), (1, 1, 40),
        "RESHAPE CONV_2D MAX_POOL_2D CONV_2D RESHAPE TRANSPOSE",
    ),
    "linear with bias apart": (
        Function(lambda x: F.relu(x @ torch.ones(6, 3) + torch.ones(3))), (2, 5, 6), "FULLY_CONNECTED"
    ),
    "identity": (nn.Identity(), (1, 8, 5, 6), "RESHAPE"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_operators_of_common_blocks(name: str) -> None:
    module, shape, expected = FORMS[name]
    assert " ".join(kinds(emitted(module, torch.randn(*shape)))) == expected


def test_activations_fuse_only_where_nobody_else_reads() -> None:
    module = Function(lambda x: (y := x + 1, F.relu(y)))
    assert kinds(emitted(module, IMAGE)) == ["ADD", "RELU"]
    assert kinds(emitted(Function(lambda x: F.relu(x.transpose(1, 2) + 1)), IMAGE)) == ["ADD", "TRANSPOSE"]
    shared = Function(lambda x: (F.relu((y := x + 1).transpose(1, 3)), y))
    assert Counter(kinds(emitted(shared, IMAGE)))["RELU"] == 1


def test_attention_moves_each_of_its_operands_once() -> None:
    found = Counter(kinds(emitted(Attention(16, 4), torch.randn(2, 6, 16))))
    assert (found["TRANSPOSE"], found["BATCH_MATMUL"], found["FULLY_CONNECTED"]) == (4, 2, 2)


@pytest.mark.parametrize("name", ["proxyless", "nasbench201", "proxyless-small"])
def test_built_in_networks_have_no_stray_operators(name: str) -> None:
    space = load_space(name, {"resolution": 64} if name == "proxyless" else {})
    network = space.build(space.sample(1, np.random.default_rng(2))[0])
    data = emitted(network, *space.inputs(1))
    extra = Counter(kinds(data)) - Counter(dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "PAD"), 99))
    expected = {"proxyless": {"MEAN": 1, "FULLY_CONNECTED": 1}}
    expected["proxyless-small"] = expected["proxyless"]
    if name == "nasbench201":
        extra -= Counter({"RELU": 99, "AVERAGE_POOL_2D": 99, "MUL": 1})
    assert extra == expected.get(name, expected["proxyless"])


@pytest.mark.parametrize("name", [*ZOO, *(f"random{seed}" for seed in range(4))])
def test_spaces_of_all_kinds_are_lowered(name: str) -> None:
    space = random_space(int(name[6:])) if name.startswith("random") else ZOO[name]()
    for architecture in space.sample(2, np.random.default_rng(0)):
        emitted(space.build(architecture), *space.inputs(2 if name != "transformer" else 1))


# -- what cannot be lowered, and what comes out wrong


class Unsorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.histc(4) + torch.erf(x).sum()


@pytest.mark.skipif(INSTALLED, reason="litert-torch is installed")
def test_operators_that_tflite_lacks_are_named_with_a_hint() -> None:
    with pytest.raises(LoweringError, match=r"Unsorted.*TFLite form.*aten\.erf, aten\.histc.*pip install litert-torch"):
        lower(Unsorted(), [IMAGE], format="tflite", route="emitter")
    with pytest.raises(LoweringError, match=r"Unsorted.*aten\.histc.*nor by litert-torch.*pip install litert-torch"):
        lower(Unsorted(), [IMAGE], format="tflite")
    with pytest.raises(LoweringError, match="float64"):
        lower(nn.ReLU(), [IMAGE.double()], format="tflite")


@pytest.mark.skipif(INSTALLED, reason="litert-torch is installed")
def test_workloads_that_cannot_be_lowered_are_reported_by_digest() -> None:
    choice = LayerChoice({"plain": nn.ReLU(), "odd": Unsorted()})
    space = SearchSpace(nn.Sequential(nn.Linear(4, 4), choice, nn.Flatten(0)), (4,), name="odd")
    lowerer = Lowerer(space, "tflite")
    plain = next(a for a in space.enumerate() if "plain" in a.choices.values())
    failures = lowerer.choose_route(plain, Silent())
    (reason,) = failures.values()
    assert "histc" in reason
    assert "pip install litert-torch" in reason
    assert lowerer.route == "emitter"


def test_a_wrong_model_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(activations.TABLE, "relu", emitter.handlers()["tanh"])
    with pytest.raises(LoweringError, match="differs from torch"):
        lower(nn.ReLU(), [IMAGE], format="tflite", route="emitter")
    assert lower(nn.ReLU(), [IMAGE], format="tflite", route="emitter", verify=False).route == "emitter"


def test_small_errors_are_caught_too() -> None:
    data = emitted(Function(lambda x: x * (1 + 1e-4)), IMAGE)
    wrong = verification.difference(nn.Identity(), [IMAGE], data, "tflite")
    assert wrong is not None
    assert "differs from torch" in wrong
    assert verification.difference(Function(lambda x: x * (1 + 1e-4)), [IMAGE], data, "tflite") is None


def test_what_litert_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "version", lambda op: 99)
    with pytest.raises(LoweringError, match="LiteRT refuses the model"):
        lower(nn.Conv2d(8, 4, 3), [IMAGE], format="tflite", route="emitter")


# -- litert-torch


def test_its_absence_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "is_installed", lambda: False)
    with pytest.raises(ExportFailed, match="pip install litert-torch"):
        export.export(nn.ReLU(), [IMAGE])
    with pytest.raises(LoweringError, match=r"ReLU cannot be lowered by litert-torch.*not installed"):
        lower(nn.ReLU(), [IMAGE], format="tflite", route="litert-torch")


def test_its_models_are_brought_to_our_names() -> None:
    model = parsed(emitted(Function(lambda x, y: (x + y, x * y)), IMAGE, IMAGE))
    signature = model.signatureDefs[0]
    signature.signatureKey = b"main"
    for i, each in enumerate((*signature.inputs, *signature.outputs)):
        each.name = f"args_{i}".encode()
    signature.outputs.reverse()
    builder = writer.AlignedBuilder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    data = export.renamed(bytes(builder.Output()))
    x, y = (np.random.default_rng(i).normal(size=(2, 6, 10, 8)).astype(np.float32) for i in range(2))
    total, product = run(data, x, y)
    np.testing.assert_allclose(total, x + y, rtol=1e-6)
    np.testing.assert_allclose(product, x * y, rtol=1e-6)


CROSS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "conv": lambda: (nn.Sequential(conv(8, 12, 3, 2), nn.ReLU6()), IMAGE),
    "mbconv": lambda: (MBConv(8, 16), IMAGE),
    "attention": lambda: (Attention(16, 4), torch.randn(2, 6, 16)),
}


@pytest.mark.skipif(not INSTALLED, reason="litert-torch is not installed (pip install litert-torch)")
@pytest.mark.parametrize("name", CROSS)
def test_both_routes_agree(name: str) -> None:
    module, x = CROSS[name]()
    ours, theirs = (lower(module, [x], format="tflite", route=route) for route in ("emitter", "litert-torch"))
    assert ours.inputs == theirs.inputs
    drawn = np.random.default_rng(0).normal(size=ours.inputs[0].shape).astype(np.float32)
    (first,), (second,) = run(ours.data, drawn), run(theirs.data, drawn)
    np.testing.assert_allclose(first, second, atol=1e-4 * np.abs(second).max())
    assert Counter(kinds(ours.data)).total() <= Counter(kinds(theirs.data)).total()
