"""Checkpoints: whole or not at all, harmless, and refused where they are of something else."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.search.checkpoint import About, CheckpointError, check_checkpoint, load_checkpoint, save_checkpoint

ABOUT = About("search", "f00d", "gradient")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def state(step: int = 0) -> dict[str, Any]:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    return {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "torch": torch.get_rng_state(),
        "numpy": np.random.default_rng(step).bit_generator.state,
        "numbers": (np.float64(0.1), np.int64(3), True, None, 1e-300, 2**100, b"\0"),
        "texts": OrderedDict(a="ä", b=["x", {"y"}]),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none") is None
    saved = state(7)
    save_checkpoint(tmp_path / "c", 7, saved, about=ABOUT)
    found = load_checkpoint(tmp_path / "c")
    assert found is not None
    about = found.pop("about")
    assert same(saved, found)
    assert {k: about[k] for k in ("kind", "space", "algorithm", "network", "step", "format")} == {
        "kind": "search",
        "space": "f00d",
        "algorithm": "gradient",
        "network": "",
        "step": 7,
        "format": 1,
    }
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    model.load_state_dict(found["model"])
    assert found["model"]._metadata[""] == saved["model"]._metadata[""]
    generator = np.random.default_rng()
    generator.bit_generator.state = found["numpy"]
    assert generator.random() == np.random.default_rng(7).random()


def test_the_last_two_are_kept_and_abandoned_futures_are_not(tmp_path: Path) -> None:
    for step in (0, 5, 10, 1000):
        save_checkpoint(tmp_path, step, {})
    assert names(tmp_path) == ["step-000000000010.pt", "step-000000001000.pt"]
    save_checkpoint(tmp_path, 20, {})
    assert names(tmp_path) == ["step-000000000010.pt", "step-000000000020.pt"]
    save_checkpoint(tmp_path, 30, {}, keep=1)
    assert names(tmp_path) == ["step-000000000030.pt"]


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-best.pt").write_text("mine")
    for step in range(4):
        save_checkpoint(tmp_path, step, {})
    assert {"notes.txt", "step-best.pt"} < set(names(tmp_path))


@pytest.mark.parametrize("value", [np.arange(3), object(), Path("x"), torch.nn.Linear(1, 1), {"x": {"y": lambda: 0}}])
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, value: object) -> None:
    save_checkpoint(tmp_path, 1, {"a": 1})
    with pytest.raises(CheckpointError, match=r"state\.algorithm\.\S* ?is a \w+, which a checkpoint cannot hold"):
        save_checkpoint(tmp_path, 2, {"algorithm": {"memory": value}})
    assert names(tmp_path) == ["step-000000000001.pt"]


@pytest.mark.parametrize("after", [0, 100, 20_000, 40_000])
def test_a_full_disk_leaves_the_previous_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    save_checkpoint(tmp_path, 1, {"a": torch.arange(5000)}, about=ABOUT)
    before = (tmp_path / names(tmp_path)[0]).read_bytes()
    real = Path.open

    class Full:
        def __init__(self, path: Path, *arguments: Any) -> None:
            self.file, self.room = real(path, *arguments), after

        def write(self, data: Any) -> int:
            self.room -= len(memoryview(data).cast("B"))
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

    monkeypatch.setattr(Path, "open", lambda *arguments: Full(*arguments))
    with pytest.raises(CheckpointError, match="the disk is full; the checkpoint before it is whole"):
        save_checkpoint(tmp_path, 2, {"a": torch.arange(5000)})
    monkeypatch.undo()
    assert names(tmp_path) == ["step-000000000001.pt"]
    assert (tmp_path / names(tmp_path)[0]).read_bytes() == before
    save_checkpoint(tmp_path, 2, {"a": torch.arange(5000)})
    assert names(tmp_path) == ["step-000000000001.pt", "step-000000000002.pt"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """The kernel's own limit on a file's size, met while torch writes."""
    code = """
        import resource, signal, sys, torch
        from pathlib import Path
        from hwnas.search.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        folder = Path(sys.argv[1])
        save_checkpoint(folder, 1, {"a": torch.zeros(10)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
        try:
            save_checkpoint(folder, 2, {"a": torch.zeros(10**6)})
        except CheckpointError as error:
            print(error)
        print(load_checkpoint(folder)["about"]["step"])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    message, step = done.stdout.splitlines()
    assert "the disk is full" in message
    assert step == "1"
    assert names(tmp_path) == ["step-000000000001.pt"]


def test_killed_while_writing(tmp_path: Path) -> None:
    """kill -9 at whatever moment: what is there afterwards can be loaded, and the next run leaves no litter."""
    code = """
        import sys, torch
        from pathlib import Path
        from hwnas.search.checkpoint import save_checkpoint
        step = 0
        while True:
            step += 1
            save_checkpoint(Path(sys.argv[1]), step, {"a": torch.full((200_000,), step)})
            if step == 3:
                print("begun", flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    found = load_checkpoint(tmp_path)
    assert found is not None
    step = found["about"]["step"]
    assert step >= 3
    assert found["about"]["passed_over"] == []
    assert torch.equal(found["a"], torch.full((200_000,), step))
    save_checkpoint(tmp_path, step + 1, {})
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "text", "folder"])
def test_a_damaged_newest_one_is_passed_over_with_a_note(tmp_path: Path, damage: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"a": torch.full((1000,), step)}, about=ABOUT)
    newest = tmp_path / names(tmp_path)[-1]
    content = bytearray(newest.read_bytes())
    newest.unlink()
    content[len(content) // 2] ^= 1
    if damage == "folder":
        newest.mkdir()
    else:
        newest.write_bytes(
            {"truncated": content[:-100], "empty": b"", "flipped": content, "text": b"hello"}[damage]  # type: ignore[arg-type]
        )
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found["a"][0] == 1
    [note] = check_checkpoint(found, ABOUT)
    assert newest.name in note
    assert note.endswith("going on from step 1")


def test_none_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "step-000000000001.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"step-000000000001\.pt cannot be read: .*; remove .* to begin anew"):
        load_checkpoint(tmp_path)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True, None], ids=["zip", "old form", "plain pickle"])
def test_a_hostile_checkpoint_runs_no_code(tmp_path: Path, legacy: bool | None) -> None:
    witness = tmp_path / "witness"
    path = tmp_path / "c" / "step-000000000001.pt"
    path.parent.mkdir()
    if legacy is None:
        path.write_bytes(pickle.dumps(Hostile(witness)))
    else:
        torch.save({"a": Hostile(witness)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path.parent)
    assert not witness.exists()
    assert pickle.loads(pickle.dumps(Hostile(witness))) is None  # noqa: S301  the attack as such works
    assert witness.exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"about": 3}])
def test_files_of_torch_that_are_no_checkpoints(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "step-000000000001.pt")
    with pytest.raises(CheckpointError, match="is none of hwnas"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": "beef"}, "is of space 'beef', not of 'f00d'"),
        ({"algorithm": "reinforce"}, "is of algorithm 'reinforce', not of 'gradient'"),
        ({"kind": "train"}, "is of kind 'train', not of 'search'"),
        ({"network": "{}"}, "is of network '{}', not of ''"),
        ({"format": 2}, r"has format 2 \(hwnas 0.1.0\), this version .* reads 1"),
    ],
)
def test_another_space_algorithm_or_version(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    save_checkpoint(tmp_path, 1, {}, about=ABOUT)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert check_checkpoint(found, ABOUT) == []
    found["about"] |= change
    with pytest.raises(CheckpointError, match=message):
        check_checkpoint(found, ABOUT)


def test_an_unlabelled_checkpoint_is_of_nothing(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {})
    found = load_checkpoint(tmp_path)
    assert found is not None
    with pytest.raises(CheckpointError, match="is of kind None"):
        check_checkpoint(found, ABOUT)


def test_another_number_of_threads_is_a_doubt(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {}, about=ABOUT)
    found = load_checkpoint(tmp_path)
    assert found is not None
    found["about"]["threads"] += 1
    [doubt] = check_checkpoint(found, ABOUT)
    assert "will not be bit-identical" in doubt
    assert f"made with {torch.get_num_threads() + 1} torch threads" in doubt


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot be written: File exists"):
        save_checkpoint(tmp_path / "c", 1, {})
    with pytest.raises(CheckpointError, match="cannot be read: Not a directory"):
        load_checkpoint(tmp_path / "c")
