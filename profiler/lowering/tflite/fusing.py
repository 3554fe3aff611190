"""Operators that become part of the one before them, where nobody else reads its result."""

from __future__ import annotations

import numpy as np

from ....spaces.tracer import Ref
from .builder import Builder, Laid
from .model import FUSED

ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
_WITH_BIAS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})


def activated(b: Builder, ref: Ref, activation: str) -> Laid | None:
    """The value with an activation that the operator before applies itself; None if it cannot."""
    op = b.only_reader_of(ref)
    if op is None or op.options.get(FUSED) != 0:
        return None
    op.options[FUSED] = ACTIVATIONS[activation]
    return b.laid(ref)


def biased(b: Builder, ref: Ref, summand: np.ndarray, activation: str = "NONE") -> Laid | None:
    """The sum of a value and a constant in the bias of the convolution or fully connected layer before; None if there
    is none. The constant is a number, or a vector along an axis that the layer makes. An activation may follow."""
    laid, op = b.laid(ref), b.only_reader_of(ref)
    if op is None or op.kind not in _WITH_BIAS or op.options[FUSED]:
        return None
    width = op.outputs[0].shape[-1]
    if summand.ndim and not (summand.shape == laid.shape[-1:] == (width,) and laid.order[-1] == len(laid.shape) - 1):
        return None
    old = op.inputs[2]
    bias = np.zeros(width, np.float32) if old is None or old.data is None else old.data
    op.inputs = (*op.inputs[:2], b.array((bias + summand).astype(np.float32)))
    op.options[FUSED] = ACTIVATIONS[activation]
    op.node = b.place  # what it computes now is this node's result
    return laid
