"""Lowered models in int8 and float16: what they hold, what they take, how near they are to fp32, and what cannot be."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hwnas.devices.data import Artifact, DeviceError
from hwnas.profiler.lowering import lower
from hwnas.profiler.lowering.precision import PrecisionError, quantise, quantising
from hwnas.profiler.lowering.precision.quantising import drawn, placed, rms
from hwnas.profiler.lowering.precision.run import Border, Runner
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

FORMATS = ("onnx", "tflite")
EIGHT = {"onnx": "uint8", "tflite": "int8"}
"""The dtype of in- and outputs."""


class Block(nn.Module):
    """An inverted residual with squeeze-and-excitation."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, 48, 1), nn.BatchNorm2d(48), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.BatchNorm2d(48), nn.ReLU6())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(48, 8, 1), nn.ReLU(), nn.Conv2d(8, 48, 1))
        self.project = nn.Sequential(nn.Conv2d(48, width, 1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        return x + torch.as_tensor(self.project(y * torch.sigmoid(self.squeeze(y))))


def lowered(module: nn.Module, format: str, *shapes: tuple[int, ...]) -> Artifact:
    torch.manual_seed(0)
    return lower(module.eval(), [torch.randn(shape) for shape in shapes], format=format, route="emitter")


@pytest.fixture(scope="module", params=FORMATS)
def block(request: pytest.FixtureRequest) -> Artifact:
    torch.manual_seed(1)
    return lowered(Block(), request.param, (1, 16, 12, 12))


def off(whole: Artifact, rounded: Artifact, seed: int = 7) -> list[float]:
    """Relative RMS error of each output on fresh random inputs."""
    (sample,) = drawn(whole.inputs, 1, seed)
    expected, found = (Runner(a.format, a.data).run(sample) for a in (whole, rounded))
    return [rms(got - want) / rms(want) for want, got in zip(expected, found, strict=True)]


def tensors(artifact: Artifact) -> list[Any]:
    """Of a TFLite model, as the schema has them."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(artifact.data, 0))
    return list(model.subgraphs[0].tensors)


def operators(artifact: Artifact) -> list[str]:
    from hwnas.profiler.lowering.precision.tflite import _operators

    return [name for name, _ in _operators(artifact.data)]


# -- int8


def test_int8_takes_and_gives_eight_bits(block: Artifact) -> None:
    made = quantise(block, "int8")
    eight = EIGHT[block.format]
    assert [spec.dtype for spec in made.inputs] == [eight]
    assert made.inputs[0].shape == block.inputs[0].shape
    assert (made.digest, made.route, made.format) == (block.digest, block.route, block.format)
    runner = Runner(made.format, made.data)
    assert [border.dtype for border in (*runner.inputs, *runner.outputs)] == [eight, eight]
    assert all(border.scale > 0 for border in (*runner.inputs, *runner.outputs))
    (array,) = (spec.draw(np.random.default_rng(0)) for spec in made.inputs)  # as devices draw it
    assert array.dtype == eight
    assert array.max() > 100


def test_int8_is_near_fp32_and_not_it(block: Artifact) -> None:
    (error,) = off(block, quantise(block, "int8"))
    assert 1e-4 < error < 0.03


def test_int8_weights_are_int8_by_channel_in_onnx() -> None:
    made = quantise(lowered(nn.Conv2d(3, 5, 3), "onnx", (1, 3, 8, 8)), "int8")
    constants = {c.name: numpy_helper.to_array(c) for c in onnx.load_from_string(made.data).graph.initializer}
    kinds = {(array.dtype.name, array.shape) for array in constants.values()}
    assert ("int8", (5, 3, 3, 3)) in kinds
    assert ("float32", (5,)) in kinds  # a scale for each channel
    assert not [array for array in constants.values() if array.dtype == np.float32 and array.size > 5]
    assert len(made.data) < 2000


def test_int8_weights_are_int8_by_channel_in_tflite() -> None:
    made = quantise(lowered(nn.Conv2d(3, 5, 3), "tflite", (1, 3, 8, 8)), "int8")
    (weights,) = (t for t in tensors(made) if tuple(t.shape) == (5, 3, 3, 3))
    assert len(weights.quantization.scale) == 5
    assert {t.type for t in tensors(made)} == {9, 2}  # int8, and int32 for the bias


def test_tflite_keeps_its_operators() -> None:
    block = lowered(Block(), "tflite", (1, 16, 12, 12))
    assert operators(quantise(block, "int8")) == operators(block)
    assert [op for op in operators(quantise(block, "fp16")) if op != "DEQUANTIZE"] == operators(block)


def test_onnxruntime_runs_integer_kernels() -> None:
    """Not convolutions in float between conversions."""
    from hwnas.devices.registry import create

    made = quantise(lowered(Block(), "onnx", (1, 16, 12, 12)), "int8")
    model = create("cpu", dtype="int8").runtime().load("block", made)
    executed = [node.op_type for node in model.trace(2).nodes]
    assert executed.count("QLinearConv") == 5
    assert {"QLinearAdd", "QLinearMul", "QLinearGlobalAveragePool"} <= set(executed)
    assert not {"Conv", "Add", "Mul", "QuantizeLinear"} & set(executed)


class Several(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x + y, torch.relu(x)


class Swish(nn.Module):
    """With an operator that onnxruntime runs in float, at the model's input and in its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.hardswish
        return h(self.two(h(self.one(h(x)))))


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "several": (Several, ((2, 200), (2, 200))),
    "swish": (Swish, ((1, 4, 9, 9),)),
    "average": (lambda: nn.AvgPool2d(3, 1, 1), ((1, 4, 9, 9),)),
    "average without padding": (lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False), ((1, 4, 9, 9),)),
    "max": (lambda: nn.MaxPool2d(2), ((2, 4, 9, 9),)),
    "head": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), ((3, 4, 9, 9),)),
    "relu": (nn.ReLU, ((1, 4, 9, 9),)),
    "silu": (nn.SiLU, ((1, 400),)),
    "softmax": (lambda: nn.Softmax(1), ((40, 9),)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 4, 2, 2), ((1, 4, 5, 5),)),
    "padded": (lambda: nn.ZeroPad2d(2), ((1, 4, 5, 5),)),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", MODULES)
def test_int8_of_other_modules(name: str, format: str) -> None:
    make, shapes = MODULES[name]
    rng = np.random.default_rng(1)
    whole = lowered(make(), format, *shapes)
    made = quantise(whole, "int8", [[rng.standard_normal(s).astype(np.float32) for s in shapes] for _ in range(8)])
    runner = Runner(format, made.data)
    assert {border.dtype for border in (*runner.inputs, *runner.outputs)} == {EIGHT[format]}
    assert [border.shape for border in runner.inputs] == [spec.shape for spec in made.inputs]
    assert max(off(whole, made)) < 0.06


@pytest.mark.parametrize("format", FORMATS)
def test_token_ids_stay_what_they_are(format: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 3)).eval()
    whole = lower(module, [torch.tensor([[0, 3, 9, 1]])], format=format, route="emitter")
    made = quantise(whole, "int8")
    assert made.inputs == whole.inputs
    assert [b.dtype for b in Runner(format, made.data).outputs] == [EIGHT[format]]
    assert max(off(whole, made)) < 0.03


class Unmoved(nn.Module):
    """As a network of which every path was cut: what comes out has nothing to do with what goes in."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.zeros(1, 4))


@pytest.mark.parametrize("format", FORMATS)
def test_a_network_that_does_not_look_at_its_input(format: str) -> None:
    whole = lowered(Unmoved(), format, (1, 4, 9, 9))
    made = quantise(whole, "int8")
    runner = Runner(format, made.data)
    assert [border.dtype for border in runner.inputs] == [spec.dtype for spec in made.inputs]
    assert [border.dtype for border in runner.outputs] == [EIGHT[format]]
    assert max(off(whole, made)) < 0.02


# -- calibration


def test_ranges_are_those_of_all_samples(block: Artifact) -> None:
    """Not of a typical one, which the quantiser of TFLite takes by itself: it cuts off what is larger."""
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 3, (1, 16, 12, 12)).astype(np.float32)
    for factors in ((1, 1, 1), (1, 1, 10), (10, 1, 1)):
        made = quantise(block, "int8", [[factor * image] for factor in factors])
        (border,) = Runner(block.format, made.data).inputs
        assert border.scale == pytest.approx(max(factors) * np.ptp(image) / 255, rel=0.01)


def test_samples_come_as_torch_has_them(block: Artifact) -> None:
    """Channels first, also for TFLite."""
    image = np.random.default_rng(0).standard_normal((1, 16, 12, 12)).astype(np.float32)
    quantise(block, "int8", [[image]])
    with pytest.raises(PrecisionError, match="12"):
        quantise(block, "int8", [[image[:, :, :10]]])
    with pytest.raises(PrecisionError, match="at least one sample"):
        quantise(block, "int8", [])


def test_channels_are_moved_to_the_end_for_tflite() -> None:
    arrays = [np.zeros((1, 2, 3, 4)), np.zeros((1, 2))]
    assert [a.shape for a in placed(arrays, "tflite")] == [(1, 3, 4, 2), (1, 2)]
    assert [a.shape for a in placed(arrays, "onnx")] == [(1, 2, 3, 4), (1, 2)]


# -- float16


def test_fp16_halves_the_weights_and_rounds_them() -> None:
    torch.manual_seed(1)
    whole = lowered(Block(64), "tflite", (1, 64, 6, 6))
    made = quantise(whole, "fp16")
    assert made.inputs == whole.inputs
    halves = [t for t in tensors(made) if t.type == 1]
    assert len(halves) == 5
    assert 0.5 < len(made.data) / len(whole.data) < 0.65
    assert 1e-6 < off(whole, made)[0] < 1e-3


def test_fp16_of_what_has_no_weights_is_the_same() -> None:
    whole = lowered(nn.MaxPool2d(2), "tflite", (1, 4, 8, 8))
    assert off(whole, quantise(whole, "fp16")) == [0]


# -- what cannot be


@pytest.mark.parametrize(("format", "module", "operator"), [("onnx", nn.GELU(), "Gelu"), ("tflite", nn.ELU(), "ELU")])
def test_operators_without_an_int8_form_are_named(format: str, module: nn.Module, operator: str) -> None:
    whole = lowered(module, format, (1, 8))
    with pytest.raises(PrecisionError, match=rf"no int8 form of {operator}$"):
        quantise(whole, "int8")


def test_tflite_is_wholly_integer_or_not_at_all() -> None:
    whole = lowered(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ELU(), nn.Conv2d(4, 4, 3)), "tflite", (1, 4, 9, 9))
    with pytest.raises(PrecisionError, match="ELU"):
        quantise(whole, "int8")


def test_double_precision_cannot_be_quantised() -> None:
    whole = lower(nn.Linear(4, 3).double().eval(), [torch.randn(1, 4).double()], format="onnx")
    with pytest.raises(PrecisionError, match=r"Gemm \(double\)"):
        quantise(whole, "int8")


def test_precisions_that_a_format_does_not_have(block: Artifact) -> None:
    assert quantise(block, "fp32") is block
    there = {"onnx": "fp32 and int8", "tflite": "fp32 and fp16 and int8"}[block.format]
    with pytest.raises(PrecisionError, match=f"{block.format} models cannot be brought to bf16, only to {there}"):
        quantise(block, "bf16")


def test_counted_operators_have_no_precision() -> None:
    counted = lower(nn.Conv2d(3, 5, 3), [torch.randn(1, 3, 8, 8)], format="ops")
    assert quantise(counted, "int8") is counted


def test_a_model_that_came_out_wrong_is_found(block: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    other = quantise(lowered(nn.Conv2d(16, 16, 1), block.format, (1, 16, 12, 12)), "int8")
    made = quantising.Quantised(other.data, (EIGHT[block.format],), {})
    monkeypatch.setattr(quantising, "_quantiser", lambda format, dtype: lambda artifact, samples: made)
    with pytest.raises(PrecisionError, match="output 0 differs by"):
        quantise(block, "int8")
    assert quantise(block, "int8", verify=False).data == made.data


def test_without_a_quantiser_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwnas.profiler.lowering.precision import tflite

    monkeypatch.setattr(tflite, "PACKAGES", ("no_such_quantiser",))
    with pytest.raises(PrecisionError, match="pip install litert-quantizer"):
        quantise(lowered(nn.ReLU(), "tflite", (1, 4)), "int8")


def test_a_file_that_is_no_model() -> None:
    for format in FORMATS:
        with pytest.raises(DeviceError, match="refuses the model"):
            Runner(format, b"nonsense" * 4)


# -- manners


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, and the working folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", ["int8", "fp16"])
def test_nothing_is_said_and_nothing_left_behind(
    block: Artifact, dtype: str, folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    if (block.format, dtype) == ("onnx", "fp16"):
        pytest.skip("there is none")
    with caplog.at_level(logging.DEBUG):
        quantise(block, dtype)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert not list(folder.iterdir())
    assert logging.root.manager.disable == 0


@given(st.floats(1e-6, 1e3), st.integers(0, 255), st.floats(-1e3, 1e3))
def test_numbers_for_values_and_back(scale: float, zero_point: int, value: float) -> None:
    border = Border("x", (1,), "uint8", scale, zero_point)
    inside = np.clip(value, -zero_point * scale, (255 - zero_point) * scale)
    back = border.real(border.quantised(np.array([value], np.float32)))
    assert back[0] == pytest.approx(inside, abs=0.51 * scale + 1e-4 * abs(inside))


def test_values_that_are_no_numbers_stay() -> None:
    border = replace(Border("x", (1,), "float32"))
    array = np.array([1.5], np.float32)
    assert border.real(border.quantised(array)) is array
