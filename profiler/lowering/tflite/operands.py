"""What elementwise operators share: operands in one order, broadcast as in torch, and constants as small as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....spaces.tracer import Ref
from .builder import Builder, Laid
from .layout import Order, Shape, natural, stored
from .model import Tensor

Operand = Ref | Laid | float | int | bool


def elementwise(
    b: Builder, kind: str, args: Sequence[Operand], shape: Shape, dtype: str, result: str = "", **options: Any
) -> Laid:
    """An operator over tensors and numbers that broadcast to ``shape``, computed in ``dtype``, giving ``result``."""
    tensors, order = aligned(b, [converted(b, arg, dtype) for arg in args], shape)
    return Laid(b.op(kind, tensors, stored(shape, order), result or dtype, **options), shape, order)


def combined(b: Builder, kind: str, left: Laid, right: Operand) -> Laid:
    """An operator over a tensor and what broadcasts to its shape."""
    return elementwise(b, kind, [left, right], left.shape, left.tensor.dtype)


def unary(b: Builder, kind: str, laid: Laid, **options: Any) -> Laid:
    """An operator with one input, for each element."""
    return Laid(b.op(kind, [laid.tensor], laid.tensor.shape, **options), laid.shape, laid.order)


def converted(b: Builder, arg: Operand, dtype: str) -> Laid:
    """A tensor or number in this dtype, where it lies."""
    if isinstance(arg, Ref):
        arg = b.laid(arg)
    if isinstance(arg, Laid):
        return Laid(b.cast(arg.tensor, dtype), arg.shape, arg.order)
    return Laid(b.scalar(arg, dtype), (), ())


def aligned(b: Builder, operands: Sequence[Laid], shape: Shape) -> tuple[list[Tensor], Order]:
    """Tensors whose broadcast has ``shape``, as operands that lie in one order, and that order.

    The largest one that is computed from the inputs stays where it is; the others follow.
    """
    wide = [laid for laid in operands if len(laid.shape) == len(shape)]
    wide.sort(key=lambda laid: (laid.tensor.data is None, laid.tensor.size), reverse=True)
    order = wide[0].order if wide else natural(len(shape))
    return [_placed(b, laid, order) for laid in operands], order


def _placed(b: Builder, laid: Laid, order: Order) -> Tensor:
    raised = b.view(laid, (1,) * (len(order) - len(laid.shape)) + laid.shape)
    tensor = b.at(raised, order)
    if tensor.data is None:
        return tensor
    wide = [i for i, size in enumerate(tensor.shape) if size != 1]
    return b.reshape(tensor, tensor.shape[wide[0] :] if wide else ())
