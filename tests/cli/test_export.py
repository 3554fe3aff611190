"""``hwnas export``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hwnas.search.weights import network_with_weights, save_weights
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.registry import load_space
from torch import nn

Run = Callable[..., Any]
SMALL = ("export", "--arch", "a.json", "--space-arg", "resolution=8")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return network_with_weights(load_space("proxyless-small", {"resolution": 8}), architecture(), seed=5).network.eval()


def architecture() -> Architecture:
    return Architecture("proxyless-small", {f"stages.{i}.{j}": "k3e3" for i in range(3) for j in range(2)})


@pytest.fixture
def folder(tmp_path: Path, network: nn.Module) -> Path:
    (tmp_path / "a.json").write_text(architecture().to_json())
    save_weights(tmp_path / "w.safetensors", network)
    return tmp_path


def test_onnx(hwnas: Run, folder: Path, network: nn.Module) -> None:
    result = hwnas(*SMALL, "--weights", "w.safetensors", "--out", "net.onnx", "--batch", 2, "--json", "net.json")
    assert result.code == 0, result.err
    assert "max relative error" in result.out
    assert "the network is in net.onnx" in result.out
    data = json.loads((folder / "net.json").read_text())
    assert (data["format"], data["weights"], data["inputs"]) == ("onnx", "network", [[2, 1, 8, 8]])
    assert 0 <= data["max_relative_error"] < 1e-5
    images = torch.randn(2, 1, 8, 8)
    (found,) = onnxruntime.InferenceSession(folder / "net.onnx").run(None, {"input_0": images.numpy()})
    np.testing.assert_allclose(found, network(images).detach().numpy(), rtol=1e-3, atol=1e-5)


def test_exported_program_at_the_default_place(hwnas: Run, folder: Path) -> None:
    result = hwnas(*SMALL, "--weights", "w.safetensors", "--format", "pt2")
    assert result.code == 0, result.err
    assert (folder / "results" / "proxyless-small-a.pt2").is_file()
    assert "results/proxyless-small-a.pt2" in result.out


def test_int8_for_phones(hwnas: Run, folder: Path) -> None:
    given = ("--weights", "w.safetensors", "--format", "tflite", "--dtype", "int8", "--calibration-data", "digits")
    result = hwnas(*SMALL, *given, "--json", "net.json")
    assert result.code == 0, result.err
    assert result.err == ""
    path = folder / "results" / "proxyless-small-a-int8.tflite"
    assert path.read_bytes()[4:8] == b"TFL3"
    assert "1x8x8x1 (NHWC) int8, scale 0.0" in result.out
    assert "note: in this file images are NHWC" in result.out
    data = json.loads((folder / "net.json").read_text())
    assert (data["dtype"], data["layout"], data["calibrated_by"]) == ("int8", "NHWC", "digits")
    assert data["tensors"]["inputs"][0]["dtype"] == "int8"
    assert 0 < data["rms_error"] < 0.1


def test_without_weights_there_is_a_note(hwnas: Run, folder: Path) -> None:
    result = hwnas(*SMALL, "--out", "net.onnx")
    assert result.code == 0, result.err
    assert "note: no weights were given: they are random (seed 0)" in result.out


def test_nothing_is_overwritten_unasked(hwnas: Run, folder: Path) -> None:
    (folder / "net.onnx").write_text("mine")
    assert hwnas(*SMALL, "--out", "net.onnx").code == 2
    assert (folder / "net.onnx").read_text() == "mine"
    assert hwnas(*SMALL, "--out", "net.onnx", "--force").code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dtype", "fp16"), "format onnx is not written in 'fp16'"),
        (("--calibration-data", "digits"), "--calibration-data is for --dtype int8"),
        (
            ("--dtype", "int8", "--calibration-data", "digits:28"),
            "shape 1x28x28, but space 'proxyless-small' takes 1x8x8",
        ),
        (("--dtype", "int8", "--calibration-data", "numbers"), "unknown data 'numbers'"),
        (("--dtype", "int8", "--calibration-data", "imagefolder:/nowhere"), "/nowhere"),
        (("--format", "gguf"), "no format 'gguf'"),
        (("--batch", "0"), "at least one input"),
        (("--weights", "a.json"), "neither safetensors nor a plain checkpoint"),
        (("--weights", "w.safetensors", "--space-arg", "classes=3"), "classifier.weight is 10x128, not 3x128"),
        (("--space", "nasbench201", "--space-arg", "classes=3"), "not 'nasbench201'"),
        (("--arch", "w.safetensors"), "no JSON"),
    ],
)
def test_what_cannot_be_done_ends_with_one_line(
    hwnas: Run, folder: Path, options: tuple[str, ...], message: str
) -> None:
    given = ("export", "--arch", "a.json") if "nasbench201" in options else SMALL
    result = hwnas(*given, "--out", "net.onnx", *options)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (folder / "net.onnx").exists()
