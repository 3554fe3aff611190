"""Search: from a space, latency predictors with targets, and data to a trained network.

The public names below are loaded when they are first used, so that `import hwnas.search` never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .algorithm import Algorithm, Budget, SearchError, Task
    from .algorithms import algorithm_names, create_algorithm
    from .config import SearchConfig, read_config
    from .data.batches import Batches
    from .data.data import Data, DataError, check_data
    from .data.loaders import wrap_loader
    from .data.registry import load_data
    from .derive import Derived, draw_in_band, most_probable
    from .distributed import Ranks
    from .engine import Engine
    from .goals import Goal, Latency, TargetUnreachable
    from .job import SearchJob
    from .landed import Landing
    from .landing import LandingRequest, land
    from .objective import Objective
    from .preparation import prepare, resolve
    from .run import RunFolder
    from .settings import (
        EvolutionSettings,
        FinalSettings,
        GradientSettings,
        LandingSettings,
        ObjectiveSettings,
        RandomSettings,
        ReinforceSettings,
        SearchSettings,
        WeightSettings,
    )
    from .supernet import Supernet
    from .train import TrainRequest
    from .trainer import ProxylessNasTrainer

__all__ = [
    "Algorithm",
    "Batches",
    "Budget",
    "Data",
    "DataError",
    "Derived",
    "Engine",
    "EvolutionSettings",
    "FinalSettings",
    "Goal",
    "GradientSettings",
    "Landing",
    "LandingRequest",
    "LandingSettings",
    "Latency",
    "Objective",
    "ObjectiveSettings",
    "ProxylessNasTrainer",
    "RandomSettings",
    "Ranks",
    "ReinforceSettings",
    "RunFolder",
    "SearchConfig",
    "SearchError",
    "SearchJob",
    "SearchSettings",
    "Supernet",
    "TargetUnreachable",
    "Task",
    "TrainRequest",
    "WeightSettings",
    "algorithm_names",
    "check_data",
    "create_algorithm",
    "draw_in_band",
    "land",
    "load_data",
    "most_probable",
    "prepare",
    "read_config",
    "resolve",
    "wrap_loader",
]

# A module's name (train, export, launch) cannot be one of these: importing the module would put it in the place.
_NAMES = {
    "algorithm": ("Algorithm", "Budget", "SearchError", "Task"),
    "algorithms": ("algorithm_names", "create_algorithm"),
    "config": ("SearchConfig", "read_config"),
    "data.batches": ("Batches",),
    "data.data": ("Data", "DataError", "check_data"),
    "data.loaders": ("wrap_loader",),
    "data.registry": ("load_data",),
    "derive": ("Derived", "draw_in_band", "most_probable"),
    "distributed": ("Ranks",),
    "engine": ("Engine",),
    "goals": ("Goal", "Latency", "TargetUnreachable"),
    "job": ("SearchJob",),
    "landed": ("Landing",),
    "landing": ("LandingRequest", "land"),
    "objective": ("Objective",),
    "preparation": ("prepare", "resolve"),
    "run": ("RunFolder",),
    "settings": (
        "EvolutionSettings",
        "FinalSettings",
        "GradientSettings",
        "LandingSettings",
        "ObjectiveSettings",
        "RandomSettings",
        "ReinforceSettings",
        "SearchSettings",
        "WeightSettings",
    ),
    "supernet": ("Supernet",),
    "train": ("TrainRequest",),
    "trainer": ("ProxylessNasTrainer",),
}
_HOMES = {name: f".{module}" for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
