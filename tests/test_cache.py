"""The cache: whole entries or none, and never an error."""

import os
from pathlib import Path

import pytest
from hwnas.cache import Cache, cache_folder


def entry(folder: Path) -> Path:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 1
    return files[0]


def test_gives_back_what_was_put(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.get_bytes("onnx", "a") is None
    cache.put_bytes("onnx", "a", b"first")
    cache.put_bytes("onnx", "a", b"second")
    cache.put_json("spaces", "a", {"x": [1, None]})
    assert Cache(tmp_path).get_bytes("onnx", "a") == b"second"
    assert cache.get_json("spaces", "a") == {"x": [1, None]}
    assert cache.get_bytes("onnx", "b") is None
    cache.put_bytes("onnx", "empty", b"")
    assert cache.get_bytes("onnx", "empty") == b""


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "foreign", "folder", "swap"])
def test_a_harmed_entry_is_absent(tmp_path: Path, harm: str) -> None:
    cache = Cache(tmp_path)
    cache.put_json("spaces", "a", list(range(100)))
    path = entry(tmp_path)
    content = path.read_bytes()
    if harm == "truncate":
        path.write_bytes(content[:-1])
    elif harm == "flip":
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "foreign":
        path.write_bytes(b"[1, 2]")
    elif harm == "folder":
        path.unlink()
        path.mkdir()
    else:  # a whole entry under another id
        path.unlink()
        cache.put_json("spaces", "b", 1)
        other = entry(tmp_path)
        path.parent.mkdir(exist_ok=True)
        other.rename(path)
    assert cache.get_json("spaces", "a") is None
    if harm != "folder":
        cache.put_json("spaces", "a", 7)
        assert cache.get_json("spaces", "a") == 7


def test_bytes_that_are_no_json_are_absent_as_json(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put_bytes("spaces", "a", b"{")
    assert cache.get_json("spaces", "a") is None


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/dev/full", "/dev/null/x"])
def test_nowhere_to_write_is_no_error(folder: str) -> None:
    cache = Cache(folder)
    cache.put_bytes("onnx", "a", b"x")
    assert cache.get_bytes("onnx", "a") is None


def test_a_full_disk_leaves_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache = Cache(tmp_path)
    cache.put_bytes("onnx", "a", b"old")
    monkeypatch.setattr(Path, "replace", full)
    cache.put_bytes("onnx", "a", b"new")
    assert cache.get_bytes("onnx", "a") == b"old"
    entry(tmp_path)


def test_ids_may_be_any_text_and_kinds_may_not(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put_bytes("onnx", "../../etc/passwd\0 ä #1", b"x")
    assert cache.get_bytes("onnx", "../../etc/passwd\0 ä #1") == b"x"
    with pytest.raises(ValueError, match="plain word"):
        cache.get_bytes("../up", "a")


def test_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("HWNAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert cache_folder() == tmp_path / "hwnas"
