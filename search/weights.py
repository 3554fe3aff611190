"""Weights in files: safetensors, state dicts, checkpoints of training and search. None can run code when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import HwnasError
from ..profiler.table_export import write_new
from ..spaces.architecture import Architecture
from ..spaces.space import SearchSpace

WEIGHTS_FILE = "weights.safetensors"

State = Mapping[str, Tensor]
Source = Literal["fresh", "network", "supernet"]


class WeightsError(HwnasError):
    """Weights that cannot be read, or are not those of the network."""


@dataclass(frozen=True)
class Weighted:
    """A network with its weights.

    Attributes:
        source: "fresh" (initialised from a seed), "network" (its own, from a file) or "supernet" (taken out of one).
    """

    network: nn.Module
    source: Source


def network_with_weights(
    space: SearchSpace, architecture: Architecture, weights: Path | None = None, *, seed: int = 0
) -> Weighted:
    """The plain network of an architecture, on the CPU.

    Args:
        weights: safetensors, a PyTorch state dict or a checkpoint, of the network or of the space's supernet; or the
            folder of a run. Without it the weights are drawn from `seed`.

    Raises:
        WeightsError: the file cannot be read, or holds the weights of something else.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reseed the GPUs, too
        supernet = space.supernet()
    network = space.assemble(architecture, supernet, copied=False)
    if weights is None:
        return Weighted(network, "fresh")
    takers: list[tuple[Source, nn.Module, State]]
    takers = [("network", network, network.state_dict()), ("supernet", supernet, supernet.state_dict())]
    wrong: list[tuple[int, str]] = []
    for name, state in read_states(weights):
        for source, module, wanted in takers:
            count, difference = _difference(state, wanted)
            if not count:
                module.load_state_dict(state)
                return Weighted(network, source)  # its modules are the supernet's
            wrong.append((count, f"{name} does not fit the {source}: {difference}"))
    if not wrong:
        raise WeightsError(f"{weights} holds no weights: it is no state dict, and none is in it")
    hint = "are --arch, --space and --space-arg those that it was trained with?"
    raise WeightsError(f"{weights}: {min(wrong)[1]}; {hint}")


def save_weights(path: Path, network: nn.Module) -> None:
    """Write a network's state dict as safetensors, whole or not at all."""
    write_new(path, weights_bytes(network))


def weights_bytes(network: nn.Module) -> bytes:
    """A network's state dict as safetensors."""
    from safetensors.torch import save

    # Clones, since modules may share tensors, which the format refuses.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    data: bytes = save(state, metadata={"format": "pt"})
    return data


def read_states(path: Path) -> Iterator[tuple[str, State]]:
    """Every state dict in a file, or in the weights files and then the checkpoints of a run's folder, with its name.

    Raises:
        WeightsError: nothing is there, or it cannot be read.
    """
    for source in _sources(path) if path.is_dir() else [path]:
        data = _checkpoint(source) if source.is_dir() else _file(source)
        yield from _states(data, source.name, depth=4)


def _sources(folder: Path) -> list[Path]:
    """What holds weights in a folder: a trained network's come before a supernet's."""
    files = [each for each in (folder / WEIGHTS_FILE, folder / "final" / WEIGHTS_FILE) if each.is_file()]
    below = dict.fromkeys([folder / "checkpoint" / "train", *folder.glob("checkpoint/*/"), folder / "checkpoint"])
    return [*files, *(each for each in below if any(each.glob("step-*.pt")))] or [folder]


def _checkpoint(folder: Path) -> Any:
    from .checkpoint import load_checkpoint

    data = load_checkpoint(folder)
    if data is None:
        raise WeightsError(f"{folder} holds neither {WEIGHTS_FILE} nor a checkpoint")
    return data


def _file(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise WeightsError(f"weights {path} cannot be read: {error.strerror}") from error
    try:
        if start[8:] == b"{":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may fail in any way
        reason = " ".join(str(error).split("\n", 1)[0].partition(". This file can still be loaded")[0].split())
        raise WeightsError(f"weights {path} are neither safetensors nor a plain checkpoint: {reason}") from error


def _states(data: Any, name: str, depth: int) -> Iterator[tuple[str, State]]:
    if not isinstance(data, Mapping) or not data or depth == 0:
        return
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in data.items()):
        yield name, data
        return
    for key, value in data.items():
        yield from _states(value, f"{name}[{key!r}]", depth - 1)


def _difference(state: State, wanted: State) -> tuple[int, str]:
    """How many tensors are not as they should be, and which."""
    lacks, more = [n for n in wanted if n not in state], [n for n in state if n not in wanted]
    shapes = [n for n in wanted if n in state and state[n].shape != wanted[n].shape]
    parts = []
    if lacks:
        parts.append(f"it lacks {_some(lacks)}")
    if more:
        parts.append(f"it has {_some(more)} besides")
    if shapes:
        first = shapes[0]
        rest = f" and {len(shapes) - 1} more differ" if len(shapes) > 1 else ""
        parts.append(f"{first} is {_shape(state[first])}, not {_shape(wanted[first])}{rest}")
    return len(lacks) + len(more) + len(shapes), ", ".join(parts)


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
