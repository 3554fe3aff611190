"""Exported networks compute what torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hwnas.search.export import ExportError, export
from hwnas.search.weights import network_with_weights, save_weights
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from torch import Tensor, nn


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
        ({"format": "tflite"}, "not in this version; --format onnx .* --format pt2"),
        ({"format": "gguf"}, "no format 'gguf'; there are onnx and pt2"),
        ({"batch": 0}, "batch 0"),
    ],
)
def test_what_is_refused(
    space: SearchSpace, architecture: Architecture, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export(space, architecture, tmp_path / "x", **options)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="is a folder"):
        export(space, architecture, tmp_path)
