"""Operators that move, cut and join tensors in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...spaces.tracer import Node, Ref
from .builder import Builder, Unsupported
from .operators import Table, argument, operand

TABLE = Table()
_END = 2**63 - 1


@TABLE.add("view", "_unsafe_view", "_reshape_alias", "reshape", "squeeze", "squeeze.dim", "squeeze.dims", "unsqueeze")
def _reshape(b: Builder, node: Node) -> str:
    return b.reshape(b.name(node.args[0]), node.outputs[0].shape)


@TABLE.add("permute", "transpose.int", "t")
def _transpose(b: Builder, node: Node) -> str:
    rank = len(node.outputs[0].shape)
    order = list(range(rank))
    if node.op == "permute":
        order = [dim % rank for dim in node.args[1]]
    elif rank > 1:
        first, second = (0, 1) if node.op == "t" else (node.args[1] % rank, node.args[2] % rank)
        order[first], order[second] = second, first
    return b.op("Transpose", b.name(node.args[0]), perm=order)


@TABLE.add("expand")
def _expand(b: Builder, node: Node) -> str:
    return b.op("Expand", b.name(node.args[0]), b.ints(node.outputs[0].shape))


@TABLE.add("fill.Tensor", "copy")
def _fill(b: Builder, node: Node) -> str:
    out = node.outputs[0]
    return b.op("Expand", operand(b, node.args[1], out.dtype), b.ints(out.shape))


@TABLE.add("repeat")
def _repeat(b: Builder, node: Node) -> str:
    x, times = node.args
    name, shape = b.name(x), b.shape(x)
    if len(times) > len(shape):
        name = b.reshape(name, (1,) * (len(times) - len(shape)) + shape)
    return b.op("Tile", name, b.ints(times))


@TABLE.add("cat", "stack")
def _cat(b: Builder, node: Node) -> str:
    parts, out = node.args[0], node.outputs[0]
    axis = argument(node, 1, "dim", 0) % len(out.shape)
    names = [operand(b, part, out.dtype) for part in parts if node.op == "stack" or b.shape(part) != (0,)]
    if node.op == "stack":
        shape = (*out.shape[:axis], 1, *out.shape[axis + 1 :])
        names = [b.reshape(name, shape) for name in names]
    return names[0] if len(names) == 1 else b.op("Concat", *names, axis=axis)


@TABLE.add("split.Tensor", "split_with_sizes", "unsafe_split.Tensor", "unsafe_split_with_sizes")
def _split(b: Builder, node: Node) -> Sequence[str]:
    axis = argument(node, 2, "dim", 0) % len(b.shape(node.args[0]))
    sizes = [value.shape[axis] for value in node.outputs]
    return b.multi("Split", [b.name(node.args[0]), b.ints(sizes)], len(sizes), axis=axis)


@TABLE.add("unbind.int")
def _unbind(b: Builder, node: Node) -> Sequence[str]:
    axis = argument(node, 1, "dim", 0) % len(b.shape(node.args[0]))
    x = b.name(node.args[0])
    return [_pick(b, x, i, axis) if b.is_read(value) else "" for i, value in enumerate(node.outputs)]


def _pick(b: Builder, name: str, index: int, axis: int) -> str:
    return b.op("Gather", name, b.scalar(index, "int64"), axis=axis)


@TABLE.add("select.int")
def _select(b: Builder, node: Node) -> str:
    x, dim, index = node.args
    shape = b.shape(x)
    axis = dim % len(shape)
    return _pick(b, b.name(x), index % shape[axis], axis)


@TABLE.add("slice.Tensor")
def _slice(b: Builder, node: Node) -> str:
    shape = b.shape(node.args[0])
    axis, start, end, step = _bounds(node, 1, shape)
    return _cut(b, b.name(node.args[0]), axis, start, end, step)


def _bounds(node: Node, first: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    axis = argument(node, first, "dim", 0) % len(shape)
    start, end = argument(node, first + 1, "start"), argument(node, first + 2, "end")
    start, end, step = slice(start, end, argument(node, first + 3, "step", 1)).indices(shape[axis])
    return axis, start, end, step


def _cut(b: Builder, name: str, axis: int, start: int, end: int, step: int = 1) -> str:
    return b.op("Slice", name, b.ints([start]), b.ints([end]), b.ints([axis]), b.ints([step]))


@TABLE.add("slice_scatter", "select_scatter")
def _put_slice(b: Builder, node: Node) -> str:
    base, new = node.args[:2]
    shape = b.shape(base)
    name = operand(b, new, node.outputs[0].dtype)
    if node.op == "select_scatter":
        axis = node.args[2] % len(shape)
        start = node.args[3] % shape[axis]
        end, step = start + 1, 1
        name = b.reshape(name, (*shape[:axis], 1, *shape[axis + 1 :]))
    else:
        axis, start, end, step = _bounds(node, 2, shape)
    if step != 1:
        raise Unsupported("a write into a slice with a step")
    parts = [name]
    if start > 0:
        parts.insert(0, _cut(b, b.name(base), axis, 0, start))
    if end < shape[axis]:
        parts.append(_cut(b, b.name(base), axis, end, shape[axis]))
    return name if len(parts) == 1 else b.op("Concat", *parts, axis=axis)


@TABLE.add("index.Tensor")
def _index(b: Builder, node: Node) -> str:
    x, indices = node.args
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1 or b.dtype(given[0][1]) not in ("int64", "int32"):
        raise Unsupported("index.Tensor with several indices")
    axis, index = given[0]
    return b.op("Gather", b.name(x), b.name(index), axis=axis)


@TABLE.add("index_select")
def _index_select(b: Builder, node: Node) -> str:
    x, dim, index = node.args
    return b.op("Gather", b.name(x), b.name(index), axis=dim % len(b.shape(x)))


@TABLE.add("embedding")
def _embedding(b: Builder, node: Node) -> str:
    return b.op("Gather", b.name(node.args[0]), b.name(node.args[1]), axis=0)


@TABLE.add("gather")
def _gather(b: Builder, node: Node) -> str:
    x, dim, index = node.args[:3]
    if any(i > s for i, s in zip(b.shape(index), b.shape(x), strict=True)):
        raise Unsupported("gather with an index larger than the tensor")
    return b.op("GatherElements", b.name(x), b.name(index), axis=dim % len(b.shape(x)))


@TABLE.add("scatter.src", "scatter.value")
def _scatter(b: Builder, node: Node) -> str:
    x, dim, index, source = node.args[:4]
    shape, dtype = b.shape(index), node.outputs[0].dtype
    if isinstance(source, Ref):
        updates = b.name(source)
        if b.shape(source) != shape:
            raise Unsupported("scatter with a source larger than the index")
    else:
        updates = b.op("Expand", b.scalar(source, dtype), b.ints(shape))
    return b.op("ScatterElements", b.name(x), b.name(index), updates, axis=dim % len(b.shape(x)))


@TABLE.add("flip")
def _flip(b: Builder, node: Node) -> str:
    x, dims = node.args
    axes = [dim % len(b.shape(x)) for dim in dims]
    n = len(axes)
    return b.op("Slice", b.name(x), b.ints([-1] * n), b.ints([-_END] * n), b.ints(axes), b.ints([-1] * n))


@TABLE.add("roll")
def _roll(b: Builder, node: Node) -> str:
    x, shifts = node.args[:2]
    dims = argument(node, 2, "dims", ())
    shape, name = b.shape(x), b.name(x)
    if not dims:
        flat = b.reshape(name, (-1,))
        return b.reshape(_rolled(b, flat, 0, int(np.prod(shape)), shifts[0]), shape)
    for dim, shift in zip(dims, shifts, strict=True):
        axis = dim % len(shape)
        name = _rolled(b, name, axis, shape[axis], shift)
    return name


def _rolled(b: Builder, name: str, axis: int, size: int, shift: int) -> str:
    shift %= size
    if shift == 0:
        return name
    return b.op("Concat", _cut(b, name, axis, size - shift, size), _cut(b, name, axis, 0, size - shift), axis=axis)


# -- padding


def _pads(padding: Sequence[int], rank: int) -> list[int]:
    """torch's padding (last dimension first, begin and end together) in ONNX's order (all begins, all ends)."""
    begins, ends = [0] * rank, [0] * rank
    for i in range(len(padding) // 2):
        begins[rank - 1 - i], ends[rank - 1 - i] = padding[2 * i], padding[2 * i + 1]
    return begins + ends


@TABLE.add("constant_pad_nd")
def _constant_pad(b: Builder, node: Node) -> str:
    value, out = argument(node, 2, "value", 0), node.outputs[0]
    return b.op("Pad", b.name(node.args[0]), b.ints(_pads(node.args[1], len(out.shape))), b.scalar(value, out.dtype))


@TABLE.add(
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
)  # fmt: skip
def _mirror_pad(b: Builder, node: Node) -> str:
    mode = "reflect" if node.op.startswith("reflection") else "edge"
    pads = b.ints(_pads(node.args[1], len(node.outputs[0].shape)))
    return b.op("Pad", b.name(node.args[0]), pads, mode=mode)


# -- channels and space


@TABLE.add("pixel_shuffle")
def _pixel_shuffle(b: Builder, node: Node) -> str:
    x, factor = node.args
    if len(b.shape(x)) != 4:
        raise Unsupported("pixel_shuffle on other than 4 dimensions")
    return b.op("DepthToSpace", b.name(x), blocksize=factor, mode="CRD")


@TABLE.add("pixel_unshuffle")
def _pixel_unshuffle(b: Builder, node: Node) -> str:
    x, r = node.args
    *lead, c, h, w = b.shape(x)
    n = len(lead)
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return _regroup(b, node, x, (*lead, c, h // r, r, w // r, r), order)


@TABLE.add("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(b: Builder, node: Node) -> str:
    x, groups = node.args
    n, c, *rest = b.shape(x)
    return _regroup(b, node, x, (n, groups, c // groups, *rest), [0, 2, 1, *range(3, 3 + len(rest))])


def _regroup(b: Builder, node: Node, x: Any, shape: Sequence[int], order: Sequence[int]) -> str:
    moved = b.op("Transpose", b.reshape(b.name(x), shape), perm=list(order))
    return b.reshape(moved, node.outputs[0].shape)


@TABLE.add("tril", "triu")
def _triangle(b: Builder, node: Node) -> str:
    diagonal = b.scalar(argument(node, 1, "diagonal", 0), "int64")
    return b.op("Trilu", b.name(node.args[0]), diagonal, upper=int(node.op == "triu"))
