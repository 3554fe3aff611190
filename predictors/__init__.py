"""From measurements to the latency of any architecture: lookup tables, their expectation, and how far off they are."""

from .base import MissingMeasurements, Origin, Predictor, PredictorError
from .expectation import Expectation
from .lut import LutPredictor
from .registry import load_predictor, predictor_kinds, predictor_type

__all__ = [
    "Expectation",
    "LutPredictor",
    "MissingMeasurements",
    "Origin",
    "Predictor",
    "PredictorError",
    "load_predictor",
    "predictor_kinds",
    "predictor_type",
]
