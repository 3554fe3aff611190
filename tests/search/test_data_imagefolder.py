"""Folders of pictures: what is found in them, the views of them, and broken files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.search.data import images as views
from hwnas.search.data.data import Data, DataError
from hwnas.search.data.registry import load_data
from PIL import Image

COLOURS = {"blue": (20, 30, 200), "green": (30, 180, 40), "red": (210, 20, 30)}


def fill(folder: Path, each: int, size: tuple[int, int] = (40, 30), suffix: str = ".jpg") -> Path:
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for n in range(each):
            noise = np.random.default_rng(n).integers(0, 40, (size[1], size[0], 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{n:03d}{suffix}")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "train", 10)
    fill(tmp_path / "val", 3, size=(30, 50), suffix=".PNG")
    return tmp_path


def load(folder: Path, side: int | None = 16, batch_size: int = 6, seed: int = 0) -> Data:
    spec = f"imagefolder:{folder}" + (f":{side}" if side else "")
    return load_data(spec, batch_size=batch_size, arch_batch_size=3, seed=seed)


def test_train_and_val(folder: Path) -> None:
    data = load(folder)
    assert (data.input_shape, data.classes) == ((3, 16, 16), 3)
    assert (len(data.train), len(data.held_out), len(data.test)) == (4, 2, 2)
    labels = torch.cat([y for _, y in data.test.epoch(0)])
    assert labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    for images, y in data.train.epoch(0):
        assert (images.shape, images.dtype, images.is_contiguous()) == ((6, 3, 16, 16), torch.float32, True)
        assert y.dtype == torch.int64


def test_labels_belong_to_their_pictures(folder: Path) -> None:
    """The strongest channel says the class, through all augmentation and normalisation."""
    data = load(folder)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for part in (data.train, data.held_out, data.test):
        for images, labels in part.epoch(0):
            strongest = (images * std + mean).mean((2, 3)).argmax(1)
            assert torch.equal(labels, 2 - strongest)


def test_default_side_and_own_split(tmp_path: Path) -> None:
    data = load(fill(tmp_path / "all", 10), side=None)
    assert data.input_shape == (3, 224, 224)
    assert len(torch.cat([y for _, y in data.test.epoch(0)])) == 6
    assert [len(getattr(data, part).files.paths) for part in ("train", "held_out", "test")] == [18, 6, 6]
    paths = [set(getattr(data, part).files.paths) for part in ("train", "held_out", "test")]
    assert not paths[0] & paths[1] | paths[0] & paths[2] | paths[1] & paths[2]


def test_resuming_goes_on_bit_for_bit(folder: Path) -> None:
    whole = list(load(folder).train.epoch(2))
    rest = list(load(folder).train.epoch(2, start=1))
    assert all(torch.equal(a, b) and torch.equal(y, z) for (a, y), (b, z) in zip(whole[1:], rest, strict=True))
    other = list(load(folder).train.epoch(3))
    assert not torch.equal(whole[0][0], other[0][0])


def test_moving_the_folder_changes_nothing(folder: Path, tmp_path: Path) -> None:
    before = list(load(folder).train.epoch(0))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("train", "val"):
        (folder / name).rename(moved / name)
    after = list(load(moved).train.epoch(0))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(before, after, strict=True))


def test_shards_decode_their_own_rows_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hwnas.search.data.imagefolder as module

    data = load(folder)
    whole = list(data.train.epoch(0))
    decoded: list[str] = []
    real = module.decode

    def counted(path: Any) -> Any:
        decoded.append(path)
        return real(path)

    monkeypatch.setattr(module, "decode", counted)
    second = list(data.train.epoch(0, shard=(1, 2)))
    assert len(decoded) == 4 * 3
    assert all(torch.equal(a[3:], b) for (a, _), (b, _) in zip(whole, second, strict=True))


def test_threads_end_with_the_epoch(folder: Path) -> None:
    before = threading.active_count()
    epoch = load(folder).train.epoch(0)
    next(epoch)
    assert threading.active_count() > before
    epoch.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "postscript"])
def test_a_broken_file_is_named(folder: Path, kind: str) -> None:
    path = folder / "val" / "green" / "001.PNG"
    whole = path.read_bytes()
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    path.write_bytes(
        {"truncated": whole[: len(whole) // 2], "text": b"hello", "empty": b"", "postscript": postscript}[kind]
    )
    data = load(folder)
    with pytest.raises(DataError, match=r"val/green/001.PNG cannot be read as an image: .*; replace or remove it"):
        list(data.test.epoch(0))


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    def refused(spec: str) -> str:
        with pytest.raises(DataError) as caught:
            load_data(f"imagefolder:{spec}", batch_size=2, arch_batch_size=2, seed=0)
        return str(caught.value)

    assert "a folder is needed" in refused("")
    assert f"there is no folder {tmp_path / 'absent'}" in refused(f"{tmp_path / 'absent'}")
    assert "has no folders, one for each class" in refused(str(tmp_path))
    (tmp_path / "train").mkdir()
    assert "none called val" in refused(str(tmp_path))
    assert "the side must be 8 to 1024" in refused(f"{tmp_path}:3")
    (tmp_path / "val").mkdir()
    (tmp_path / "train" / "cat").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("x")
    assert "train/cat has no images" in refused(str(tmp_path))
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "cat" / "a.png")
    (tmp_path / "val" / "dog").mkdir()
    assert "has a class 'dog', which is not among those of training" in refused(str(tmp_path))


# -- views


def test_grey_and_transparent_pictures_become_colour(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (12, 9)).save(path)
        assert views.decode(str(path)).mode == "RGB"


def test_testing_view_is_the_middle() -> None:
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 60:68] = 255  # a bar in the middle
    view = views.testing_view(Image.fromarray(pixels), 28)
    assert view.shape == (28, 28, 3)
    bar = view.mean((0, 2))
    assert abs(np.average(np.arange(28), weights=bar) - 13.5) < 0.1
    assert 3.5 <= bar.sum() / 255 <= 4.5  # 8 of 64 pixels in 32 pixels


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (9, 400), (400, 9), (1, 1), (3, 2)])
def test_training_views(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    seen = [views.training_view(image, 24, np.random.default_rng(n)) for n in range(20)]
    assert {(view.shape, view.dtype) for view in seen} == {((24, 24, 3), np.dtype(np.uint8))}
    again = views.training_view(image, 24, np.random.default_rng(0))
    assert (seen[0] == again).all()
    boxes = [views._random_box(*size, np.random.default_rng(n)) for n in range(200)]
    assert all(0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1] for x0, y0, x1, y1 in boxes)
    if min(size) > 100:
        areas = np.array([(x1 - x0) * (y1 - y0) / (size[0] * size[1]) for x0, y0, x1, y1 in boxes])
        ratios = np.array([(x1 - x0) / (y1 - y0) for x0, y0, x1, y1 in boxes])
        assert 0.07 < areas.min() < 0.2
        assert 0.75 < areas.max() <= 1
        assert 0.74 < ratios.min() < 0.8
        assert 1.25 < ratios.max() < 1.35
