"""Checkpoints: files that appear whole or not at all, are read without running code, and say what they are of."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import HwnasError

FORMAT = 1
_NAME = re.compile(r"step-([0-9]+)\.pt")
_TEMPORARY = ".unfinished"
_PLAIN = (bool, int, float, str, bytes, type(None))


class CheckpointError(HwnasError):
    """A checkpoint that cannot be written, read, or gone on from."""


@dataclass(frozen=True)
class About:
    """What a checkpoint is of; one of anything else is not gone on from.

    Attributes:
        kind: "search" or "train".
        space: the fingerprint of the space.
        algorithm: of the search; "" for a training.
        network: of a training, the architecture in JSON; "" for a search.
    """

    kind: str
    space: str
    algorithm: str = ""
    network: str = ""


def save_checkpoint(
    folder: Path, step: int, state: Mapping[str, Any], keep: int = 2, *, about: About | None = None
) -> None:
    """Write the checkpoint of a step, then remove all but the last `keep` up to it.

    The file is written under another name, flushed to the disk and renamed, so that a kill, a power cut or a full disk
    leaves the checkpoints that were there whole.

    Args:
        folder: of this run's checkpoints alone; made where it is missing.
        step: what orders them, from 0 on. Later ones, of a future that was not gone on from, are removed.
        state: tensors, numbers, texts, bytes, None, and dicts, lists, tuples and sets of them; the key "about" is
            taken by what `load_checkpoint` adds.
        about: what it is of.

    Raises:
        CheckpointError: the disk is full, the folder cannot be written, or the state holds something else.
    """
    header = {"format": FORMAT, "hwnas": __version__, "threads": torch.get_num_threads(), "step": int(step)}
    data = {**_plain(state, "state"), "about": {**(asdict(about) if about else {}), **header}}
    target = folder / f"step-{int(step):012d}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(target, data)
        found = sorted(_steps(folder).items())
        kept = [path for number, path in found if number <= step][-keep:]
        for path in [path for _, path in found if path not in kept]:
            path.unlink(missing_ok=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "the disk is full" if full else error.strerror or str(error)
        raise CheckpointError(f"{target} cannot be written: {why}; the checkpoint before it is whole") from error


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state of the newest checkpoint that can be read, tensors on the CPU; None where there is none.

    Under "about" it holds the fields of `About`, "format", "hwnas" (version), "threads" (of torch), "step" and
    "passed_over" (newer checkpoints that are damaged, with the reason). No code from the file is run.

    Raises:
        CheckpointError: there are checkpoints, and none of them can be read.
    """
    damaged: list[str] = []
    for _, path in sorted(_steps(folder).items(), reverse=True):
        try:
            state = _read(path)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        state["about"]["passed_over"] = damaged
        return state
    if damaged:
        raise CheckpointError(f"{damaged[0]}; remove {folder} to begin anew")
    return None


def check_checkpoint(state: Mapping[str, Any], about: About) -> list[str]:
    """Doubts about going on from what `load_checkpoint` gave.

    Raises:
        CheckpointError: it is of another space, algorithm, kind, network or format; the message names both sides.
    """
    found = state["about"]
    if found.get("format") != FORMAT:
        raise CheckpointError(
            f"the checkpoint has format {found.get('format')!r} (hwnas {found.get('hwnas')}), this version "
            f"({__version__}) reads {FORMAT}: go on with that version, or begin anew with --force"
        )
    for name, wanted in asdict(about).items():
        if found.get(name) != wanted:
            raise CheckpointError(
                f"the checkpoint is of {name} {found.get(name)!r}, not of {wanted!r}: give what it was made with, "
                "or begin anew with --force"
            )
    doubts = [f"{reason}; going on from step {found['step']}" for reason in found.get("passed_over", ())]
    threads = torch.get_num_threads()
    if found.get("threads") != threads:
        doubts.append(
            f"the checkpoint was made with {found.get('threads')} torch threads, this process has {threads}: results "
            "will not be bit-identical to those of an unbroken run"
        )
    return doubts


def _steps(folder: Path) -> dict[int, Path]:
    try:
        names = os.listdir(folder)  # noqa: PTH208  one call, whatever is removed meanwhile
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}") from error
    return {int(found[1]): folder / name for name in names if (found := _NAME.fullmatch(name))}


def _write(target: Path, data: dict[str, Any]) -> None:
    temporary = target.with_name(_TEMPORARY)
    try:
        with temporary.open("wb") as file:
            with _disk_errors(target):
                torch.save(data, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    flush_folder(target.parent)


@contextlib.contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """torch's writer hides what the file said behind a RuntimeError of its own about positions."""
    try:
        yield
    except RuntimeError as error:
        cause = error.__context__
        raise (cause if isinstance(cause, OSError) else OSError(errno.EIO, f"{error}", str(target))) from error


def flush_folder(folder: Path) -> None:
    """Make renames in a folder outlive a power cut, where the system can."""
    with contextlib.suppress(OSError):  # not every file system lets a folder be opened or flushed
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums it writes
            broken = archive.testzip()
        if broken is not None:
            raise CheckpointError(f"checkpoint {path} is damaged: {broken} is not what was written")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile file may fail in any way
        reason = str(error).split("\n", 1)[0].partition(". This file can still be loaded")[0]
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}") from error
    if not isinstance(state, dict) or not isinstance(state.get("about"), dict):
        raise CheckpointError(f"checkpoint {path} is none of hwnas")
    return state


def _plain(value: Any, where: str) -> Any:
    """What loading without running code gives back: numpy's numbers become Python's, anything foreign is refused."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        made: dict[Any, Any] = OrderedDict() if isinstance(value, OrderedDict) else {}
        made.update((_plain(key, where), _plain(part, f"{where}.{key}")) for key, part in value.items())
        if hasattr(value, "_metadata"):  # of a module's state: the versions of its layers
            made._metadata = value._metadata  # type: ignore[attr-defined]
        return made
    if type(value) in (list, tuple, set):
        return type(value)(_plain(part, f"{where}[{i}]") for i, part in enumerate(value))
    if type(value) in _PLAIN:
        return value
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise CheckpointError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold: give tensors or numbers"
    )
