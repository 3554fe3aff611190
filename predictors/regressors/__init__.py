"""Learners of latency from rows of numbers: no search space, no files, no pickle."""

from .base import Regressor, Rows
from .registry import DEFAULT_KIND, regressor_kinds, regressor_type

__all__ = ["DEFAULT_KIND", "Regressor", "Rows", "regressor_kinds", "regressor_type"]
