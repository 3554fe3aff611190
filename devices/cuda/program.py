"""A network as aten operators in a row, run by PyTorch anywhere; reading one runs no code of whoever sent it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import DeviceError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VERSION = 1
_FORBIDDEN = ("filename", "file")
"""Arguments of operators that reach beyond tensors."""
_RESHAPES = frozenset({"view", "_unsafe_view", "_reshape_alias", "reshape"})


@dataclass(frozen=True)
class Step:
    """One operator: what it calls, and which values it reads and makes."""

    call: Callable[..., Any]
    args: Any
    kwargs: Mapping[str, Any]
    outputs: tuple[int, ...]


class Program:
    """Callable on input tensors; gives the list of output tensors.

    Floating-point constants are brought to ``dtype`` (as is every conversion inside), tensors of four dimensions to
    ``channels_last``, which is the layout that GPUs convolve in.

    Args:
        data: as `profiler.lowering.aten` writes it. place: a torch device. dtype: of computation.

    Raises:
        DeviceError: the data is no such program, or names an operator that there is not.
    """

    def __init__(self, data: bytes, place: str = "cpu", dtype: torch.dtype | None = None) -> None:
        import torch

        self.dtype = dtype or torch.float32
        self.place = place
        line, _, blob = data.partition(b"\n")
        try:
            head = json.loads(line)
            if head["version"] != VERSION:
                raise DeviceError(f"this program is of version {head['version']!r}; this hwnas reads {VERSION}")
            self.inputs = [int(i) for i in head["inputs"]]
            self.outputs = [int(i) for i in head["outputs"]]
            self.constants = self._constants(head["constants"], blob)
            self.steps = [self._step(*node) for node in head["nodes"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DeviceError(f"this is no program of aten operators: {error}") from error
        self._last_use = self._last_uses()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        values: dict[int, Any] = {**self.constants, **dict(zip(self.inputs, inputs, strict=True))}
        for step, done in zip(self.steps, self._last_use, strict=True):
            result = step.call(*_filled(step.args, values), **_filled(step.kwargs, values))
            results = result if isinstance(result, tuple | list) else (result,)
            values.update(zip(step.outputs, results, strict=False))
            for i in done:  # so that memory is that of a network, not of all its tensors
                del values[i]
        return [values[i] for i in self.outputs]

    def placed(self, array: np.ndarray) -> Tensor:
        """An input as the program wants it."""
        import torch

        return self._brought(torch.from_numpy(array))

    def _constants(self, listed: Sequence[Any], blob: bytes) -> dict[int, Tensor]:
        import torch

        found: dict[int, Tensor] = {}
        start = 0
        for key, name, shape in listed:
            dtype = _dtype(name)
            size = math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0 or start + size > len(blob):
                raise ValueError("its constants are cut off")
            raw = torch.frombuffer(bytearray(blob[start : start + size] or b"\0"), dtype=torch.uint8)[:size]
            found[int(key)] = self._brought(raw.view(dtype).reshape(shape))
            start += size
        return found

    def _brought(self, tensor: Tensor) -> Tensor:
        import torch

        tensor = tensor.to(self.place, self.dtype if tensor.is_floating_point() else tensor.dtype)
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    def _step(self, op: str, args: Any, kwargs: Any, outputs: Sequence[int]) -> Step:
        return Step(_operator(op), self._read(args), self._read(kwargs), tuple(int(i) for i in outputs))

    def _read(self, argument: Any) -> Any:
        if isinstance(argument, list):
            return [self._read(item) for item in argument]
        if not isinstance(argument, dict):
            return argument
        if set(argument) == {"value"}:
            return _Value(int(argument["value"]))
        if set(argument) == {"dtype"}:
            dtype = _dtype(argument["dtype"])
            return self.dtype if dtype.is_floating_point else dtype
        return {name: self._read(item) for name, item in argument.items()}

    def _last_uses(self) -> list[list[int]]:
        """For each step, the values that nothing needs after it."""
        kept = {*self.outputs, *self.constants}
        seen: set[int] = set()
        found: list[list[int]] = []
        for step in reversed(self.steps):
            here = {*_read_by(step.args), *_read_by(step.kwargs), *step.outputs} - kept - seen
            seen |= here
            found.append(sorted(here))
        return found[::-1]


@dataclass(frozen=True)
class _Value:
    id: int


def _filled(argument: Any, values: Mapping[int, Any]) -> Any:
    if isinstance(argument, _Value):
        return values[argument.id]
    if isinstance(argument, list):
        return [_filled(item, values) for item in argument]
    if isinstance(argument, dict):
        return {name: _filled(item, values) for name, item in argument.items()}
    return argument


def _read_by(argument: Any) -> list[int]:
    if isinstance(argument, _Value):
        return [argument.id]
    parts = argument.values() if isinstance(argument, dict) else argument if isinstance(argument, list) else ()
    return [i for part in parts for i in _read_by(part)]


def _dtype(name: object) -> torch.dtype:
    import torch

    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"there is no type {name!r}")
    return dtype


def _operator(name: str) -> Callable[..., Any]:
    """What a node calls. Reshapes copy where the layout asks for it; whatever touches files is refused."""
    import torch

    if name == "batch_norm":  # of `Graph.simplified`
        return _batch_norm
    base, _, overload = name.partition(".")
    if base in _RESHAPES:
        return _reshape
    if base.startswith("__"):
        raise ValueError(f"there is no operator {name!r}")
    found = getattr(getattr(torch.ops.aten, base), overload or "default")
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"there is no operator {name!r}")
    if any(argument.name in _FORBIDDEN for argument in found._schema.arguments):
        raise ValueError(f"operator {name!r} reaches beyond tensors")
    return found


def _reshape(x: Tensor, shape: Sequence[int], *_: Any) -> Tensor:
    return x.reshape(tuple(shape))


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    import torch

    return torch.nn.functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
