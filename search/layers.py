"""Values from several sources laid over one another, by dotted key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .validation import ConfigError, Problem
from .yaml_text import YamlError, load_yaml


class Layers:
    """Nested values in which later ones cover earlier ones, key by key, and which know where each came from.

    Lists of keyed values (``goals``) are held by position, so that ``goals.0.weight`` is a key like any other.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._sources: dict[str, str] = {}

    def lay(self, key: str, value: Any, source: str) -> None:
        """Cover what is under a dotted key; of a mapping only the keys that it has, below them likewise.

        Raises:
            ConfigError: a part of the key stands for a plain value.
        """
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = {str(i): item for i, item in enumerate(value)}
        if isinstance(value, dict) and value:
            for name, part in value.items():
                self.lay(f"{key}.{name}" if key else str(name), part, source)
            return
        *before, last = key.split(".")
        place = self._values
        for i, part in enumerate(before):
            if place.get(part) in (None, []):
                place[part] = {}
            place = place[part]
            if not isinstance(place, dict):
                raise ConfigError(f"{source}: there is no key {key}, {'.'.join(before[: i + 1])} is a plain value")
        place[last] = value
        self._sources[key] = source

    def remove(self, key: str) -> None:
        """Take away what is under a key without dots."""
        self._values.pop(key, None)

    def get(self, key: str, default: Any = None) -> Any:
        """The value under a dotted key."""
        place: Any = self._values
        for part in key.split("."):
            if not isinstance(place, dict) or part not in place:
                return default
            place = place[part]
        return place

    def source(self, key: str) -> str:
        """Where the value under a key, or the nearest one around or inside it, came from; "" for a default."""
        parts = key.split(".")
        for n in range(len(parts), 0, -1):
            if (found := self._sources.get(".".join(parts[:n]))) is not None:
                return found
        return next((s for k, s in reversed(self._sources.items()) if k.startswith(f"{key}.")), "")

    def nested(self) -> dict[str, Any]:
        """All values as dicts and lists.

        Raises:
            ConfigError: positions of a list are left out.
        """
        return {key: _listed(key, value) for key, value in self._values.items()}

    def located(self, problem: Problem) -> str:
        """The problem with where it came from."""
        source = self.source(problem.key)
        return f"{source}: {problem.text}" if source else problem.text


def lay_file(layers: Layers, file: Path) -> None:
    """Lay the content of a YAML file; raises ConfigError."""
    source = f"--config {file}"
    try:
        if not file.is_file():
            raise ConfigError(f"{source}: there is no such file")
        data = load_yaml(file.read_text(encoding="utf-8"), source)
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is no text") from error
    except YamlError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(data, dict | None):
        raise ConfigError(f"{source} is not a configuration: keys with values are needed")
    for key, value in (data or {}).items():
        if "." in key:
            raise ConfigError(f"{source}: write the key {key} as nested ones; dots are for --set")
        layers.lay(key, value, source)


def lay_settings(layers: Layers, settings: Iterable[str]) -> None:
    """Lay the ``KEY=VALUE`` texts of ``--set``, the value in YAML; raises ConfigError."""
    seen: set[str] = set()
    for text in settings:
        key, separator, value = text.partition("=")
        key = key.strip()
        if not separator or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
            raise ConfigError(f"--set {text!r} is not of the form KEY=VALUE, such as search.weights.lr=0.1")
        if key in seen:
            raise ConfigError(f"--set {key} is given twice")
        seen.add(key)
        try:
            layers.lay(key, load_yaml(value, f"--set {key}"), "--set")
        except YamlError as error:
            raise ConfigError(str(error)) from error


def _listed(key: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if value and all(str(name).isdigit() for name in value):
        if sorted(value) != sorted(str(i) for i in range(len(value))):
            raise ConfigError(f"{key} has the positions {', '.join(sorted(value))}, they should begin at 0")
        return [_listed(f"{key}.{i}", value[str(i)]) for i in range(len(value))]
    return {name: _listed(f"{key}.{name}", part) for name, part in value.items()}
