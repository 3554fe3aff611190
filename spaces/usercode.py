"""Functions of the user's own modules and files, found by name, and what is said when they fail."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import HwnasError


@dataclass(frozen=True)
class UserCode:
    """A function that the user names.

    Attributes:
        spec: `package.module:function` (found from the current folder, too) or `path/file.py:function`.
        kind: what it is to give, in a word: "space".
        error: raised, with a message of one line, for whatever goes wrong.
    """

    spec: str
    kind: str
    error: type[HwnasError]

    @contextmanager
    def function(self) -> Iterator[Callable[..., Any]]:
        """The function; the folder of its module can be imported from inside the context only."""
        source, _, name = self.spec.rpartition(":")
        if not source or not name:
            raise self.error(
                f"{self.kind} {self.spec!r} is not of the form package.module:function or path/file.py:function"
            )
        is_file = source.endswith(".py") or "/" in source
        with _importable(Path(source).resolve().parent if is_file else Path.cwd()):
            module = self._file(Path(source)) if is_file else self._module(source)
            yield self._function(module, name)

    def call(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """What the function returns for these arguments."""
        try:
            return function(**arguments)
        except HwnasError as error:
            raise self.refusal(str(error)) from error
        except (Exception, SystemExit) as error:  # foreign code: it may raise anything
            code = getattr(function, "__code__", None)
            raise self.failure("failed", error, Path(code.co_filename) if code is not None else None) from error

    def refusal(self, message: str) -> HwnasError:
        """An error about this spec."""
        return self.error(f"{self.kind} {self.spec!r}: {message}")

    def failure(self, what: str, error: BaseException, path: Path | None = None) -> HwnasError:
        """An error that names the exception and the line of the user's code that it came from."""
        where, message = "", str(error)
        if isinstance(error, SyntaxError) and error.filename:
            where, message = f" ({error.filename}:{error.lineno})", error.msg
        else:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_machinery(f.filename)]
            own = [f for f in frames if path is not None and f.filename == str(path)] or frames
            if own:
                where = f" ({own[-1].filename}:{own[-1].lineno})"
        message = " ".join(message.split())
        return self.error(f"{self.kind} {self.spec!r} {what}: {type(error).__name__}: {message}{where}")

    def _module(self, name: str) -> ModuleType:
        importlib.invalidate_caches()
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(error.name + ".")):
                raise self.refusal(f"there is no module {error.name!r} here or among the installed") from None
            raise self.failure("cannot be imported", error) from error
        except (Exception, SystemExit) as error:  # foreign code: it may raise anything
            raise self.failure("cannot be imported", error) from error

    def _file(self, path: Path) -> ModuleType:
        if not path.is_file():
            raise self.refusal(f"there is no file {path}")
        path = path.resolve()
        name = f"_hwnas_{self.kind}_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        module_spec = importlib.util.spec_from_file_location(name, path)
        if module_spec is None or module_spec.loader is None:
            raise self.refusal(f"{path} is not a Python file (.py)")
        module = importlib.util.module_from_spec(module_spec)
        # dataclasses and pickling look a class's module up there
        sys.modules[name] = module
        try:
            module_spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # foreign code: it may raise anything
            sys.modules.pop(name, None)
            raise self.failure("cannot be imported", error, path) from error
        return module

    def _function(self, module: ModuleType, name: str) -> Callable[..., Any]:
        function = getattr(module, name, None)
        if not callable(function):
            own = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__]
            found = f"; the module has {', '.join(own)}" if own else " in the module"
            raise self.refusal(f"there is no function {name!r}{found}")
        result: Callable[..., Any] = function
        return result


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _is_machinery(filename: str) -> bool:
    return filename == __file__ or filename.startswith("<frozen ")
