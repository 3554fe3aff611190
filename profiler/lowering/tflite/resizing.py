"""Padding and resizing in TFLite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ....spaces.tracer import Node
from ..operators import Unsupported, argument
from .builder import Builder, Laid, Table
from .indexing import picked
from .layout import NHWC, stored
from .model import Tensor
from .shapes import cut
from .windows import pad

TABLE = Table()


@TABLE.add("constant_pad_nd")
def _constant_pad(b: Builder, node: Node) -> Laid:
    x, ends, value = b.laid(node.args[0]), _ends(node), argument(node, 2, "value", 0)
    for axis, (before, after) in enumerate(ends):
        size = x.shape[axis]
        x = cut(b, x, axis, max(0, -before), size + min(0, after))
    around = [(max(0, before), max(0, after)) for before, after in ends]
    if not any(map(any, around)):
        return x
    if x.tensor.dtype == "bool":
        raise Unsupported(f"aten.{node.op} of bools")
    return Laid(pad(b, x.tensor, stored(around, x.order), value), node.outputs[0].shape, x.order)


@TABLE.add(
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
)  # fmt: skip
def _mirror_pad(b: Builder, node: Node) -> Laid:
    x, ends, shape = b.laid(node.args[0]), _ends(node), node.outputs[0].shape
    if node.op.startswith("reflection") and min(map(min, ends)) >= 0:
        around = b.ints(stored(ends, x.order))
        return Laid(b.op("MIRROR_PAD", [x.tensor, around], stored(shape, x.order), mode=0), shape, x.order)
    for axis, (before, after) in enumerate(ends):
        places = np.arange(-before, x.shape[axis] + after)
        if len(places) != x.shape[axis]:
            x = picked(b, x, axis, np.clip(places, 0, x.shape[axis] - 1).tolist())
    return x


def _ends(node: Node) -> list[tuple[int, int]]:
    """(before, after) for each of torch's axes; torch gives the last axis first."""
    padding = node.args[1]
    rank = len(node.outputs[0].shape)
    given = [(padding[2 * i], padding[2 * i + 1]) for i in range(len(padding) // 2)]
    return [(0, 0)] * (rank - len(given)) + given[::-1]


# -- resizing


@TABLE.add("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def _nearest(b: Builder, node: Node) -> Laid:
    image, out = _geometry(b, node)
    laid = Laid(image, stored(image.shape, (0, 3, 1, 2)), NHWC)
    places = [matrix.argmax(1) for matrix in _matrices(node, image, out)]
    own = [np.arange(n) * np.float32(size / n) for size, n in zip(image.shape[1:3], out, strict=True)]
    if all(np.array_equal(np.floor(a), c) for a, c in zip(own, places, strict=True)):
        shape = (image.shape[0], *out, image.shape[3])
        options = {"alignCorners": False, "halfPixelCenters": False}
        return _result(b, node, b.op("RESIZE_NEAREST_NEIGHBOR", [image, b.ints(out)], shape, "float32", **options))
    for axis, index in ((2, places[0]), (3, places[1])):
        laid = picked(b, laid, axis, index.tolist())
    return _result(b, node, laid.tensor)


@TABLE.add("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d")
def _smooth(b: Builder, node: Node) -> Laid:
    image, out = _geometry(b, node)
    sizes, corners = image.shape[1:3], bool(node.args[2])
    scales = [argument(node, 3 + i, "scales") for i in range(len(node.outputs[0].shape) - 2)]
    factors = zip(sizes[-len(scales) :], scales, out[-len(scales) :], strict=True)
    plain = all(scale is None or size * scale == n for size, scale, n in factors)  # TFLite knows no other scales
    if node.op == "upsample_bicubic2d" or not (plain or corners):
        return _result(b, node, resampled(b, image, _matrices(node, image, out)))
    shape = (image.shape[0], *out, image.shape[3])
    options = {"alignCorners": corners, "halfPixelCenters": not corners}
    return _result(b, node, b.op("RESIZE_BILINEAR", [image, b.ints(out)], shape, "", **options))


def _geometry(b: Builder, node: Node) -> tuple[Tensor, tuple[int, int]]:
    """The image, and height and width of the result."""
    spatial = node.outputs[0].shape[2:]
    image = b.image(node.args[0], len(spatial))
    return image, (1 if len(spatial) == 1 else spatial[0], spatial[-1])


def _result(b: Builder, node: Node, image: Tensor) -> Laid:
    n, height, width, channels = image.shape
    return b.view(Laid(image, (n, channels, height, width), NHWC), node.outputs[0].shape)


def _matrices(node: Node, image: Tensor, out: Sequence[int]) -> list[np.ndarray]:
    """For height and width, (out, size): the weight of each row or column in the result, by torch's own operator."""
    kind = node.op.replace("1d", "2d").replace("_linear", "_bilinear")
    operator = getattr(torch.ops.aten, kind).default
    first = 2 if kind == "upsample_nearest2d" else 3
    scales = [argument(node, first + i, "scales") for i in range(len(node.outputs[0].shape) - 2)]
    matrices = []
    for size, n, scale in zip(image.shape[1:3], out, [None] * (2 - len(scales)) + scales, strict=True):
        rows = torch.eye(size)[None, :, :, None]
        matrices.append(operator(rows, [n, 1], *node.args[2:first], scale, None)[0, :, :, 0].T.numpy())
    return matrices


def resampled(b: Builder, image: Tensor, matrices: Sequence[np.ndarray]) -> Tensor:
    """A stored image whose rows and columns are combined linearly: (out, size) for height and for width."""
    n, height, width, channels = image.shape
    rows, columns = matrices
    if not _is_identity(rows):
        flat = b.reshape(image, (n, height, width * channels))
        image = b.op("BATCH_MATMUL", [b.array(rows[None]), flat], (n, len(rows), width * channels))
    if not _is_identity(columns):
        flat = b.reshape(image, (n * len(rows), width, channels))
        image = b.op("BATCH_MATMUL", [b.array(columns[None]), flat], (n * len(rows), len(columns), channels))
    return b.reshape(image, (n, len(rows), len(columns), channels))


def _is_identity(matrix: np.ndarray) -> bool:
    return matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix)))
