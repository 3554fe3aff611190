"""Operators that reshape, permute, cut and join tensors in TFLite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....spaces.tracer import Node
from ..operators import Unsupported, argument
from .builder import Builder, Laid, Table
from .layout import natural, stored
from .operands import converted, elementwise

TABLE = Table()


@TABLE.add("view", "_unsafe_view", "_reshape_alias", "reshape", "squeeze", "squeeze.dim", "squeeze.dims", "unsqueeze")
def _reshape(b: Builder, node: Node) -> Laid:
    return b.view(b.laid(node.args[0]), node.outputs[0].shape)


@TABLE.add("permute", "transpose.int", "t")
def _permute(b: Builder, node: Node) -> Laid:
    x = b.laid(node.args[0])
    rank = len(x.shape)
    axes = list(range(rank))
    if node.op == "permute":
        axes = [dim % rank for dim in node.args[1]]
    elif rank > 1:
        first, second = (0, 1) if node.op == "t" else (node.args[1] % rank, node.args[2] % rank)
        axes[first], axes[second] = second, first
    return permuted(x, axes)


def permuted(x: Laid, axes: Sequence[int]) -> Laid:
    """torch's permute. Nothing moves: only the order in which the axes are named changes."""
    return Laid(x.tensor, tuple(x.shape[axis] for axis in axes), tuple(axes.index(axis) for axis in x.order))


# -- cutting


def cut(b: Builder, x: Laid, axis: int, start: int, end: int, step: int = 1) -> Laid:
    """x[start:end:step] on one of torch's axes; all numbers within the tensor."""
    shape = tuple(len(range(start, end, step)) if i == axis else size for i, size in enumerate(x.shape))
    if shape == x.shape:
        return x
    sizes, place = stored(shape, x.order), x.order.index(axis)
    begin = [start if i == place else 0 for i in range(len(sizes))]
    if step == 1:
        return Laid(b.op("SLICE", [x.tensor, b.ints(begin), b.ints(sizes)], sizes), shape, x.order)
    ends = [end if i == place else size for i, size in enumerate(x.tensor.shape)]
    steps = [step if i == place else 1 for i in range(len(sizes))]
    inputs = [x.tensor, b.ints(begin), b.ints(ends), b.ints(steps)]
    return Laid(b.op("STRIDED_SLICE", inputs, sizes), shape, x.order)


def dropped(b: Builder, x: Laid, axis: int) -> Laid:
    """Without an axis of size 1."""
    order = tuple(other - (other > axis) for other in x.order if other != axis)
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    return Laid(b.reshape(x.tensor, stored(shape, order)), shape, order)


def inserted(b: Builder, x: Laid, axis: int) -> Laid:
    """With one more axis, of size 1."""
    order = (axis, *(other + (other >= axis) for other in x.order))
    shape = (*x.shape[:axis], 1, *x.shape[axis:])
    return Laid(b.reshape(x.tensor, stored(shape, order)), shape, order)


def _bounds(node: Node, first: int, shape: Sequence[int]) -> tuple[int, int, int, int]:
    axis = argument(node, first, "dim", 0) % len(shape)
    start, end = argument(node, first + 1, "start"), argument(node, first + 2, "end")
    start, end, step = slice(start, end, argument(node, first + 3, "step", 1)).indices(shape[axis])
    return axis, start, end, step


@TABLE.add("slice.Tensor")
def _slice(b: Builder, node: Node) -> Laid:
    x = b.laid(node.args[0])
    return cut(b, x, *_bounds(node, 1, x.shape))


@TABLE.add("select.int")
def _select(b: Builder, node: Node) -> Laid:
    x, dim, index = b.laid(node.args[0]), *node.args[1:]
    axis = dim % len(x.shape)
    start = index % x.shape[axis]
    return dropped(b, cut(b, x, axis, start, start + 1), axis)


@TABLE.add("unbind.int")
def _unbind(b: Builder, node: Node) -> list[Laid | None]:
    x = b.laid(node.args[0])
    axis = argument(node, 1, "dim", 0) % len(x.shape)
    return [
        dropped(b, cut(b, x, axis, i, i + 1), axis) if b.is_read(value) else None
        for i, value in enumerate(node.outputs)
    ]


@TABLE.add("split.Tensor", "split_with_sizes", "unsafe_split.Tensor", "unsafe_split_with_sizes")
def _split(b: Builder, node: Node) -> list[Laid]:
    x = b.laid(node.args[0])
    axis = argument(node, 2, "dim", 0) % len(x.shape)
    place = x.order.index(axis)
    shapes = [value.shape for value in node.outputs]
    sizes = [shape[axis] for shape in shapes]
    wanted = [stored(shape, x.order) for shape in shapes]
    if len(set(sizes)) == 1:
        parts = b.multi("SPLIT", [b.scalar(place, "int32"), x.tensor], wanted, x.tensor.dtype, numSplits=len(sizes))
    else:
        parts = b.multi("SPLIT_V", [x.tensor, b.ints(sizes), b.scalar(place, "int32")], wanted, numSplits=len(sizes))
    return [Laid(part, shape, x.order) for part, shape in zip(parts, shapes, strict=True)]


# -- joining


def joined(b: Builder, parts: Sequence[Laid], axis: int) -> Laid:
    """torch's cat; the parts follow the largest that is computed from the inputs."""
    if len(parts) == 1:
        return parts[0]
    order = max(parts, key=lambda part: (part.tensor.data is None, part.tensor.size)).order
    width = sum(part.shape[axis] for part in parts)
    shape = tuple(width if i == axis else size for i, size in enumerate(parts[0].shape))
    tensors = [b.at(part, order) for part in parts]
    return Laid(b.op("CONCATENATION", tensors, stored(shape, order), axis=order.index(axis)), shape, order)


@TABLE.add("cat", "stack")
def _cat(b: Builder, node: Node) -> Laid:
    out = node.outputs[0]
    axis = argument(node, 1, "dim", 0) % len(out.shape)
    refs = [ref for ref in node.args[0] if node.op == "stack" or b.shape(ref) != (0,)]
    parts = [converted(b, ref, out.dtype) for ref in refs]
    return joined(b, [inserted(b, part, axis) for part in parts] if node.op == "stack" else parts, axis)


@TABLE.add("slice_scatter", "select_scatter")
def _put_slice(b: Builder, node: Node) -> Laid:
    base, new = b.laid(node.args[0]), converted(b, node.args[1], node.outputs[0].dtype)
    if node.op == "select_scatter":
        axis = node.args[2] % len(base.shape)
        start = node.args[3] % base.shape[axis]
        end, step = start + 1, 1
        new = inserted(b, new, axis)
    else:
        axis, start, end, step = _bounds(node, 2, base.shape)
    if step != 1:
        raise Unsupported("a write into a slice with a step")
    size = base.shape[axis]
    parts = [cut(b, base, axis, 0, start)] if start > 0 else []
    parts.append(new)
    return joined(b, [*parts, cut(b, base, axis, end, size)] if end < size else parts, axis)


# -- repeating


def _raised(b: Builder, x: Laid, rank: int) -> Laid:
    return b.view(x, (1,) * (rank - len(x.shape)) + x.shape)


@TABLE.add("expand")
def _expand(b: Builder, node: Node) -> Laid:
    return _broadcast(b, b.laid(node.args[0]), node.outputs[0].shape)


@TABLE.add("fill.Tensor", "copy")
def _fill(b: Builder, node: Node) -> Laid:
    out = node.outputs[0]
    return _broadcast(b, converted(b, node.args[1], out.dtype), out.shape)


def _broadcast(b: Builder, x: Laid, shape: tuple[int, ...]) -> Laid:
    x = _raised(b, x, len(shape))
    if x.shape == shape:
        return x
    sizes = stored(shape, x.order)
    return Laid(b.op("BROADCAST_TO", [x.tensor, b.ints(sizes)], sizes), shape, x.order)


@TABLE.add("repeat")
def _repeat(b: Builder, node: Node) -> Laid:
    times = node.args[1]
    x = _raised(b, b.laid(node.args[0]), len(times))
    shape = node.outputs[0].shape
    tensor = b.op("TILE", [x.tensor, b.ints(stored(times, x.order))], stored(shape, x.order))
    return Laid(tensor, shape, x.order)


# -- reordering within an axis


def picked(b: Builder, x: Laid, axis: int, index: Laid | Sequence[int]) -> Laid:
    """Elements by number along one of torch's axes; the numbers may have several axes, all of which take its place."""
    if not isinstance(index, Laid):
        index = Laid(b.ints(index), (len(index),), (0,))
    if len(index.shape) != 1:
        x = Laid(b.at(x, natural(len(x.shape))), x.shape, natural(len(x.shape)))
    places = b.at(index, natural(len(index.shape)))
    if places.data is not None:
        places = b.array(places.data % x.shape[axis])
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    place = x.order.index(axis)
    order = x.order if len(index.shape) == 1 else natural(len(shape))
    return Laid(b.op("GATHER", [x.tensor, places], stored(shape, order), axis=place), shape, order)


@TABLE.add("index.Tensor")
def _index(b: Builder, node: Node) -> Laid:
    x, indices = node.args
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1 or b.dtype(given[0][1]) not in ("int64", "int32"):
        raise Unsupported("index.Tensor with several indices")
    return picked(b, b.laid(x), given[0][0], b.laid(given[0][1]))


@TABLE.add("index_select")
def _index_select(b: Builder, node: Node) -> Laid:
    x, dim, index = node.args
    return picked(b, b.laid(x), dim % len(b.shape(x)), b.laid(index))


@TABLE.add("embedding")
def _embedding(b: Builder, node: Node) -> Laid:
    return picked(b, b.laid(node.args[0]), 0, b.laid(node.args[1]))


@TABLE.add("gather")
def _gather(b: Builder, node: Node) -> Laid:
    """By coordinates: those of the axes that are kept are known, that of the other one is the index."""
    x, dim, ref = node.args[:3]
    shape = b.shape(ref)
    rank = len(shape)
    index = inserted(b, converted(b, ref, "int32"), rank)
    grid = np.moveaxis(np.indices(shape, dtype=np.int32), 0, -1)
    parts = [Laid(b.array(grid[..., [axis]]), (*shape, 1), natural(rank + 1)) for axis in range(rank)]
    parts[dim % rank] = index
    places = joined(b, parts, rank)
    inputs = [b.at(b.laid(x), natural(rank)), b.at(places, natural(rank + 1))]
    return Laid(b.op("GATHER_ND", inputs, shape), shape, natural(rank))


@TABLE.add("flip")
def _flip(b: Builder, node: Node) -> Laid:
    x = b.laid(node.args[0])
    for dim in node.args[1]:
        place = x.order.index(dim % len(x.shape))
        x = Laid(b.op("REVERSE_V2", [x.tensor, b.ints([place])], x.tensor.shape), x.shape, x.order)
    return x


@TABLE.add("roll")
def _roll(b: Builder, node: Node) -> Laid:
    x, shifts = b.laid(node.args[0]), node.args[1]
    dims = argument(node, 2, "dims", ())
    if not dims:
        flat = b.view(x, (x.tensor.size,))
        return b.view(_rolled(b, flat, 0, shifts[0]), x.shape)
    for dim, shift in zip(dims, shifts, strict=True):
        x = _rolled(b, x, dim % len(x.shape), shift)
    return x


def _rolled(b: Builder, x: Laid, axis: int, shift: int) -> Laid:
    size = x.shape[axis]
    shift %= size
    return joined(b, [cut(b, x, axis, size - shift, size), cut(b, x, axis, 0, size - shift)], axis) if shift else x


@TABLE.add("tril", "triu")
def _triangle(b: Builder, node: Node) -> Laid:
    out = node.outputs[0]
    if out.dtype == "bool":
        raise Unsupported(f"aten.{node.op} of bools")
    ones = np.ones(out.shape[-2:], out.dtype)
    mask = (np.tril if node.op == "tril" else np.triu)(ones, argument(node, 1, "diagonal", 0))
    return elementwise(b, "MUL", [node.args[0], Laid(b.array(mask), mask.shape, (0, 1))], out.shape, out.dtype)


# -- channels and space


@TABLE.add("pixel_shuffle")
def _pixel_shuffle(b: Builder, node: Node) -> Laid:
    x, r = node.args
    *lead, c, h, w = b.shape(x)
    n = len(lead)
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    return _regrouped(b, node, (*lead, c // r**2, r, r, h, w), order)


@TABLE.add("pixel_unshuffle")
def _pixel_unshuffle(b: Builder, node: Node) -> Laid:
    x, r = node.args
    *lead, c, h, w = b.shape(x)
    n = len(lead)
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return _regrouped(b, node, (*lead, c, h // r, r, w // r, r), order)


@TABLE.add("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(b: Builder, node: Node) -> Laid:
    x, groups = node.args
    n, c, *rest = b.shape(x)
    return _regrouped(b, node, (n, groups, c // groups, *rest), [0, 2, 1, *range(3, 3 + len(rest))])


def _regrouped(b: Builder, node: Node, shape: Sequence[int], axes: Sequence[int]) -> Laid:
    """View, permute, view."""
    split = b.view(b.laid(node.args[0]), shape)
    return b.view(permuted(split, axes), node.outputs[0].shape)
