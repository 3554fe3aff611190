"""Operators that reshape, permute, cut and join tensors in TFLite."""

from __future__ import annotations

from collections.abc import Sequence

from ....spaces.tracer import Node
from ..operators import Unsupported, argument
from .builder import Builder, Laid, Table
from .layout import at_the_border, stored
from .operands import converted

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
    shape = node.outputs[0].shape
    return b.view(permuted(split, axes), shape, at_the_border(len(shape)))
