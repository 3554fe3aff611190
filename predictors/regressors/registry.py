"""Regressors by kind."""

from __future__ import annotations

import importlib

from ..base import PredictorError
from .base import Regressor

DEFAULT_KIND, TRANSFER = "stacked", "transfer"
# A kind is a module here and a line below; `predictors.kinds` makes a predictor of each.
_BUILT_IN = {
    "auto": ".auto:Auto",
    "lut": ".additive:AdditiveTable",
    "linear": ".linear:Linear",
    "gbdt": ".boosting:BoostedTrees",
    "random-forest": ".forest:RandomForest",
    "gaussian-process": ".gaussian_process:GaussianProcess",
    "mlp": ".mlp:Mlp",
    "gcn": ".gcn:Gcn",
    "kernel": ".kernel_sums:KernelSums",
    "stacked": ".stacked:Stacked",
    TRANSFER: ".transfer:Transfer",
}


def regressor_kinds() -> tuple[str, ...]:
    """All known kinds."""
    return tuple(_BUILT_IN)


def regressor_type(kind: str) -> type[Regressor]:
    """The class of a kind; raises PredictorError where there is none."""
    if kind not in _BUILT_IN:
        raise PredictorError(f"there is no regressor of kind {kind!r}; there are: {', '.join(_BUILT_IN)}")
    module, _, name = _BUILT_IN[kind].partition(":")
    found: type[Regressor] = getattr(importlib.import_module(module, __package__), name)
    return found
