"""Operators that become part of the one before them, where nobody else reads its result."""

from __future__ import annotations

from ....spaces.tracer import Ref
from .builder import Builder, Laid
from .model import FUSED

ACTIVATIONS = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}


def activated(b: Builder, ref: Ref, activation: str) -> Laid | None:
    """The value with an activation that the operator before applies itself; None if it cannot."""
    op = b.only_reader_of(ref)
    if op is None or op.options.get(FUSED) != 0:
        return None
    op.options[FUSED] = ACTIVATIONS[activation]
    return b.laid(ref)


def biased(b: Builder, ref: Ref, summand: Ref) -> Laid | None:
    """The sum of a value and a constant vector as the bias of the fully connected layer before; None if it is none."""
    array, laid, op = b.constant(summand), b.laid(ref), b.only_reader_of(ref)
    if array is None or op is None or op.kind != "FULLY_CONNECTED" or op.inputs[2] is not None or op.options[FUSED]:
        return None
    if not laid.shape or array.shape != laid.shape[-1:] or laid.order[-1] != len(laid.shape) - 1:
        return None
    if op.outputs[0].shape[-1] != len(array):
        return None
    op.inputs = (*op.inputs[:2], b.array(array))
    op.node = b.place  # what it computes now is this node's result
    return laid
