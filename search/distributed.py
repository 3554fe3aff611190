"""Several processes that train as one: ranks, what they average and what they must agree on."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ..errors import HwnasError
from .launch import PATIENCE_S, launch, launched_here
from .sync_batch_norm import synchronise_batch_norm

__all__ = ["Ranks", "RanksDisagree", "RanksError", "launch", "synchronise_batch_norm"]

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SHOWN = 300  # characters of a value that ranks disagree on


class RanksError(HwnasError):
    """Processes that cannot work together: they do not find, or have lost, one another."""


class RanksDisagree(RanksError):
    """Ranks hold different values of what must be the same on all."""


class Ranks:
    """This process among those that train together.

    Every method that exchanges something is to be called by all ranks, in the same order.

    Attributes:
        rank: number of this process, from 0.
        world: how many there are.
        device: where this process computes.
    """

    def __init__(self, rank: int, world: int, device: torch.device, *, group: Any = None, owned: bool = False) -> None:
        self.rank = rank
        self.world = world
        self.device = device
        self._group = group  # of the exchange of CPU tensors; None: the default one
        self._owned = owned

    @classmethod
    def single(cls, device: torch.device | str = "cpu") -> Ranks:
        """A process by itself: nothing is exchanged."""
        return cls(0, 1, torch.device(device))

    @classmethod
    def start(cls, device: torch.device | str = "cpu", *, timeout_s: float = 1800.0) -> Ranks:
        """Join the group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT name, as torchrun or `launch` set them.

        Without RANK and WORLD_SIZE, or with WORLD_SIZE=1, it is `single`. A group that was joined already is used as
        it is, and left alone by `close`.

        Args:
            device: "cpu" (gloo) or "cuda" (nccl; on CUDA device LOCAL_RANK, which becomes the current one).
            timeout_s: how long to wait for the others, at the beginning and in every exchange.

        Raises:
            RanksError: variables are missing or senseless, there is no CUDA device for this rank, or the others do
                not come.
        """
        if dist.is_initialized():
            return cls._adopt(device)
        given = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
        if not given.keys() & {"RANK", "WORLD_SIZE"}:
            return cls.single(device)
        rank, world = _place(given)
        own = _own_device(torch.device(device), rank)
        if world == 1:
            return cls(0, 1, own)
        backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), rank=rank, world_size=world)
        except (RuntimeError, ValueError) as error:
            where = f"{given['MASTER_ADDR']}:{given['MASTER_PORT']}"
            raise RanksError(f"rank {rank} of {world} found no group at {where}: {_first_line(error)}") from error
        return cls(rank, world, own, owned=True)

    @classmethod
    def _adopt(cls, device: torch.device | str) -> Ranks:
        rank, world = dist.get_rank(), dist.get_world_size()
        group = None if "gloo" in str(dist.get_backend_config()) else dist.new_group(backend="gloo")
        return cls(rank, world, _own_device(torch.device(device), rank), group=group)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __deepcopy__(self, memo: object) -> Ranks:
        return self  # modules hold it; a copy of a module belongs to the same process

    @property
    def shard(self) -> tuple[int, int]:
        """(rank, world): which rows of a batch are this process's."""
        return self.rank, self.world

    def close(self) -> None:
        """Leave the group."""
        if self._owned and dist.is_initialized():
            dist.destroy_process_group()
        self._owned = False

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Set each tensor to its mean over all ranks: one exchange of all of them together.

        They have the same shapes in the same order on every rank, which `agree` on the sampled path ensures. Sums are
        made in the widest of the types, at least float32; means of integers are rounded. All ranks get the same bits.
        """
        if self.world == 1 or not tensors:
            return
        kind = torch.float32
        for tensor in tensors:
            kind = torch.promote_types(kind, tensor.dtype if tensor.is_floating_point() else torch.float64)
        flat = torch.cat([tensor.detach().reshape(-1).to(kind) for tensor in tensors])
        with self._exchange("averaging"):
            dist.all_reduce(flat, group=None if flat.is_cuda else self._group)
        flat /= self.world
        with torch.no_grad():
            for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                mean = mean.view(tensor.shape)
                tensor.copy_(mean if tensor.is_floating_point() else mean.round())

    def stack(self, tensor: Tensor) -> Tensor:
        """(world, ...) the tensors of all ranks, of one shape and type, in the order of ranks; not differentiable."""
        tensor = tensor.detach().contiguous()
        if self.world == 1:
            return tensor[None].clone()
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        with self._exchange("sharing tensors"):
            dist.all_gather(parts, tensor, group=None if tensor.is_cuda else self._group)
        return torch.stack(parts)

    def gather(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """The arrays of all ranks, in the order of ranks; shapes and types may differ."""
        if self.world == 1:
            return [np.array(array)]
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        data = torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)
        lengths = self.stack(torch.tensor([len(data)]))[:, 0].tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(data)] = data
        parts = self.stack(padded).numpy()
        pieces = [part[:n].tobytes() for part, n in zip(parts, lengths, strict=True)]
        return [np.load(io.BytesIO(piece), allow_pickle=False) for piece in pieces]

    def agree(self, what: str, *values: Any) -> None:
        """Make sure that all ranks hold the same values, to the bit: their BLAKE2 digests are compared.

        Averaging gradients of different paths gives wrong ones without any error: this is the guard.

        Args:
            what: name of the values, for the message.
            values: numbers, texts, bytes, None, arrays, tensors, and lists and mappings of them.

        Raises:
            RanksDisagree: on every rank, naming `what`, which ranks differ, and what each holds.
        """
        if self.world == 1:
            return
        digest = hashlib.blake2b(b"".join(_encoded([what, *values])), digest_size=16).digest()
        digests = self.stack(torch.frombuffer(bytearray(digest), dtype=torch.uint8)).tolist()
        if all(other == digests[0] for other in digests):
            return
        shown = " ".join(f"{', '.join(map(_short, values))} as {what}".split())[:_SHOWN].encode()
        texts = [part.tobytes().decode(errors="replace") for part in self.gather(np.frombuffer(shown, np.uint8))]
        raise RanksDisagree(_disagreement(what, digests, texts))

    @contextmanager
    def _exchange(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if launched_here():
                # The launcher is about to end this process and to show the message of the rank that failed first;
                # speaking now would bury it.
                time.sleep(PATIENCE_S)
            raise RanksError(
                f"rank {self.rank} of {self.world} lost the others while {what}: {_first_line(error)}; one of them "
                "has ended or hangs: see its own message, then resume the run"
            ) from error


def _place(given: Mapping[str, str]) -> tuple[int, int]:
    missing = [name for name in _VARIABLES if name not in given]
    if missing:
        raise RanksError(
            f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} set, {', '.join(missing)} not; start the "
            "processes with --nproc N or torchrun, or unset them all"
        )
    try:
        rank, world = int(given["RANK"]), int(given["WORLD_SIZE"])
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise RanksError(f"RANK={given['RANK']} and WORLD_SIZE={given['WORLD_SIZE']}: 0 <= RANK < WORLD_SIZE is needed")
    return rank, world


def _own_device(device: torch.device, rank: int) -> torch.device:
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise RanksError("CUDA was asked for, but torch finds no CUDA device here; use the CPU, or mend the driver")
    local, count = int(os.environ.get("LOCAL_RANK") or rank), torch.cuda.device_count()
    if local >= count:
        raise RanksError(f"local rank {local} needs a CUDA device of its own, but there are {count} here: use fewer")
    own = torch.device("cuda", local)
    torch.cuda.set_device(own)
    return own


def _encoded(value: Any) -> Iterator[bytes]:
    """Pieces of bytes that are the same exactly where the value is: types, lengths and bits."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        yield f"{value.dtype}{tuple(value.shape)};".encode()
        yield value.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype.str}{value.shape};".encode()
        yield value.tobytes()
    elif isinstance(value, Mapping):
        yield from _encoded([list(item) for item in value.items()])
    elif isinstance(value, list | tuple):
        yield f"list{len(value)};".encode()
        for item in value:
            yield from _encoded(item)
    elif isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        yield f"{type(value).__name__}{len(data)};".encode()
        yield data
    elif value is None or isinstance(value, bool | int | float | np.generic):
        plain = value.item() if isinstance(value, np.generic) else value
        yield f"{type(plain).__name__} {plain!r};".encode()
    else:
        raise TypeError(f"ranks cannot compare a {type(value).__name__}")


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy() if value.dtype is not torch.bfloat16 else value.detach().cpu().tolist()
    return np.array2string(value, threshold=64) if isinstance(value, np.ndarray) else repr(value)


def _disagreement(what: str, digests: Sequence[Sequence[int]], texts: Sequence[str]) -> str:
    groups: dict[tuple[int, ...], list[int]] = {}
    for rank, digest in enumerate(digests):
        groups.setdefault(tuple(digest), []).append(rank)
    parts = [
        f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} {'have' if len(ranks) > 1 else 'has'} "
        f"{texts[ranks[0]]} (digest {bytes(digest).hex()[:8]})"
        for digest, ranks in groups.items()
    ]
    return (
        f"ranks disagree on {what}: {'; '.join(parts)}. Averaged gradients would be wrong: start all ranks with the "
        "same settings, seed, data and versions"
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
