"""Search algorithms by name. Other packages add theirs through the entry-point group ``hwnas.algorithms``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .algorithm import Algorithm, Budget, SearchError
from .settings import SearchSettings

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from ..spaces.space import SearchSpace
    from .objective import Objective

GROUP = "hwnas.algorithms"

_BUILT_IN = {
    "gradient": "gradient:Gradient",
    "reinforce": "reinforce:Reinforce",
    "evolution": "evolution:Evolution",
    "random": "random_search:RandomSearch",
}


def algorithm_names() -> tuple[str, ...]:
    """All known names."""
    return (*_BUILT_IN, *_plugins())


def algorithm_type(name: str) -> type[Algorithm]:
    """The class of that name.

    Raises:
        SearchError: there is none, or its package fails to import.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        built_in: type[Algorithm] = getattr(importlib.import_module(f".{module}", __package__), attribute)
        return built_in
    plugin = _plugins().get(name)
    if plugin is None:
        raise SearchError(f"there is no algorithm {name!r}; there are: {', '.join(algorithm_names())}")
    return _load(plugin)


def algorithm_settings(name: str, settings: SearchSettings) -> Any:
    """An algorithm's own settings: of the built-in ones their part of `settings`, of others their defaults.

    Raises:
        SearchError: as `algorithm_type`.
    """
    if name in _BUILT_IN:
        return getattr(settings, name)
    own = algorithm_type(name).settings_type
    return None if own is None else own()


def create_algorithm(
    name: str, space: SearchSpace, objective: Objective, settings: SearchSettings, budget: Budget, seed: int
) -> Algorithm:
    """The algorithm of that name, at its start.

    Raises:
        SearchError: as `algorithm_type`; or its settings make no sense.
    """
    return algorithm_type(name)(space, objective, algorithm_settings(name, settings), budget, seed)


def _plugins() -> Mapping[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP) if point.name not in _BUILT_IN}


def _load(point: EntryPoint) -> type[Algorithm]:
    try:
        found = point.load()
    except Exception as error:  # foreign code: whatever its import raises must not take the command down
        raise SearchError(f"algorithm {point.name!r} ({point.value}) fails to import: {error!r}") from error
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise SearchError(
            f"algorithm {point.name!r} ({point.value}) is no subclass of hwnas.search.algorithm.Algorithm"
        )
    return found
