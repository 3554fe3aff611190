"""Matrix products in TFLite."""

from __future__ import annotations

import numpy as np

from ....spaces.tracer import Node, Ref
from .builder import Builder, Laid, Table
from .layout import last, natural, same_memory
from .operands import elementwise
from .reductions import reduced
from .shapes import inserted

TABLE = Table()


@TABLE.add("linear")
def _linear(b: Builder, node: Node) -> Laid:
    x, weight, bias = node.args
    return _product(b, node, x, weight, bias)


@TABLE.add("addmm")
def _addmm(b: Builder, node: Node) -> Laid:
    bias, x, weight = node.args
    alpha, beta = node.kwargs.get("alpha", 1), node.kwargs.get("beta", 1)
    return _product(b, node, x, weight, bias, float(alpha), float(beta))


@TABLE.add("mm")
def _mm(b: Builder, node: Node) -> Laid:
    x, weight = node.args
    return _product(b, node, x, weight, None)


def _product(
    b: Builder, node: Node, x: Ref, weight: Ref, bias: Ref | None, alpha: float = 1.0, beta: float = 1.0
) -> Laid:
    """alpha x weight + beta bias, by a fully connected layer where the right side is known."""
    weights, shift = b.constant(weight), b.constant(bias)
    known = weights is not None and weights.dtype == np.float32 and b.constant(x) is None
    if weights is None or not known or (bias is not None and (shift is None or shift.shape != weights.shape[1:])):
        result = _scaled(b, _multiplied(b, node, x, weight), alpha)
        return result if bias is None else _shifted(b, result, bias, beta)
    source, kernel = _flattened(b, x, np.float32(alpha) * weights.T)
    inputs = [source.tensor, b.array(kernel), None if shift is None else b.array(np.float32(beta) * shift)]
    shape = (*source.tensor.shape[:-1], weights.shape[1])
    tensor = b.op("FULLY_CONNECTED", inputs, shape, keepNumDims=len(source.shape) > 2)
    return Laid(tensor, node.outputs[0].shape, source.order)


def _flattened(b: Builder, x: Ref, weights: np.ndarray) -> tuple[Laid, np.ndarray]:
    """What a fully connected layer reads, innermost the axis that is summed over, and its weights (out, in).

    An image that is flattened in torch's order would have to be moved for it; its weights are moved instead.
    """
    laid, maker = b.laid(x), b.maker(x)
    if maker is not None and maker.op == "view" and len(laid.shape) == 2:
        image = b.laid(maker.args[0])
        if image.order[0] == 0 and image.shape[0] == laid.shape[0] and len(image.shape) > 2:
            inner = tuple(axis - 1 for axis in image.order[1:])
            kernel = weights.reshape(-1, *image.shape[1:]).transpose(0, *(axis + 1 for axis in inner))
            flat = b.reshape(image.tensor, laid.shape)
            return Laid(flat, laid.shape, (0, 1)), kernel.reshape(weights.shape)
    order = last(laid.order, len(laid.shape) - 1)
    return Laid(b.at(laid, order), laid.shape, order), weights


def _scaled(b: Builder, laid: Laid, factor: float) -> Laid:
    if factor == 1:
        return laid
    tensor = b.op("MUL", [laid.tensor, b.scalar(factor, laid.tensor.dtype)], laid.tensor.shape)
    return Laid(tensor, laid.shape, laid.order)


def _shifted(b: Builder, laid: Laid, bias: Ref, beta: float) -> Laid:
    if beta == 0:
        return laid
    given = b.laid(bias)
    rank = len(laid.shape)
    raised = b.view(given, (1,) * (rank - len(given.shape)) + given.shape)
    shift = _scaled(b, Laid(b.at(raised, laid.order), raised.shape, laid.order), beta)
    return Laid(b.op("ADD", [laid.tensor, shift.tensor], laid.tensor.shape), laid.shape, laid.order)


# -- both sides computed


@TABLE.add("bmm", "matmul")
def _bmm(b: Builder, node: Node) -> Laid:
    return _multiplied(b, node, *node.args[:2])


@TABLE.add("baddbmm")
def _baddbmm(b: Builder, node: Node) -> Laid:
    bias, left, right = node.args[:3]
    product = _scaled(b, _multiplied(b, node, left, right), float(node.kwargs.get("alpha", 1)))
    return _shifted(b, product, bias, float(node.kwargs.get("beta", 1)))


@TABLE.add("mv", "dot")
def _vector(b: Builder, node: Node) -> Laid:
    left, right = (b.laid(arg) for arg in node.args)
    if node.op == "dot":
        left = b.view(left, (1, *left.shape))
    right = b.view(right, (*right.shape, 1))
    shape = (left.shape[0], 1)
    inputs = [b.at(left, (0, 1)), b.at(right, (0, 1))]
    product = b.op("BATCH_MATMUL", inputs, shape, adjX=False, adjY=False)
    return b.view(Laid(product, shape, (0, 1)), node.outputs[0].shape)


def _multiplied(b: Builder, node: Node, left: Ref, right: Ref) -> Laid:
    """The right side may lie with rows and columns exchanged; XNNPACK does not take that of the left."""
    shape = node.outputs[0].shape
    order = natural(len(shape))
    exchanged = (*order[:-2], order[-1], order[-2])
    x, y = b.at(b.laid(left), order), b.laid(right)
    adjoint = y.order == exchanged and not same_memory(y.shape, order, exchanged)
    inputs = [x, y.tensor if adjoint else b.at(y, order)]
    return Laid(b.op("BATCH_MATMUL", inputs, shape, adjX=False, adjY=adjoint), shape, order)


@TABLE.add("_trilinear")
def _trilinear(b: Builder, node: Node) -> Laid:
    """Three tensors, given axes in which they are constant, multiplied and summed: what a bilinear layer is made of."""
    factors, expanded, summed = node.args[:3], node.args[3:6], node.args[6]
    wide = []
    for factor, dims in zip(factors, expanded, strict=True):
        laid = b.laid(factor)
        for dim in sorted(dims):
            laid = inserted(b, laid, dim)
        wide.append(laid)
    shapes = [laid.shape for laid in wide]
    first = elementwise(b, "MUL", wide[:2], np.broadcast_shapes(*shapes[:2]), "float32")
    product = elementwise(b, "MUL", [first, wide[2]], np.broadcast_shapes(*shapes), "float32")
    return reduced(b, "SUM", product, sorted(summed), keep=False)
