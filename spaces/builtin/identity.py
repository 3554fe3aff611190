"""What tells one built-in space from another: the arguments that were changed, and an identity for the cache."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ... import __version__


def changed_arguments(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` (one for each parameter of `function`) that differ from the parameter's default."""
    parameters = inspect.signature(function).parameters
    canonical = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return {name: canonical[name] for name, p in parameters.items() if canonical[name] != p.default}


def cache_id(name: str, arguments: Mapping[str, Any]) -> str:
    """A text that changes whenever the space that `name` and `arguments` stand for could.

    It covers the hwnas and torch versions and every source file of `spaces`: the built-in networks, and the tracer and
    discovery that turn them into workloads.
    """
    stated = json.dumps({"name": name, "arguments": dict(arguments)}, sort_keys=True)
    return f"{stated} hwnas={__version__} torch={_torch_version()} sources={_sources_digest()}"


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _sources_digest() -> str:
    room = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(room.rglob("*.py")):
        digest.update(path.relative_to(room).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
