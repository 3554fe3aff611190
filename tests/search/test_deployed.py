"""What a search delivers, and by what its int8 networks are calibrated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.devices.registry import create
from hwnas.errors import HwnasError
from hwnas.profiler.lowering.precision.run import Runner
from hwnas.search.config import SearchConfig
from hwnas.search.data.calibration import IMAGES, load_calibration_data
from hwnas.search.deployed import write_models
from hwnas.search.preparation import Prepared, prepare, resolve
from hwnas.search.settings import ObjectiveSettings, SearchSettings
from hwnas.search.weights import network_with_weights, save_weights
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.space import SearchSpace

CONFIG = SearchConfig(
    space="proxyless-small",
    space_args={"resolution": "8", "width": "0.25"},
    data="digits",
    device="cpu",
    dtype="int8",
    search=SearchSettings(objective=ObjectiveSettings(kind="none")),
)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(*resolve(CONFIG))


@pytest.fixture(scope="module")
def architecture(prepared: Prepared) -> Architecture:
    return prepared.space.sample(1, np.random.default_rng(0))[0]


@pytest.fixture
def weights(prepared: Prepared, architecture: Architecture, tmp_path: Path) -> Path:
    save_weights(tmp_path / "weights.safetensors", network_with_weights(prepared.space, architecture, seed=1).network)
    return tmp_path / "weights.safetensors"


def test_int8_networks_are_calibrated_by_what_is_trained_on(prepared: Prepared) -> None:
    data = prepared.calibration
    assert data is not None
    assert (data.name, len(data)) == ("digits", IMAGES)
    images, _ = next(prepared.data.train.epoch(0))
    np.testing.assert_array_equal(data.arrays[0], images[:IMAGES].numpy())


def test_other_precisions_need_no_data() -> None:
    assert prepare(*resolve(replace(CONFIG, dtype="fp32"))).calibration is None


def test_data_that_are_named_instead(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def loaders():\n"
        "    make = lambda n: [(torch.full((4, 1, 8, 8), float(i)), torch.arange(4)) for i in range(n)]\n"
        "    return make(3), make(2), make(1)\n"
    )
    config = replace(CONFIG, calibration_data=f"{tmp_path}/mine.py:loaders")
    data = prepare(*resolve(config)).calibration
    assert data is not None
    assert data.arrays[0].shape == (12, 1, 8, 8)
    assert data.arrays[0].max() == 2
    with pytest.raises(HwnasError, match="measured in int8, this one's precision is fp32"):
        prepare(*resolve(replace(config, dtype="fp32")))
    with pytest.raises(HwnasError, match="shape 1x28x28, but space 'proxyless-small' takes 1x8x8"):
        prepare(*resolve(replace(CONFIG, calibration_data="digits:28")))


def test_the_first_images_of_the_training_set(prepared: Prepared) -> None:
    few, more = (load_calibration_data("digits", prepared.space, n) for n in (5, 9))
    assert len(few) == 5
    np.testing.assert_array_equal(few.arrays[0], more.arrays[0][:5])


@pytest.mark.parametrize(
    ("device", "settings", "files"),
    [
        ("cpu", {"dtype": "int8", "batch": 2}, {"model.onnx": (2, 1, 8, 8), "model-int8.onnx": (2, 1, 8, 8)}),
        ("cpu", {}, {"model.onnx": (1, 1, 8, 8)}),
        ("mobile", {"dtype": "fp16"}, {"model.onnx": (1, 1, 8, 8), "model-fp16.tflite": (1, 8, 8, 1)}),
        ("mobile", {}, {"model.onnx": (1, 1, 8, 8), "model.tflite": (1, 8, 8, 1)}),
        ("flops", {}, {"model.onnx": (1, 1, 8, 8)}),
    ],
)
def test_the_device_s_own_format_and_precision_are_delivered_too(
    device: str,
    settings: dict[str, Any],
    files: dict[str, tuple[int, ...]],
    prepared: Prepared,
    architecture: Architecture,
    weights: Path,
) -> None:
    final = replace(prepared.final, device=create(device, **settings))
    out = weights.parent / "out"
    assert write_models(replace(prepared, final=final), architecture, out, weights) == []
    found = {p.name: Runner(p.suffix[1:], p.read_bytes()).inputs[0].shape for p in out.iterdir()}
    assert found == files


def test_what_cannot_be_written_is_told(prepared: Prepared, architecture: Architecture, tmp_path: Path) -> None:
    warnings = write_models(prepared, architecture, tmp_path, tmp_path / "none.safetensors")
    assert [w.split(" was written")[0] for w in warnings] == ["no model.onnx", "no model-int8.onnx"]


def test_a_space_of_token_ids_takes_no_images() -> None:
    import torch
    from hwnas.spaces.choices import LayerChoice
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choice = LayerChoice({"a": nn.Embedding(9, 3), "b": nn.Embedding(9, 3)})

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.choice(ids))

    space = SearchSpace(Net, example_inputs=torch.zeros(1, 1, 8, 8, dtype=torch.int64), name="ids")
    with pytest.raises(HwnasError, match="'digits' are float32, not int64"):
        load_calibration_data("digits", space)
