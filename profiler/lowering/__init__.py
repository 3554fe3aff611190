"""Modules -> artifacts that a device's runtime loads. Nothing heavy is imported before something is lowered."""

from .lower import EXPORTERS, LoweringError, lower, randomise_batch_norms

__all__ = ["EXPORTERS", "LoweringError", "lower", "randomise_batch_norms"]
