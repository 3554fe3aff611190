"""Artifacts on disk while a session lasts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hwnas.devices.data import Artifact, TensorSpec
from hwnas.devices.shelf import Shelf


def artifact(data: bytes) -> Artifact:
    return Artifact("onnx", data, (TensorSpec("x", (1, 3), "float32"),), "d", "emitter", {"y": "a#0"})


def test_what_is_kept_comes_back_whole() -> None:
    shelf = Shelf()
    shelf.put("b", artifact(b"one"))
    shelf.put("../a/\0", artifact(b"three"))  # names are anything
    shelf.put("b", artifact(b"two"))
    assert list(shelf) == ["../a/\0", "b"]
    assert len(shelf) == 2
    assert shelf.get("b") == artifact(b"two")
    assert shelf.get("../a/\0") == artifact(b"three")
    shelf.drop("b")
    shelf.drop("b")
    assert "b" not in shelf
    with pytest.raises(KeyError):
        shelf.get("b")
    shelf.drop("../a/\0")
    shelf.put("c", artifact(b"four"))
    assert shelf.get("c") == artifact(b"four")
    shelf.close()
    shelf.close()


def test_nothing_is_left_behind_that_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shelf = Shelf()
    shelf.put("a", artifact(b"one"))
    assert shelf.get("a").data == b"one"
    assert list(tmp_path.iterdir()) == []
    shelf.close()


def test_a_disk_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    shelf = Shelf()
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    shelf.put("a", artifact(b"one"))
    assert shelf.get("a") == artifact(b"one")
    shelf.drop("a")
    assert "a" not in shelf
    shelf.close()
