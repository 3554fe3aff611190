"""Operators that repeat elements, pick them by number or reverse them, in TFLite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....spaces.tracer import Node
from ..operators import Unsupported, argument
from .builder import Builder, Laid, Table
from .layout import natural, stored
from .operands import converted, elementwise
from .shapes import cut, inserted, joined

TABLE = Table()


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
