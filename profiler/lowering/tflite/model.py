"""A TFLite model as plain data, before it is written: tensors, operators, and what both are called in the schema."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..operators import Unsupported

FUSED = "fusedActivationFunction"  # what such an operator applies to its result; a field of its options
FUSING = frozenset(
    {
        "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "DIV", "MAX_POOL_2D",
        "AVERAGE_POOL_2D",
    }
)  # fmt: skip
DTYPES = frozenset({"float32", "int32", "int64", "bool", "float16", "int8", "uint8", "int16"})


@dataclass(eq=False, slots=True)
class Tensor:
    """One tensor: ``shape`` as it lies in memory, numpy's dtype, the elements of a constant, and what computes it."""

    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None = None
    maker: Operator | None = None
    name: str = ""

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(eq=False, slots=True)
class Operator:
    """One operator; ``kind`` and the options' fields are the schema's. None among the inputs: one that is left out."""

    kind: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: dict[str, Any] = field(default_factory=dict)
    owner: str = ""
    node: int = -1


@dataclass(frozen=True, slots=True)
class Subgraph:
    """What a file holds: named inputs and outputs, and the operators between them in the order in which they run."""

    inputs: Sequence[tuple[str, Tensor]]
    outputs: Sequence[tuple[str, Tensor]]
    operators: Sequence[Operator]


def check_dtype(dtype: str) -> str:
    """The dtype, if TFLite has it.

    Raises:
        Unsupported: it has not, or nothing can be computed in it there.
    """
    if dtype not in DTYPES:
        raise Unsupported(f"dtype {dtype}")
    return dtype


_VERSION_BY_RANK = {  # from how many dimensions on an operator needs which version
    "TRANSPOSE": ((6, 6), (5, 4)), "SLICE": ((5, 5),), "STRIDED_SLICE": ((5, 4),), "PAD": ((5, 4),), "PADV2": ((5, 4),),
    "MAXIMUM": ((5, 3),), "MINIMUM": ((5, 3),), "SUB": ((5, 3),), "DIV": ((5, 2),),
}  # fmt: skip
_VERSION_BY_DTYPE = {
    ("MUL", "int64"): 5, ("ADD", "int64"): 4, ("SUB", "int64"): 4, ("ABS", "int32"): 5, ("SIGN", "int32"): 2,
    ("FLOOR_DIV", "float32"): 2, ("GATHER", "bool"): 3, ("TRANSPOSE", "bool"): 3, ("STRIDED_SLICE", "bool"): 3,
    ("REVERSE_V2", "bool"): 2, ("SPLIT", "int32"): 3,
}  # fmt: skip


def version(op: Operator) -> int:
    """The lowest version of the operator that has what is asked of it, so that old runtimes take what they can."""
    first = next(tensor for tensor in op.inputs if tensor is not None)
    if op.kind == "SPLIT":  # its first input is the axis
        first = op.outputs[0]
    found = _VERSION_BY_DTYPE.get((op.kind, first.dtype), 1)
    rank = max(len(tensor.shape) for tensor in op.inputs if tensor is not None)
    found = max([found, *(number for least, number in _VERSION_BY_RANK.get(op.kind, ()) if rank >= least)])
    return max(found, _version_by_use(op))


def _version_by_use(op: Operator) -> int:
    options = op.options
    if op.kind == "CONV_2D":
        image, weights = op.inputs[:2]
        assert image is not None
        assert weights is not None
        return 6 if image.shape[3] != weights.shape[3] else 1
    if op.kind == "DEPTHWISE_CONV_2D":
        return 2 if (options["dilationWFactor"], options["dilationHFactor"]) != (1, 1) else 1
    if op.kind == "FULLY_CONNECTED":
        return 5 if options.get("keepNumDims") else 1
    if op.kind == "TRANSPOSE_CONV":
        return 4 if options.get(FUSED) else 3
    if op.kind in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        corners = op.kind != "RESIZE_BILINEAR" and options.get("alignCorners")
        return 3 if options.get("halfPixelCenters") or corners else 1
    return 2 if op.kind == "BROADCAST_TO" else 1
