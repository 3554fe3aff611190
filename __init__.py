"""hwnas: hardware-aware latency profiling and prediction, coupled to neural architecture search.

The public names below are loaded when they are first used, so that `import hwnas.devices` never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import HwnasError
    from .predictors.base import Predictor
    from .predictors.registry import load_predictor
    from .profiler.table import LatencyTable
    from .spaces.architecture import Architecture
    from .spaces.choices import InputChoice, LayerChoice
    from .spaces.registry import load_space, space_names
    from .spaces.space import SearchSpace

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "HwnasError",
    "InputChoice",
    "LatencyTable",
    "LayerChoice",
    "Predictor",
    "SearchSpace",
    "__version__",
    "load_predictor",
    "load_space",
    "space_names",
]

_HOMES = {
    "Architecture": ".spaces.architecture",
    "HwnasError": ".errors",
    "InputChoice": ".spaces.choices",
    "LatencyTable": ".profiler.table",
    "LayerChoice": ".spaces.choices",
    "Predictor": ".predictors.base",
    "SearchSpace": ".spaces.space",
    "load_predictor": ".predictors.registry",
    "load_space": ".spaces.registry",
    "space_names": ".spaces.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
