"""CIFAR-10's archive: read without running anything that a pickle asks for."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.search.data.cifar_pickle import Refused, read_batch
from hwnas.search.data.data import Data, DataError
from hwnas.search.data.registry import load_data

NAMES = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
SAMPLES = 30


def content(seed: int) -> dict[bytes, Any]:
    """What a batch file holds, smaller."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (SAMPLES, 3072), dtype=np.uint8)
    labels = [int(n) % 10 for n in range(SAMPLES)]
    return {b"batch_label": b"one of 5", b"labels": labels, b"data": pixels, b"filenames": [b"a.png"] * SAMPLES}


def as_python_2(batch: dict[bytes, Any]) -> bytes:
    """The bytes as the original's Python 2 wrote them: byte strings, and numpy's old module names."""
    pixels = batch[b"data"]
    state = b"".join(
        [
            b"cnumpy.core.multiarray\n_reconstruct\n",
            b"(cnumpy\nndarray\n(I0\ntS'b'\ntR",
            b"(I1\n(I%d\nI%d\nt" % pixels.shape,
            b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb",
            b"I00\nT" + pixels.nbytes.to_bytes(4, "little") + pixels.tobytes() + b"tb",
        ]
    )
    labels = b"(lp9\n" + b"".join(b"I%d\na" % y for y in batch[b"labels"])
    return b"\x80\x02}(S'labels'\n" + labels + b"S'data'\n" + state + b"u."


@pytest.fixture(params=["folder", "archive", "parent", "parent of archive"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        (folder / name).write_bytes(as_python_2(content(seed)))
    archive = tmp_path / "x" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-py")
    places = {"folder": folder, "archive": archive, "parent": tmp_path, "parent of archive": archive.parent}
    return places[request.param]


def load(path: Path) -> Data:
    return load_data(f"cifar10:{path}", batch_size=10, arch_batch_size=10, seed=0)


def test_parts(path: Path) -> None:
    data = load(path)
    assert (data.input_shape, data.classes, data.exact) == ((3, 32, 32), 10, True)
    assert (len(data.train), len(data.held_out), len(data.test)) == (12, 3, 3)
    images = torch.cat([x for x, _ in data.test.epoch(0)])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    expected = torch.from_numpy(content(5)[b"data"]).view(-1, 3, 32, 32) / 255
    assert torch.allclose(images, (expected - mean) / std, atol=1e-5)


def test_training_images_are_shifted_and_mirrored(tmp_path: Path) -> None:
    """Each is a window of its original between zeros, which a search over all windows of all originals finds."""
    for seed, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(as_python_2(content(seed)))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    originals = torch.cat([torch.from_numpy(content(seed)[b"data"]) for seed in range(5)]).view(-1, 3, 32, 32)
    padded = torch.nn.functional.pad(originals, (4, 4, 4, 4))
    images, _ = next(load(tmp_path).train.epoch(0))
    places = set()
    for image in ((images * std + mean) * 255).round().to(torch.uint8):
        for mirrored in (False, True):
            wanted = image.flip(-1) if mirrored else image
            windows = padded[:, 0].unfold(1, 32, 1).unfold(2, 32, 1)[..., 16, 8:24]  # a few pixels decide
            for sample, dy, dx in (windows == wanted[0, 16, 8:24]).all(-1).nonzero().tolist():
                assert torch.equal(padded[sample, :, dy : dy + 32, dx : dx + 32], wanted)
                places.add((dy, dx, mirrored))
    assert len(places) >= 8  # of 10 images
    assert {mirrored for _, _, mirrored in places} == {False, True}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_protocol(protocol: int, order: Any) -> None:
    batch = content(0)
    batch[b"data"] = np.asarray(batch[b"data"], order=order)
    pixels, labels = read_batch(pickle.dumps(batch, protocol=protocol))
    assert (pixels == content(0)[b"data"]).all()
    assert labels.tolist() == batch[b"labels"]


def test_as_the_original_was_written() -> None:
    pixels, labels = read_batch(as_python_2(content(3)))
    assert (pixels == content(3)[b"data"]).all()
    assert labels.dtype == np.int64


class Hostile:
    """Would leave a file behind if it ran."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def test_a_hostile_pickle_is_refused_without_running(tmp_path: Path) -> None:
    import os

    mark = tmp_path / "ran"
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (os.system, (f"touch {mark}",)),
        (eval, (f"open({str(mark)!r}, 'w')",)),
        (open, (str(mark), "w")),
        (getattr, (np.ndarray, "tofile")),
        (np.load, (str(mark),)),
    ]
    for call, arguments in calls:
        for protocol in (0, 2, 4):
            batch = {**content(0), b"data": Hostile(call, *arguments)}
            with pytest.raises(Refused, match=r"it asks for .*, which that format does not need"):
                read_batch(pickle.dumps(batch, protocol=protocol))
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cnumpy\nndarray\n)R.",  # calls what is only to be named
        b"cnumpy.core.multiarray\n_reconstruct\n(Nd}S'call'\nI1\nsb.",  # changes what it names
        b"cnumpy.core.multiarray\n_reconstruct\n}S'__class__'\nI1\nsb.",
        b"c_codecs\nencode\n(Vx\nVunicode_escape\ntR.",
        b"c_codecs\nlookup\n(Vrot13\ntR.",
        b"cnumpy\ndtype\n(S'O8'\ntR.",
        b"Pelsewhere\n.",
        b"cnumpy.core.multiarray\n_reconstruct\n(tR(I1\n(I1000000000\nI3072\ntcnumpy\ndtype\n(S'u1'\ntRI00\nS'x'\ntb.",
    ],
)
def test_crafted_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        read_batch(data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({b"data": None}, "no array of N x 3072"),
        ({b"data": np.zeros((SAMPLES, 100), np.uint8)}, "no array of N x 3072"),
        ({b"data": np.zeros((SAMPLES, 3072), np.float32)}, "other numbers than bytes"),
        ({b"labels": [0] * 3}, f"no list of {SAMPLES}"),
        ({b"labels": [10] * SAMPLES}, "from 0 to 9"),
        ({b"labels": [-1] * SAMPLES}, "from 0 to 9"),
        ({b"labels": [0.5] * SAMPLES}, "from 0 to 9"),
    ],
)
def test_contents_that_do_not_fit(change: dict[bytes, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        read_batch(pickle.dumps({**content(0), **change}, protocol=4))


@pytest.mark.parametrize("data", [b"", b"\x80\x02", b"no pickle", pickle.dumps([1]), as_python_2(content(0))[:-2000]])
def test_broken_pickles(data: bytes) -> None:
    with pytest.raises(Refused):
        read_batch(data)


def refused(path: Path | str) -> str:
    with pytest.raises(DataError) as caught:
        load_data(f"cifar10:{path}", batch_size=10, arch_batch_size=10, seed=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    assert "needs the path" in refused("")
    assert f"there is no {tmp_path / 'absent'}" in refused(tmp_path / "absent")
    assert "has no data_batch_1" in refused(tmp_path)
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(b"nothing")
    assert "no archive that can be read" in refused(broken)
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("readme.txt"), io.BytesIO())
    assert "has no data_batch_1" in refused(tmp_path / "other.tar.gz")
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": Hostile(print, 1)}))
    assert "data_batch_1 is no batch of CIFAR-10: it asks for builtins.print" in refused(tmp_path)


def test_a_cut_off_archive(tmp_path: Path) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        for seed, name in enumerate(NAMES):
            data = as_python_2(content(seed))
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path = tmp_path / "cut.tar.gz"
    path.write_bytes(whole.getvalue()[:-20_000])
    assert "cut.tar.gz" in refused(path)
