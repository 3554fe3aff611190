"""Exported networks compute what torch does."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hwnas.errors import HwnasError
from hwnas.profiler.calibration_data import CalibrationData
from hwnas.profiler.lowering.precision.run import Runner
from hwnas.search.export import ExportError, export
from hwnas.search.weights import network_with_weights, save_weights
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from torch import Tensor, nn

exporting = importlib.import_module("hwnas.search.export")
IMAGES = CalibrationData("larger", (np.zeros((2, 1, 28, 28), np.float32),))


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("proxyless-small", {"resolution": 8})


@pytest.fixture(scope="module")
def architecture(space: SearchSpace) -> Architecture:
    return space.sample(1, np.random.default_rng(0))[0]


@pytest.fixture(scope="module")
def trained(space: SearchSpace, architecture: Architecture) -> nn.Module:
    network = network_with_weights(space, architecture, seed=9).network
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(16, 1, 8, 8) + 0.5)  # batch-norm statistics of their own
    return network.eval()


@pytest.fixture
def weights(trained: nn.Module, tmp_path: Path) -> Path:
    save_weights(tmp_path / "weights.safetensors", trained)
    return tmp_path / "weights.safetensors"


def test_onnx(
    space: SearchSpace, architecture: Architecture, trained: nn.Module, weights: Path, tmp_path: Path
) -> None:
    done = export(space, architecture, tmp_path / "deep" / "net.onnx", weights=weights, batch=3)
    images = torch.randn(3, 1, 8, 8)
    (found,) = onnxruntime.InferenceSession(done.out).run(None, {"input_0": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), trained(images), rtol=1e-4, atol=1e-5)
    assert (done.weights, done.route, done.inputs, done.notes) == ("network", "emitter", ((3, 1, 8, 8),), ())
    assert done.bytes == done.out.stat().st_size
    assert 0 <= done.max_relative_error < 1e-5
    assert done.parameters == sum(p.numel() for p in trained.parameters())
    assert done.as_dict()["architecture"] == architecture.as_dict()


def test_exported_program(
    space: SearchSpace, architecture: Architecture, trained: nn.Module, weights: Path, tmp_path: Path
) -> None:
    done = export(space, architecture, tmp_path / "net.pt2", format="pt2", weights=weights)
    images = torch.randn(1, 1, 8, 8)
    found = torch.export.load(done.out).module()(images)
    torch.testing.assert_close(found, trained(images))
    assert done.route == "torch.export"
    assert b"site-packages" not in done.out.read_bytes()  # nor any other path of this machine


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_tflite(
    dtype: str, space: SearchSpace, architecture: Architecture, trained: nn.Module, weights: Path, tmp_path: Path
) -> None:
    done = export(space, architecture, tmp_path / "net.tflite", format="tflite", dtype=dtype, weights=weights, batch=2)
    images = torch.randn(2, 1, 8, 8)
    (found,) = Runner("tflite", done.out.read_bytes()).run([images.permute(0, 2, 3, 1).numpy()])
    close = 1e-5 if dtype == "fp32" else 2e-3
    torch.testing.assert_close(torch.from_numpy(found), trained(images), rtol=0, atol=close)
    assert (done.format, done.dtype, done.route, done.layout) == ("tflite", dtype, "emitter", "NHWC")
    assert done.inputs == ((2, 8, 8, 1),)
    assert any("NHWC" in note for note in done.notes)
    assert (done.max_relative_error < 1e-5) == (dtype == "fp32")
    assert done.as_dict()["tensors"]["inputs"][0]["scale"] is None


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_int8(
    format: str, space: SearchSpace, architecture: Architecture, trained: nn.Module, weights: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    data = CalibrationData("noise", (rng.standard_normal((24, 1, 8, 8)).astype(np.float32) + 1,))
    out = tmp_path / f"net.{format}"
    done = export(space, architecture, out, format=format, dtype="int8", weights=weights, calibration=data)
    image = torch.from_numpy(data.arrays[0][:1])
    runner = Runner(format, out.read_bytes())
    (found,) = runner.run([(image.permute(0, 2, 3, 1) if format == "tflite" else image).numpy()])
    want = trained(image).detach().numpy()
    assert 0 < np.abs(found - want).max() < 0.1 * np.abs(want).max()
    assert 1e-4 < done.rms_error < 0.1
    assert done.same_class is not None
    assert done.same_class > 0.8
    assert (done.calibrated_by, done.doubts) == ("noise", ())
    told = done.as_dict()["tensors"]
    assert told["inputs"][0]["dtype"] == {"onnx": "uint8", "tflite": "int8"}[format]
    assert told["inputs"][0]["scale"] == pytest.approx(np.ptp(data.arrays[0]) / 255, rel=0.01)
    assert told["outputs"][0]["scale"] > 0
    assert out.stat().st_size < 0.7 * export(space, architecture, tmp_path / "x", format=format).bytes


def test_int8_without_data_is_told_of(space: SearchSpace, architecture: Architecture, tmp_path: Path) -> None:
    done = export(space, architecture, tmp_path / "net.onnx", dtype="int8")
    assert done.calibrated_by is None
    assert any("--calibration-data" in note for note in done.notes)
    assert done.rms_error < 0.1


def test_int8_that_is_far_off_is_doubted(
    space: SearchSpace, architecture: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "DOUBTFUL", 1e-6)
    done = export(space, architecture, tmp_path / "net.onnx", dtype="int8")
    assert "calibrate it by more and better data" in done.doubts[0]
    assert done.out.exists()


def test_random_weights_follow_from_the_seed(space: SearchSpace, architecture: Architecture, tmp_path: Path) -> None:
    files = []
    for i, seed in enumerate((1, 1, 2)):
        done = export(space, architecture, tmp_path / f"{i}.onnx", seed=seed)
        assert done.weights == "fresh"
        assert f"random (seed {seed}), good for timing alone" in done.notes[0]
        files.append(done.out.read_bytes())
    assert files[0] == files[1] != files[2]


def test_weights_of_a_supernet(space: SearchSpace, architecture: Architecture, tmp_path: Path) -> None:
    torch.save(space.supernet().state_dict(), tmp_path / "supernet.pt")
    done = export(space, architecture, tmp_path / "net.onnx", weights=tmp_path / "supernet.pt")
    assert done.weights == "supernet"
    assert "train it" in done.notes[0]


class Odd(nn.Module):
    """What the project's own emitter has no form for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, ord=3, dim=1, keepdim=True) + torch.special.erf(x).cumsum(1)


def test_what_the_emitter_does_not_cover(tmp_path: Path) -> None:
    space = SearchSpace(lambda: nn.Sequential(LayerChoice({"odd": Odd(), "relu": nn.ReLU()})), (6,), name="odd")
    done = export(space, Architecture("odd", {"0": "odd"}), tmp_path / "odd.onnx")
    assert done.route == "torch.onnx"
    assert done.max_relative_error < 1e-4


def test_weights_that_are_not_finite(
    space: SearchSpace, architecture: Architecture, trained: nn.Module, tmp_path: Path
) -> None:
    state = trained.state_dict()
    state["classifier.bias"] = torch.full_like(state["classifier.bias"], torch.nan)
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(ExportError, match="not finite"):
        export(space, architecture, tmp_path / "net.onnx", weights=tmp_path / "nan.pt")
    assert not (tmp_path / "net.onnx").exists()


def test_existing_files_are_kept(space: SearchSpace, architecture: Architecture, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    out.write_text("mine")
    with pytest.raises(ExportError, match="--force overwrites"):
        export(space, architecture, out)
    assert out.read_text() == "mine"
    assert export(space, architecture, out, force=True).bytes == out.stat().st_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "gguf"}, "no format 'gguf'; there are onnx, tflite and pt2"),
        ({"dtype": "fp16"}, "onnx is not written in 'fp16', only in fp32 and int8"),
        ({"format": "pt2", "dtype": "int8"}, "pt2 is not written in 'int8', only in fp32"),
        ({"format": "tflite", "calibration": IMAGES}, "is for --dtype int8; fp32 needs none"),
        ({"dtype": "int8", "calibration": IMAGES}, "have the shape 1x28x28, but space 'proxyless-small' takes 1x8x8"),
        ({"batch": 0}, "batch 0"),
    ],
)
def test_what_is_refused(
    space: SearchSpace, architecture: Architecture, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(HwnasError, match=message):
        export(space, architecture, tmp_path / "x", **options)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="is a folder"):
        export(space, architecture, tmp_path)
