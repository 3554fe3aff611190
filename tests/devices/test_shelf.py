"""Artifacts on disk while a session lasts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hwnas.devices.data import Artifact, TensorSpec
from hwnas.devices.shelf import Shelf


def artifact(data: bytes) -> Artifact:
    return Artifact("onnx", data, (TensorSpec("x", (1, 3), "float32"),), "d", "emitter", {"y": "a#0"})


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def stored(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.glob("*/*"))


def test_what_is_kept_comes_back_whole(temporary: Path) -> None:
    shelf = Shelf()
    shelf.put("b", artifact(b"one"))
    shelf.put("../a/\0", artifact(b"two"))  # names are anything
    assert list(shelf) == ["b", "../a/\0"]
    assert len(shelf) == 2
    assert "b" in shelf
    assert shelf.get("b") == artifact(b"one")
    assert shelf.get("../a/\0") == artifact(b"two")
    assert stored(temporary) == [b"one", b"two"]
    shelf.close()
    assert list(temporary.iterdir()) == []


def test_what_is_dropped_or_replaced_leaves_the_disk(temporary: Path) -> None:
    shelf = Shelf()
    shelf.put("a", artifact(b"one"))
    shelf.put("a", artifact(b"two"))
    assert stored(temporary) == [b"two"]
    shelf.drop("a")
    shelf.drop("a")
    assert stored(temporary) == []
    assert "a" not in shelf
    with pytest.raises(KeyError):
        shelf.get("a")
    shelf.close()


def test_a_disk_that_cannot_be_written_is_done_without(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    shelf = Shelf()
    monkeypatch.setattr(Path, "write_bytes", full)
    shelf.put("a", artifact(b"one"))
    assert shelf.get("a") == artifact(b"one")
    assert stored(temporary) == []
    shelf.close()


def test_nowhere_to_write_at_all_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    shelf = Shelf()
    shelf.put("a", artifact(b"one"))
    assert shelf.get("a") == artifact(b"one")
    shelf.close()
