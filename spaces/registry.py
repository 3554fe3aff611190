"""Search spaces by name: the built-in ones, and functions of the user's own modules and files."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import HwnasError
from .description import SpaceError
from .space import SearchSpace

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
    if ":" not in spec:
        return _call(spec, _builtin(spec), arguments)
    source, _, function_name = spec.rpartition(":")
    if not source or not function_name:
        raise SpaceError(f"space {spec!r} is not of the form package.module:function or path/file.py:function")
    is_file = source.endswith(".py") or "/" in source
    with _importable(Path(source).resolve().parent if is_file else Path.cwd()):
        module = _load_file(spec, Path(source)) if is_file else _load_module(spec, source)
        return _call(spec, _function(spec, module, function_name), arguments)


def _builtin(name: str) -> Callable[..., Any]:
    if name not in _BUILTIN:
        raise SpaceError(
            f"unknown space {name!r}; built in are {', '.join(_BUILTIN)}, "
            "one of your own is package.module:function or path/file.py:function"
        )
    module, _, function = _BUILTIN[name].partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module, __package__), function)
    return loaded


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _load_module(spec: str, name: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise SpaceError(f"space {spec!r}: there is no module {error.name!r} here or among the installed") from None
        raise _failed(spec, "cannot be imported", error, None) from error
    except (Exception, SystemExit) as error:  # foreign code: it may raise anything
        raise _failed(spec, "cannot be imported", error, None) from error


def _load_file(spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise SpaceError(f"space {spec!r}: there is no file {path}")
    path = path.resolve()
    name = f"_hwnas_space_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise SpaceError(f"space {spec!r}: {path} is not a Python file (.py)")
    module = importlib.util.module_from_spec(module_spec)
    # dataclasses and pickling look a class's module up there
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # foreign code: it may raise anything
        sys.modules.pop(name, None)
        raise _failed(spec, "cannot be imported", error, path) from error
    return module


def _function(spec: str, module: ModuleType, name: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if not callable(function):
        own = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__]
        found = f"; the module has {', '.join(own)}" if own else " in the module"
        raise SpaceError(f"space {spec!r}: there is no function {name!r}{found}")
    result: Callable[..., Any] = function
    return result


def _call(spec: str, function: Callable[..., Any], arguments: Mapping[str, object]) -> SearchSpace:
    kwargs = _bind(spec, function, arguments)
    try:
        space = function(**kwargs)
    except HwnasError as error:
        raise SpaceError(f"space {spec!r}: {error}") from error
    except (Exception, SystemExit) as error:  # foreign code: it may raise anything
        raise _failed(spec, "failed", error, _file_of(function)) from error
    if not isinstance(space, SearchSpace):
        raise SpaceError(f"space {spec!r}: the function returned a {type(space).__name__}, not a SearchSpace")
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


def _file_of(function: Callable[..., Any]) -> Path | None:
    code = getattr(function, "__code__", None)
    return Path(code.co_filename) if code is not None else None


def _failed(spec: str, what: str, error: BaseException, path: Path | None) -> SpaceError:
    """Names the exception and the line of the user's code that it came from."""
    where, message = "", str(error)
    if isinstance(error, SyntaxError) and error.filename:
        where, message = f" ({error.filename}:{error.lineno})", error.msg
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_machinery(f.filename)]
        own = [f for f in frames if path is not None and f.filename == str(path)] or frames
        if own:
            where = f" ({own[-1].filename}:{own[-1].lineno})"
    message = " ".join(message.split())
    return SpaceError(f"space {spec!r} {what}: {type(error).__name__}: {message}{where}")


def _is_machinery(filename: str) -> bool:
    return filename == __file__ or filename.startswith("<frozen ")
