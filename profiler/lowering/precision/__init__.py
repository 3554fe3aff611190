"""Lowered models in other precisions: float16 weights, or full-integer int8."""

from .quantising import PRECISIONS, PrecisionError, Samples, quantise

__all__ = ["PRECISIONS", "PrecisionError", "Samples", "quantise"]
