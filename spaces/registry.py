"""Search spaces by name: the built-in ones, and functions of the user's own modules and files."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from .description import SpaceError
from .space import SearchSpace
from .usercode import UserCode

_BUILTIN = {
    "proxyless": ".builtin.proxyless:proxyless",
    "proxyless-small": ".builtin.small:proxyless_small",
    "nasbench201": ".builtin.nasbench201:nasbench201",
}


def space_names() -> tuple[str, ...]:
    """The names of the built-in spaces."""
    return tuple(_BUILTIN)


def space_parameters(name: str) -> dict[str, Any]:
    """The parameters of a built-in space with their defaults.

    Raises:
        SpaceError: there is no built-in space of that name.
    """
    signature = inspect.signature(_builtin(name))
    return {parameter.name: parameter.default for parameter in signature.parameters.values()}


def load_space(spec: str = "proxyless", arguments: Mapping[str, object] | None = None) -> SearchSpace:
    """The search space that `spec` stands for.

    Args:
        spec: the name of a built-in space, `package.module:function` (found from the current folder, too) or
            `path/file.py:function`; the function returns a SearchSpace.
        arguments: for the function. Text is read as a Python literal (`0.5`, `24,40,80`, `None`), or taken as it is
            where it is none, or where the parameter is annotated `str`.

    The folder of the module is importable only while the module is loaded and the function runs: what a factory needs
    from it is imported at the top of the module, or in the function.

    Raises:
        SpaceError: there is no such space, module, file, function or parameter; the user's code fails or returns
            something else.
    """
    arguments = arguments or {}
    code = UserCode(spec, "space", SpaceError)
    if ":" not in spec:
        return _call(code, _builtin(spec), arguments)
    with code.function() as function:
        return _call(code, function, arguments)


def _builtin(name: str) -> Callable[..., Any]:
    if name not in _BUILTIN:
        raise SpaceError(
            f"unknown space {name!r}; built in are {', '.join(_BUILTIN)}, "
            "one of your own is package.module:function or path/file.py:function"
        )
    module, _, function = _BUILTIN[name].partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module, __package__), function)
    return loaded


def _call(code: UserCode, function: Callable[..., Any], arguments: Mapping[str, object]) -> SearchSpace:
    space = code.call(function, _bind(code.spec, function, arguments))
    if not isinstance(space, SearchSpace):
        raise code.refusal(f"the function returned a {type(space).__name__}, not a SearchSpace")
    return space


def _bind(spec: str, function: Callable[..., Any], arguments: Mapping[str, object]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {name: _parse(value) for name, value in arguments.items()}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for name in arguments:
        if name not in named and not open_ended:
            known = f"its parameters are {', '.join(named)}" if named else "it has none"
            raise SpaceError(f"space {spec!r} has no parameter {name!r}; {known}")
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise SpaceError(f"space {spec!r} needs its parameter {name!r}: add --space-arg {name}=VALUE")
    return {
        name: _convert(spec, name, value, named[name].annotation if name in named else None)
        for name, value in arguments.items()
    }


def _parse(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _convert(spec: str, name: str, value: object, annotation: object) -> object:
    """`value` as the parameter's annotation wants it, where that is one of the plain types."""
    wanted = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if wanted == "str":
        return value
    parsed = _parse(value)
    if wanted == "bool" and isinstance(parsed, str) and parsed.lower() in ("true", "false"):
        return parsed.lower() == "true"
    allowed: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool, int)}
    if wanted in allowed:
        is_bool = isinstance(parsed, bool) and wanted != "bool"
        if is_bool or not isinstance(parsed, allowed[wanted]):
            article = "an" if wanted == "int" else "a"
            raise SpaceError(f"space {spec!r}: {name} must be {article} {wanted}, not {value!r}")
        return {"int": int, "float": float, "bool": bool}[wanted](parsed)
    return parsed
